"""Wrong command lines by chance: a valid line of any command, and one thing in it that is wrong."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from fuzz_inputs import WEIGHTS, FuzzInputs, damaged_copy

from piflow_cli.app import program


@dataclass(frozen=True)
class Line:
    """A command line, and what is wrong with it; ``said``: a warning will do, and the command may go on."""

    arguments: tuple[str, ...]
    wrong: str
    said: bool = False


def valid(command: str, inputs: FuzzInputs, rng: random.Random, texts: bool = False) -> list[str]:
    """A line of ``command`` that works, and is quick."""
    student = str(inputs.texts if texts else inputs.classes)
    output = ["--output", str(inputs.fresh(rng))]
    small = ["--height", "64", "--width", "64"] if texts else []
    prompt = ["a fox"] if texts else []
    teacher = (
        [str(inputs.preset), "--prompts", str(inputs.files[".txt"]), "--set", "data.resolution=64"]
        if texts
        else ["digits"]
    )
    return {
        "distill": ["distill", "--dry-run", *output, "--teacher", *teacher],
        "sample": ["sample", student, *prompt, *small, *output, "--seeds", "0"],
        "eval": [
            "eval",
            student,
            *small,
            *output,
            "--cache",
            str(inputs.root / "cache"),
            "--num-images",
            "8",
            "--metrics",
            "alignment",
        ],
        "export": ["export", student, *output, "--format", "adapter"],
        "inspect-policy": ["inspect-policy", student, *prompt, *small, *output, "--seeds", "0"],
    }[command]


COMMANDS = ("distill", "sample", "eval", "export", "inspect-policy")
NUMBERS = ["", "x", "-1", "1.5", "1e3", "99999999999999999999", "0x10", "nan"]
# What no option of that name takes; {none} is a path where nothing is, {file} and {folder} are there and of no use.
WRONG: dict[str, list[str]] = {
    "N": NUMBERS,
    "STEP": NUMBERS,
    "RATE": ["", "x", "-1", "0", "nan", "inf", "1e30"],
    "M": ["", "x", "-1", "0", "nan", "inf", "1e30"],
    "SCALE": ["", "x", "0.5", "nan", "inf", "1e30"],
    "H": ["", "x", "-1", "nan"],
    "auto|T": ["", "x", "0", "2", "nan", "Auto"],
    "RANGES": ["", "x", "-1", "5-2", "1,,2", "1,1", "0-99999999999", "99999999999999999999", "1.5"],
    "DIR": ["{file}", "{file}/below", "{long}"],
    "FILE": ["{none}", "{folder}"],
    "--teacher": ["", "digts", "{none}", "{none}.yaml", "{folder}", "{file}", "/dev/null"],
    "--base": ["", "{none}", "./none", "~nobody/base", "preset:none", "{file}", "{folder}"],
    "--vae": ["", "{none}", "./none", "{folder}"],
    "--device": ["", "gpu", "cuda:", "cuda:99", "cuda", "CPU", "mps"],
    "--subfolder": ["none", "../..", "/"],
    "--set": [
        "",
        "x",
        "=",
        "policy.nfe",
        "policy.nfe=",
        "policy.nfe=x",
        "polcy.nfe=1",
        "policy=3",
        "policy.nfe=[",
        "a.b.c=1",
        "data.images={none}",
        "teacher.base={none}",
    ],
    "--prompts": ["", "{none}.txt", "{none}.csv", "./none", "{folder}", "{file}"],
    "--data": ["", "{none}", "{none}.tar", "{folder}", "{file}"],
    "--lora": ["", "{none}", "{file}", "{folder}", "{none}:0.5", "{file}:inf"],
    "--reference": ["", "{none}", "{none}.npz", "{folder}", "{file}", "clean-fid:none", "nonsense"],
    "--images": ["", "{none}", "{folder}", "{file}"],
    "--metrics": ["", "x", "fid,", "fid,fid", "FID"],
    "--extractor": ["", "x", "dinov2:", "dinov2:{none}"],
    "--clip": ["", "{none}"],
    "--slice": ["", "x", "3", "3,4,5,6", "-1,2", "999,999", "0,0,9"],
    "--compare": ["{none}"],
    "--format": ["", "x", "ADAPTER", "onnx"],
    "--dtype": ["", "x", "int8", "fp64"],
    "--quantise": ["", "x", "fp8"],
    "--push-to-hub": ["", "x", "a/b/c", "/x", "a b/c"],
    "--config": ["{none}", "{folder}", "/dev/zero"],
    "--inception-weights": ["{none}", "{folder}", "{file}"],
    "--save-statistics": ["{folder}", "{file}/x.safetensors", "{none}.xyz"],
    "--prompt": [""],
    "--text-column": ["", "none"],
}
# Options for a wrong value of which the valid line of texts is wanted.
OF_TEXTS = {"--height", "--width", "--prompts", "--lora", "--text-column", "--base-precision", "--offload", "--prompt"}
CHOICES = ["", "bogus", "GM", "1"]


def lines(seed: int, count: int, inputs: FuzzInputs) -> Iterator[Line]:
    """``count`` wrong lines; the same for the same ``seed``."""
    rng = random.Random(seed)
    for _ in range(count):
        yield rng.choice(MAKERS)(rng, inputs)


def options_of(command: str) -> list:
    return [option for option in program().commands[command].params if option.opts[0].startswith("--")]


def filled(text: str, inputs: FuzzInputs, rng: random.Random) -> str:
    empty = inputs.root / "empty"
    empty.mkdir(exist_ok=True)
    return (
        text.format(none=inputs.fresh(rng), file=inputs.files[".pt"], folder=empty, long=inputs.root / ("x" * 300))
        if "{" in text
        else text
    )


def slip(rng: random.Random, inputs: FuzzInputs) -> Line:
    """An option that is not there, written nearly as one that is."""
    command = rng.choice(COMMANDS)
    known = {name for option in options_of(command) for name in (*option.opts, *option.secondary_opts)}
    name = rng.choice(sorted(known))
    place = rng.randrange(3, len(name))
    while True:
        wrong = rng.choice(
            [
                name[:place] + rng.choice("abcxyz") + name[place:],
                name[:place] + name[place + 1 :],
                name.upper(),
                name + "-x",
            ]
        )
        if wrong not in known and wrong != "--":
            return Line((*valid(command, inputs, rng), wrong), f"no option {wrong}")


def wrong_value(rng: random.Random, inputs: FuzzInputs) -> Line:
    """A value that the option does not take; or none at all, or one for a switch."""
    command = rng.choice(COMMANDS)
    option = rng.choice(
        [option for option in options_of(command) if option.opts[0] not in ("--help", "--json", "--quiet")]
    )
    name = rng.choice(option.opts)
    line = valid(command, inputs, rng, name in OF_TEXTS)
    if option.is_flag:
        return Line((*line, f"{name}=x"), f"a value for {name}")
    if rng.random() < 0.1:
        return Line((*line, name), f"no value for {name}")
    value = filled(rng.choice(wrong_values(option)), inputs, rng)
    if option.nargs == 2:
        return Line((command, name, str(inputs.classes), value, *line[2:]), f"{name} {value!r}")
    # What counts once would hide the wrong value behind the valid one.
    kept = (
        [part for number, part in enumerate(line) if name not in (part, line[number - 1])]
        if not option.multiple
        else line
    )
    return Line((*kept, name, value), f"{name} {value!r}")


def wrong_values(option: object) -> list[str]:
    if option.opts[0] in WRONG:
        return WRONG[option.opts[0]]
    return WRONG[option.metavar] if option.metavar in WRONG else CHOICES


def missing(rng: random.Random, inputs: FuzzInputs) -> Line:
    """A student that is not there, is something else, or is not given."""
    command = rng.choice([name for name in COMMANDS if name != "distill"])
    first, _, *rest = valid(command, inputs, rng)
    value = filled(
        rng.choice(["{none}", "./none", "{file}", "{folder}", "~nobody/x", "", "/dev/null", "{none}.safetensors"]),
        inputs,
        rng,
    )
    if rng.random() < 0.1:
        return Line((first, *rest), "no student")
    return Line((first, value, *rest), f"the student {value!r}")


# Parts of a student, a base and a preset that are read wherever they are named.
PARTS = [(False, f"adapter/{WEIGHTS}"), (False, "adapter/config.json"), (True, WEIGHTS), (True, "config.json")]
BASE_PARTS = [
    "transformer/config.json",
    f"transformer/{WEIGHTS}",
    "vae/config.json",
    f"vae/{WEIGHTS}",
    "model_index.json",
]
NAMED_FILES = {
    ".txt": "--prompts",
    ".jsonl": "--prompts",
    ".csv": "--prompts",
    ".npz": "--reference",
    ".safetensors": "--reference",
}


def damaged_student(rng: random.Random, inputs: FuzzInputs) -> Line:
    texts, part = rng.choice(PARTS)
    command = rng.choice(["sample", "eval", "export", "inspect-policy"])
    copy, how = damaged_copy(inputs, inputs.texts if texts else inputs.classes, rng, part)
    first, _, *rest = valid(command, inputs, rng, texts)
    return Line((first, str(copy), *rest), f"{part} is {how}")


def damaged_base(rng: random.Random, inputs: FuzzInputs) -> Line:
    part = rng.choice(BASE_PARTS)
    copy, how = damaged_copy(inputs, inputs.preset.parent / "base", rng, part)
    return Line((*valid("sample", inputs, rng, True), "--base", str(copy)), f"the base's {part} is {how}")


def damaged_file(rng: random.Random, inputs: FuzzInputs) -> Line:
    suffix = rng.choice([*NAMED_FILES, ".yaml", "pictures", "preset"])
    if suffix == "pictures":
        copy, how = damaged_copy(inputs, inputs.files["pictures"], rng, "1.png")
        line = ["eval", "--images", str(copy), "--reference", str(inputs.files["pictures"]), "--extractor", "pixels"]
        return Line((*line, "--output", str(inputs.fresh(rng))), f"a picture is {how}", said=True)
    source = inputs.preset if suffix == "preset" else inputs.files[suffix]
    copy, how = damaged_copy(inputs, source, rng)
    if suffix in (".yaml", "preset"):
        option = ["--config", str(copy)] if suffix == ".yaml" else []
        teacher = "digits" if suffix == ".yaml" else str(copy)
        return Line(
            ("distill", "--dry-run", "--output", str(inputs.fresh(rng)), "--teacher", teacher, *option),
            f"{suffix} is {how}",
        )
    if NAMED_FILES[suffix] == "--reference":
        line = ["eval", "--images", str(inputs.files["pictures"]), "--output", str(inputs.fresh(rng))]
        return Line((*line, "--reference", str(copy)), f"the reference {suffix} is {how}")
    command = rng.choice(["sample", "inspect-policy"])
    first, student, _, *rest = valid(command, inputs, rng, True)
    return Line((first, student, *rest, "--prompts", str(copy)), f"the prompts {suffix} are {how}")


# What excludes each other, or means nothing for the model: command, whether its texts are wanted, options, and whether
# it is only said.
TOGETHER: list[tuple[str, bool, str, bool]] = [
    ("distill", False, "--prompts {txt}", False),
    ("distill", True, "--set data.labels=uniform --set data.prompts=null --prompts {txt} --data {folder}", False),
    ("distill", True, "--no-data-free", False),
    ("distill", False, "--offload-text-encoder", False),
    ("distill", False, "--offload-base", False),
    ("distill", False, "--policy dx --set policy.temperature=0.5", False),
    ("distill", False, "--list-teachers", False),
    ("distill", False, "--num-processes 3 --batch-size 4", False),
    ("distill", False, "--num-processes 2 --device cuda:0", False),
    ("distill", False, "--base-precision nf4 --offload-base", False),
    ("distill", False, "--nfe 2 --set imitation.window=1000", False),
    ("sample", False, "--prompts {txt}", False),
    ("sample", False, "--height 64", False),
    ("sample", False, "--compile", False),
    ("sample", False, "--offload model", False),
    ("sample", False, "--base-precision bf16", False),
    ("sample", False, "--lora {none}", False),
    ("sample", False, "--labels 3,12", False),
    ("sample", False, "--num-images 3", False),
    ("sample", False, "--guidance 3", True),
    ("sample", False, "--base {folder}", False),
    ("sample", True, "--labels 3", False),
    ("sample", True, "--vae {folder}", False),
    ("sample", True, "--prompts {txt}", False),
    ("sample", True, "--height 65", False),
    ("sample", True, "--offload model --device cpu", False),
    ("sample", True, "--guidance 7", True),
    ("sample", True, "--teacher digits", False),
    ("eval", False, "--quick --full", False),
    ("eval", False, "--images {pictures}", False),
    ("eval", False, "--prompts {txt}", False),
    ("eval", False, "--height 64", False),
    ("eval", False, "--steps 0", False),
    ("eval", False, "--save-statistics {none}.safetensors", False),
    ("eval", True, "--labels 3", False),
    ("eval", False, "--labels 3,12", False),
    ("export", False, "--quantise fp8", False),
    ("export", False, "--rank 4", False),
    ("export", False, "--private", False),
    ("export", False, "--prompt fox", False),
    ("export", False, "--no-base", False),
    ("inspect-policy", False, "--compare {none} {none}", False),
    ("inspect-policy", False, "--at 9", False),
    ("inspect-policy", False, "--slice 99,0", False),
    ("inspect-policy", False, "--height 64", False),
    ("inspect-policy", False, "--labels 12", False),
    ("inspect-policy", True, "--labels 1", False),
]


def together(rng: random.Random, inputs: FuzzInputs) -> Line:
    command, texts, options, said = rng.choice(TOGETHER)
    places = {
        "txt": inputs.files[".txt"],
        "none": inputs.fresh(rng),
        "folder": inputs.root / "empty",
        "pictures": inputs.files["pictures"],
    }
    (inputs.root / "empty").mkdir(exist_ok=True)
    return Line((*valid(command, inputs, rng, texts), *options.format(**places).split()), options, said)


MAKERS: list[Callable[[random.Random, FuzzInputs], Line]] = [
    slip,
    *[wrong_value] * 4,
    missing,
    damaged_student,
    damaged_base,
    *[damaged_file] * 2,
    *[together] * 2,
]
