"""Errors that speak of options of the command line, in the words of a call.

Options that the function takes become its arguments (--num-images N is num_images=N), those of `piflow distill` that
are short for a key of the preset become settings, and commands that ask for help become help(). Other command lines
stay: they can be typed.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping

import yaml

from ..errors import PiflowError
from ..presets.flags import OPTIONS

Arguments = Mapping[str, inspect.Parameter]
# Options whose arguments have other names here; the argument must be the function's.
RENAMED = {
    "extractor": "extractors",
    "lora": "loras",
    "reference": "references",
    "slice": "position",
    "prompts": "prompts_from",
    "prompt": "prompts",
}
# Options without a value that are a value of an argument.
SET = {
    "quick": ("protocol", '"quick"'),
    "full": ("protocol", '"full"'),
    "no_resume": ("resume", "False"),
    "no_base": ("with_base", "False"),
}
COMMANDS = {"eval": "evaluate", "inspect-policy": "inspect"}

_HELP = re.compile(r"piflow ([a-z-]+) --help")
_COMMAND = re.compile(r"piflow [a-z][^,;\n]*")
_PLACEHOLDER = r"[A-Z]{1,}(?:[./:][A-Za-z]+)*"
_RANGES = r"\d+(?:-\d+)?(?:,\d+(?:-\d+)?)*"
_NUMBER = r"\d+(?:\.\d+)?"
_LORA = r"(?P<path>[\w./]+\.\w+):(?P<scale>\d+(?:\.\d+)?)|PATH\[:SCALE\]"
# A lower-case word beside an option is its value where the clause ends with it, but for those of the sentence itself.
_WORD = r"(?!(?:out|too|alone|file|it|them)\b)[a-z~./][\w~./:-]*(?=$|[,;)]\s|\n| or )"
_ENDS = r"(?![\w.,:/-]*\w)"  # the end of a word
_VALUES = (
    rf"(?P<lora>{_LORA})",
    rf"(?P<place>{_PLACEHOLDER}){_ENDS}",
    rf"(?P<ranges>{_RANGES}){_ENDS}",
    rf"(?P<number>{_NUMBER}){_ENDS}",
    rf"(?P<word>{_WORD})",
    r"(?P<key>[a-z_]+(?:\.[a-z_]+)?)=(?P<value>[^\s,;]+?)(?=:?(?:[\s,;]|$))",
)
_OPTION = re.compile(rf"(?P<type>[Tt]ype )?(?<![\w-])--(?P<name>[a-z][a-z-]*[a-z])(?: (?:{'|'.join(_VALUES)}))?")


def tell_in_python(error: PiflowError, arguments: Arguments) -> None:
    """Give ``error`` words that a caller of a function with these ``arguments`` can use."""
    error.message = translated(error.message, arguments)
    error.hint = None if error.hint is None else translated(error.hint, arguments)
    error.args = (error.message,)


def translated(text: str, arguments: Arguments) -> str:
    """``text`` with the options that ``arguments`` stand for written as those; what it does not know stays."""
    text = text.replace("piflow distill --list-teachers", "piflow.list_teachers()")
    text = text.replace("run the same command again", "make the same call again")
    text = _HELP.sub(lambda found: f"help(piflow.{COMMANDS.get(found[1], found[1])})", text)
    parts, end = [], 0
    for command in _COMMAND.finditer(text):
        parts += [_options_in(text[end : command.start()], arguments), command[0]]
        end = command.end()
    return "".join([*parts, _options_in(text[end:], arguments)])


def _options_in(text: str, arguments: Arguments) -> str:
    def written(found: re.Match[str]) -> str:
        argument = _argument(found, text[found.end() :], arguments)
        if argument is None:
            return found[0]
        return argument if found["type"] is None else f"{'Give' if found['type'][0] == 'T' else 'give'} {argument}"

    return _OPTION.sub(written, text)


def _argument(found: re.Match[str], after: str, arguments: Arguments) -> str | None:
    """One option with its value, as the call writes it; None for one that the function does not take."""
    option = found["name"].replace("-", "_")
    if "settings" in arguments and (key := found["key"] if option == "set" else OPTIONS.get(option)) is not None:
        value = _setting(found["value"]) if option == "set" else _value(found, many=False)
        if found["lora"] is not None:
            # A preset has them as they are typed.
            value = f'["{found["lora"]}"]'
        return key if value is None else f'settings={{"{key}": {value}}}'
    if option in SET and SET[option][0] in arguments:
        return "=".join(SET[option])
    name = RENAMED[option] if RENAMED.get(option) in arguments else option
    if name not in arguments:
        return None
    annotation = str(arguments[name].annotation)
    typed = f"--{found['name']}"
    bare = found[0].endswith(typed)
    if "bool" in annotation and bare:
        return name if re.match(r" (out|is|are|wants)\b|:", after) else f"{name}=True"
    value = _value(found, many="Iterable" in annotation or "tuple" in annotation)
    if value is not None:
        return f"{name}={value}"
    return name + found[0].partition(typed)[2]


def _value(found: re.Match[str], many: bool) -> str | None:
    """The value beside an option in Python; None where there is none, or one that is no value."""
    if found["ranges"] is not None:
        numbers = found["ranges"]
        return _numbers(numbers) if many else numbers if numbers.isdigit() else None
    if found["lora"] is not None:
        return "[(PATH, SCALE)]" if found["path"] is None else f'[("{found["path"]}", {found["scale"]})]'
    value = found["number"] if found["place"] is None else found["place"]
    if found["word"] is not None:
        value = f'"{found["word"]}"'
    return value if value is None or not many else f"[{value}]"


def _setting(value: str) -> str:
    """The value of --set KEY=VALUE in Python; what is to be filled in stays as it is."""
    return value if value.isupper() else repr(yaml.safe_load(value))


def _numbers(ranges: str) -> str:
    """0-3 as range(4), 3,5 as [3, 5], 0-3,7 as [*range(0, 4), 7]."""
    spans = [tuple(map(int, span.split("-"))) for span in ranges.split(",")]
    if len(spans) == 1 and len(spans[0]) == 2:
        first, last = spans[0]
        return f"range({last + 1})" if first == 0 else f"range({first}, {last + 1})"
    if any(len(span) == 2 for span in spans):
        return f"[{', '.join(_span(span) for span in spans)}]"
    return f"[{', '.join(str(span[0]) for span in spans)}]"


def _span(span: tuple[int, ...]) -> str:
    return str(span[0]) if len(span) == 1 else f"*range({span[0]}, {span[1] + 1})"
