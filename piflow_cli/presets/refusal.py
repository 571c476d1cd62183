"""All faults of settings in one error, with what to type."""

from __future__ import annotations

from pathlib import Path
from shlex import quote

from piflow_cli.errors import UsageError
from piflow_cli.presets.faults import Fault, Mend
from piflow_cli.presets.flags import as_typed
from piflow_cli.presets.folders import preset_folders
from piflow_cli.presets.keys import OF_FILES, known_keys, nearest
from piflow_cli.presets.schema import SECTIONS
from piflow_cli.presets.yaml_files import yaml_word


def refuse(faults: list[Fault]) -> None:
    """Raise one UsageError that lists all faults; return if there is none."""
    if not faults:
        return
    if len(faults) == 1:
        raise UsageError(str(faults[0]), _mending_hint(faults))
    sources = {fault.source for fault in faults}
    if len(sources) > 1:
        raise UsageError("\n  ".join([f"{len(faults)} faults:", *map(str, faults)]), _mending_hint(faults))
    rows = [str(Fault("", fault.key, fault.what)) for fault in faults]
    raise UsageError("\n  ".join([f"{sources.pop()}: {len(faults)} faults:", *rows]), _mending_hint(faults))


def _mending_hint(faults: list[Fault]) -> str:
    """What mends the first of some faults, and the others with it where options alone mend all of them."""
    first = faults[0]
    if not _on_command_line(first):
        return _file_hint(first)
    if not first.mends:
        return _leaving_hint(first)
    words = _typed(first.mends)
    if first.mends[0].instead:
        return f"type {words} in its place"
    if len(faults) == 1 and first.mends[0].meant:
        return f"did you mean {first.mends[0].value}? type {words}"
    if all(_on_command_line(fault) and not any(mend.instead for mend in fault.mends) for fault in faults):
        words = _typed(tuple(mend for fault in faults for mend in fault.mends))
    return f"type {words}"


def _leaving_hint(fault: Fault) -> str:
    option, _, value = fault.source.partition(" ")
    left = f"{option} {quote(value)}" if option == "--set" else option
    if fault.key in known_keys():
        return f"leave {left} out"
    return f"leave {left} out; piflow distill --teacher digits --print-config shows every key"


def _file_hint(fault: Fault) -> str:
    if not fault.key:
        return f"keep one of the two lines in {fault.source}"
    if not fault.mends or fault.key in OF_FILES:
        place = f"{_place(fault.key)} out of {fault.source}"
        return f"take {place}; piflow distill --teacher digits --print-config shows every key"
    mend = fault.mends[0]
    section, _, name = mend.key.rpartition(".")
    if not mend.instead or fault.key in SECTIONS:
        below = f"below {section} " if section else ""
        return f"in {fault.source}, {below}write {name}: {yaml_word(mend.value)}"
    old = fault.key.rpartition(".")[2]
    if nearest(fault.key) in SECTIONS:
        return f"in {fault.source}, write {section} in place of {old}"
    if name == old:
        return f"in {fault.source}, move {name} below {section}"
    return f"in {fault.source}, write {name} in place of {old}"


def _on_command_line(fault: Fault) -> bool:
    """Whether it is mended there: a shipped preset is no file of the user's to change."""
    return fault.typed or (bool(fault.mends) and Path(fault.source).parent in preset_folders())


def _place(key: str) -> str:
    """A dotted key as it stands in a file."""
    section, _, name = key.rpartition(".")
    return f"{name} below {section}" if section else name


def _typed(mends: tuple[Mend, ...]) -> str:
    """The options that make these changes."""
    words = {
        mend.key: f"--set {quote(f'{mend.key}={yaml_word(mend.value)}')}"
        if mend.option == "--set"
        else as_typed(mend.option, mend.value)
        for mend in mends
    }
    return " ".join(words.values())
