"""Prompts from every kind of source, and where a broken one says it is broken."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from piflow_cli import tables
from piflow_cli.errors import UsageError, explain
from piflow_cli.prompts import Prompt, read_prompts


def written(folder: Path, name: str, text: str | bytes) -> str:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def refusal(source: str, **options: str) -> str:
    with pytest.raises(UsageError) as caught:
        read_prompts(source, **options)
    assert caught.value.hint
    return caught.value.message


@pytest.mark.parametrize("end", ["\n", "", "\r\n"])
def test_a_text_file_has_a_prompt_in_each_line(tmp_path, end):
    text = "\ufeffa cat" + "\r\n" * (end == "\r\n") + "\n" * (end != "\r\n") + "  zwei Hähne\x0cund\u2028mehr" + end
    assert read_prompts(written(tmp_path, "p.txt", text)) == [Prompt("a cat"), Prompt("zwei Hähne\x0cund\u2028mehr")]


PROMPTS = st.text(st.characters(codec="utf-8", exclude_characters="\r\n\x00"), min_size=1, max_size=30).filter(str.strip)


@given(st.lists(PROMPTS, min_size=1, max_size=5))
def test_all_formats_give_the_same_prompts(tmp_path_factory, texts):
    folder = tmp_path_factory.mktemp("prompts")
    expected = [Prompt(text.strip()) for text in texts]
    assert read_prompts(written(folder, "p.txt", "\n".join(texts))) == expected
    assert read_prompts(written(folder, "p.jsonl", "\n".join(json.dumps({"text": text}) for text in texts))) == expected
    with (folder / "p.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["id", "text"], *enumerate(texts)])
    assert read_prompts(str(folder / "p.csv")) == expected


def test_json_lines_may_give_seed_and_size(tmp_path):
    rows = [{"text": "a", "seed": 0, "width": 512, "height": 768, "id": 3}, {"text": "b", "seed": None}]
    source = written(tmp_path, "p.jsonl", "\n".join(map(json.dumps, rows)) + "\n")
    assert read_prompts(source) == [Prompt("a", 0, 512, 768), Prompt("b")]


def test_another_column_may_hold_the_text(tmp_path):
    assert read_prompts(written(tmp_path, "p.jsonl", '{"caption": "a"}'), text_column="caption") == [Prompt("a")]
    assert read_prompts(written(tmp_path, "p.csv", 'n,caption\n1,"a,\n b"\n'), text_column="caption") == [Prompt("a,\n b")]


def test_all_faults_of_a_file_come_at_once_with_their_lines(tmp_path):
    lines = [
        '{"text": "fine"}',
        "",
        '{"text": "a",}',
        "[1]",
        '{"txt": "a"}',
        '{"text": " "}',
        '{"text": "a", "seed": -1}',
        '{"text": "a", "width": 51.2}',
        '{"text": "a", "widht": 512}',
        '{"text": "a", "height": true}',
    ]
    message = refusal(written(tmp_path, "p.jsonl", "\n".join(lines)))
    first, *rows = message.splitlines()
    assert first.endswith("p.jsonl: 9 faults:")
    assert [row.strip().split(":")[0] for row in rows] == [f"line {number}" for number in range(2, 11)]
    for expected in (
        "line 2: is empty",
        "line 3: not valid JSON",
        "line 4: not a JSON object",
        "line 5: text is missing",
        "line 6: text is not a prompt: ' '",
        "line 7: seed must be a whole number of at least 0, not -1",
        "line 8: width must be a whole number of at least 1, not 51.2",
        "line 9: unknown key widht; did you mean width?",
        "line 10: height must be a whole number of at least 1, not True",
    ):
        assert expected in message


def test_the_list_of_faults_is_bounded(tmp_path):
    message = refusal(written(tmp_path, "p.txt", "a\n" + "\n" * 1000 + "b"))
    assert "1000 faults" in message and "line 2: is empty" in message and "and 990 more" in message
    assert len(message.splitlines()) == tables.MOST_SHOWN + 2


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("p.txt", "a\n\nb\n", "p.txt:2: is empty"),
        ("p.txt", "a\n \t\nb\n", "p.txt:2: is empty"),
        ("p.txt", "", "holds no prompts"),
        ("p.txt", "\n", "holds no prompts"),
        ("p.txt", b"a\nb\xff\n", "p.txt:2: not UTF-8"),
        ("p.jsonl", '{"text": "a"}\n{"text"\n', "p.jsonl:2: not valid JSON"),
        ("p.jsonl", "[" * 100_000, "p.jsonl:1: not valid JSON: nested too deeply"),
        ("p.csv", "prompt\na\n", "has no column text; it has prompt"),
        ("p.csv", "", "has no column text; it has none"),
        ("p.csv", "text,n\na,1\n,2\n", "p.csv:3: is empty"),
        ("p.csv", "text,n\na,1\nb\n", "p.csv:3: has fewer values than there are columns"),
        ("p.csv", "text,n\na,1,2\n", "p.csv:2: has more values than there are columns"),
        ("p.csv", 'text\na\n"b', "p.csv:2: not valid CSV"),
        ("p.yaml", "text: a", "prompts are not read from such files"),
    ],
)
def test_a_broken_file_says_where(tmp_path, name, content, complaint):
    assert complaint in refusal(written(tmp_path, name, content))


@pytest.mark.parametrize("source", ["nowhere.txt", "folder/prompts.txt", "nowhere", "a/b/c", "preset:nowhere.txt"])
def test_a_source_that_is_not_there(tmp_path, monkeypatch, source):
    monkeypatch.chdir(tmp_path)
    assert "there are no prompts at" in refusal(source)


def test_a_parquet_file(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = tmp_path / "p.parquet"
    parquet.write_table(pyarrow.table({"text": ["a", " b"], "n": [1, 2]}), path)
    assert read_prompts(str(path)) == [Prompt("a"), Prompt("b")]
    assert "line 1: is not text but 1" in refusal(str(path), text_column="n")
    assert "has no column caption; it has text, n" in refusal(str(path), text_column="caption")
    assert "not a Parquet file" in refusal(written(tmp_path, "q.parquet", path.read_bytes()[:-20]))


def test_a_dataset_by_its_folder_and_by_its_name(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    (tmp_path / "set").mkdir()
    written(tmp_path / "set", "train.jsonl", '{"text": "a"}\n{"text": "b"}\n')
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    assert read_prompts(str(tmp_path / "set")) == [Prompt("a"), Prompt("b")]
    assert "cannot read the split test of the data set" in refusal(str(tmp_path / "set"), split="test")

    asked, data = [], datasets.load_dataset(str(tmp_path / "set"), split="train")
    monkeypatch.setattr(datasets, "load_dataset", lambda source, split: asked.append((source, split)) or data)
    assert read_prompts("owner/name", split="validation") == [Prompt("a"), Prompt("b")]
    assert asked == [("owner/name", "validation")]
    assert "owner/name has no column prompt; it has text" in refusal("owner/name", text_column="prompt")


def test_a_dataset_that_cannot_be_had_says_why(monkeypatch):
    datasets = pytest.importorskip("datasets")

    def unreachable(source, split):
        raise ConnectionError("Couldn't reach the Hub\nTraceback ...")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    assert refusal("owner/name") == "cannot read the split train of the data set owner/name: Couldn't reach the Hub"


def test_without_the_library_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ModuleNotFoundError) as caught:
        read_prompts("owner/name")
    assert 'pip install "piflow[data]"' in explain(caught.value).hint
