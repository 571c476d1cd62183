"""From YAML and command-line assignments to a preset, with every fault found before the first is reported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from piflow_cli.errors import UsageError
from piflow_cli.presets.contradictions import contradictions
from piflow_cli.presets.demands import demand
from piflow_cli.presets.faults import Contradiction, Fault
from piflow_cli.presets.flags import flag_of, is_flag
from piflow_cli.presets.folders import available
from piflow_cli.presets.keys import OF_FILES, VARIANTS, nearest
from piflow_cli.presets.layers import Layer, merge, nested
from piflow_cli.presets.mending import allowed, of_variants, renamed, unassigned
from piflow_cli.presets.schema import SECTIONS, Preset
from piflow_cli.presets.yaml_files import describe, read_yaml

LARGEST_FILE = 1 << 20  # bytes
WRONG_PATH = "check the path of the preset or --config file"


def read_file(path: Path) -> tuple[Layer, list[Fault]]:
    """The mapping in a YAML file; a file that cannot be read or is no mapping raises UsageError."""
    try:
        # A device or a pipe may never end.
        with path.open("rb") as file:
            text = file.read(LARGEST_FILE + 1)
    except (OSError, ValueError) as exc:
        reason = getattr(exc, "strerror", None) or str(exc)
        slashed = f"name the preset without a slash: {path}" if str(path) in available() else WRONG_PATH
        raise UsageError(f"cannot read {path}: {reason}", slashed) from exc
    if len(text) > LARGEST_FILE:
        raise UsageError(
            f"{path} is larger than {LARGEST_FILE:,} bytes, which no preset is",
            WRONG_PATH,
        )
    data, faults = read_yaml(text, str(path))
    if not isinstance(data, Mapping):
        found = "is empty" if data is None else f"holds {describe(data)}"
        raise UsageError(
            f"{path}: {found}, not sections of keys", "write `policy:` with `nfe: 1` below it, for example"
        )
    return Layer(str(path), {str(key): _string_keys(value) for key, value in data.items()}), faults


def read_assignment(assignment: str) -> tuple[Layer, list[Fault]]:
    """The layer of one `--set section.key=value`."""
    key, equals, text = assignment.partition("=")
    key = key.strip()
    source = f"--set {assignment}"
    if not (equals and key):
        return Layer(source, {}), [Fault(source, "", "write it as section.key=value", unassigned(key))]
    value, faults = read_yaml(text, source)
    return Layer(source, nested({key: value})), faults


def parse(layers: list[Layer], home: str) -> tuple[Preset | None, list[Fault]]:
    """The preset that the layers give together, or None and everything that is wrong with it.

    ``home`` names the file that should have held what is missing.
    """
    merged, sources = merge(layers)
    found, sections = [], {}
    for name, kind in SECTIONS.items():
        if merged.get(name) is not None:
            section, wrong = _validated(kind, merged[name], layers, name)
            sections[name] = section
            found += wrong
    # Sections that are valid are taken as they are, and those that are not have been reported.
    broken = {name for name, section in sections.items() if section is None}
    whole = {name: value for name, value in {**merged, **sections}.items() if name not in broken}
    preset, wrong = _validated(Preset, whole, layers)
    found += [finding for finding in wrong if finding.key not in broken]
    found += contradictions({name: section for name, section in sections.items() if section is not None})
    faults = [_placed(finding, sources, layers, home) for finding in found]
    return (None if faults else preset), faults


def _string_keys(value: Any) -> Any:
    return {str(key): item for key, item in value.items()} if isinstance(value, Mapping) else value


@cache
def _adapter(kind: type) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _validated(
    kind: type, values: Any, layers: Sequence[Layer], *section: str
) -> tuple[Any | None, list[Contradiction]]:
    """The instance of ``kind`` that some values of ``layers`` are, or None and what is wrong."""
    try:
        return _adapter(kind).validate_python(values), []
    except ValidationError as exc:
        return None, [_translate(error, section, layers) for error in exc.errors(include_url=False)]


def _translate(error: Mapping[str, Any], section: tuple[str, ...], layers: Sequence[Layer]) -> Contradiction:
    """Dotted key, plain words and what to type for one pydantic error in a ``section``."""
    location = (*section, *error["loc"])
    key = ".".join(str(part) for part in location[:2])
    place = f"item {location[2] + 1} " if len(location) > 2 and isinstance(location[2], int) else ""
    if error["type"] == "unexpected_keyword_argument":
        if key in OF_FILES:
            what = "unknown key here: a preset's own file may have it, which --teacher FILE.yaml names"
            return Contradiction(key, what, of_variants(error["input"]) if key == VARIANTS else ())
        suggestion = nearest(key)
        what = f"unknown key; did you mean {suggestion}?" if suggestion else "unknown key"
        return Contradiction(key, what, renamed(suggestion, error["input"], layers))
    mends = allowed(key, error, layers)
    if error["type"] in ("missing", "missing_argument"):
        return Contradiction(key, f"{place}is missing", mends)
    if error["type"] == "value_error":
        return Contradiction(key, str(error["ctx"]["error"]), mends)
    return Contradiction(key, f"{place}{demand(error)}, not {describe(error['input'])}", mends)


def _placed(finding: Contradiction, sources: Mapping[str, str], layers: Sequence[Layer], home: str) -> Fault:
    """The fault of the key itself where an option gives it, else of the one given last among those that cause it."""
    ranks = {place: rank for rank, layer in enumerate(layers) for place in (layer.source, *layer.options.values())}
    typed = sources.get(finding.key, home).startswith("--")
    causes = () if typed else finding.causes
    blamed = max((finding.key, *causes), key=lambda key: ranks.get(sources.get(key, home), -1))
    what = finding.what if blamed == finding.key else f"{finding.key} {finding.what}"
    mends = tuple(
        replace(mend, option=flag_of(mend.key)) if is_flag(sources.get(mend.key, home)) else mend
        for mend in finding.mends
    )
    return Fault(sources.get(blamed, home), blamed, what, mends)
