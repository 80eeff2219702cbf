from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from phaseline.config.sections import Config
from phaseline.data.phase_rows import PhaseRows
from phaseline.data.preparation import open_rows, prepare
from phaseline.data.shared_contents import num_shared
from phaseline.data.tokenizer import Tokenizer
from phaseline.errors import DataError

MakeConfig = Callable[..., Config]
BYTES = Tokenizer.of_bytes()


def _text(*paths: str) -> dict[str, Any]:
    return {"source": "text_files", "arguments": {"paths": list(paths)}}


def _prepare(config: Config) -> tuple[list[PhaseRows], list[str]]:
    reports: list[str] = []
    prepare(config, reports.append)
    return open_rows(config, config.phases[0], BYTES), reports


def _decoded(rows: PhaseRows, side: str) -> list[str]:
    data = getattr(rows.store, side)
    return [
        BYTES.decode(data.tokens[start:end].tolist())
        for start, end in zip(data.offsets[:-1], data.offsets[1:], strict=True)
    ]


def test_documents_are_held_out_when_their_id_matches(corpus: str, make_config: MakeConfig) -> None:
    (rows,), _ = _prepare(make_config(_text(corpus), held_out={"ids": ["*/0?.txt", "corpus/39*"]}))
    texts = [Path(f"corpus/{idx:02}.txt").read_text(encoding="utf-8") for idx in range(40)]
    assert _decoded(rows, "held_out") == [*texts[:10], texts[39]]
    assert _decoded(rows, "train") == texts[10:39]


def test_patterns_may_mean_documents_of_one_source_alone(
    corpus: str, make_config: MakeConfig
) -> None:
    Path("more.txt").write_text("more " * 50, encoding="utf-8")
    config = make_config(_text(corpus), _text("more.txt"), held_out={"ids": ["corpus/0*"]})
    rows, _ = _prepare(config)
    assert [one.store.held_out.num_documents for one in rows] == [10, 0]


def test_nothing_else_is_held_out_when_a_source_is(corpus: str, make_config: MakeConfig) -> None:
    Path("apart.txt").write_text("apart " * 50, encoding="utf-8")
    config = make_config(_text(corpus), held_out=_text("apart.txt"))
    (rows,), reports = _prepare(config)
    assert rows.store.train.num_documents == 40
    assert _decoded(rows, "held_out") == ["apart " * 50]
    assert rows.held_out.num_rows > 0
    assert "held out 1 documents" in reports[-1]
    other = make_config(_text(corpus), held_out=_text("corpus/01.txt"))
    assert _prepare(other)[0][0].fingerprint != rows.fingerprint


def test_what_is_validated_and_trained_on_is_counted(corpus: str, make_config: MakeConfig) -> None:
    for name in ("same1.txt", "same2.txt"):
        text = Path("corpus/07.txt").read_text(encoding="utf-8")
        Path(name).write_text(text, encoding="utf-8")
    config = make_config(_text(corpus), held_out=_text("same?.txt", "corpus/03.txt"))
    _, reports = _prepare(config)
    assert reports[-1].startswith("phase only: 3 held-out samples are trained on as well")
    # It takes reading all digests, so it is said once.
    assert not any("trained on as well" in report for report in _prepare(config)[1])


def test_shared_contents_are_counted_block_by_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("phaseline.data.shared_contents._BLOCK", 2)
    train = [np.arange(5, dtype=np.uint64), None, np.array([9], np.uint64)]
    apart = [np.array([4, 4, 7, 9], np.uint64), None]
    assert num_shared(train, apart) == 3
    assert num_shared(train, [None]) == 0


@pytest.mark.parametrize(
    ("held_out", "message"),
    [
        ({"ids": ["nothing*"]}, "leaves nothing to validate on.*another `held_out`,"),
        ({"ids": ["*"]}, "leaves nothing to train on"),
        (
            {"source": "python_stdlib_functions", "arguments": {"packages": ["json"]}},
            "different shapes",
        ),
    ],
)
def test_held_out_is_refused_when_a_side_is_left_without_anything(
    corpus: str, make_config: MakeConfig, held_out: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        prepare(make_config(_text(corpus), held_out=held_out), lambda _: None)
