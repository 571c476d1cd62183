"""What a transformer with a policy head does besides its own class; it travels beside exported weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers.utils import is_accelerate_available
from huggingface_hub import hf_hub_download
from packaging.version import Version
from safetensors.torch import load_file
from torch import Tensor, nn

from ...core.heads import HeadSite, HeadSizes, attach_head
from ...core.policies.kinds import head_class, head_layers

WEIGHTS = "diffusion_pytorch_model.safetensors"
LORA_A = ".lora_A.weight"
LORA_B = ".lora_B.weight"
HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "token")


def require_diffusers(oldest: str) -> None:
    """Raise ImportError where diffusers is older than ``oldest``."""
    if Version(diffusers.__version__) < Version(oldest):
        raise ImportError(
            f"this student needs diffusers {oldest} or later, and this is {diffusers.__version__}: pip install -U"
            f' "diffusers>={oldest}"'
        )


class PolicyModel:
    """A diffusers model with a policy head in place of its output projection.

    The config entry ``policy`` says which: ``kind``, ``components``, ``logstd_width``, ``embedding_dim`` (width of the
    timestep embedding that the head sees) and ``site`` (where it sits). ``base``: None, or where the weights below the
    student's own are, as ``place``, ``subfolder`` and ``revision``. ``storage``: None, or the 8-bit dtype in which
    linear layers are kept while they do not compute.
    """

    # Classes of diffusers, beside which this one stands in their subclasses.
    base_class: Any
    load_config: Any
    get_submodule: Any

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        # Without accelerate diffusers cannot keep some layers in float32; the head then has the dtype of the rest.
        if is_accelerate_available():
            own = cls._keep_in_fp32_modules
            cls._keep_in_fp32_modules = [*(() if own is None else own), *head_layers()]

    def put_head(self, policy: dict[str, Any]) -> None:
        """Put the head that ``policy`` describes in place of the projection, its weights still to be loaded."""
        put_policy_head(self, policy, self.get_submodule(policy["site"]["projection"]).weight.dtype)

    @classmethod
    def from_pretrained(
        cls, place: str | Path, *, subfolder: str | None = None, revision: str | None = None, **options: Any
    ) -> nn.Module:
        """As diffusers loads models; a student that names its base instead of holding it is put together."""
        where = {"subfolder": subfolder, "revision": revision}
        hub = {name: options[name] for name in HUB_OPTIONS if name in options}
        policy = cls.load_config(place, **where, **hub)["policy"]
        if policy["base"] is not None:
            return put_together(cls.base_class, policy, own_weights(place, **where, **hub), options)
        beside: Any = super()
        model = beside.from_pretrained(place, **where, **options)
        if policy["storage"] is not None:
            model.enable_layerwise_casting(getattr(torch, policy["storage"]), compute_dtype=model.dtype)
        return model


def put_policy_head(model: Any, policy: dict[str, Any], dtype: torch.dtype) -> None:
    """Put the head that ``policy`` describes on ``model``, in ``dtype``, where the projection is."""
    site = HeadSite(**policy["site"])
    projection = model.get_submodule(site.projection)
    sizes = HeadSizes(policy["components"], policy["embedding_dim"], policy["logstd_width"])
    with torch.device(projection.weight.device):
        head = head_class(policy["kind"]).build(projection, site, sizes, bias_noise=0.0)
    attach_head(model, site, head.to(dtype))


def own_weights(place: str | Path, subfolder: str | None, revision: str | None, **hub: Any) -> dict[str, Tensor]:
    """The tensors that a student without its base brings, from a folder or a repository."""
    if Path(place).is_dir():
        return load_file(Path(place) / ("" if subfolder is None else subfolder) / WEIGHTS)
    return load_file(hf_hub_download(str(place), WEIGHTS, subfolder=subfolder, revision=revision, **hub))


@torch.no_grad()
def put_together(kind: Any, policy: dict[str, Any], tensors: dict[str, Tensor], options: dict[str, Any]) -> nn.Module:
    """A base of the class ``kind``, where ``policy`` says it is, under the student's own ``tensors``.

    Adapters are fused into the weights, so that nothing but diffusers is needed. Raises ValueError for a base in fewer
    bits than a float has.
    """
    base = policy["base"]
    model = kind.from_pretrained(base["place"], subfolder=base["subfolder"], revision=base["revision"], **options)
    put_policy_head(model, policy, torch.float32)
    own = dict(model.named_parameters())
    for name, value in tensors.items():
        if name.endswith(LORA_A):
            path = name.removesuffix(LORA_A)
            weight = own[f"{path}.weight"]
            if not weight.is_floating_point():
                raise ValueError(
                    "a quantised base takes no adapters: leave the quantisation out, or export the student with its"
                    " base"
                )
            weight.copy_(fused(weight, value.to(weight.device), tensors[path + LORA_B].to(weight.device)))
        elif not name.endswith(LORA_B):
            own[name].copy_(value)
    return model.eval()


def fused(weight: Tensor, down: Tensor, up: Tensor) -> Tensor:
    """``weight`` (out, in) plus the product of ``up`` (out, r) and ``down`` (r, in), summed in float32."""
    return torch.addmm(weight.float(), up.float(), down.float())
