from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from phaseline.config.sections import SamplesSection
from phaseline.errors import DataError
from phaseline.training.phases.sampling import Sampler
from unit.training.phases.phase_runtimes import RuntimeMaker

BODY = "    return 1\n"


class Writer(torch.nn.Module):
    """Continues every prompt with the same body, and then ends."""

    def __init__(self, eos_id: int) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.config = SimpleNamespace()
        self._ids = torch.tensor([[*BODY.encode(), eos_id]])

    def generate(self, inputs: torch.Tensor, **arguments: Any) -> torch.Tensor:
        assert arguments["max_new_tokens"] > 0
        return torch.cat([inputs, self._ids], dim=1)


def run(maker: RuntimeMaker, **section: Any) -> tuple[dict[str, float], list[Any], list[Any]]:
    """Metrics and samples, and what lies in the file."""
    runtime = maker.make()
    runtime.engine.module = Writer(runtime.data.tokenizer.eos_id)
    runtime.position.phase_step = 6
    written = Sampler(runtime, SamplesSection(**section)).run()
    assert written is not None
    metrics, samples = written
    [path] = runtime.samples_folder.iterdir()
    assert path.name == "step-00000006.json"
    return metrics, samples, json.loads(path.read_text(encoding="utf-8"))


def test_sampler_keeps_what_was_written_and_counts_what_parses(maker: RuntimeMaker) -> None:
    metrics, samples, kept = run(
        maker, prompts=["def f():\n", "def f(:\n", "def é():\n"], check="python"
    )
    assert [sample["valid"] for sample in samples] == [True, False, True]
    assert metrics == {
        "only/samples/count": 3.0,
        "only/samples/python_valid_frac": pytest.approx(2 / 3),
    }
    assert [sample["idx"] for sample in samples] == [0, 1, 2]
    assert {sample["completion"] for sample in samples} == {BODY}
    assert all(sample["complete"] for sample in samples)
    assert kept == samples


def test_sampler_judges_nothing_when_no_check_is_asked_for(maker: RuntimeMaker) -> None:
    metrics, samples, _ = run(maker, prompts=["def f():\n"])
    assert metrics == {"only/samples/count": 1.0}
    assert samples[0]["valid"] is None


def test_sampler_is_refused_held_out_prompts_when_the_phase_trains_on_text(
    maker: RuntimeMaker,
) -> None:
    with pytest.raises(DataError, match="only pairs have prompts"):
        run(maker, held_out_prompts=2)
