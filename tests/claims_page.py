"""The made part of docs/pages/claims.md: what the files of the claims' programs say of each claim."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from result_tables import RESULTS, filled, table

FILES = tuple(
    RESULTS / f"claims{teachers}-cpu.json" for teachers in ("", "-distilled", "-emoji", "-diffusion", "-video")
)
IDEAS = {"ideas": RESULTS / "ideas-cpu.json", "ideas-emoji": RESULTS / "ideas-emoji-cpu.json"}
JUDGES = {"to_data": "to the data", "by_classifier": "by the classifier", "error": "error, same noise"}
NONE = "No study has been recorded yet."
VIDEOS = ("moving-digits",)  # teachers that make them
NUMBERS = range(1, 12)  # of the claims


def claims(page: str, files: Sequence[Path] = FILES, ideas: Mapping[str, Path] = IDEAS) -> str:
    """``page`` with the verdicts of those of ``files`` that are there, claim by claim, and what became of ``ideas``."""
    tables = {name: partial(_ideas, file) for name, file in ideas.items()}
    return filled(page, {"claims": lambda: "\n\n".join(_parts(files)), **tables})


def _ideas(file: Path) -> str:
    if not file.exists():
        return NONE
    study = json.loads(file.read_text())
    rows = [
        [
            one["idea"],
            " ".join(f"`{setting}`" for setting in one["settings"]),
            f"{len(one['seeds'])}",
            *(cell for judged in one["judged"] for cell in _judged(judged)),
        ]
        for one in study["rows"]
    ]
    judges = [JUDGES[judged["figure"]] for judged in study["rows"][0]["judged"]]
    columns = [column for judge in judges for column in (judge, "published recipe", "difference", "verdict")]
    found = table(["idea", "settings", "seeds", *columns], rows)
    return f"{found}\n\n{study['evaluations']:,} network evaluations each. {_study(study)}"


def _judged(one: dict[str, Any]) -> list[str]:
    return [
        *(f"{one[side]:{'.1f' if one[side] >= 100 else '#.3g'}}" for side in ("better", "worse")),
        f"{one['difference']:+.2g} ± {one['margin']:.2g}",
        {"holds": "wins", "does not hold": "loses"}.get(one["verdict"], one["verdict"]),
    ]


def _parts(files: Sequence[Path]) -> Iterator[str]:
    studies = [json.loads(file.read_text()) for file in files if file.exists()]
    if not studies:
        yield NONE
        return
    found = [(study, claim) for study in studies for claim in study["claims"]]
    found.sort(key=lambda one: one[1]["number"])
    yield table(
        ["claim", "teacher", "seeds", "verdict", "comparisons that hold"],
        [
            [_title(claim), study["teacher"], f"{len(claim['seeds'])}", claim["verdict"], _held(claim)]
            for study, claim in found
        ],
    )
    measured = {claim["number"] for _, claim in found}
    if missing := [str(number) for number in NUMBERS if number not in measured]:
        yield f"Not measured yet: {', '.join(missing)}."
    yield from (_study(study) for study in studies)
    for study, claim in found:
        yield f"### {_title(claim)}, on {study['teacher']}"
        yield f"{claim['where']}. {claim['says']} **{claim['verdict'].capitalize()}.**"
        yield _comparisons(claim)


def _title(claim: dict[str, Any]) -> str:
    return f"{claim['number']}. {claim['title']}"


def _held(claim: dict[str, Any]) -> str:
    verdicts = [one["verdict"] for one in claim["comparisons"]]
    return f"{verdicts.count('holds')} of {len(verdicts)}"


def _study(study: dict[str, Any]) -> str:
    made = "videos" if study["teacher"] in VIDEOS else "pictures"
    return (
        f"Students of {study['teacher']}: {study['images']:,} {made}, {study['device']}, torch"
        f" {study['versions']['torch']}, {study['date']}."
    )


def _comparisons(claim: dict[str, Any]) -> str:
    rows = [
        [
            one["expected"],
            one["figure"],
            *(f"{one[side]:.3g}" for side in ("better", "worse")),
            f"{one['difference']:+.2g} ± {one['margin']:.2g}",
            one["verdict"],
        ]
        for one in claim["comparisons"]
    ]
    return table(["expected", "figure", "first", "second", "difference", "verdict"], rows)
