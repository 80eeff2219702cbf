from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from phaseline.data.sources.files import files, text_files
from phaseline.data.sources.protocol import Chat, Document, Pair
from phaseline.errors import DataError
from unit.data.sources.made_files import COMPRESSORS, WRITERS, arrow, jsonl

if TYPE_CHECKING:
    from phaseline.data.sources.row_source import RowSource

ROWS = [{"text": 'one, "1"\nand', "n": "1"}, {"text": "zwei ü", "n": "2"}, {"text": "3", "n": "3"}]


def _texts(source: RowSource) -> list[str]:
    texts = []
    for sample in source.samples():
        assert isinstance(sample, Document)
        texts.append(sample.text)
    return texts


@pytest.mark.parametrize("suffix", WRITERS)
def test_files_give_the_same_texts_whatever_their_format(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"rows.{suffix}"
    path.write_bytes(WRITERS[suffix](ROWS))
    source = files([str(path)])
    assert source.shape == "text"
    assert _texts(source) == [row["text"] for row in ROWS]
    assert _texts(source) == [row["text"] for row in ROWS]
    ids = [sample.id for sample in source.samples()]
    first = {"jsonl": [1, 2, 3], "csv": [2, 4, 5], "tsv": [2, 4, 5]}.get(suffix, [1, 2, 3])
    assert ids == [f"{path}:{number}" for number in first]


@pytest.mark.parametrize("is_stream", [True, False])
def test_arrow_is_read_as_file_and_as_stream(tmp_path: Path, is_stream: bool) -> None:
    (tmp_path / "a.arrow").write_bytes(arrow(ROWS, is_stream=is_stream))
    assert _texts(files([str(tmp_path)])) == [row["text"] for row in ROWS]


@pytest.mark.parametrize("compression", COMPRESSORS)
@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv", "tsv", "txt"])
def test_files_are_decompressed_when_they_are_named_so_and_when_not(
    tmp_path: Path, suffix: str, compression: str
) -> None:
    content = b"one" if suffix == "txt" else WRITERS[suffix]([{"text": "one", "n": 1}])
    compressed = COMPRESSORS[compression](content)
    for name in (f"a.{suffix}.{compression}", f"b.{suffix}"):
        (tmp_path / name).write_bytes(compressed)
    assert _texts(files([str(tmp_path)])) == ["one", "one"]


def test_files_read_an_object_of_columns_when_json_is_one(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps({"text": ["a", "b"], "n": [1, 2]}))
    assert _texts(files([str(tmp_path / "a.json")])) == ["a", "b"]


def test_text_is_refused_when_it_is_too_large_to_read_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("phaseline.data.sources.formats.text.LARGEST_WHOLE_BYTES", 10)
    path = tmp_path / "long.txt"
    path.write_text("more than ten bytes")
    with pytest.raises(DataError, match=r"long\.txt: is larger than 0 MiB.*Split it, or set"):
        list(files([str(path)]).samples())


def test_json_is_refused_when_it_is_too_large_to_read_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("phaseline.data.sources.formats.json_text.LARGEST_WHOLE_BYTES", 10)
    (tmp_path / "a.json").write_text('[{"text": "a"}]')
    with pytest.raises(DataError, match=r"a\.json: is larger than 0 MiB.*Convert it to JSONL"):
        _texts(files([str(tmp_path)], columns={"text": "text"}))


def test_lines_are_documents_when_the_format_says_so(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\r\n\n  two\n")
    source = files([str(tmp_path)], format="lines")
    assert [
        (sample.id, text) for sample, text in zip(source.samples(), _texts(source), strict=True)
    ] == [
        (f"{tmp_path}/a.txt:1", "one"),
        (f"{tmp_path}/a.txt:3", "  two"),
    ]


def test_folder_is_searched_to_any_depth_for_what_is_named_as_the_format(tmp_path: Path) -> None:
    for name in ("b/c/two.jsonl", "b/one.jsonl", ".git/no.jsonl", "b/.no.jsonl", "notes.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(jsonl([{"text": name}]))
    assert _texts(files([str(tmp_path)], format="jsonl")) == ["b/c/two.jsonl", "b/one.jsonl"]
    with pytest.raises(DataError, match=r"notes\.md is plain text, .*two\.jsonl has rows"):
        files([str(tmp_path)])


def test_file_is_taken_when_its_name_holds_brackets(tmp_path: Path) -> None:
    (tmp_path / "a[1].txt").write_text("one")
    assert _texts(files([str(tmp_path / "a[1].txt")])) == ["one"]


def test_format_is_found_by_how_a_file_begins_when_its_name_tells_nothing(tmp_path: Path) -> None:
    for name, kind in (("a.data", "parquet"), ("b.data", "arrow")):
        (tmp_path / name).write_bytes(WRITERS[kind](ROWS))
    assert len(_texts(files([str(tmp_path / "*.data")]))) == 6
    (tmp_path / "c.data").write_text("text")
    with pytest.raises(DataError, match=r"c\.data: neither the name nor.*Set `format`"):
        files([str(tmp_path / "*.data")])
    assert _texts(files([str(tmp_path / "c.data")], format="text")) == ["text"]


def test_ids_and_documents_are_columns_when_they_are_named(tmp_path: Path) -> None:
    rows = [{"q": "a", "a": "b", "uid": 7, "file": "x.py"}]
    (tmp_path / "a.jsonl").write_bytes(jsonl(rows))
    columns = {"prompt": "q", "completion": "a", "id": "uid", "document": "file"}
    assert list(files([str(tmp_path)], columns=columns).samples()) == [Pair("7", "a", "b", "x.py")]


def test_fingerprint_changes_with_content_names_and_settings_only(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(jsonl(ROWS))
    pattern = str(tmp_path / "*")
    before = files([pattern]).fingerprint()
    os.utime(path, (1, 1))
    assert files([pattern]).fingerprint() == before
    changed: list[dict[str, Any]] = [
        {"columns": {"text": "n"}},
        {"shape": "text"},
        {"on_error": "skip"},
        {"columns": {"text": "text", "id": "n"}},
    ]
    found = {before, *(files([pattern], **settings).fingerprint() for settings in changed)}
    path.write_bytes(jsonl(ROWS[:2]))
    found.add(files([pattern]).fingerprint())
    path.rename(tmp_path / "b.jsonl")
    found.add(files([pattern]).fingerprint())
    assert len(found) == 3 + len(changed)


def test_check_refuses_the_first_rows_when_none_can_be_used(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(jsonl([{"messages": [{"role": "user", "content": "x"}]}]))
    with pytest.raises(DataError, match=r"a\.jsonl:1: .* no turn of the assistant"):
        files([str(tmp_path)]).check()
    with pytest.raises(DataError, match=r"none of the first rows.*1 no assistant turn"):
        files([str(tmp_path)], on_error="skip").check()


def test_check_looks_into_several_files_before_any_work(tmp_path: Path) -> None:
    for idx in range(20):
        (tmp_path / f"{idx:02}.jsonl").write_bytes(jsonl([{"text": "x"}] * 30))
    (tmp_path / "18.jsonl").write_bytes(b"[1]\n")
    with pytest.raises(DataError, match=r"18\.jsonl:1: is a list"):
        files([str(tmp_path)], columns={"text": "text"}).check()


def test_skipped_counts_the_last_pass_alone(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(jsonl([*ROWS, {"text": ""}]))
    source = files([str(tmp_path)], on_error="skip")
    for _ in range(2):
        assert len(_texts(source)) == 3
        assert source.skipped == {"empty text": 1}


def test_description_says_which_columns_were_recognised(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(jsonl([{"instruction": "i", "input": "", "output": "o"}]))
    source = files([str(tmp_path)])
    assert source.description == (
        "pairs of prompt and completion: prompt from 'instruction', input from 'input', "
        "completion from 'output'"
    )
    named = files([str(tmp_path)], columns={"prompt": "instruction", "completion": "output"})
    assert named.description == ""


def test_sharegpt_becomes_the_usual_form(tmp_path: Path) -> None:
    turns = [{"from": "human", "value": "ask"}, {"from": "gpt", "value": "say"}]
    (tmp_path / "a.jsonl").write_bytes(jsonl([{"conversations": turns}]))
    [chat] = files([str(tmp_path)]).samples()
    assert isinstance(chat, Chat)
    assert chat.messages == [
        {"role": "user", "content": "ask"},
        {"role": "assistant", "content": "say"},
    ]


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet", "arrow"])
def test_memory_is_flat_in_the_size_of_a_file(tmp_path: Path, suffix: str) -> None:
    # In a process of its own, because the peak of this one is that of other tests.
    code = """
import resource, sys
from phaseline.data.sources import build_source
peaks = []
for path in sys.argv[1:]:
    for sample in build_source("files", {"paths": [path], "columns": {"text": "text"}}).samples():
        pass
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
print(peaks[1] - peaks[0])
"""
    paths = []
    for num_rows in (500, 8_000):
        path = tmp_path / f"{num_rows}.{suffix}"
        path.write_bytes(WRITERS[suffix]([{"text": f"{idx} " * 1000} for idx in range(num_rows)]))
        paths.append(str(path))
    answer = subprocess.run(
        [sys.executable, "-c", code, *paths], capture_output=True, text=True, check=True
    )
    grown_kib, larger_kib = int(answer.stdout), Path(paths[1]).stat().st_size // 1024
    # Pages of a mapped file count while they are used, but can be taken back at any time.
    assert suffix == "arrow" or grown_kib < larger_kib / 3


def test_text_files_are_sorted_and_taken_once_when_patterns_overlap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "b.txt").write_text("zwei ü", encoding="utf-8")
    (tmp_path / "a.txt").write_bytes(b"one\r\n")
    monkeypatch.chdir(tmp_path)
    source = text_files(["**/*.txt", "a.txt"])
    found = [
        (sample.id, text) for sample, text in zip(source.samples(), _texts(source), strict=True)
    ]
    assert found == [("a.txt", "one\n"), ("in/b.txt", "zwei ü")]


def test_text_files_are_refused_when_a_pattern_or_folder_gives_none(tmp_path: Path) -> None:
    (tmp_path / "folder.txt").mkdir()
    with pytest.raises(DataError, match=r"\*\.txt', which matches no file"):
        text_files([str(tmp_path / "*.txt")])
    with pytest.raises(DataError, match=r"folder\.txt', a folder without a file that this source"):
        text_files([str(tmp_path / "folder.txt")])


@pytest.mark.parametrize("paths", ["a.txt", []])
def test_text_files_are_refused_when_paths_are_no_list(paths: list[str]) -> None:
    with pytest.raises(DataError, match="it must be a list of paths"):
        text_files(paths)
