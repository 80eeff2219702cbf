from __future__ import annotations

import re
from pathlib import Path

from phaseline.tracking.metric_keys import CATALOGUE, LOSS

DOCS = Path(__file__).parents[3] / "docs" / "metrics.md"


def test_key_names_phase_group_and_metric() -> None:
    assert LOSS.key("pretrain") == "pretrain/train/loss"


def test_catalogue_holds_every_key_once() -> None:
    names = [(metric.group, metric.name) for metric in CATALOGUE]
    assert len(names) == len(set(names))


def test_docs_list_every_metric_with_its_unit_and_nothing_else() -> None:
    rows = re.findall(r"^\| `(\w+)/(\w+)` \| (\S+) \| (.+) \|$", DOCS.read_text(), re.MULTILINE)
    assert rows == [
        (
            metric.group,
            metric.name,
            metric.unit,
            metric.meaning + (" *timing*" if metric.is_timing else ""),
        )
        for metric in CATALOGUE
    ]
