"""What to type in the place of a wrong setting: a key that there is, with a value that is allowed."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from piflow_cli.presets.demands import choices
from piflow_cli.presets.faults import Mend
from piflow_cli.presets.folders import preset_file
from piflow_cli.presets.keys import known_keys, nearest
from piflow_cli.presets.layers import Layer
from piflow_cli.presets.schema import POLICY_KINDS, SECTIONS, Preset
from piflow_cli.presets.yaml_files import read_yaml

# Between them they give every key a value.
SHOWING = ("digits", "flux-dev")
USUAL = "policy.nfe"
MISSING = object()
# Of keys that no shipped preset gives a value.
EXAMPLES = {
    "data.limit": 1000,
    "data.frames": 81,
    "optimisation.budget": "12h",
    "teacher.loras": ["style.safetensors:0.8"],
}


def allowed(key: str, error: Mapping[str, Any], layers: Sequence[Layer]) -> tuple[Mend, ...]:
    """The change of ``key`` to a value that is allowed, for one pydantic error; () where none is known.

    It is the choice nearest to what was typed, or the value that holds without the last of ``layers`` that gives the
    key, or that of a shipped preset, or the bound, or the first choice.
    """
    if key in SECTIONS:
        first = next(known for known in known_keys() if known.startswith(f"{key}."))
        return tuple(Mend(first, value, instead=True) for value in _values(first, layers))[:1]
    if close := difflib.get_close_matches(str(error["input"]).lower(), choices(error), n=1):
        return (Mend(key, close[0], meant=True),)
    bounds = [error["ctx"][name] for name in ("ge", "le") if name in error.get("ctx", {})]
    return tuple(Mend(key, value) for value in _values(key, layers, [*bounds, *choices(error)]))[:1]


def renamed(meant: str | None, value: Any, layers: Sequence[Layer]) -> tuple[Mend, ...]:
    """The key that was ``meant`` in the place of an unknown one, with the ``value`` typed where it is allowed.

    Of a section that was meant: its keys, with their values.
    """
    if meant in SECTIONS and isinstance(value, Mapping):
        inner = {f"{meant}.{name}": item for name, item in value.items()}
        return tuple(Mend(key, item, instead=True) for key, item in inner.items() if is_allowed(key, item))
    if meant is None or meant not in known_keys():
        return ()
    fitting = value if value is not None and is_allowed(meant, value) else next(_values(meant, layers), None)
    return (Mend(meant, fitting, instead=True),)


def unassigned(key: str) -> tuple[Mend, ...]:
    """An assignment, for one that lacks its value or its ``key``."""
    known = key if key in known_keys() else nearest(key)
    return renamed(known if known in known_keys() else USUAL, None, ())


def of_variants(value: Any) -> tuple[Mend, ...]:
    """Policy and values of a variant that was given where only a preset's own file has variants; () for what is none.

    >>> [(mend.key, mend.value) for mend in of_variants({"gmm.policy.nfe": 3})]
    [('policy.kind', 'gm'), ('policy.nfe', 3)]
    """
    flat = dict(_flat(value))
    kinds = {name.partition(".")[0] for name in flat}
    close = difflib.get_close_matches(next(iter(kinds)).lower(), POLICY_KINDS, n=1) if len(kinds) == 1 else []
    given = {name.partition(".")[2]: item for name, item in flat.items()}
    if not close or not all(is_allowed(key, item) for key, item in given.items()):
        return ()
    return tuple(Mend(key, item, instead=True) for key, item in {"policy.kind": close[0], **given}.items())


def is_allowed(key: str, value: Any) -> bool:
    """Whether a preset may have ``value`` under ``key``, other keys aside."""
    if key not in known_keys():
        return False
    try:
        _adapter(key).validate_python(value)
    except ValidationError:
        return False
    return True


def shown(key: str) -> list[Any]:
    """The values of ``key`` in the presets that show every key, where they give it one."""
    values = [_value(_shown(name), key) for name in SHOWING]
    found = [value for value in values if value is not MISSING and value is not None]
    return [EXAMPLES[key]] if key in EXAMPLES and not any(found) else found


def _values(key: str, layers: Sequence[Layer], others: Sequence[Any] = ()) -> Iterator[Any]:
    """Values that ``key`` may have, the likeliest first; ``others`` come last."""
    given = [value for layer in layers if (value := _value(layer.values, key)) is not MISSING]
    for value in (*reversed(given[:-1]), *shown(key), *others):
        if value is not None and is_allowed(key, value):
            yield value


def _value(values: Mapping[str, Any], key: str) -> Any:
    section, _, name = key.rpartition(".")
    holder = values.get(section) if section else values
    return holder.get(name, MISSING) if isinstance(holder, Mapping) else MISSING


@cache
def _shown(name: str) -> Mapping[str, Any]:
    return read_yaml(preset_file(name).read_bytes(), name)[0]


@cache
def _adapter(key: str) -> TypeAdapter[Any]:
    section, _, name = key.rpartition(".")
    return TypeAdapter(get_type_hints(SECTIONS[section] if section else Preset, include_extras=True)[name])


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from _flat(item, f"{prefix}.{name}" if prefix else str(name))
    else:
        yield prefix, value
