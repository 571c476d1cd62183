"""What ComfyUI-piFlow's loader asks of an adapter, restated here, and exports that it loads by these rules.

The loader (ComfyUI-piFlow 1.1: lakonlab_loaders, loader_utils, model_detection, supported_models) takes one safetensors
file beside a base in ComfyUI's own format. Pairs of LoRA go to the base's layers, everything else takes the place of a
tensor or is added as it is; the network is then built from the shapes, and what it does not know is dropped with a line
in a log, which is why a name that fits nothing would go unnoticed.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import pytest
from safetensors import safe_open
from torch import Tensor
from zoo import LATENTS, ZOO, disturb, student_of

from piflow_cli.console import Console
from piflow_cli.exporting.driver import export
from piflow_cli.exporting.request import ExportRequest
from piflow_cli.students.adapters import save_adapter
from piflow_cli.students.locate import WEIGHTS_NAME
from piflow_cli.students.student import Student

LORA_A, LORA_B = ".lora_A.weight", ".lora_B.weight"
POSITIONS = 4  # of a token: the loader takes 2 x 2 whatever the file says
# Layers of diffusers' networks that the loader finds in ComfyUI's. FLUX.1 and FLUX.2 are renamed (FLUX.1's proj_mlp is
# a part of linear1), Qwen-Image has the same names in both.
TIME = r"time_text_embed\.timestep_embedder\.linear_[12]"
FLUX = (
    TIME,
    r"transformer_blocks\.\d+\.(ff|ff_context)\.net\.(0\.proj|2)",
    r"single_transformer_blocks\.\d+\.(proj_mlp|proj_out)",
)
FLUX2 = (
    r"time_guidance_embed\.timestep_embedder\.linear_[12]",
    r"transformer_blocks\.\d+\.(ff|ff_context)\.linear_(in|out)",
    r"single_transformer_blocks\.\d+\.attn\.(to_qkv_mlp_proj|to_out)",
)
QWEN = (TIME, r"transformer_blocks\.\d+\.(img_mlp|txt_mlp)\.net\.(0\.proj|2)")
LAYERS = {"flux": FLUX, "flux2": FLUX2, "flux2-klein": FLUX2, "qwen-image": QWEN}
# FLUX.2 has no biases in its own layers.
WITHOUT_BIAS = {"flux2", "flux2-klein"}
GM_HEAD = {
    f"{layer}.{kind}"
    for layer in ("proj_out_means", "proj_out_logweights", "proj_out_logstds.1", "proj_out_logstds.3")
    for kind in ("weight", "bias")
}
# What `policy_config` may say: the arguments of the classes that the loader's table of types names.
POLICIES = {"GMFlow": {"eps", "checkpointing"}, "DX": {"segment_size", "shift", "mode", "eps"}}


@dataclass(frozen=True)
class File:
    """What ComfyUI gets of an export: one file by itself."""

    name: str
    student: Student
    tensors: dict[str, Tensor]
    metadata: dict[str, str]


def exported(name: str, policy: str, folder: Path) -> File:
    """The file of an export with --dtype bf16, of a student that training has moved."""
    row = ZOO[name]
    row.build().save_pretrained(folder / "base" / "transformer")
    student = student_of(row, row.build(), policy)
    disturb(student)
    save_adapter(student, folder / "adapter")
    told = {"base": str(folder / "base"), "dtype": "bf16", "device": "cpu"}
    export(ExportRequest(str(folder / "adapter"), "adapter", folder / "out", **told), Console(quiet=True))
    with safe_open(folder / "out" / WEIGHTS_NAME, "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}
        return File(name, student, tensors, file.metadata())


@pytest.fixture(
    scope="module", params=[(name, policy) for name in LAYERS for policy in ("gm", "dx", "dx-poly")], ids="-".join
)
def file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> File:
    return exported(*request.param, tmp_path_factory.mktemp("comfyui"))


def split(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Pairs of LoRA and the rest: earlier loaders go by the word `lora`, later ones by the endings."""
    pairs = {key: value for key, value in tensors.items() if "lora" in key}
    assert all(key.endswith((LORA_A, LORA_B)) for key in pairs)
    return pairs, {key: value for key, value in tensors.items() if key not in pairs}


def test_every_pair_of_an_export_finds_its_layer(file: File) -> None:
    pairs, _ = split(file.tensors)
    roots = {key.removesuffix(LORA_A).removesuffix(LORA_B) for key in pairs}
    network = ZOO[file.name].build()
    assert roots
    for root in roots:
        assert any(re.fullmatch(pattern, root) for pattern in LAYERS[file.name]), f"{root} would be dropped"
        first, second, layer = pairs[root + LORA_A], pairs[root + LORA_B], network.get_submodule(root)
        # Without an alpha the pair counts once.
        assert first.shape[0] == second.shape[1]
        assert (second.shape[0], first.shape[1]) == (layer.out_features, layer.in_features)
        if root.endswith("proj_mlp"):
            # It is the last rows of linear1, behind three times the network's width.
            assert second.shape[0] == 4 * first.shape[1]


def test_the_rest_of_an_export_is_the_whole_head_and_nothing_else(file: File) -> None:
    _, rest = split(file.tensors)
    kinds = ["weight"] if file.name in WITHOUT_BIAS else ["weight", "bias"]
    mixture = file.student.facts.policy == "gm"
    own = {f"{layer}.{kind}" for layer in ("norm_out.linear", *(() if mixture else ("proj_out",))) for kind in kinds}
    assert rest.keys() == own | (GM_HEAD if mixture else set())
    assert rest["norm_out.linear.weight"].shape == ZOO[file.name].build().norm_out.linear.weight.shape


def test_the_loader_infers_the_policy_from_shapes(file: File) -> None:
    facts, channels = file.student.facts, LATENTS[0]
    if facts.policy != "gm":
        assert file.tensors["proj_out.weight"].shape[0] == facts.components * channels * POSITIONS
        return
    components = file.tensors["proj_out_logweights.weight"].shape[0] // POSITIONS
    assert components == facts.components
    assert file.tensors["proj_out_means.weight"].shape[0] == components * channels * POSITIONS
    widths = [file.tensors[f"proj_out_logstds.{place}.weight"].shape[0] for place in (1, 3)]
    # The width is taken from the first layer that has more rows than one.
    assert next(width for width in widths if width != 1) == facts.logstd_width
    assert widths[-1] == 1


def test_the_policy_is_one_that_the_loader_can_make(file: File) -> None:
    told, facts = json.loads(file.metadata["policy_config"]), file.student.facts
    assert told.keys() - {"type"} <= POLICIES[told["type"]]
    # Left out, both would be 1.
    assert (told.get("segment_size"), told.get("shift")) == (
        (None, None) if facts.policy == "gm" else (facts.segment, facts.shift)
    )
    assert told.get("mode", "grid") == ("polynomial" if facts.policy == "dx-poly" else "grid")


def test_what_the_loader_takes_and_what_not_is_in_the_docs(tmp_path: Path) -> None:
    """Z-Image has no class there, FLUX.1 must have a guidance input, and ArcFlow's policy is not in the table."""
    page = (Path(__file__).parents[3] / "docs" / "pages" / "comfyui.md").read_text(encoding="utf-8")
    takes, _, leaves = page.partition("It does not load")
    assert json.loads(exported("flux", "momentum", tmp_path).metadata["policy_config"])["type"] not in POLICIES
    assert all(f"`{name}`" in takes for name in LAYERS)
    assert all(f"`{name}`" in leaves for name in ("momentum", *(ZOO.keys() - LAYERS.keys())))
