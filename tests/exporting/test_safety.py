"""What an export must not carry: code of a base, files outside it, words that act in a
card or a snippet, paths of this machine."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from exports import export, student, whole_base
from huggingface_hub import ModelCard
from hypothesis import given, settings
from hypothesis import strategies as st

from piflow_cli.console import Console
from piflow_cli.errors import RunError, UsageError
from piflow_cli.exporting.card import escaped, write_card
from piflow_cli.exporting.copies import copy_part, read_index
from piflow_cli.exporting.driver import export as drive
from piflow_cli.exporting.driver import list_files
from piflow_cli.exporting.formats import FORMATS
from piflow_cli.exporting.formats.pipeline import PipelineFormat
from piflow_cli.exporting.request import ExportRequest
from piflow_cli.exporting.standalone.component import REFERENCE, Elsewhere
from piflow_cli.presets.resolve import load
from piflow_cli.students.adapters import save_adapter
from piflow_cli.students.facts import StudentFacts
from piflow_cli.weights.digests import MANIFEST, changed_files
from piflow_cli.weights.stored import shards_of


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    return whole_base("flux", tmp_path_factory.mktemp("base") / "flux")


@pytest.fixture
def base(whole, tmp_path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "flux"))


def written(base: Path, folder: Path, **options) -> Path:
    folder.mkdir()
    PipelineFormat().write(student("flux", base), folder, ExportRequest("s", "pipeline", folder, **options), Console())
    return folder


def test_code_and_pickles_of_a_base_are_left_out_and_said(base, tmp_path, capsys) -> None:
    for place in ("vae/own.py", "vae/weights.bin", "text_encoder/deep/more.py", "tokenizer/.hidden.py"):
        (base / place).parent.mkdir(exist_ok=True)
        (base / place).write_text("raise SystemExit")
    folder = written(base, tmp_path / "out")
    ours = {"policy_scheduler.py", "policy_fluxtransformer2dmodel.py"}
    assert {path.name for path in folder.rglob("*.py")} == ours and not list(folder.rglob("*.bin"))
    said = capsys.readouterr().err.replace("\n", " ")
    assert "vae/own.py, vae/weights.bin" in said and "text_encoder/deep/more.py" in said


@pytest.mark.parametrize("link", ["vae/stranger.json", "vae"])
def test_a_link_out_of_the_base_is_refused(base, tmp_path, link: str) -> None:
    secret = tmp_path / "secret"
    shutil.copytree(base / "vae", secret)
    if link == "vae":
        shutil.rmtree(base / "vae")
    (base / link).symlink_to(secret if link == "vae" else secret / "config.json")
    with pytest.raises(UsageError, match="leads out of the base") as caught:
        written(base, tmp_path / "out")
    assert str(base / link) in caught.value.message and caught.value.hint


def test_links_of_the_hubs_cache_and_inside_a_base_are_followed(base, tmp_path) -> None:
    snapshot = tmp_path / "models--me--it" / "snapshots" / "abc"
    shutil.copytree(base, snapshot)
    (tmp_path / "models--me--it" / "blobs").mkdir()
    (snapshot / "vae" / "config.json").rename(tmp_path / "models--me--it" / "blobs" / "123")
    (snapshot / "vae" / "config.json").symlink_to("../../../blobs/123")
    (snapshot / "vae" / "again.json").symlink_to("config.json")
    assert copy_part(snapshot / "vae", tmp_path / "out", snapshot) == []
    for name in ("config.json", "again.json"):
        assert (tmp_path / "out" / name).read_bytes() == (base / "vae" / "config.json").read_bytes() and not (
            tmp_path / "out" / name
        ).is_symlink()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("../evil", ["diffusers", "AutoencoderKL"]),
        ("a/b", ["diffusers", "AutoencoderKL"]),
        ("", True),
        ("vae", ["own_vae", "AutoencoderKL"]),
        ("vae", ["os", "system"]),
        ("vae", ["diffusers", "AutoencoderKL.from_pretrained"]),
        ("vae", ["diffusers", None]),
        ("vae", ["diffusers"]),
        ("vae", {"diffusers": "AutoencoderKL"}),
    ],
)
def test_an_index_of_other_than_stock_parts_is_refused(base, tmp_path, name: str, value: object) -> None:
    index = json.loads((base / "model_index.json").read_text())
    (base / "model_index.json").write_text(json.dumps(index | {name: value}))
    for options in ({}, {"with_base": False}):
        with pytest.raises(UsageError, match="model_index.json: ") as caught:
            written(base, tmp_path / f"out-{len(options)}", **options)
        assert caught.value.exit_code == 2 and caught.value.hint
    assert sorted(path.name for path in tmp_path.iterdir()) == ["flux", "out-0", "out-1"]


@settings(max_examples=100)
@given(
    st.dictionaries(
        st.text(max_size=8),
        st.none() | st.booleans() | st.text(max_size=8) | st.lists(st.text(max_size=12), max_size=3),
        max_size=3,
    )
)
def test_whatever_an_index_says_only_stock_parts_pass(tmp_path_factory, told: dict) -> None:
    path = tmp_path_factory.mktemp("index") / "model_index.json"
    path.write_text(json.dumps(told))
    try:
        index = read_index(path)
    except UsageError:
        return
    for name, value in index.items():
        assert name.startswith("_") or re.fullmatch(r"[A-Za-z]\w*", name)
        assert name.startswith("_") or not isinstance(value, list) or value[0] in ("diffusers", "transformers")


def test_a_config_that_names_code_is_refused(base, tmp_path) -> None:
    path = base / "tokenizer" / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"auto_map": {"AutoTokenizer": "me/evil--x.T"}}))
    with pytest.raises(UsageError, match="names code of its own"):
        written(base, tmp_path / "out")


def test_a_part_elsewhere_is_of_the_two_libraries(tmp_path) -> None:
    (tmp_path / REFERENCE).write_text(
        json.dumps({"library": "os", "class": "system", "place": "x", "subfolder": None, "revision": None})
    )
    with pytest.raises(ValueError, match="names the library 'os'"):
        Elsewhere.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "name", ["../other.safetensors", "/etc/passwd", "in/side.safetensors", "..", "", None, 3, "a\\b.safetensors"]
)
def test_an_index_of_shards_names_files_beside_it(tmp_path, name: object) -> None:
    (tmp_path.parent / "other.safetensors").write_bytes(b"")
    index = tmp_path / "x.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(RunError, match="is no index of weights") as caught:
        shards_of(index)
    assert "rm " not in caught.value.hint


# Cards and snippets.

NASTY = [
    "a | b",
    "`x`",
    "**bold**",
    "[click](http://x)",
    "<script>alert(1)</script>",
    "a\n\n# Title",
    "![x](y)",
    "$x$",
    "\\",
    "~~a~~",
    'x"); import os; os.system("id',
    "'''",
    "{place}",
]


@settings(max_examples=100)
@given(st.text(max_size=40) | st.sampled_from(NASTY))
def test_a_card_shows_text_letter_by_letter(text: str) -> None:
    shown = escaped(text)
    assert "\n" not in shown and not re.search(r"(?<!\\)(\\\\)*[`*_\[\]<>|&~$!]", shown)
    assert re.sub(r"\\([\\`*_\[\]<>|&~$!])", r"\1", shown) == " ".join(text.split())


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("preset", ["flux-dev-dx", "imagenet-fm"])
@settings(max_examples=25)
@given(
    place=st.text(min_size=1, max_size=40) | st.sampled_from(NASTY),
    base=st.text(min_size=1, max_size=40) | st.sampled_from(NASTY),
)
def test_places_are_strings_in_a_snippet(format: str, preset: str, place: str, base: str) -> None:
    """Whatever they are: no statement is added, and the strings are those that were given."""
    facts = StudentFacts.of(load(preset))
    plain, told = (
        ast.parse(FORMATS[format].open().snippet(replace(facts, base=of), at))
        for of, at in (("me/base", "me/it"), (base, place))
    )
    constants = [[node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)] for tree in (plain, told)]
    assert ast.dump(plain, annotate_fields=False).count("(") == ast.dump(_blank(told), annotate_fields=False).count("(")
    assert [{"me/base": base, "me/it": place}.get(value, value) for value in constants[0]] == constants[1]


def _blank(tree: ast.AST) -> ast.AST:
    """The tree with every string emptied, whose brackets are then those of the code."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            node.value = ""
    return tree


@pytest.mark.parametrize("text", NASTY)
def test_metadata_do_nothing_in_a_card(tmp_path, text: str) -> None:
    facts = replace(StudentFacts.of(load("flux-dev")), teacher=text, base=f"/{text}", revision=text, version=text)
    write_card(tmp_path, facts, text, "pass", {"format": "adapter"}, FORMATS["adapter"], tmp_path, None)
    card = ModelCard.load(tmp_path / "README.md")
    rows = [line for line in card.text.splitlines() if line.startswith("|")]
    assert all(len(re.findall(r"(?<!\\)(?:\\\\)*\|", row)) == 3 for row in rows)
    assert card.data.base_model is None and not re.search(r"(?<!\\)(<script>|\]\(http://x\))", card.text)
    assert [line for line in card.text.splitlines() if line.startswith("#")] == [f"# {escaped(text)}"]


@pytest.mark.parametrize("format", FORMATS)
def test_no_path_of_this_machine_is_in_an_export_or_its_card(base, tmp_path, format: str) -> None:
    save_adapter(student("flux", base, "dx"), tmp_path / "adapter")
    asked = ExportRequest(str(tmp_path / "adapter"), format, tmp_path / "out", device="cpu")
    drive(asked, Console(quiet=True))
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert len(files) > 2 and (tmp_path / "out" / "README.md") in files
    for path in files:
        assert str(tmp_path).encode() not in path.read_bytes(), path


# Checksums.


def test_a_changed_byte_of_an_export_is_found(tmp_path) -> None:
    folder = export(student("dit"), "pipeline", tmp_path / "out")
    (folder / "README.md").write_text("a card")
    list_files(folder)
    assert changed_files(folder) == []
    assert subprocess.run(["sha256sum", "-c", "--quiet", MANIFEST], cwd=folder).returncode == 0
    (folder / "README.md").write_text("people write on it")
    assert changed_files(folder) == []
    for path in sorted(
        path for path in folder.rglob("*") if path.is_file() and path.name not in ("README.md", MANIFEST)
    ):
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
        assert changed_files(folder) == [path.relative_to(folder).as_posix()]
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    (folder / "model_index.json").unlink()
    assert changed_files(folder) == ["model_index.json"]
