"""A cache of its own for every test, and small sessions over text files or custom pairs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

from phaseline.config.sections import Config

if TYPE_CHECKING:
    from pathlib import Path

# A busy machine may take long over any example.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")

MakeConfig = Callable[..., Config]


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("PHASELINE_CACHE", str(folder))
    return folder


# A source of one's own: pairs whose prompts say how long the completion is.
_PAIRS_MODULE = """
from phaseline.data.sources import Pair


class MadeUpPairs:
    shape = "pairs"

    def __init__(self, name, count):
        self.name, self.count = name, count

    def fingerprint(self):
        return f"{self.name}-{self.count}"

    def samples(self):
        for idx in range(self.count):
            completion = "yes " * (1 + idx * 7 % 23)
            yield Pair(f"{self.name} {idx}", f"ask {self.name} {idx}:", completion)
"""


@pytest.fixture
def pairs_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Name of a source that takes `name` and `count`."""
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "made_up_pairs.py").write_text(_PAIRS_MODULE, encoding="utf-8")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "made_up_pairs", raising=False)
    return "made_up_pairs:MadeUpPairs"


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A pattern, relative to the working folder, that matches 40 files of some 100 bytes."""
    # Relative, because ids are paths: the same files are held out wherever the test runs.
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "corpus"
    folder.mkdir()
    for file_idx in range(40):
        words = " ".join(f"word{file_idx}x{word_idx}" for word_idx in range(20 + file_idx))
        (folder / f"{file_idx:02}.txt").write_text(words, encoding="utf-8")
    return "corpus/*.txt"


@pytest.fixture
def make_config() -> MakeConfig:
    """Builds a session of one phase; keywords overwrite its parts."""

    def make(
        *sources: dict[str, Any],
        objective: str = "causal_lm",
        sequence_length: int = 16,
        batch: dict[str, Any] | None = None,
        evaluate: dict[str, Any] | None = None,
        held_out_frac: float = 0.2,
        data: dict[str, Any] | None = None,
        held_out: dict[str, Any] | None = None,
        learn: str = "answers",
        seed: int = 0,
        tokenizer: dict[str, Any] | None = None,
    ) -> Config:
        phase = {
            "name": "only",
            "objective": objective,
            "duration": "10 steps",
            "data": {
                "sources": list(sources),
                "sequence_length": sequence_length,
                "learn": learn,
                **(
                    {"held_out_frac": held_out_frac} if held_out is None else {"held_out": held_out}
                ),
                **(data or {}),
            },
            "batch": batch or {"global_size": 8, "micro_size": 2},
            "optimizer": {"lr": 0.001},
            "evaluate": evaluate or {},
        }
        return Config.model_validate(
            {
                "session": {"name": "test", "seed": seed},
                "model": {"config": {"model_type": "llama"}},
                "tokenizer": tokenizer or {},
                "phases": [phase],
            }
        )

    return make
