"""Sources as a session names them: filters, what is skipped, and what is said of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from phaseline.data.preparation import prepare
from phaseline.errors import DataError
from unit.data.sources.made_files import jsonl

if TYPE_CHECKING:
    from unit.data.conftest import MakeConfig

ROWS = [{"body": f"text number {idx} of some length", "url": "x"} for idx in range(60)]


@pytest.fixture
def rows_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    # Relative, because ids are paths: the same rows are held out wherever the test runs.
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.jsonl").write_bytes(jsonl([*ROWS, ROWS[0], {"body": "x"}]) + b"{\n")
    return "rows.jsonl"


def _source(path: str, on_error: str, **filters: Any) -> dict[str, Any]:
    arguments = {"paths": [path], "on_error": on_error}
    return {"source": "files", "arguments": arguments, "filters": filters}


def test_prepare_reports_what_source_and_filters_left_out(
    rows_file: str, make_config: MakeConfig
) -> None:
    reports: list[str] = []
    prepare(make_config(_source(rows_file, "skip", min_chars=5, deduplicate=True)), reports.append)
    assert reports[0] == "preparing files (text: text from 'body')"
    assert "dropped 1 (corrupt JSON)" in reports[1]
    assert "dropped 1 (shorter than min_chars)" in reports[1]
    assert "dropped 1 (duplicate)" in reports[1]


def test_prepare_makes_another_store_when_a_filter_changes(
    rows_file: str, make_config: MakeConfig
) -> None:
    reports: list[str] = []
    for filters in ({"min_chars": 5}, {"deduplicate": True}, {"min_chars": 5}):
        prepare(make_config(_source(rows_file, "skip", **filters)), reports.append)
    assert sum(report.startswith("preparing files") for report in reports) == 2


def test_prepare_leaves_nothing_when_a_row_is_refused(
    rows_file: str, make_config: MakeConfig, cache_folder: Path
) -> None:
    # Once among the first rows, which are tried before any work, and once far behind them.
    Path("more.jsonl").write_bytes(jsonl(ROWS * 3) + b"{\n")
    for path, line in ((rows_file, 63), ("more.jsonl", 181)):
        with pytest.raises(DataError, match=rf"{path}:{line}: is no JSON"):
            prepare(make_config(_source(path, "stop")), lambda _: None)
    assert list(cache_folder.glob("stores/*/manifest.json")) == []
