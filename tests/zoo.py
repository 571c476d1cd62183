"""Tiny random models of every text-to-image family, one row each, with what they
are conditioned on and a preset for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
import yaml
from helpers import seeded
from PIL import Image
from tiny_presets import SMALL_POLICY, SUMMARY, optimisation
from torch import Tensor, nn

from piflow_cli.core.heads import HeadSite
from piflow_cli.core.policies import components
from piflow_cli.core.timegrid import TimeGrid
from piflow_cli.presets.families import edge_of
from piflow_cli.presets.resolve import resolve
from piflow_cli.presets.schema import AdapterSection, Preset
from piflow_cli.students.facts import StudentFacts
from piflow_cli.students.shared_base import root
from piflow_cli.students.student import Student, adapted_student
from piflow_cli.teachers import family_of
from piflow_cli.teachers.encoders import REFERENCE, with_negative
from piflow_cli.teachers.network_pair import NetworkPair

TEXT, WIDTH = 7, 32
LATENTS = (4, 8, 12)
LATENT_FRAMES = 3


@dataclass(frozen=True)
class Row:
    """A family: ``config`` of its model, the guidance of its teachers, and the entries that its encoder gives a text.

    ``unguided``: what its stock pipeline is told so that it asks the network once a step. ``prompt_lists``: that
    pipeline takes a list of texts of their own lengths, without a mask. ``policy``: settings of its students alone.
    """

    family: str
    model_name: str
    config: dict
    guidance: float
    guidance_mode: str
    encode: Callable[[int], dict[str, Tensor]]
    unguided: dict
    prompt_lists: bool = False
    policy: Mapping[str, Any] = field(default_factory=dict)

    def packed(self, pipeline: Any, x: Tensor) -> Tensor:
        """Noise as the stock pipeline takes it, by that pipeline's own functions."""
        if self.family in ("flux2", "flux2-klein", "ernie-image"):
            return pipeline._patchify_latents(x)
        if self.family == "ltx":
            return pipeline._pack_latents(x)
        if self.family == "kandinsky6":
            return x
        if self.family == "flux3-klein":
            # Imported here: the blocks bring language models, which take seconds.
            from diffusers.modular_pipelines.flux3.encoders import Flux3VaeEncoderStep

            return Flux3VaeEncoderStep._patchify_latents(x)
        return x if self.unpacks_itself else pipeline._pack_latents(x, *x.shape)

    def unpacked(self, pipeline: Any, latents: Tensor, x: Tensor) -> Tensor:
        """Latents as the stock pipeline returns them in the shape of the noise
        ``x``, by that pipeline's own functions."""
        if self.family == "flux2":
            ids = pipeline._prepare_latent_ids(pipeline._patchify_latents(x))
            return pipeline._unpatchify_latents(pipeline._unpack_latents_with_ids(latents, ids))
        if self.family == "ernie-image":
            return pipeline._unpatchify_latents(latents)
        if self.family == "flux3-klein":
            from diffusers.modular_pipelines.flux3.decoders import Flux3DecodeStep

            return Flux3DecodeStep._unpatchify_latents(latents)
        if self.family == "ltx":
            return pipeline._unpack_latents(latents, *x.shape[2:])
        if self.unpacks_itself or self.family in ("flux2-klein", "kandinsky6"):
            return latents
        factor = () if self.family == "krea2" else (8,)
        return pipeline._unpack_latents(latents, 8 * x.shape[-2], 8 * x.shape[-1], *factor).reshape(x.shape)

    @property
    def makes_videos(self) -> bool:
        """Whether its latents have frames."""
        return family_of(self.family).frame_step is not None

    @property
    def factor(self) -> int:
        """Pixels of a latent position, each way, to its stock pipeline without a VAE."""
        return 32 if self.family == "ltx" else 8

    @property
    def frames(self) -> int | None:
        """Frames of a video of its latents; None: they are of pictures."""
        step = family_of(self.family).frame_step
        return None if step is None else (LATENT_FRAMES - 1) * step + 1

    @property
    def latents(self) -> tuple[int, ...]:
        """Shape (C, *S) of the latents of one sample."""
        return (LATENTS[0], LATENT_FRAMES, *LATENTS[1:]) if self.makes_videos else LATENTS

    @property
    def unpacks_itself(self) -> bool:
        """Whether the network takes latents as they are, and no tokens."""
        return family_of(self.family).token_positions is None

    @property
    def component(self) -> str:
        """What its stock pipeline calls the network, the first of several."""
        return self.components[0]

    @property
    def components(self) -> tuple[str, ...]:
        """What its stock pipeline calls its networks."""
        return tuple(family_of(self.family).own_parts)

    def build(self) -> nn.Module:
        """The model, every weight random."""
        torch.manual_seed(0)
        networks = [getattr(diffusers, self.model_name)(**self.config) for _ in self.components]
        edge = edge_of(self.family)
        model = networks[0] if edge is None else NetworkPair(*networks, edge)
        with torch.no_grad():
            for parameter in model.parameters():
                # What starts at zero or one would hide a path that is not taken.
                parameter.add_(0.05 * torch.randn_like(parameter))
        return model.eval()

    @property
    def head_site(self) -> HeadSite:
        """The place of the policy head, in each network."""
        family = family_of(self.family)
        return family.head_site(family.network(self.build()))

    def save(self, folder: Path) -> None:
        """The networks of the model in ``folder``, as a pipeline has them."""
        for name, network in family_of(self.family).parts(self.build()).items():
            network.save_pretrained(folder / name)


def stock_pipeline(kind: Any, **parts: Any) -> Any:
    """The pipeline of the class ``kind`` with these parts, and without the others."""
    if issubclass(kind, diffusers.ModularPipeline):
        made = kind()
        made.register_components(**parts)
        return made
    return kind(**{**dict.fromkeys(kind._get_signature_keys(kind)[0]), **parts})


def masked_text(length: int) -> dict[str, Tensor]:
    return {
        "prompt_embeds": torch.randn(length, WIDTH, generator=seeded(length)),
        "prompt_embeds_mask": torch.ones(length, dtype=torch.long),
    }


def narrow_text(length: int) -> dict[str, Tensor]:
    # As wide as its network it would meet no projection.
    return {**masked_text(length), "prompt_embeds": torch.randn(length, 24, generator=seeded(length))}


def layered_text(length: int) -> dict[str, Tensor]:
    return {
        "prompt_embeds": torch.randn(length, 3, WIDTH, generator=seeded(length)),
        "prompt_embeds_mask": torch.ones(length, dtype=torch.bool),
    }


def attended_text(length: int) -> dict[str, Tensor]:
    return {
        "prompt_embeds": torch.randn(length, WIDTH, generator=seeded(length)),
        "prompt_attention_mask": torch.ones(length, dtype=torch.bool),
    }


def pooled_text(length: int) -> dict[str, Tensor]:
    return {**attended_text(length), "pooled_prompt_embeds": torch.randn(24, generator=seeded(length))}


def fixed_text(length: int) -> dict[str, Tensor]:
    return {"prompt_embeds": torch.randn(TEXT, WIDTH, generator=seeded(length))}


def flux2(guidance_embeds: bool) -> dict:
    return dict(
        patch_size=1, in_channels=16, num_layers=1, num_single_layers=2, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=WIDTH, timestep_guidance_channels=32, axes_dims_rope=(4, 4, 4, 4),
        guidance_embeds=guidance_embeds,
    )  # fmt: skip


def padded_text(length: int) -> dict[str, Tensor]:
    generator = seeded(length)
    return {
        "prompt_embeds": torch.randn(TEXT, WIDTH, generator=generator),
        "pooled_prompt_embeds": torch.randn(24, generator=generator),
    }


def shown(encode: Callable[[int], dict[str, Tensor]]) -> Callable[[int], dict[str, Tensor]]:
    return lambda length: {**encode(length), REFERENCE: torch.randn(LATENTS, generator=seeded(length))}


def flux(guidance_embeds: bool) -> dict:
    return dict(
        patch_size=1, in_channels=16, num_layers=1, num_single_layers=2, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=WIDTH, pooled_projection_dim=24, axes_dims_rope=(4, 4, 8), guidance_embeds=guidance_embeds,
    )  # fmt: skip


def unet(**others: object) -> dict:
    return dict(
        block_out_channels=(8, 16), norm_num_groups=4, layers_per_block=1, cross_attention_dim=WIDTH, sample_size=64,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=(2, 4), **others,
    )  # fmt: skip


WAN = dict(
    in_channels=4, out_channels=4, num_layers=2, attention_head_dim=16, num_attention_heads=2,
    text_dim=WIDTH, freq_dim=16, ffn_dim=48, rope_max_seq_len=32,
)  # fmt: skip
QWEN = dict(
    patch_size=2, in_channels=16, out_channels=4, num_layers=2, attention_head_dim=16, num_attention_heads=2,
    joint_attention_dim=WIDTH, axes_dims_rope=(8, 4, 4),
)  # fmt: skip


# Shown a picture besides their text, they are not sampled and trained by prompts alone: their tests are their own.
EDITS = {
    row.family: row
    for row in (
        Row(
            "flux-kontext",
            "FluxTransformer2DModel",
            flux(True),
            2.5,
            "embedded",
            shown(padded_text),
            {"guidance_scale": 2.5},
        ),
        Row(
            "flux2-edit",
            "Flux2Transformer2DModel",
            flux2(True),
            4.0,
            "embedded",
            shown(fixed_text),
            {"guidance_scale": 4.0},
        ),
        Row(
            "qwen-image-edit",
            "QwenImageTransformer2DModel",
            {**QWEN, "zero_cond_t": True},
            4.0,
            "renormalised",
            shown(masked_text),
            {"true_cfg_scale": 1.0},
        ),
        Row(
            "flux2-klein-edit",
            "Flux2Transformer2DModel",
            flux2(False),
            4.0,
            "plain",
            shown(fixed_text),
            {"guidance_scale": 1.0},
        ),
    )
}
ZOO = {
    row.family: row
    for row in (
        Row("flux", "FluxTransformer2DModel", flux(True), 3.5, "embedded", padded_text, {"guidance_scale": 3.5}),
        Row("flux-cfg", "FluxTransformer2DModel", flux(False), 4.0, "plain", padded_text, {"true_cfg_scale": 1.0}),
        Row("flux2", "Flux2Transformer2DModel", flux2(True), 4.0, "embedded", fixed_text, {"guidance_scale": 4.0}),
        Row("flux2-klein", "Flux2Transformer2DModel", flux2(False), 4.0, "plain", fixed_text, {"guidance_scale": 1.0}),
        Row(
            "flux3-klein",
            "Flux3Transformer2DModel",
            dict(
                in_channels=16, cond_in_channels=16, num_layers=1, num_single_layers=2, attention_head_dim=16,
                num_attention_heads=2, joint_attention_dim=24, timestep_channels=32, axes_dims_rope=(4, 4, 4, 4),
            ),
            4.0,
            "plain",
            narrow_text,
            {"guidance_scale": 1.0},
        ),
        Row(
            "qwen-image",
            "QwenImageTransformer2DModel",
            QWEN,
            4.0,
            "plain",
            masked_text,
            {"true_cfg_scale": 1.0},
        ),
        Row(
            "chroma",
            "ChromaTransformer2DModel",
            dict(
                in_channels=16, num_layers=1, num_single_layers=2, attention_head_dim=16, num_attention_heads=2,
                joint_attention_dim=WIDTH, axes_dims_rope=(4, 4, 8), approximator_num_channels=16,
                approximator_hidden_dim=24, approximator_layers=2,
            ),
            3.0,
            "plain",
            attended_text,
            {"guidance_scale": 1.0},
        ),
        Row(
            "longcat-image",
            "LongCatImageTransformer2DModel",
            dict(
                in_channels=16, num_layers=1, num_single_layers=2, attention_head_dim=16, num_attention_heads=2,
                joint_attention_dim=WIDTH, pooled_projection_dim=24, axes_dims_rope=(4, 4, 8),
            ),
            4.5,
            "renormalised",
            fixed_text,
            {"guidance_scale": 1.0, "enable_prompt_rewrite": False},
        ),
        Row(
            "ovis-image",
            "OvisImageTransformer2DModel",
            dict(
                in_channels=16, out_channels=16, num_layers=1, num_single_layers=2, attention_head_dim=16,
                num_attention_heads=2, joint_attention_dim=WIDTH, axes_dims_rope=(4, 4, 8),
            ),
            5.0,
            "plain",
            fixed_text,
            {"guidance_scale": 1.0},
        ),
        Row(
            "ernie-image",
            "ErnieImageTransformer2DModel",
            dict(
                in_channels=16, out_channels=16, num_layers=2, hidden_size=32, num_attention_heads=2,
                ffn_hidden_size=48, text_in_dim=24, rope_axes_dim=(4, 6, 6),
            ),
            4.0,
            "plain",
            narrow_text,
            {"guidance_scale": 1.0},
            prompt_lists=True,
        ),
        Row(
            "krea2",
            "Krea2Transformer2DModel",
            dict(
                in_channels=16, num_layers=2, attention_head_dim=16, num_attention_heads=2, num_key_value_heads=1,
                intermediate_size=48, timestep_embed_dim=16, text_hidden_dim=WIDTH, num_text_layers=3,
                text_num_attention_heads=2, text_num_key_value_heads=2, text_intermediate_size=48,
                num_layerwise_text_blocks=1, num_refiner_text_blocks=1, axes_dims_rope=(4, 6, 6),
            ),
            4.5,
            "plain",
            layered_text,
            {"guidance_scale": 0.0},
        ),
        Row(
            "sana",
            "SanaTransformer2DModel",
            dict(
                in_channels=4, out_channels=4, num_layers=2, attention_head_dim=16, num_attention_heads=2,
                cross_attention_head_dim=16, num_cross_attention_heads=2, cross_attention_dim=32,
                caption_channels=WIDTH, sample_size=32,
            ),
            4.5,
            "plain",
            attended_text,
            {"guidance_scale": 1.0, "use_resolution_binning": False},
        ),
        Row(
            "sd3",
            "SD3Transformer2DModel",
            dict(
                in_channels=4, out_channels=4, num_layers=2, attention_head_dim=16, num_attention_heads=2,
                joint_attention_dim=WIDTH, caption_projection_dim=32, pooled_projection_dim=24, sample_size=16,
                pos_embed_max_size=16, qk_norm="rms_norm", dual_attention_layers=(0,),
            ),
            3.5,
            "plain",
            padded_text,
            {"guidance_scale": 1.0},
        ),
        Row("sd15", "UNet2DConditionModel", unet(), 7.5, "plain", fixed_text, {"guidance_scale": 1.0}),
        Row(
            "sdxl",
            "UNet2DConditionModel",
            unet(
                addition_embed_type="text_time", addition_time_embed_dim=4, transformer_layers_per_block=(1, 2),
                projection_class_embeddings_input_dim=24 + 6 * 4, use_linear_projection=True,
            ),
            5.0,
            "plain",
            padded_text,
            {"guidance_scale": 1.0},
        ),
        Row(
            "ltx",
            "LTXVideoTransformer3DModel",
            dict(
                in_channels=4, out_channels=4, num_layers=2, attention_head_dim=16, num_attention_heads=2,
                cross_attention_dim=32, caption_channels=WIDTH,
            ),
            3.0,
            "plain",
            attended_text,
            {"guidance_scale": 1.0},
        ),
        Row(
            "kandinsky6",
            "Kandinsky6Transformer3DModel",
            dict(
                in_visual_dim=4, out_visual_dim=4, in_text_dim=WIDTH, in_text_dim2=24, time_dim=16, model_dim=24,
                ff_dim=32, num_text_blocks=1, num_visual_blocks=2, axes_dims=(4, 4, 4), in_audio_dim=3,
                out_audio_dim=3, model_dim_a=16, ff_dim_a=20, axes_dims_a=(4, 2, 2), ca_rope=True, cross_gates=True,
                fix_modulation=True, text_token_padding=True, visual_token_type_num_embeddings=2,
            ),
            5.0,
            "plain",
            pooled_text,
            {"guidance_scale": 1.0, "sample_audio": False},
        ),
        Row("wan", "WanTransformer3DModel", WAN, 5.0, "plain", fixed_text, {"guidance_scale": 1.0}),
        Row("wan-ti2v", "WanTransformer3DModel", WAN, 5.0, "plain", fixed_text, {"guidance_scale": 1.0}),
        Row(
            "wan-a14b",
            "WanTransformer3DModel",
            WAN,
            5.0,
            "plain",
            fixed_text,
            {"guidance_scale": 1.0},
            policy={"shift": 14.0},
        ),
        Row(
            "z-image",
            "ZImageTransformer2DModel",
            dict(
                in_channels=4, dim=32, n_layers=2, n_refiner_layers=1, n_heads=2, n_kv_heads=2, qk_norm=True,
                cap_feat_dim=WIDTH,
                rope_theta=256.0, t_scale=1000.0, axes_dims=[8, 4, 4], axes_lens=[256, 32, 32],
            ),
            5.0,
            "plain",
            masked_text,
            {"guidance_scale": 0.0},
            prompt_lists=True,
        ),
    )
}  # fmt: skip


def reading(row: Row, texts: Sequence[str], pictures: Sequence[Image.Image]) -> list[dict[str, Tensor]]:
    """What an encoder that sees makes of texts: a token a letter, as bright as the picture."""
    found = []
    for text, picture in zip(texts, pictures, strict=True):
        entry = {name: value for name, value in row.encode(len(text) + 1).items() if name != REFERENCE}
        found.append({**entry, "prompt_embeds": entry["prompt_embeds"] + np.asarray(picture).mean().item() / 255})
    return found


def conditioning(row: Row, lengths: tuple[int, ...] = (TEXT, 4)) -> dict[str, Tensor]:
    """Texts of ``lengths`` tokens as a batch, with the empty text where the teacher is guided by it."""
    batch = stack([row.encode(length) for length in lengths])
    if row.guidance_mode == "embedded":
        return batch
    empty = stack([row.encode(2) for _ in lengths])
    # Both halves of guidance are shown one picture.
    return with_negative(batch, {name: value for name, value in empty.items() if name != REFERENCE})


def stack(texts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Texts as a batch, padded with zeros."""
    return {name: nn.utils.rnn.pad_sequence([text[name] for text in texts], batch_first=True) for name in texts[0]}


def states(row: Row | None = None, batch: int = 2, seed: int = 1) -> Tensor:
    """States of the model of ``row``; of pictures where none is named."""
    return torch.randn(batch, *(LATENTS if row is None else row.latents), generator=seeded(seed))


RAW = torch.tensor([0.9, 0.4], dtype=torch.float64)
GRID = TimeGrid(2, 0.5, 3.2)

every_family = pytest.mark.parametrize("row", ZOO.values(), ids=ZOO)
every_family_of_edits = pytest.mark.parametrize("row", EDITS.values(), ids=EDITS)
every_network = pytest.mark.parametrize("row", [*ZOO.values(), *EDITS.values()], ids=[*ZOO, *EDITS])
PICTURES = {name: row for name, row in ZOO.items() if not row.makes_videos}
every_family_of_pictures = pytest.mark.parametrize("row", PICTURES.values(), ids=PICTURES)
# Those whose texts have a mask.
MASKED = [name for name, row in ZOO.items() if any("mask" in entry for entry in row.encode(1))]
every_masked_family = pytest.mark.parametrize("name", MASKED)


def facts_of(row: Row, policy: str = "gm") -> StudentFacts:
    shift = row.policy.get("shift", GRID.shift)
    return StudentFacts(
        teacher="tiny", family=row.family, base="", policy=policy, components=3, nfe=2, shift=shift,
        final_step_scale=0.5, segment=GRID.segment, substeps=16, guidance=row.guidance, temperature="auto",
        logstd_width=8,
    )  # fmt: skip


def student_of(row: Row, base: nn.Module, policy: str = "gm", dropout: float = 0.0) -> Student:
    family = family_of(row.family, row.guidance)
    return adapted_student(base, family, facts_of(row, policy), AdapterSection(4, 8.0, dropout, "fp32"), seed=0)


def disturb(student: Student) -> None:
    """Move everything that is trained away from where it started."""
    generator = seeded(3)
    with torch.no_grad():
        for value in student.model.parameters():
            value.add_(0.05 * torch.randn(value.shape, generator=generator))


def certain(row: Row, policy: str, monkeypatch: pytest.MonkeyPatch) -> Student:
    """A new student whose policies are one velocity, that of the teacher, from end to end of a segment."""
    for noise in ("BIAS_NOISE", "BIAS_NOISE_ALONE"):
        monkeypatch.setattr(components, noise, 0.0)
    student = student_of(row, row.build(), policy)
    # Components that are equal are their mean without width, and the teacher's velocity with rates of one.
    with torch.no_grad():
        for start in student.family.networks(root(student.model)):
            head = student.model.get_submodule(start + row.head_site.projection)
            if policy == "gm":
                head.logstds[3].bias.fill_(-20.0)
            elif policy == "momentum":
                head.loggamma.bias.zero_()
    return student


def zoo_preset(row: Row, folder: Path, **changes: object) -> tuple[Path, Preset]:
    """The model saved in ``folder`` and a preset for it; ``changes`` are dotted
    keys, their dots written as two underscores."""
    row.save(folder / "base")
    preset = {
        "name": "tiny",
        "summary": SUMMARY,
        "teacher": {
            "family": row.family,
            "base": str(folder / "base"),
            "license": "none",
            "memory": "none",
            "guidance": row.guidance,
            "guidance_mode": row.guidance_mode,
        },
        "adapter": {"rank": 4, "alpha": 8.0, "dropout": 0.1, "base_precision": "fp32"},
        "data": {"frames": row.frames} if row.makes_videos else {},
        "policy": {**SMALL_POLICY, **row.policy},
        "imitation": {"states": 2, "window": 1, "dropout": 0.1, "mixing_iterations": 0, "loss_scale": 1.0},
        "optimisation": optimisation(iterations=4, batch_size=2, warmup=1),
        "output": {"preview_every": 0, "checkpoint_every": 2, "keep_checkpoints": 2},
    }
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(preset))
    return path, resolve(path, None, [], {name.replace("__", "."): value for name, value in changes.items()})
