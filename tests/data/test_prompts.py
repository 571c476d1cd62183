"""Prompts from every kind of source, and where a broken one says it is broken."""

from __future__ import annotations

import codecs
import csv
import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from piflow_cli.data import rows as tables
from piflow_cli.data.prompts import Prompt, read_prompts
from piflow_cli.errors import UsageError, explain


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


PROMPTS = st.text(st.characters(codec="utf-8", exclude_characters="\r\n\x00"), min_size=1, max_size=30).filter(
    str.strip
)


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


def write_parquet(columns: dict[str, list], path: Path, **options: object) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.table(columns), path, **options)


NUMBERS = st.none() | st.integers(1, 1 << 16)


@given(st.lists(st.tuples(PROMPTS, st.none() | st.integers(0, 2**63 - 1), NUMBERS, NUMBERS), min_size=1, max_size=4))
def test_seeds_and_sizes_count_in_every_format_with_columns(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("prompts")
    expected = [Prompt(text.strip(), *numbers) for text, *numbers in rows]
    names = ["text", "seed", "width", "height"]
    lines = (json.dumps(dict(zip(names, row))) for row in rows)
    assert read_prompts(written(folder, "p.jsonl", "\n".join(lines))) == expected
    with (folder / "p.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([names, *rows])
    assert read_prompts(str(folder / "p.csv")) == expected
    write_parquet({name: list(column) for name, column in zip(names, zip(*rows))}, folder / "p.parquet")
    assert read_prompts(str(folder / "p.parquet")) == expected


@pytest.mark.parametrize(
    ("column", "value", "complaint"),
    [
        ("seed", "-1", "must be a whole number of at least 0, not -1"),
        ("seed", "1.0", "must be a whole number of at least 0, not '1.0'"),
        ("seed", "1e3", "must be a whole number of at least 0, not '1e3'"),
        ("seed", "0x10", "must be a whole number of at least 0, not '0x10'"),
        ("seed", "٣", "must be a whole number of at least 0, not"),
        ("seed", str(2**63), "is too large: at most 9223372036854775807"),
        ("seed", "9" * 5000, "must be a whole number of at least 0, not"),
        ("width", "0", "must be a whole number of at least 1, not 0"),
        ("height", "wide", "must be a whole number of at least 1, not 'wide'"),
        ("height", "65537", "height 65537 is too large: at most 65536"),
    ],
)
def test_numbers_of_a_csv_file_are_read_strictly(tmp_path, column, value, complaint):
    assert (
        f"p.csv:3: {column}" in (message := refusal(written(tmp_path, "p.csv", f"text,{column}\na,\nb,{value}\n")))
        and complaint in message
    )


def test_numbers_of_a_parquet_file_are_whole(tmp_path):
    write_parquet({"text": ["a", "b"], "width": [None, 512.0]}, tmp_path / "p.parquet")
    assert "p.parquet:2: width must be a whole number of at least 1, not 512.0" in refusal(str(tmp_path / "p.parquet"))


def test_slips_in_columns_are_named_unless_the_right_one_is_there(tmp_path):
    assert "has an unknown column widht; did you mean width?" in refusal(
        written(tmp_path, "p.csv", "text,widht\na,3\n")
    )
    write_parquet({"text": ["a"], "hight": [3]}, tmp_path / "p.parquet")
    assert "has an unknown column hight; did you mean height?" in refusal(str(tmp_path / "p.parquet"))
    assert read_prompts(written(tmp_path, "q.csv", "text,weight,height\na,heavy,3\n")) == [Prompt("a", height=3)]


@pytest.mark.parametrize("name", ["p.csv", "p.jsonl", "p.parquet"])
@pytest.mark.parametrize("column", ["Prompt", "the caption", "x"])
def test_the_hint_about_a_column_can_be_typed(tmp_path, name, column):
    if name == "p.parquet":
        write_parquet({"id": [1], column: ["a fox"]}, tmp_path / name)
    else:
        written(
            tmp_path, name, f"{column},id\na fox,1\n" if name == "p.csv" else json.dumps({"id": 1, column: "a fox"})
        )
    with pytest.raises(UsageError) as caught:
        read_prompts(str(tmp_path / name))
    option, value = shlex.split(caught.value.hint.partition(": ")[2])
    assert option == "--text-column"
    assert read_prompts(str(tmp_path / name), text_column=value) == [Prompt("a fox")]


@pytest.mark.parametrize(
    ("data", "line"),
    [
        ("a café\n".encode("latin-1"), 1),
        ("a red fox\r\ntwo ¤\r\n".encode("utf-16"), 1),
        (codecs.BOM_UTF16_BE + "a red fox\n".encode("utf-16-be"), 1),
        ("a red fox\n".encode("utf-32"), 1),
        ("a red fox\nb\n".encode("utf-16-le"), 1),
        ("a red fox\nb\n".encode("utf-16-be"), 1),
    ],
)
@pytest.mark.skipif(shutil.which("iconv") is None, reason="iconv is not installed")
def test_the_command_that_converts_a_file_works_as_typed(tmp_path, data, line):
    source = written(tmp_path, "it's mine.txt", data)
    with pytest.raises(UsageError, match=f"mine.txt:{line}: not UTF-8 text") as caught:
        read_prompts(source)
    subprocess.run(["sh", "-c", caught.value.hint.removeprefix("convert it: ")], check=True, cwd=tmp_path)
    made = tmp_path / "it's mine-utf8.txt"
    assert read_prompts(str(made))[0].text in ("a café", "a red fox")


@pytest.mark.parametrize(
    "text", ["a red fox\ra cat\r", "a red fox\ra cat", "a red fox\r\na cat\r\n", "a red fox\na cat\r"]
)
def test_every_kind_of_line_end_ends_a_line(tmp_path, text):
    assert read_prompts(written(tmp_path, "p.txt", text)) == [Prompt("a red fox"), Prompt("a cat")]
    table = text.replace("a red fox", "text,seed").replace("a cat", "a cat,3")
    assert read_prompts(written(tmp_path, "p.csv", table)) == [Prompt("a cat", 3)]


def test_a_damaged_parquet_file_is_one_line(tmp_path):
    path = tmp_path / "p.parquet"
    write_parquet({"text": [f"a red fox {number}" for number in range(5000)]}, path, write_page_checksum=True)
    whole = path.read_bytes()
    for start, stop in ((100, 3000), (5000, 5001), (len(whole) - 8, len(whole) - 4)):
        path.write_bytes(whole[:start] + bytes(255 - byte for byte in whole[start:stop]) + whole[stop:])
        assert refusal(str(path)) == f"{path} is not a Parquet file, or is damaged"


def test_halves_of_characters_are_no_text(tmp_path):
    assert "p.jsonl:1: is not text but" in refusal(written(tmp_path, "p.jsonl", '{"text": "a \\ud800"}'))


def test_another_column_may_hold_the_text(tmp_path):
    assert read_prompts(written(tmp_path, "p.jsonl", '{"caption": "a"}'), text_column="caption") == [Prompt("a")]
    assert read_prompts(written(tmp_path, "p.csv", 'n,caption\n1,"a,\n b"\n'), text_column="caption") == [
        Prompt("a,\n b")
    ]


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
        ("p.csv", "text;seed\na fox;3\n", "p.csv: its columns are apart by semicolons"),
        ("p.csv", "text,seed,text\na fox,3,a hare\n", "p.csv has two columns text"),
        ("p.csv", "text,seed,seed\na fox,3,4\n", "p.csv has two columns seed"),
        ("p.csv", "text\tseed\na, b\t3\n", "p.csv: its columns are apart by tabs"),
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
