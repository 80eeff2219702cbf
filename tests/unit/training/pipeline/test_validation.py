"""The trial of a phase, on what only the user's own code can tell."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from phaseline.errors import ConfigurationError, DataError
from phaseline.objectives.validation_metric import Seen
from phaseline.session.layout import AttemptLayout
from phaseline.training.pipeline.validation import PhaseValidation
from unit.training.phases.phase_runtimes import RuntimeMaker


class Units:
    name = "units"
    measures = ("units",)
    needs_logits = False

    def sums(self, seen: Seen) -> torch.Tensor:
        return seen.is_unit.sum().view(1)

    def metrics(self, sums: Mapping[str, float]) -> dict[str, float]:
        return {"num_units": sums["units"]}


def trial(maker: RuntimeMaker, folder: Path, metric: str) -> PhaseValidation:
    runtime = maker.make(checkpoint={"keep_best": {"metric": metric}})
    runtime.metrics = (Units(),)
    return PhaseValidation(runtime, AttemptLayout(1, folder))


@pytest.mark.parametrize("metric", ["num_units", "loss", "perplexity"])
def test_trial_accepts_a_best_by_what_is_measured(
    maker: RuntimeMaker, tmp_path: Path, metric: str
) -> None:
    assert trial(maker, tmp_path, metric).run()


def test_trial_refuses_a_best_by_what_nothing_measures(maker: RuntimeMaker, tmp_path: Path) -> None:
    with pytest.raises(
        ConfigurationError,
        match=r"keep_best\.metric is 'units', which a validation of this phase does not measure\. "
        r"It measures loss, perplexity, bits_per_byte, num_units\.",
    ):
        trial(maker, tmp_path, "units").run()


class Writer(torch.nn.Module):
    """A model of the user's own that can write, with 40 positions."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.table = torch.nn.Embedding(vocab_size, vocab_size)
        self.config = SimpleNamespace(max_position_embeddings=40)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.table(ids)
        return logits

    def generate(self, inputs: torch.Tensor, **_arguments: object) -> torch.Tensor:
        return torch.cat([inputs, inputs[:, -1:]], dim=1)


@pytest.mark.parametrize(("given", "is_refused"), [(None, False), (39, False), (40, True)])
def test_trial_refuses_samples_that_are_longer_than_the_model(
    maker: RuntimeMaker, tmp_path: Path, given: int | None, is_refused: bool
) -> None:
    samples = {"prompts": ["a"]} | ({} if given is None else {"max_new_tokens": given})
    runtime = maker.make(build=Writer, evaluate={"samples": samples})
    validation = PhaseValidation(runtime, AttemptLayout(1, tmp_path))
    if not is_refused:
        assert validation.run()
        return
    with pytest.raises(
        ConfigurationError,
        match=r"phases\[0\]\.evaluate\.samples\.max_new_tokens is 40, but the model has 40 "
        r"positions.*Set it to at most 39\.",
    ):
        validation.run()


def test_trial_refuses_prompts_of_held_out_text(maker: RuntimeMaker, tmp_path: Path) -> None:
    runtime = maker.make(evaluate={"samples": {"held_out_prompts": 2}})
    with pytest.raises(DataError, match="asked for of a phase that trains on text"):
        PhaseValidation(runtime, AttemptLayout(1, tmp_path)).run()
