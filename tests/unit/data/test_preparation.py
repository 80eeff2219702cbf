from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from phaseline.config.sections import Config
from phaseline.data.preparation import open_rows, prepare
from phaseline.data.tokenizer import Tokenizer
from phaseline.errors import DataError, StopRequestedError

MakeConfig = Callable[..., Config]
BYTES = Tokenizer.of_bytes()

_PREPARE = """
import sys
from phaseline.config.sections import Config
from phaseline.data.preparation import prepare

prepare(Config.model_validate_json(sys.argv[1]), lambda text: print(text, flush=True))
assert "torch" not in sys.modules, "preparation imported torch"
assert "transformers" not in sys.modules, "preparation imported transformers"
"""


def _text(corpus: str) -> dict[str, object]:
    return {"source": "text_files", "arguments": {"paths": [corpus]}}


def test_prepare_reports_what_a_phase_gets_when_done(corpus: str, make_config: MakeConfig) -> None:
    reports: list[str] = []
    prepare(make_config(_text(corpus)), reports.append)
    assert len(reports) == 2
    assert reports[0] == "preparing text_files"
    assert reports[1].startswith("phase only: text_files: train ")
    assert "held out" in reports[1]


def test_prepare_tries_every_source_before_it_prepares_one(
    corpus: str, make_config: MakeConfig, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"text": "fine"}\n{"text": 3}\n')
    section = {"source": "files", "arguments": {"paths": [str(bad)], "columns": {"text": "text"}}}
    reports: list[str] = []
    with pytest.raises(DataError, match=r"bad\.jsonl"):
        prepare(make_config(_text(corpus), section), reports.append)
    assert reports == []


@pytest.mark.parametrize("document", [1, 2, 7])
def test_prepare_leaves_nothing_half_done_when_it_is_given_up(
    corpus: str, make_config: MakeConfig, cache_folder: Path, document: int
) -> None:
    calls = 0

    def proceed() -> None:
        nonlocal calls
        calls += 1
        if calls == document:
            raise StopRequestedError("given up")

    config = make_config(_text(corpus))
    with pytest.raises(StopRequestedError, match="given up"):
        prepare(config, lambda _: None, proceed)
    left = [path for path in cache_folder.rglob("*") if path.suffix not in (".lock", ".json")]
    assert [path for path in left if path.is_file() or path.name.startswith(".")] == []
    prepare(config, lambda _: None)
    assert len(open_rows(config, config.phases[0], BYTES)) == 1


def test_prepare_leaves_nothing_half_done_when_a_tokenizer_is_given_up(
    corpus: str, make_config: MakeConfig, cache_folder: Path
) -> None:
    calls = 0

    def proceed() -> None:
        nonlocal calls
        calls += 1
        if calls == 5:
            raise StopRequestedError("given up")

    train = {"train": {"source": "python_stdlib", "arguments": {"packages": ["json"]}}}
    config = make_config(_text(corpus), tokenizer=train)
    reports: list[str] = []
    with pytest.raises(StopRequestedError, match="given up"):
        prepare(config, reports.append, proceed)
    assert [report.partition(" of ")[0] for report in reports] == ["training a tokenizer"]
    assert [path.suffix for path in (cache_folder / "tokenizers").iterdir()] == [".lock"]


def test_prepare_builds_nothing_when_all_is_prepared(
    corpus: str, make_config: MakeConfig, cache_folder: Path
) -> None:
    config = make_config(_text(corpus))
    prepare(config, lambda _: None)
    before = {path: path.stat().st_mtime_ns for path in cache_folder.rglob("*")}
    reports: list[str] = []
    prepare(config, reports.append)
    assert {path: path.stat().st_mtime_ns for path in cache_folder.rglob("*")} == before
    assert len(reports) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"held_out_frac": 0.3},
        {"tokenizer": {"train": {"source": "python_stdlib", "arguments": {"packages": ["json"]}}}},
    ],
)
def test_prepare_builds_anew_when_what_decides_the_content_changes(
    corpus: str, make_config: MakeConfig, cache_folder: Path, change: dict[str, object]
) -> None:
    prepare(make_config(_text(corpus)), lambda _: None)
    prepare(make_config(_text(corpus), **change), lambda _: None)
    assert len(list((cache_folder / "stores").glob("*.lock"))) == 2


def test_prepare_shares_the_store_when_only_the_sequence_length_differs(
    corpus: str, make_config: MakeConfig, cache_folder: Path
) -> None:
    for length in (16, 32):
        prepare(make_config(_text(corpus), sequence_length=length), lambda _: None)
    assert len(list((cache_folder / "stores").glob("*.lock"))) == 1


def test_prepare_builds_once_and_without_torch_when_processes_race(
    corpus: str, make_config: MakeConfig
) -> None:
    config = make_config(_text(corpus)).model_dump_json()
    command = [sys.executable, "-c", _PREPARE, config]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    outputs = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert sum(output.count("preparing text_files") for output in outputs) == 1
    assert len({output.splitlines()[-1] for output in outputs}) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"sequence_length": 100_000, "evaluate": {"sequence_length": 8}},
            "leaves nothing to train on.*give no sequence of 100000",
        ),
        ({"evaluate": {"sequence_length": 9000}}, "leaves nothing to validate on.*of 9000 tokens"),
        ({"held_out_frac": 1e-9}, "leaves nothing to validate on: 0 documents"),
    ],
)
def test_prepare_is_refused_when_a_side_has_no_sequence(
    corpus: str, make_config: MakeConfig, change: dict[str, object], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        prepare(make_config(_text(corpus), **change), lambda _: None)


def test_prepare_is_refused_when_everything_is_learnt_anyway(
    corpus: str, make_config: MakeConfig
) -> None:
    config = make_config(_text(corpus), learn="all", objective="of_ones_own:Objective")
    with pytest.raises(DataError, match="which has no effect: text_files gives text"):
        prepare(config, lambda _: None)


def test_prepare_is_refused_when_the_rows_are_nothing_for_the_objective(
    tmp_path: Path, make_config: MakeConfig
) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "a", "completion": "b"}\n' * 9, encoding="utf-8")
    source = {"source": "files", "arguments": {"paths": [str(rows)]}}
    seen: list[str] = []
    with pytest.raises(
        DataError,
        match="files gives pairs of prompt and completion, but the objective causal_lm trains on "
        "text",
    ):
        prepare(make_config(source), seen.append)
    assert seen == []  # before any source is prepared


def test_prepare_is_refused_when_a_phase_mixes_shapes(
    corpus: str, pairs_source: str, make_config: MakeConfig
) -> None:
    pairs = {"source": pairs_source, "arguments": {"name": "a", "count": 9}}
    found = "text_files gives text, made_up_pairs:MadeUpPairs gives pairs"
    with pytest.raises(DataError, match=found):
        prepare(make_config(_text(corpus), pairs), lambda _: None)


def test_open_rows_is_refused_when_the_source_changed_since(
    corpus: str, make_config: MakeConfig
) -> None:
    config = make_config(_text(corpus))
    prepare(config, lambda _: None)
    assert open_rows(config, config.phases[0], BYTES)
    (Path(corpus).parent / "new.txt").write_text("new", encoding="utf-8")
    with pytest.raises(DataError, match="'text_files' is not prepared"):
        open_rows(config, config.phases[0], BYTES)
