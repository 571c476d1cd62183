"""Frame by frame: a student of videos whose network sees each frame as a picture of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from piflow_cli.core.heads import PolicyHead
from piflow_cli.teachers.base import Conditioning, Network
from piflow_cli.teachers.wan import WanFamily

from .pieces import wrap

Call = Callable[[WanFamily, Network, Tensor, Tensor, Conditioning], Tensor]


def apart() -> None:
    """Give students of Wan the frames of a video as so many samples; their teachers see videos as before.

    Positions are told to Wan as rotations, of which only differences count: within a frame they are those of the
    video, so that nothing is gone but the attention from one frame to another.
    """

    def around(call: Call) -> Call:
        def called(family: WanFamily, model: Network, x: Tensor, sigma: Tensor, conditioning: Conditioning) -> Tensor:
            # The plan of a run rehearses with functions, whose memory is about the same either way.
            if not (isinstance(model, nn.Module) and _answers_policies(family, model)):
                return call(family, model, x, sigma, conditioning)
            return frame_by_frame(call, family, model, x, sigma, conditioning)

        return called

    wrap(WanFamily, "call", around)


def _answers_policies(family: WanFamily, model: Network) -> bool:
    return isinstance(model.get_submodule(family.head_site(model).projection), PolicyHead)


def frame_by_frame(
    call: Call, family: WanFamily, model: Any, x: Tensor, sigma: Tensor, conditioning: Conditioning
) -> Tensor:
    """What ``call`` gives for each frame of states (B, C, F, H, W) by itself, (B, C', F, H, W)."""
    frames = x.shape[2]
    pictures = x.movedim(2, 1).flatten(0, 1).unsqueeze(2)
    told = {name: value.repeat_interleave(frames, dim=0) for name, value in conditioning.items()}
    found = call(family, model, pictures, sigma.repeat_interleave(frames), told)
    return found.unflatten(0, (len(x), frames)).squeeze(3).movedim(1, 2)
