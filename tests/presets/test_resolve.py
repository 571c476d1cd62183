from __future__ import annotations

import dataclasses
import inspect
import json
import re

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from piflow_cli.errors import UsageError
from piflow_cli.presets import resolve as presets
from piflow_cli.presets.contradictions import segment_substeps
from piflow_cli.presets.families import CLASS, ROWS, conditioning_of, shown_a_picture
from piflow_cli.presets.keys import known_keys
from piflow_cli.presets.resolve import available, from_dict, load, presets_root, resolve, to_dict
from piflow_cli.presets.schema import DATA_SOURCES, POLICY_KINDS, SECTIONS, PolicySection, Preset
from piflow_cli.presets.yaml_files import read_yaml, write_yaml
from piflow_cli.teachers import family_of


@pytest.mark.parametrize("name", available())
def test_every_shipped_preset_is_valid_and_named_like_its_file(name):
    assert load(name).name == name


@pytest.mark.parametrize("name", available())
@pytest.mark.parametrize("kind", POLICY_KINDS)
def test_every_shipped_preset_takes_every_policy(name, kind):
    assert resolve(name, None, [], {"policy.kind": kind}).policy.kind == kind


@pytest.mark.parametrize("name", available())
def test_every_shipped_preset_opens_with_its_command_and_memory(name):
    comments = [line for line in (presets_root() / f"{name}.yaml").read_text().splitlines() if line.startswith("#")]
    preset = load(name)
    whole = conditioning_of(preset.teacher.family) == CLASS or preset.data.prompts is not None
    source = "--data edits/" if shown_a_picture(preset.teacher.family) else "--prompts prompts.txt"
    assert comments[0] == f"# piflow distill --teacher {name}" + ("" if whole else f" {source}")
    assert any(line.startswith("# Memory:") for line in comments)


def test_digits_shows_every_key_of_the_schema_but_those_of_adapters():
    data = yaml.safe_load((presets_root() / "digits.yaml").read_text())
    own = set(SECTIONS) - {"adapter"}
    shown = {f"{name}.{key}" for name in own for key in data[name]} | (set(data) - own - {"variants", "recipes"})
    adapter = yaml.safe_load((presets_root() / "flux-dev.yaml").read_text())["adapter"]
    assert shown | {f"adapter.{key}" for key in adapter} == set(known_keys())


PAPER = {
    "flux-dev": ("gm", 8, 4, 3.5, "embedded", 4, 0.1, 2000, 3000),
    "flux-dev-8nfe": ("gm", 8, 8, 3.5, "embedded", 4, 0.1, 2000, 3000),
    "flux-dev-dx": ("dx", 10, 4, 3.5, "embedded", 4, 0.0, 2000, 3000),
    "qwen-image": ("gm", 8, 4, 4.0, "plain", 2, 0.1, 0, 9000),
    "qwen-image-dx": ("dx", 10, 4, 4.0, "plain", 2, 0.0, 0, 9000),
}


@pytest.mark.parametrize("name", PAPER)
def test_text_to_image_presets_have_the_figures_of_the_paper(name):
    """pi-Flow, arXiv 2510.14974, and the configurations published with it."""
    preset = load(name)
    teacher, policy, imitation, optimisation = preset.teacher, preset.policy, preset.imitation, preset.optimisation
    row = (policy.kind, policy.components, policy.nfe, teacher.guidance, teacher.guidance_mode)
    assert (*row, imitation.states, imitation.dropout, imitation.mixing_iterations, optimisation.iterations) == PAPER[
        name
    ]
    assert (policy.shift, policy.final_step_scale, policy.substeps, imitation.window, imitation.loss_scale) == (
        3.2,
        0.5,
        128,
        3,
        30,
    )
    assert (optimisation.learning_rate, optimisation.betas, optimisation.weight_decay) == (1e-4, (0.9, 0.95), 0)
    assert (optimisation.batch_size, optimisation.warmup, optimisation.gradient_clip, optimisation.ema_gamma) == (
        64,
        100,
        50,
        7,
    )
    assert preset.adapter == presets.AdapterSection(rank=256, alpha=256.0, dropout=0.05, base_precision="bf16")


CLASS_CONDITIONAL = ("digits", "imagenet-dit", "imagenet-fm", "imagenet-repa", "imagenet-repa-2nfe", "imagenet64")


@pytest.mark.parametrize("name", available())
@pytest.mark.parametrize("kind", POLICY_KINDS)
def test_only_text_to_image_lowers_the_temperature(name, kind):
    """The published samplers of FLUX.1 and Qwen-Image have 0.3 at 4 evaluations
    and 0.7 at 8, those of ImageNet have none."""
    # A segment of two starts where a second network takes over.
    shift = {"policy.shift": 14.0} if name == "wan22-a14b" else {}
    temperature = resolve(name, None, [], {"policy.kind": kind, "policy.nfe": 2, **shift}).policy.temperature
    assert temperature == (1.0 if name in CLASS_CONDITIONAL else "auto")


def test_a_preset_that_says_no_temperature_has_none():
    assert PolicySection("gm", 8, 4).temperature == 1.0


@pytest.mark.parametrize(
    ("name", "guidance", "mixing", "iterations"),
    [("flux-dev-momentum", 3.5, 2000, 10000), ("qwen-image-momentum", 4.0, 1000, 15000)],
)
def test_momentum_presets_have_the_figures_of_arcflow(name, guidance, mixing, iterations):
    """ArcFlow, arXiv 2602.09014: the configurations arcflux_2nfe_k16 and arcqwen_2nfe_k16,
    and its example of training on four GPUs."""
    preset = load(name)
    teacher, policy, imitation, optimisation = preset.teacher, preset.policy, preset.imitation, preset.optimisation
    assert (policy.kind, policy.components, policy.nfe, policy.final_step_scale, policy.shift) == (
        "momentum",
        16,
        2,
        1.0,
        3.2,
    )
    assert (
        imitation.states,
        imitation.window,
        imitation.dropout,
        imitation.mixing_iterations,
        imitation.loss_scale,
    ) == (4, 3, 0.1, mixing, 30)
    assert (teacher.guidance, optimisation.iterations, optimisation.batch_size, optimisation.gamma_learning_rate) == (
        guidance,
        iterations,
        16,
        0.1,
    )
    assert (optimisation.learning_rate, optimisation.warmup, optimisation.gradient_clip, optimisation.ema_gamma) == (
        1e-4,
        100,
        50,
        7,
    )


def test_a_momentum_policy_has_two_components_or_more():
    with pytest.raises(UsageError, match="--components 1: must be at least 2 for a momentum policy"):
        resolve("digits", None, [], {"policy.kind": "momentum", "policy.components": 1})


TEXT_TO_IMAGE = [name for name in available() if name not in CLASS_CONDITIONAL]


@pytest.mark.parametrize("name", TEXT_TO_IMAGE)
def test_a_polynomial_of_text_to_image_has_ten_terms(name):
    """The published one, of Qwen-Image, does."""
    assert resolve(name, None, [], {"policy.kind": "dx-poly"}).policy.components == 10


@pytest.mark.parametrize("name", [name for name in TEXT_TO_IMAGE if not re.search("momentum|24gb|emoji", name)])
def test_a_step_of_text_to_image_takes_64_trajectories(name):
    """Two a GPU on 32 GPUs; their four segments make the 256 that the paper counts."""
    optimisation = load(name).optimisation
    assert (optimisation.batch_size, optimisation.device_batch_size) == (64, 1)


@pytest.mark.parametrize(("name", "like"), [("flux-dev-24gb", "flux-dev"), ("qwen-image-24gb", "qwen-image")])
def test_a_preset_of_one_gpu_learns_as_the_published_one_but_for_batch_rank_and_base(name, like):
    own, other = (to_dict(load(one)) for one in (name, like))
    changed = {
        f"{section}.{key}" for section in SECTIONS for key in own[section] if own[section][key] != other[section][key]
    }
    assert changed == {
        "teacher.memory",
        "adapter.rank",
        "adapter.alpha",
        "adapter.base_precision",
        "imitation.states_per_query",
        "optimisation.batch_size",
    }
    assert own["adapter"]["alpha"] == own["adapter"]["rank"]


@pytest.mark.parametrize(("name", "like"), [("flux2-dev", "flux-dev"), ("flux2-klein", "qwen-image")])
def test_flux2_trains_as_the_teacher_whose_guidance_is_of_its_kind(name, like):
    preset, other = load(name), load(like)
    own = {"name", "summary", "teacher"}
    assert {key: value for key, value in to_dict(preset).items() if key not in own} == {
        key: value for key, value in to_dict(other).items() if key not in own
    }
    assert (preset.teacher.guidance, preset.teacher.guidance_mode) == (4.0, other.teacher.guidance_mode)


IMAGENET = {
    "imagenet-fm": (1, 2.7, 0.6, 140_000),
    "imagenet-repa": (1, 3.2, 0.7, 140_000),
    "imagenet-repa-2nfe": (2, 2.8, 0.7, 24_000),
}


@pytest.mark.parametrize("name", IMAGENET)
def test_imagenet_presets_have_the_figures_of_the_paper(name):
    """pi-Flow, arXiv 2510.14974, and the configurations published with it."""
    preset = load(name)
    nfe, guidance, highest, iterations = IMAGENET[name]
    assert preset.policy == PolicySection(
        "gm", 32, nfe, final_step_scale=1.0, shift=1.0, substeps=128, logstd_width=1024
    )
    assert (preset.teacher.guidance, preset.teacher.guidance_interval, preset.teacher.guidance_mode) == (
        guidance,
        (0, highest),
        "plain",
    )
    # At two evaluations the published recipe trains on noised latents of ImageNet, which the user brings.
    assert preset.imitation == presets.ImitationSection(2, 0, 0.05, 0, 3.0) and preset.data_free == (nfe == 1)
    assert preset.data.source == (None if nfe == 2 else "labels")
    optimisation = preset.optimisation
    assert (optimisation.iterations, optimisation.batch_size, optimisation.learning_rate, optimisation.warmup) == (
        iterations,
        4096,
        5e-5,
        400,
    )
    assert (optimisation.betas, optimisation.weight_decay, optimisation.gradient_clip, optimisation.ema_gamma) == (
        (0.9, 0.95),
        0,
        50,
        7,
    )
    dx = resolve(name, None, [], {"policy.kind": "dx"})
    assert (dx.policy.components, dx.imitation.window, dx.imitation.dropout) == (10, 10, 0.0)


@pytest.mark.parametrize(("name", "time_scale"), [("imagenet-fm", 1000.0), ("imagenet-repa", 1.0)])
def test_imagenet_presets_bring_the_config_of_their_checkpoint(name, time_scale):
    """DiT-XL/2 (arXiv 2212.09748), whose time is fed as the two teachers were trained."""
    from piflow_cli.teachers.dit_network import DiT

    assert load(name).teacher.config == f"preset:{name}"
    config = json.loads((presets_root() / name / "config.json").read_text())
    defaults = {key: parameter.default for key, parameter in inspect.signature(DiT).parameters.items()}
    assert config == {"_class_name": "DiT", **defaults, "time_scale": time_scale}


# Any preset that the schema allows.

REALS = st.floats(1e-9, 1e9, allow_nan=False)
# PyYAML writes the text 1e5 without quotes, which YAML 1.2 and the loader here read as a number.
LIKE_A_NUMBER = re.compile(r"[-+]?[0-9.]+[eE][-+]?[0-9]+")
NAMES = st.text(min_size=1, max_size=20).filter(lambda text: LIKE_A_NUMBER.fullmatch(text) is None)
FOLDERS = NAMES.map(lambda text: re.sub(r"[^\w ]", "", text).strip()).filter(
    lambda text: text != "" and text.isprintable() and LIKE_A_NUMBER.fullmatch(text) is None
)
SHARES = st.floats(0, 1)
BELOW_ONE = st.floats(0, 1, exclude_max=True)


@st.composite
def any_data(draw: st.DrawFn) -> presets.DataSection:
    source = draw(st.none() | st.sampled_from(DATA_SOURCES))
    sides = st.integers(1, 4096)
    size = draw(
        st.builds(dict, resolution=sides)
        | st.builds(dict, sizes=st.lists(st.tuples(sides, sides), min_size=1).map(tuple))
    )
    return presets.DataSection(
        **({} if source is None else {source: "uniform" if source == "labels" else draw(NAMES)}),
        **size,
        text_column=draw(NAMES),
        image_column=draw(NAMES),
        split=draw(NAMES),
        aspect_ratio=draw(st.floats(1, 4)),
        cache=draw(st.none() | NAMES),
    )


@st.composite
def any_preset(draw: st.DrawFn) -> Preset:
    policy = draw(
        st.builds(
            PolicySection,
            kind=st.sampled_from(POLICY_KINDS),
            components=st.integers(2, 64),
            nfe=st.integers(1, 16),
            final_step_scale=st.floats(0, 1, exclude_min=True),
            shift=st.floats(1e-9, 1000),
            substeps=st.integers(1, 256),
            temperature=st.just("auto") | st.floats(0, 1, exclude_min=True),
            logstd_width=st.integers(1, 2048),
        )
    )
    batch, iterations = draw(st.integers(1, 4096)), draw(st.integers(1, 10**6))
    data = draw(any_data())
    family = st.just("dit") if data.source in ("images", "labels") else NAMES.filter(lambda name: name != "dit")
    return Preset(
        name=draw(FOLDERS),
        summary=draw(NAMES),
        seed=draw(st.integers(0, 2**63 - 1)),
        teacher=draw(
            st.builds(
                presets.TeacherSection,
                family=family,
                base=NAMES,
                license=NAMES,
                memory=NAMES,
                revision=st.none() | NAMES,
                guidance=st.floats(1, 20),
                guidance_interval=st.tuples(SHARES, SHARES).map(lambda pair: tuple(sorted(pair))),
            )
        ),
        policy=policy,
        data=data,
        imitation=presets.ImitationSection(
            states=draw(st.integers(1, 8)),
            window=draw(st.integers(0, segment_substeps(policy))),
            dropout=draw(BELOW_ONE),
            mixing_iterations=draw(st.integers(0, 5000)),
            loss_scale=draw(REALS),
            data_free=draw(st.none() | st.just(True)),
        ),
        optimisation=presets.OptimisationSection(
            iterations=iterations,
            batch_size=batch,
            device_batch_size=draw(st.none() | st.integers(1, batch)),
            learning_rate=draw(st.floats(1e-9, 1)),
            schedule=draw(st.sampled_from(["constant", "cosine"])),
            betas=draw(st.tuples(BELOW_ONE, BELOW_ONE)),
            weight_decay=draw(SHARES),
            warmup=draw(st.integers(0, 1000)),
            gradient_clip=draw(REALS),
            precision=draw(st.sampled_from(["fp32", "bf16"])),
        ),
        output=draw(
            st.builds(presets.OutputSection, st.integers(0, 10**6), st.integers(1, 10**6), st.integers(1, 10**6))
        ),
        adapter=draw(st.none() | st.builds(presets.AdapterSection, st.integers(1, 4096), REALS, BELOW_ONE)),
    )


@pytest.mark.parametrize("text", ["0E0", "1e-4", "-.5e3", "1.0e+5", "true", "null", "12", "plain"])
def test_text_that_looks_like_something_else_stays_text_in_yaml(text):
    assert read_yaml(write_yaml({"base": text}), "run.yaml")[0] == {"base": text}


@given(any_preset())
def test_a_preset_survives_being_written_as_json_and_as_yaml(preset):
    data = to_dict(preset)
    assert from_dict(json.loads(json.dumps(data)), "run.json") == preset
    assert from_dict(read_yaml(write_yaml(data), "run.yaml")[0], "run.yaml") == preset


def test_later_places_win(tmp_path):
    path = tmp_path / "changes.yaml"
    path.write_text("policy: {nfe: 2, components: 2, substeps: 64}\n")

    def policy(assignments: list[str], flags: dict[str, object]) -> PolicySection:
        return resolve("digits", path, assignments, flags).policy

    assert load("digits").policy == PolicySection("gm", 8, 1, logstd_width=256)
    assert policy([], {}) == PolicySection("gm", 2, 2, substeps=64, logstd_width=256)
    assert policy(["policy.nfe=3"], {}).nfe == 3
    assert policy(["policy.nfe=3", "policy.nfe=5"], {"policy.nfe": None}).nfe == 5
    assert policy(["policy.nfe=3"], {"policy.nfe": 4}) == PolicySection("gm", 2, 4, substeps=64, logstd_width=256)


def test_an_explicit_zero_or_false_is_given():
    preset = resolve("digits", None, [], {"seed": 0, "imitation.data_free": False, "imitation.dropout": 0.0})
    assert (preset.seed, preset.imitation.data_free, preset.imitation.dropout) == (0, False, 0.0)
    assert (
        resolve("digits", None, ["imitation.data_free=true"], {"imitation.data_free": False}).imitation.data_free
        is False
    )


def test_a_section_that_was_taken_away_comes_back_with_its_defaults():
    assert resolve("flux-dev", None, ["adapter=null"], {}).adapter is None
    assert resolve("flux-dev", None, ["adapter=null", "adapter.rank=4"], {}).adapter == presets.AdapterSection(rank=4)


def test_a_later_source_of_data_takes_the_earlier_one_away(tmp_path):
    path = tmp_path / "changes.yaml"
    path.write_text("data: {prompts: prompts.txt, resolution: 512}\n")
    preset = resolve("digits", path, ["teacher.family=flux"], {})
    assert (preset.data.images, preset.data.source, preset.data.resolution) == (None, "prompts", 512)
    preset = resolve("digits", path, ["teacher.family=flux", "data.sizes=[[64, 32]]"], {"data.captioned": "pictures"})
    assert (preset.data.source, preset.data.prompts, preset.data.captioned) == ("captioned", None, "pictures")
    assert (preset.data.resolution, preset.data.sizes) == (None, ((64, 32),))


@pytest.mark.parametrize(
    ("data", "said", "expected"),
    [
        ({"images": "a"}, None, False),
        ({"images": "a"}, True, True),
        ({"prompts": "a", "resolution": 8}, None, True),
        ({"captioned": "a", "resolution": 8}, None, False),
        ({"captioned": "a", "resolution": 8}, True, True),
        ({"captioned": "a", "resolution": 8}, False, False),
    ],
)
def test_prompts_alone_are_trained_on_without_data(data, said, expected):
    values = {"imitation.data_free": said, **{f"data.{name}": value for name, value in data.items()}}
    family = "dit" if "images" in data else "flux"
    assert resolve("digits", None, [], {**values, "teacher.family": family}).data_free is expected


def test_another_policy_brings_its_variant_below_everything_the_user_gives():
    dx = resolve("digits", None, [], {"policy.kind": "dx"})
    assert (dx.policy.components, dx.imitation.window, dx.imitation.dropout) == (10, 10, 0.0)
    assert resolve("digits", None, ["policy.kind=dx"], {}) == dx
    assert resolve("digits", None, ["policy.kind=dx", "policy.components=20"], {}).policy.components == 20
    assert resolve("digits", None, [], {"policy.kind": "gm"}) == load("digits")


def test_a_preset_of_ones_own_is_loaded_by_its_path(tmp_path):
    preset = dataclasses.replace(load("digits"), name="mine", seed=5)
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(to_dict(preset)))
    assert load(str(path)) == load(path) == preset


def test_an_unknown_name_lists_the_known_ones_and_the_nearest():
    with pytest.raises(UsageError) as caught:
        load("digts")
    assert "digits" in caught.value.message
    assert "did you mean digits?" in caught.value.hint


@pytest.mark.parametrize("data", [None, [], "text", {}])
def test_a_run_folder_with_another_content_is_refused(data):
    with pytest.raises(UsageError, match="run.yaml"):
        from_dict(data, "run.yaml")


def test_presets_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        load("digits").policy.nfe = 2


@pytest.mark.parametrize(
    ("name", "mode", "told"),
    [
        ("flux-dev", "plain", "networks of the family flux are told the scale as an input: give embedded"),
        ("flux-dev", "orthogonal", "networks of the family flux are told the scale as an input: give embedded"),
        ("qwen-image", "embedded", "networks of the family qwen-image have no input for the scale: give plain"),
        ("imagenet-repa", "embedded", "networks of the family dit have no input for the scale: give plain"),
        ("z-image", "renormalised", "the family z-image has no pipeline that renormalises: give plain"),
    ],
)
def test_guidance_is_of_the_kind_that_the_family_knows(name, mode, told):
    """Else a scale would act twice, or not at all; a scale of 1 acts in neither way."""
    with pytest.raises(UsageError, match=re.escape(f"teacher.guidance_mode={mode}: is {mode}, and {told}")) as caught:
        resolve(name, None, [f"teacher.guidance_mode={mode}", "teacher.guidance=2"], {})
    assert "teacher.guidance_mode=" in caught.value.hint
    family = "flux-cfg" if mode == "plain" else None
    if family is not None:
        other = resolve(name, None, [f"teacher.guidance_mode={mode}", f"teacher.family={family}"], {})
        assert (other.teacher.family, other.teacher.guidance_mode) == ("flux-cfg", "plain")


@pytest.mark.parametrize("kind", ROWS.values(), ids=ROWS)
def test_the_table_says_of_guidance_what_the_class_of_the_family_says(kind):
    assert (kind.guided == "input") == family_of(kind.name).embeds_guidance and kind.guided is not None
