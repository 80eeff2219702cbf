from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from phaseline.config.sections import Config
from phaseline.data.cache import MANIFEST, Cache
from phaseline.data.preparation import open_rows, prepare, prepare_shard
from phaseline.data.shards import Shard, find_parts
from phaseline.data.tokenizer import Tokenizer
from phaseline.errors import DataError, UsageError

MakeConfig = Callable[..., Config]

# Yields pairs enough for several chunks, and leaves some out itself.
_MODULE = """
from phaseline.data.sources import Pair


class Many:
    shape = "pairs"
    skipped = {}

    def fingerprint(self):
        return "many"

    def samples(self):
        self.skipped = {"bad line": 2}
        for idx in range(5000):
            yield Pair(str(idx), f"ask {idx}", "" if idx % 100 == 0 else "say " * (idx % 60))
"""


@pytest.fixture
def config(make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    (tmp_path / "many_pairs.py").write_text(_MODULE, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    return make_config({"source": "many_pairs:Many"}, objective="sft", sequence_length=128)


def _ignore(_: str) -> None:
    pass


def _files(cache: Path) -> dict[str, bytes]:
    (store,) = [path for path in (cache / "stores").iterdir() if path.is_dir()]
    return {path.name: path.read_bytes() for path in store.iterdir()}


def test_shards_give_the_store_of_one_job_to_the_byte(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stores = []
    for name, count in (("one", 0), ("two", 2), ("many", 7)):
        monkeypatch.setenv("PHASELINE_CACHE", str(tmp_path / name))
        for number in reversed(range(1, count + 1)):
            prepare_shard(config, _ignore, Shard(number, count))
        reports: list[str] = []
        prepare(config, reports.append)
        how = f"putting {count} shards" if count else "preparing"
        assert reports[0].startswith(how)
        assert "dropped 117 (empty completion); dropped 2 (bad line)" in reports[-1]
        stores.append(_files(tmp_path / name))
    assert stores[0] == stores[1] == stores[2]
    assert {"store.json", MANIFEST, "train.learnt"} < set(stores[0])


def test_shards_are_removed_once_they_are_put_together(config: Config, cache_folder: Path) -> None:
    for number in (1, 2):
        prepare_shard(config, _ignore, Shard(number, 2))
    prepare(config, _ignore)
    assert [path.suffix for path in (cache_folder / "parts").iterdir()] == [".lock", ".lock"]
    reports: list[str] = []
    prepare_shard(config, reports.append, Shard(1, 2))
    assert reports == ["phase only: many_pairs:Many: is prepared already"]
    assert open_rows(config, config.phases[0], Tokenizer.of_bytes())


def test_shard_says_which_others_are_missing(config: Config) -> None:
    reports: list[str] = []
    prepare_shard(config, reports.append, Shard(2, 3))
    assert reports[-1].endswith("1 of 3 shards are there; missing: 1, 3")
    with pytest.raises(DataError, match=r"in 3 shards, of which these are missing: 1, 3\. Run"):
        prepare(config, _ignore)
    prepare_shard(config, _ignore, Shard(1, 3))
    prepare_shard(config, reports.append, Shard(3, 3))
    assert reports[-1].endswith("all 3 shards are there: `phaseline prepare` puts them together")


def test_shard_that_was_cut_off_counts_as_missing(config: Config, cache_folder: Path) -> None:
    for number in (1, 2):
        prepare_shard(config, _ignore, Shard(number, 2))
    (damaged,) = (cache_folder / "parts").glob("*-2of2")
    (damaged / "chunks").write_bytes((damaged / "chunks").read_bytes()[:-1])
    with pytest.raises(DataError, match="missing: 2"):
        prepare(config, _ignore)


def test_parts_of_which_least_is_missing_are_taken_when_counts_differ(
    config: Config, cache_folder: Path
) -> None:
    for number, count in ((1, 5), (1, 2), (2, 2)):
        prepare_shard(config, _ignore, Shard(number, count))
    (found,) = (cache_folder / "parts").glob("*-1of5")
    parts = find_parts(Cache(cache_folder), found.name.removesuffix("-1of5"))
    assert parts is not None
    assert (parts.count, parts.missing) == (2, [])


@pytest.mark.parametrize(
    "text", ["0/8", "9/8", "1", "1/", "a/b", "-1/8", "1/99999999999", f"1/{'9' * 5000}"]
)
def test_shard_is_refused_when_it_is_none_of_several(text: str) -> None:
    with pytest.raises(UsageError, match=r"it must be as 2/8.*SLURM_ARRAY_TASK_ID"):
        Shard.parse(text)


def test_shard_is_read_as_it_is_written() -> None:
    assert str(Shard.parse("2/8")) == "2/8"
