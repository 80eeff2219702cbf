from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from phaseline.data import repeated_ids
from phaseline.data.encoded_chunk import id_digest
from phaseline.data.repeated_ids import RepeatedIds, require_distinct
from phaseline.data.sources import Document
from phaseline.errors import DataError


def _digests(*ids: str) -> bytes:
    return b"".join(map(id_digest, ids))


def test_ids_are_confirmed_when_two_digests_are_the_same(tmp_path: Path) -> None:
    asked: list[set[bytes]] = []
    with RepeatedIds(tmp_path, asked.append) as ids:
        ids.require_none()
        ids.add(_digests("a", "b", "c"))
        ids.require_none()
        assert asked == []
        ids.add(_digests("d", "b", "a", "a"))
        ids.require_none()
        assert asked == [{_digests("a"), _digests("b")}]
        # Confirmed to be distinct: nobody is asked again.
        ids.add(_digests("c"))
        ids.require_none()
        assert asked[1:] == [{_digests("c")}]
    assert list(tmp_path.iterdir()) == []


def test_ids_are_looked_at_whenever_there_are_twice_as_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repeated_ids, "_FIRST_LOOK", 8)
    asked: list[int] = []
    added = 0
    with RepeatedIds(tmp_path, lambda _: asked.append(added)) as ids:
        for added in range(1, 100):
            # Pairs of the same digest, each other than those before.
            ids.add(np.uint64(added // 2).tobytes())
    assert asked == [8, 16, 32, 64]


def test_distinct_ids_pass_when_only_their_digests_are_the_same() -> None:
    samples = [Document("a", ""), Document("b", ""), Document("c", "")]
    require_distinct(samples, "texts", {id_digest("a"), id_digest("b")})


def test_repeated_id_is_named_when_it_is_found_again() -> None:
    samples = [Document("a", ""), Document("b", ""), Document("a", "")]
    with pytest.raises(DataError, match="two samples with the id 'a': texts"):
        require_distinct(samples, "texts", {id_digest("a")})
