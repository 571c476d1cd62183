"""The code that travels: what is in it, that it does what ours does, and what it says where something is missing."""

from __future__ import annotations

import ast
import json
import re
import sys
from pathlib import Path
from types import ModuleType

import diffusers
import pytest
import torch
from exports import student
from helpers import seeded
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from tiny_students import tiny_dit
from zoo import ZOO

from piflow_cli.exporting.standalone import assembly, policy_model
from piflow_cli.exporting.standalone.assembly import assemble
from piflow_cli.exporting.standalone.code import (
    OLDEST_DIFFUSERS,
    class_conditional_code,
    component_code,
    scheduler_code,
    transformer_class,
    transformer_code,
)
from piflow_cli.exporting.standalone.component import Elsewhere
from piflow_cli.exporting.standalone.policy_model import fused, require_diffusers
from piflow_cli.students.scheduler import PolicyScheduler
from piflow_cli.students.shared_base import root

POLICIES = ("gm", "dx", "dx-poly", "momentum")
CODES = {
    **{f"scheduler-{kind}": lambda kind=kind: scheduler_code(kind) for kind in POLICIES},
    **{f"scheduler-{name}": lambda name=name: scheduler_code("gm", name) for name in ("v-linear", "edm")},
    "class-conditional": class_conditional_code,
    "component": component_code,
    **{name: lambda row=row: transformer_code(getattr(diffusers, row.model_name), "gm") for name, row in ZOO.items()},
    **{f"dit-{kind}": lambda kind=kind: transformer_code(type(tiny_dit()), kind) for kind in POLICIES},
}
every_code = pytest.mark.parametrize("code", CODES.values(), ids=CODES)


def imported(tree: ast.AST) -> set[str]:
    """Packages that a module imports, "." for one relative to itself."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add("." if node.level else node.module.partition(".")[0])
    return found


@every_code
def test_the_code_stands_alone_and_is_the_same_each_time(code) -> None:
    text = code()
    assert text == code()
    assert imported(ast.parse(text)) - sys.stdlib_module_names <= {
        "torch",
        "diffusers",
        "safetensors",
        "huggingface_hub",
        "packaging",
    }
    assert text.startswith("# Copyright") and "Apache License" in text and "piflow_cli." not in text


@every_code
def test_every_definition_is_used_and_says_what_it_is(code) -> None:
    tree = ast.parse(code())
    definitions = [node for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)]
    read = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    # The last one is what the file is for.
    assert {node.name for node in definitions[:-1]} <= read


@pytest.fixture(scope="module")
def theirs() -> dict[str, type]:
    """The schedulers of the assembled files, by policy."""
    modules = {kind: ModuleType(f"assembled_scheduler_{kind}") for kind in POLICIES}
    for kind, module in modules.items():
        sys.modules[module.__name__] = module
        exec(compile(scheduler_code(kind), module.__name__, "exec"), module.__dict__)
    yield {kind: module.PolicyScheduler for kind, module in modules.items()}
    for module in modules.values():
        del sys.modules[module.__name__]


@given(
    kind=st.sampled_from(["gm", "dx", "dx-poly", "momentum"]),
    nfe=st.integers(1, 4),
    final=st.floats(0.3, 1),
    shift=st.floats(0.5, 4),
    patch=st.sampled_from([None, 4]),
    temperature=st.sampled_from(["auto", 0.5]),
    stochastic=st.sampled_from([0.0, 0.5]),
    seed=st.integers(0, 100),
)
def test_the_assembled_scheduler_samples_what_ours_does(
    theirs, kind, nfe, final, shift, patch, temperature, stochastic, seed
) -> None:
    options = dict(
        components=3,
        patch=patch,
        segment=0.6,
        shift=shift,
        final_step_scale=final,
        substeps=16,
        temperature=temperature,
        stochastic=stochastic,
    )
    generator, channels = seeded(seed), 2
    positions = patch or 1
    width = 3 * channels * positions + {"gm": 3 * positions + 1, "momentum": 5 * positions}.get(kind, 0)
    shape, wide = (
        ((2, channels, 2, 3), (2, width, 2, 3)) if patch is None else ((2, 5, channels * patch), (2, 5, width))
    )
    outputs = [0.5 * torch.randn(wide, generator=generator) for _ in range(nfe)]
    results = []
    for kind_of in (PolicyScheduler, theirs[kind]):
        scheduler = kind_of(kind, **options)
        scheduler.set_timesteps(nfe)
        x = torch.randn(shape, generator=seeded(seed + 1))
        for timestep, output in zip(scheduler.timesteps, outputs, strict=True):
            x = scheduler.step(output, timestep, x, generator=seeded(seed + 2)).prev_sample
        results.append(x)
    torch.testing.assert_close(results[1], results[0], rtol=1e-4, atol=1e-4)


# Assembling.


@pytest.fixture
def package(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(assembly, "PACKAGE", tmp_path)
    return tmp_path


def test_only_what_is_needed_is_taken_with_the_comments_above_it(package) -> None:
    (package / "low.py").write_text(
        "import math\nimport os\n\n# Why it is three.\nTHREE = 3\n\n\ndef used():\n    return math.pi * THREE\n\n\ndef"
        " unused():\n    return os.sep\n"
    )
    (package / "high.py").write_text(
        'from .low import used\n\n\nclass Top:\n    """See :func:`~piflow_cli.low.used`."""\n\n    value = used()\n'
    )
    text = assemble(["low.py", "high.py"], ["Top"])
    assert "import math" in text and "import os" not in text and "unused" not in text and "from .low" not in text
    assert "# Why it is three.\nTHREE = 3" in text and "See ``used``." in text
    assert text.index("def used") < text.index("class Top")


def test_names_must_be_plain(package) -> None:
    (package / "a.py").write_text("A = 1\n")
    (package / "b.py").write_text("A = 2\n")
    (package / "c.py").write_text("A, B = 1, 2\n")
    with pytest.raises(ValueError, match="A is defined in a.py and in b.py"):
        assemble(["a.py", "b.py"], ["A"])
    with pytest.raises(ValueError, match="one name at a time"):
        assemble(["c.py"], ["A"])


# What the code does by itself.


def test_an_old_diffusers_is_told_what_to_install(monkeypatch) -> None:
    require_diffusers(OLDEST_DIFFUSERS)
    monkeypatch.setattr(diffusers, "__version__", "0.38.0")
    with pytest.raises(
        ImportError,
        match=r'needs diffusers 0\.39\.0 or later, and this is 0\.38\.0: pip install -U "diffusers>=0\.39\.0"',
    ):
        require_diffusers(OLDEST_DIFFUSERS)
    # Checked before a class is imported that it may lack.
    text = transformer_code(diffusers.FluxTransformer2DModel, "gm")
    assert text.index('require_diffusers("0.39.0")') < text.index("from diffusers import FluxTransformer2DModel")


def test_the_oldest_diffusers_is_that_of_the_package() -> None:
    # Read as text: Python 3.10, which the package is for too, has no reader of TOML.
    project = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    assert re.findall(r'"diffusers>=([\d.]+)', project) == [OLDEST_DIFFUSERS.removesuffix(".0")]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_a_product_is_fused_in_float32_and_rounded_once(dtype) -> None:
    weight, down, up = (
        torch.randn(shape, generator=seeded(seed)) for seed, shape in enumerate(((40, 30), (8, 30), (40, 8)))
    )
    exact = weight.to(dtype).double() + up.double() @ down.double()
    torch.testing.assert_close(fused(weight.to(dtype), down, up).double(), exact, rtol=1e-6, atol=1e-5)
    rounded = fused(weight.to(dtype), down, up).to(dtype).double()
    # Half a unit in the last place.
    assert ((rounded - exact).abs() <= 0.501 * torch.finfo(dtype).eps * exact.abs() + 1e-5).all()


def test_a_quantised_base_takes_no_adapters(monkeypatch) -> None:
    which = student("flux")
    base = ZOO["flux"].build()
    base.transformer_blocks[0].ff.net[2].weight = torch.nn.Parameter(
        torch.zeros(32, 128, dtype=torch.int8), requires_grad=False
    )
    monkeypatch.setattr(
        diffusers.FluxTransformer2DModel, "from_pretrained", classmethod(lambda cls, place, **options: base)
    )
    family = which.family
    site = vars(family.head_site(root(which.model)))
    policy = {
        "kind": "gm",
        "components": 3,
        "logstd_width": 8,
        "embedding_dim": 32,
        "site": site,
        "base": {"place": "", "subfolder": None, "revision": None},
    }
    with pytest.raises(ValueError, match="a quantised base takes no adapters"):
        policy_model.put_together(diffusers.FluxTransformer2DModel, policy, which.model.state_dict(), {})


def test_what_a_student_brings_is_fetched_at_its_own_revision(tmp_path, monkeypatch) -> None:
    save_file({"a": torch.ones(1)}, tmp_path / "diffusion_pytorch_model.safetensors")
    asked = []
    monkeypatch.setattr(
        policy_model,
        "hf_hub_download",
        lambda *told, **more: asked.append((told, more)) or tmp_path / "diffusion_pytorch_model.safetensors",
    )
    assert policy_model.own_weights("owner/name", "transformer", "abc", token="t")["a"].item() == 1
    assert asked == [
        (
            ("owner/name", "diffusion_pytorch_model.safetensors"),
            {"subfolder": "transformer", "revision": "abc", "token": "t"},
        )
    ]
    assert policy_model.own_weights(tmp_path, None, None)["a"].item() == 1 and len(asked) == 1


def test_a_part_that_lies_elsewhere_is_loaded_with_the_dtype(tmp_path, tiny_vae) -> None:
    (tmp_path / "elsewhere.json").write_text(
        json.dumps(
            {
                "library": "diffusers",
                "class": "AutoencoderKL",
                "place": str(tiny_vae),
                "subfolder": None,
                "revision": None,
            }
        )
    )
    vae = Elsewhere.from_pretrained(tmp_path, torch_dtype=torch.bfloat16)
    assert type(vae).__name__ == "AutoencoderKL" and vae.dtype == torch.bfloat16


def test_the_class_takes_every_field_of_its_base() -> None:
    for row in ZOO.values():
        kind = getattr(diffusers, row.model_name)
        tree = ast.parse(transformer_code(kind, "gm"))
        [made] = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == transformer_class(kind)]
        [constructor] = [node for node in made.body if isinstance(node, ast.FunctionDef)]
        names = [argument.arg for argument in constructor.args.args + constructor.args.kwonlyargs]
        assert set(row.config) <= set(names) and names[-2:] == ["policy", "auto_map"]
