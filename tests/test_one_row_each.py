"""No family, metric or export format is known by name outside of its own files: a column of its row is asked for."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from package_source import tree_of

import piflow_cli
from piflow_cli.evaluation.extractor_kinds import ROWS as EXTRACTORS
from piflow_cli.evaluation.metric_kinds import ROWS as METRICS
from piflow_cli.evaluation.metric_kinds import metric_numbers
from piflow_cli.exporting.formats import FORMATS
from piflow_cli.packages import object_at
from piflow_cli.presets.families import ROWS as FAMILIES

PACKAGE = Path(piflow_cli.__file__).parent
# Words with another meaning: a key of report.json and what a base is held in; the field of an option.
OTHER = {"evaluation": {"trajectory", "precision"}, "commands": {"clip"}}


def constants(tree: ast.AST) -> set[object]:
    return {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def compared(tree: ast.AST) -> set[object]:
    """What something is compared with, or looked for in, by a word that stands there."""
    sides = [[node.left, *node.comparators] for node in ast.walk(tree) if isinstance(node, ast.Compare)]
    return {word for side in sides for node in side for word in constants(node)}


def test_families_are_named_in_their_table_and_their_own_files_alone():
    own = [PACKAGE / "teachers", PACKAGE / "presets" / "families.py"]
    files = [path for path in PACKAGE.rglob("*.py") if not any(path.is_relative_to(place) for place in own)]
    found = {str(path): constants(tree_of(path)) & FAMILIES.keys() for path in files}
    assert len(files) > 150 and not any(found.values()), {path: names for path, names in found.items() if names}


@pytest.mark.parametrize("room", OTHER)
def test_metrics_are_named_in_their_table_and_their_own_files_alone(room):
    own = [PACKAGE / "evaluation" / "metrics", PACKAGE / "evaluation" / "metric_kinds.py"]
    files = [path for path in (PACKAGE / room).rglob("*.py") if not any(path.is_relative_to(place) for place in own)]
    words = (METRICS.keys() | metric_numbers().keys()) - OTHER[room]
    found = {str(path): constants(tree_of(path)) & words for path in files}
    assert len(files) > 10 and not any(found.values()), {path: names for path, names in found.items() if names}


def test_extractors_that_are_no_default_are_named_in_their_table_and_their_own_files_alone():
    own = [PACKAGE / "evaluation" / "extractors", PACKAGE / "evaluation" / "extractor_kinds.py"]
    files = [path for path in PACKAGE.rglob("*.py") if not any(path.is_relative_to(place) for place in own)]
    words = EXTRACTORS.keys() - {"pixels", "digits-classifier", "inception"}
    found = {str(path): constants(tree_of(path)) & words for path in files}
    assert len(words) == 3 and not any(found.values()), {path: names for path, names in found.items() if names}


def test_nothing_is_decided_by_the_name_of_a_format():
    files = [*(PACKAGE / "exporting").rglob("*.py"), PACKAGE / "commands" / "export.py"]
    found = {str(path): compared(tree_of(path)) & FORMATS.keys() for path in files}
    assert len(files) > 10 and not any(found.values()), {path: names for path, names in found.items() if names}


def test_layers_and_words_of_families_are_their_own():
    """The names of modules and of published folders that only some families have."""
    words = {name for row in FAMILIES.values() for name in row.published}
    words |= {name for row in FAMILIES.values() for name in object_at(row.family).asks_for_dtype}
    own = [PACKAGE / "teachers", PACKAGE / "presets" / "families.py"]
    files = [path for path in PACKAGE.rglob("*.py") if not any(path.is_relative_to(place) for place in own)]
    found = {str(path): constants(tree_of(path)) & words for path in files}
    assert len(words) == 4 and not any(found.values()), {path: names for path, names in found.items() if names}


def test_such_names_would_be_found():
    tree = ast.parse("if format == 'merged' or name in ('fid', 'kid'):\n    family = 'flux'\n")
    assert compared(tree) == {"merged", "fid", "kid"} and constants(tree) == {"merged", "fid", "kid", "flux"}
