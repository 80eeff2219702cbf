"""Hostile files: each is refused with its place and a fix, or left out and counted."""

from __future__ import annotations

import errno
import gzip
import random
import tracemalloc
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest

from phaseline.data.sources.files import files
from phaseline.errors import DataError, ExitCode, UnreachableFileError
from unit.data.sources.made_files import COMPRESSORS, WRITERS, arrow, jsonl, parquet

if TYPE_CHECKING:
    from collections.abc import Iterator

GOOD = b'{"text": "one"}\n'
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108000000003a7e9b55"
    "0000000a49444154789c636000000002000148afa4710000000049454e44ae426082"
)
CHAT = [{"role": "user", "content": "ask"}, {"role": "assistant", "content": "say"}]
TEXT = {"columns": {"text": "text"}}
CHATS = {"columns": {"messages": "messages"}}
PREFERENCES = {"columns": {"prompt": "prompt", "chosen": "chosen", "rejected": "rejected"}}
FEATURES = {"columns": {"label": "y", "features": ["a", "b"]}}
IMAGES = {"columns": {"label": "y", "image": "img"}}


@dataclass(frozen=True)
class Hostile:
    """A file that cannot be used as a whole.

    Attributes:
        name: Of the file.
        content: Its bytes.
        message: What it is refused with, a regular expression.
        counts: What is left out of it, by reason.
        arguments: Of the source, besides its paths.
        num_good: Samples that are left; None: those before the cut, as many as the library gives.
    """

    name: str
    content: bytes
    message: str
    counts: dict[str, int]
    arguments: dict[str, Any] = field(default_factory=lambda: dict(TEXT))
    num_good: int | None = 0


def _chat(*turns: dict[str, Any], **more: Any) -> bytes:
    return jsonl([{"messages": CHAT}, {"messages": list(turns), **more}])


LONG = [{"text": "word " * 50 + str(idx)} for idx in range(400)]
BAD_TEXT = pa.Array.from_buffers(
    pa.string(), 2, [None, pa.py_buffer(b"\0\0\0\0\2\0\0\0\4\0\0\0"), pa.py_buffer(b"ok\xff\xfe")]
)


def _bad_arrow() -> bytes:
    sink, batch = pa.BufferOutputStream(), pa.record_batch([BAD_TEXT], names=["text"])
    with pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return bytes(sink.getvalue().to_pybytes())


HOSTILE = [
    Hostile("cut.jsonl", GOOD + b'{"text": "tw', r"cut\.jsonl:2: is no JSON: Unterminated string", {"corrupt JSON": 1}, num_good=1),
    Hostile("garbage.jsonl", GOOD + b"\n<html>\n" + GOOD, r"garbage\.jsonl:3: is no JSON", {"corrupt JSON": 1}, num_good=2),
    Hostile("latin.jsonl", GOOD + b'{"text": "\xe9"}\n' + GOOD, r"latin\.jsonl:2: byte 10 of it is not UTF-8", {"not UTF-8": 1}, num_good=2),
    Hostile("surrogate.jsonl", GOOD + b'{"text": "\\ud800"}\n', r"surrogate\.jsonl:2: the column 'text' holds what is not UTF-8", {"not UTF-8": 1}, num_good=1),
    Hostile("deep.jsonl", GOOD + b"[" * 100_000 + b"\n", r"deep\.jsonl:2: is no JSON", {"corrupt JSON": 1}, num_good=1),
    Hostile("digits.jsonl", GOOD + b'{"text": ' + b"9" * 5000 + b"}\n", r"digits\.jsonl:2: is no JSON: Exceeds", {"corrupt JSON": 1}, num_good=1),
    Hostile("list.jsonl", GOOD + b'["text"]\n', r"list\.jsonl:2: is a list, not an object", {"no object": 1}, num_good=1),
    Hostile("zeros.jsonl", GOOD + b"\0" * 300 + b"\n", r"zeros\.jsonl:2: is no JSON", {"corrupt JSON": 1}, num_good=1),
    Hostile("utf16.jsonl", '{"text": "one"}\n'.encode("utf-16"), r"utf16\.jsonl:1: byte 0 of it is not UTF-8", {"not UTF-8": 1, "corrupt JSON": 1}),
    Hostile("absent.jsonl", GOOD + b'{"txt": "two"}\n', r"absent\.jsonl:2: there is no column 'text'; there are 'txt'", {"no column of the name": 1}, num_good=1),
    Hostile("number.jsonl", GOOD + b'{"text": 5}\n', r"number\.jsonl:2: the column 'text' holds int, not text", {"no text": 1}, num_good=1),
    Hostile("null.jsonl", GOOD + b'{"text": null}\n', r"null\.jsonl:2: the column 'text' holds null", {"no text": 1}, num_good=1),
    Hostile("empty.jsonl", GOOD + b'{"text": " \\n"}\n', r"empty\.jsonl:2: the column 'text' is empty", {"empty text": 1}, num_good=1),
    Hostile("id.jsonl", b'{"text": "one", "id": [1]}\n', r"id\.jsonl:1: the column 'id' holds \[1\], no id", {"no id": 1}, {"columns": {"text": "text", "id": "id"}}),
    Hostile("empty.txt", b"", r"empty\.txt: the column 'text' is empty", {"empty text": 1}, {}),
    Hostile("latin.txt", b"fine\xff", r"latin\.txt: byte 4 of it is not UTF-8\. Convert", {"not UTF-8": 1}, {}),
    Hostile("scalar.json", b'"text"', r"scalar\.json: holds a text, not rows", {"no rows": 1}),
    Hostile("ragged.json", b'{"text": ["a", "b"], "id": [1]}', r"different lengths, \{'text': 2, 'id': 1\}", {"no rows": 1}),
    Hostile("cut.json", b'[{"text": "a"}, {"te', r"cut\.json: is no JSON.*set `format: jsonl`", {"corrupt JSON": 1}),
    Hostile("numbers.json", b'[{"text": "a"}, 3]', r"numbers\.json, row 2: is a number, not an object", {"no object": 1}, num_good=1),
    Hostile("ragged.csv", b"text,id\none,1\ntwo\nthree,3\n", r"ragged\.csv:3: has 1 values, but the first line names 2", {"another number of values": 1}, num_good=2),
    Hostile("quote.csv", b'text,id\none,1\n"tw"o,2\nthree,3\n', r"quote\.csv:3: is no CSV: ',' expected", {"corrupt CSV": 1}, num_good=2),
    Hostile("open.csv", b'text,id\none,1\n"two,2\nthree,3\n', r"open\.csv:3: is no CSV: unexpected end", {"corrupt CSV": 1}, num_good=1),
    Hostile("twice.csv", b"text,text\none,two\n", r"twice\.csv:1: names the columns \['text', 'text'\]", {"no column names": 1}),
    Hostile("latin.csv", b"text,id\none,1\n\xe9,2\n", r"latin\.csv:3: the column 'text' holds what is not UTF-8", {"not UTF-8": 1}, num_good=1),
    Hostile("cut.parquet", parquet(LONG)[:-200], r"cut\.parquet: the file cannot be read to its end", {"a damaged file": 1}),
    Hostile("no.parquet", b"PAR", r"no\.parquet: the file cannot be read", {"a damaged file": 1}),
    Hostile("cut.arrow", arrow(LONG)[:5000], r"cut\.arrow: the file cannot be read", {"a damaged file": 1}),
    Hostile("stream.arrow", arrow(LONG, is_stream=True)[:5000], r"stream\.arrow: the file cannot be read", {"a damaged file": 1}, num_good=14),
    Hostile("latin.arrow", _bad_arrow(), r"latin\.arrow, row 2: holds text that is not UTF-8", {"not UTF-8": 1}, num_good=1),
    Hostile("sum.jsonl.gz", gzip.compress(GOOD)[:-8] + b"\0" * 8, r"sum\.jsonl\.gz: the file cannot be read to its end: CRC", {"a damaged file": 1}, num_good=1),
    Hostile("long.jsonl", GOOD + b'{"text": "' + b"x" * (3 << 20) + b'"}\n' + GOOD, r"long\.jsonl:2: is longer than 1 MiB\. Split it, or raise `longest_line_mib`", {"a line that is too long": 1}, {"longest_line_mib": 1}, 2),
    Hostile("end.jsonl.gz", gzip.compress(GOOD + b" " * (2 << 20)), r"end\.jsonl\.gz:2: is longer than 1 MiB", {"a line that is too long": 1}, {"longest_line_mib": 1}, 1),
    Hostile("long.csv", b"text,id\none,1\n" + b"x" * (2 << 20) + b",2\nthree,3\n", r"long\.csv:3: is longer than 1 MiB", {"a line that is too long": 1}, {"longest_line_mib": 1}, 2),
    Hostile("role.jsonl", _chat({"role": "wizard", "content": "x"}), r"role\.jsonl:2: messages\[0\] has the role 'wizard'", {"unknown role": 1}, CHATS, 1),
    Hostile("mute.jsonl", _chat(CHAT[0]), r"mute\.jsonl:2: .* no turn of the assistant, only user", {"no assistant turn": 1}, CHATS, 1),
    Hostile("parts.jsonl", _chat({"role": "user", "content": [1]}), r"parts\.jsonl:2: messages\[0\] has list as content", {"a message without text": 1}, CHATS, 1),
    Hostile("nobody.jsonl", _chat(), r"nobody\.jsonl:2: the column 'messages' holds an empty list", {"no messages": 1}, CHATS, 1),
    Hostile("words.jsonl", jsonl([{"messages": CHAT}, {"messages": "hi"}]), r"words\.jsonl:2: the column 'messages' holds str, not a list", {"no list of messages": 1}, CHATS, 1),
    Hostile("turn.jsonl", jsonl([{"messages": CHAT}, {"messages": ["hi"]}]), r"turn\.jsonl:2: messages\[0\] is str, no object", {"a message is no object": 1}, CHATS, 1),
    Hostile("same.jsonl", jsonl([{"prompt": "p", "chosen": "a", "rejected": "a"}]), r"same\.jsonl:1: the chosen and the rejected answer are the same", {"two equal answers": 1}, PREFERENCES),
    Hostile("label.csv", b"a,b,y\n1,2,0\n1,2,cat\n1,2,-1\n1,2,0.5\n", r"label\.csv:3: the column 'y' holds 'cat', no whole number", {"no label": 3}, FEATURES, 1),
    Hostile("nan.csv", b"a,b,y\n1,2,0\n1,,0\nnan,2,1\n", r"nan\.csv:3: the features are \['1', ''\]; they must be 2 finite", {"features that are no numbers": 2}, FEATURES, 1),
    Hostile("image.parquet", parquet([{"img": PNG, "y": 0}, {"img": b"GIF?", "y": 1}]), r"image\.parquet, row 2: the image has no known format", {"no image": 1}, IMAGES, 1),
    Hostile("half.parquet", parquet([{"img": PNG, "y": 0}, {"img": PNG[:45], "y": 1}]), r"half\.parquet, row 2: the image cannot be decoded", {"a damaged image": 1}, IMAGES, 1),
    Hostile("away.jsonl", jsonl([{"img": "no.png", "y": 0}]), r"away\.jsonl:1: the image cannot be read: .*no\.png", {"a missing image": 1}, IMAGES),
]  # fmt: skip
HOSTILE += [
    Hostile(
        f"cut.jsonl.{suffix}",
        compress(jsonl(LONG))[:-20],
        rf"cut\.jsonl\.{suffix}: the file cannot be read to its end",
        {"a damaged file": 1},
        num_good=None,
    )
    for suffix, compress in COMPRESSORS.items()
]


def _samples(hostile: Hostile, folder: Path, on_error: str) -> tuple[int, dict[str, int]]:
    arguments = {"paths": [str(folder / hostile.name)], "on_error": on_error, **hostile.arguments}
    source = files(**arguments)
    return sum(1 for _ in source.samples()), dict(source.skipped)


def test_hostile_files_are_many_kinds() -> None:
    assert len(HOSTILE) >= 25
    assert len({hostile.name for hostile in HOSTILE}) == len(HOSTILE)


@pytest.mark.parametrize("hostile", HOSTILE, ids=lambda hostile: str(hostile.name))
def test_files_name_place_and_fix_when_a_file_is_hostile(tmp_path: Path, hostile: Hostile) -> None:
    (tmp_path / hostile.name).write_bytes(hostile.content)
    with pytest.raises(DataError, match=f"{hostile.message}.*Or set `on_error: skip`"):
        _samples(hostile, tmp_path, "stop")


@pytest.mark.parametrize("hostile", HOSTILE, ids=lambda hostile: str(hostile.name))
def test_files_count_what_they_leave_out_when_a_file_is_hostile(
    tmp_path: Path, hostile: Hostile
) -> None:
    (tmp_path / hostile.name).write_bytes(hostile.content)
    num_good, counts = _samples(hostile, tmp_path, "skip")
    assert counts == hostile.counts
    assert (
        num_good in range(len(LONG) + 1)
        if hostile.num_good is None
        else num_good == hostile.num_good
    )


def test_files_go_on_with_the_next_when_one_is_hostile(tmp_path: Path) -> None:
    broken = [hostile for hostile in HOSTILE if hostile.arguments == TEXT]
    for hostile in broken:
        (tmp_path / hostile.name).write_bytes(hostile.content)
    (tmp_path / "zz.jsonl").write_bytes(GOOD)
    source = files([str(tmp_path)], columns=TEXT["columns"], on_error="skip")
    last = list(source.samples())[-1]
    assert last.id == f"{tmp_path / 'zz.jsonl'}:1"


@pytest.mark.parametrize("suffix", [*WRITERS, *(f"jsonl.{name}" for name in COMPRESSORS)])
def test_files_never_fail_in_another_way_when_bytes_are_cut_or_changed(
    tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / f"a.{suffix}"
    rows = [{"text": f"text {idx} é", "n": str(idx)} for idx in range(30)]
    kind, _, compression = suffix.partition(".")
    content = WRITERS[kind](rows)
    content = COMPRESSORS[compression](content) if compression else content
    chance = random.Random(suffix)
    for _ in range(60):
        damaged = bytearray(content[: chance.randrange(len(content) + 1)])
        if damaged and chance.random() < 0.5:
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        path.write_bytes(damaged)
        source = files([str(path)], columns=TEXT["columns"], on_error="skip", format=kind)  # type: ignore[arg-type]
        assert len(list(source.samples())) <= len(rows)


def test_line_that_is_too_long_is_not_held_in_memory(tmp_path: Path) -> None:
    size = 1 << 28
    with gzip.open(tmp_path / "long.jsonl.gz", "wb", compresslevel=1) as file:
        for _ in range(size >> 20):
            file.write(bytes(1 << 20))
        file.write(b"\n" + GOOD)
    source = files([str(tmp_path)], columns=TEXT["columns"], on_error="skip", longest_line_mib=2)
    tracemalloc.start()
    try:
        assert [sample.id for sample in source.samples()] == [f"{tmp_path / 'long.jsonl.gz'}:2"]
        assert tracemalloc.get_traced_memory()[1] < size / 16
    finally:
        tracemalloc.stop()
    assert source.skipped == {"a line that is too long": 1}


@pytest.mark.parametrize("number", [errno.ESTALE, errno.EIO, errno.EMFILE])
@pytest.mark.parametrize("on_error", ["stop", "skip"])
def test_file_that_cannot_be_read_just_now_is_never_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, on_error: Any
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(GOOD * 3)
    source = files([str(path)], on_error=on_error, columns={"text": "text"})

    def lines(*_: object, **__: object) -> Iterator[bytes]:
        yield GOOD
        raise OSError(number, "as a server that is away", str(path))

    monkeypatch.setattr("phaseline.data.sources.formats.text.bounded_lines", lines)
    with pytest.raises(UnreachableFileError, match=r"now: as a server.*same command") as told:
        list(source.samples())
    assert told.value.exit_code is ExitCode.FAILED


@pytest.mark.parametrize("on_error", ["stop", "skip"])
def test_image_that_cannot_be_read_just_now_is_never_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_error: Any
) -> None:
    (tmp_path / "a.png").write_bytes(PNG)
    path = tmp_path / "a.jsonl"
    path.write_bytes(jsonl([{"y": 0, "img": "a.png"}]))
    source = files([str(path)], on_error=on_error, columns={"label": "y", "image": "img"})
    real = Path.read_bytes

    def read(self: Path) -> bytes:
        if self.suffix == ".png":
            raise OSError(errno.ESTALE, "Stale file handle", str(self))
        return real(self)

    monkeypatch.setattr(Path, "read_bytes", read)
    with pytest.raises(UnreachableFileError, match=r"a\.png cannot be read or written now"):
        list(source.samples())


def test_file_without_a_suffix_that_is_cut_off_in_its_compression_is_refused(
    tmp_path: Path,
) -> None:
    path = tmp_path / "rows"
    path.write_bytes(gzip.compress(GOOD * 100)[:12])
    with pytest.raises(DataError, match=f"{path}: the beginning of the file cannot be read"):
        files([str(path)])
