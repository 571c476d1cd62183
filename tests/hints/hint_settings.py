"""Files of settings with a fault each, and what a person changes in them as a hint says."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

FAULTY = {
    "too_low": {"policy": {"nfe": 0}},
    "too_low_seed": {"seed": -1},
    "misspelt": {"policy": {"substep": 64}},
    "misspelt_section": {"polcy": {"nfe": 1}},
    "outside": {"nfe": 1},
    "unknown": {"policy": {"nfe": 1}, "colour": "red"},
    "unknown_below": {"policy": {"nfe": 1, "colour": "red"}},
    "unknown_too": {"colour": "red"},
    "no_section": {"policy": 3},
}
WRITE = re.compile(r"in (\S+), (?:below (\S+) )?write (\S+): (.+)")
RENAME = re.compile(r"in (\S+), write (\S+) in place of (\S+)")
MOVE = re.compile(r"in (\S+), move (\S+) below (\S+)")
TAKE = re.compile(r"take (\S+)(?: below (\S+))? out of (\S+)")
ONE_OF_TWO = re.compile(r"keep one of the two lines in (\S+)")


def settings(root: Path) -> dict[str, Path]:
    """The files in ``root``, by the words that stand for them in braces."""
    root.mkdir()
    made = {name: root / f"{name}.yaml" for name in (*FAULTY, "twice")}
    for name, content in FAULTY.items():
        made[name].write_text(yaml.safe_dump(content))
    made["twice"].write_text("policy:\n  nfe: 1\n  nfe: 1\n")
    return made


def edited(hint: str) -> bool:
    """Change the file that ``hint`` is about; whether it is about one."""
    if found := WRITE.fullmatch(hint):
        path, section, name, value = found.groups()
        content = _read(path)
        holder = content
        if section is not None:
            holder = content[section] if isinstance(content.get(section), dict) else {}
            content[section] = holder
        holder[name] = yaml.safe_load(value)
    elif found := RENAME.fullmatch(hint):
        path, name, old = found.groups()
        content = yaml.safe_load(re.sub(rf"\b{old}:", f"{name}:", Path(path).read_text()))
    elif found := MOVE.fullmatch(hint):
        path, name, section = found.groups()
        content = _read(path)
        content.setdefault(section, {})[name] = content.pop(name)
    elif found := TAKE.fullmatch(hint):
        name, section, path = found.groups()
        content = _read(path)
        del (content if section is None else content[section])[name]
    elif found := ONE_OF_TWO.fullmatch(hint):
        path = found[1]
        content = _read(path)
    else:
        return False
    Path(path).write_text(yaml.safe_dump(content))
    return True


def _read(path: str) -> dict:
    return yaml.safe_load(Path(path).read_text())
