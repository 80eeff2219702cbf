from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from phaseline.data.sources import token_files
from phaseline.data.sources.token_files import TokenFiles
from phaseline.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

TOKENS = [5, 6, 0, 7, 0, 0, 8]


@pytest.fixture
def raw(tmp_path: Path) -> str:
    path = tmp_path / "a.bin"
    np.array(TOKENS, "<u2").tofile(path)
    return str(path)


def _documents(source: TokenFiles) -> list[list[int]]:
    return [sample.tokens.tolist() for sample in source.samples()]


@pytest.mark.parametrize("step", [2, 3, 100])
def test_documents_end_at_end_of_text_wherever_the_search_is_cut(
    raw: str, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    monkeypatch.setattr(token_files, "_TOKENS_LOOKED_AT", step)
    source = TokenFiles([raw], dtype="uint16", end_of_text=0, on_error="skip")
    assert _documents(source) == [[5, 6], [7], [8]]
    assert source.skipped == {"empty text": 1}
    assert [sample.id for sample in source.samples()] == [f"{raw}:{n}" for n in (1, 2, 4)]


def test_documents_are_of_one_length_or_the_file_when_nothing_ends_them(raw: str) -> None:
    assert _documents(TokenFiles([raw], dtype="uint16", document_length=3)) == [
        [5, 6, 0],
        [7, 0, 0],
        [8],
    ]
    assert _documents(TokenFiles([raw], dtype="uint16")) == [TOKENS]


def test_documents_are_rows_when_an_array_has_two_dimensions(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([[1, 2], [3, 4]], np.int32))
    np.save(tmp_path / "b.npy", np.array([5], np.uint32))
    source = TokenFiles([str(tmp_path)])
    assert _documents(source) == [[1, 2], [3, 4], [5]]
    for sample in source.samples():
        # A view of the mapped file: nothing was read.
        assert sample.tokens.base is not None
        assert not sample.tokens.flags.writeable


def test_fingerprint_changes_with_content_and_cuts(raw: str) -> None:
    settings: list[dict[str, Any]] = [{}, {"end_of_text": 0}, {"document_length": 3}]
    found = {TokenFiles([raw], dtype="uint16", **more).fingerprint() for more in settings}
    found.add(TokenFiles([raw], dtype="int32").fingerprint())
    np.array([1], "<u2").tofile(raw)
    found.add(TokenFiles([raw], dtype="uint16").fingerprint())
    assert len(found) == 5


@pytest.mark.parametrize(
    ("name", "content", "message", "reason"),
    [
        ("odd.bin", b"\0\0\0", "its 3 bytes are no whole number of tokens", "a damaged file"),
        ("empty.bin", b"", r"empty\.bin, document 1: has no tokens", "empty text"),
        ("cut.npy", b"\x93NUMPY\x01", "the file cannot be mapped", "a damaged file"),
        ("float.npy", np.zeros(3), "holds float64 in 1 dimensions", "no tokens"),
        ("deep.npy", np.zeros((1, 1, 1), int), "holds int64 in 3 dimensions", "no tokens"),
        (
            "object.npy",
            np.array([{}]),
            "the file cannot be mapped: .*Python objects in dtype",
            "a damaged file",
        ),
    ],
)
def test_token_files_are_refused_or_counted_when_they_are_hostile(
    tmp_path: Path, name: str, content: Any, message: str, reason: str
) -> None:
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.save(path, content, allow_pickle=True)
    with pytest.raises(DataError, match=message):
        _documents(TokenFiles([str(path)], dtype="uint16"))
    source = TokenFiles([str(path)], dtype="uint16", on_error="skip")
    assert _documents(source) == []
    assert source.skipped == {reason: 1}


def test_token_files_are_refused_when_their_arguments_do_not_fit(raw: str) -> None:
    with pytest.raises(DataError, match=r"a\.bin .* Set `dtype`"):
        TokenFiles([raw])
    with pytest.raises(DataError, match="both `end_of_text` and `document_length`"):
        TokenFiles([raw], dtype="uint16", end_of_text=0, document_length=3)
