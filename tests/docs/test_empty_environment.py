"""What tests/empty_environment.py gives to README's commands: what is declared, and no more."""

from __future__ import annotations

from empty_environment import commands, declared, link

# What the extras of the tests bring, and no runtime dependency does.
UNDECLARED = {"pytest", "hypothesis", "torchvision", "datasets", "clean-fid", "mkdocs-material", "import-linter"}


def test_the_commands_are_those_of_the_first_screen() -> None:
    assert [words[:2] for words in commands()] == [["pip", "install"], ["piflow", "distill"], ["piflow", "sample"]]


def test_only_what_is_declared_is_linked(tmp_path) -> None:
    found = declared()
    assert {"torch", "diffusers", "huggingface-hub", "typer"} <= found.keys() and not UNDECLARED & found.keys()
    # A dependency of a dependency.
    assert {"regex", "sympy", "click"} <= found.keys()
    link(tmp_path)
    linked = {path.name for path in tmp_path.iterdir()}
    assert {"torch", "diffusers", "numpy", "yaml"} <= linked and not {"pytest", "torchvision", "datasets"} & linked
    assert not [name for name in linked if name.startswith("piflow")]
