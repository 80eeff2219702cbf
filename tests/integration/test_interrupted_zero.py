"""A rank is killed in the middle of a phase, at stages whose state lies in parts on the ranks.

The same session writes text for an odd number of prompts on two ranks: where no rank holds the
model whole, the one with fewer prompts must not leave the other waiting.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from integration.launched import attempts, final_checkpoint, launch, state_of, view
from integration.phase_sequences import write_sequence
from phaseline.checkpoint.manifest import verify
from phaseline.session.attempts import read_adopted
from phaseline.session.layout import SessionLayout

pytestmark = pytest.mark.extended("each stage is killed and resumed")

TESTS = Path(__file__).parents[1]
PROMPTS = ["def add(a, b):", "import json", "class Parser:"]


@pytest.mark.nightly
@pytest.mark.parametrize(
    "engine",
    [
        "{zero_stage: 3, precision: bf16}",
        "{zero_stage: 3}",
        "{zero_stage: 3, precision: bf16, offload: optimizer}",
        "{zero_stage: 2, precision: bf16}",
        "{zero_stage: 1, precision: bf16}",
        "{zero_stage: 0, precision: bf16}",
    ],
)
def test_killed_phase_ends_with_the_same_bits_when_it_is_resumed(
    engine: str, tmp_path: Path
) -> None:
    config, smooth, rough = (tmp_path / name for name in ("session.yaml", "smooth", "rough"))
    [phase] = write_sequence(
        config, ["zero3"], num_steps=6, callbacks=["integration.moments:KillAt"]
    )
    run(config, smooth, engine, code=0)
    run(config, rough, engine, code=1, KILL_AT=f"1:step:{phase}:5")
    run(config, rough, engine, code=0)

    adopted = read_adopted(SessionLayout(rough).attempt(2))
    assert adopted is not None
    assert str(adopted.resumed_from).endswith("step-00000004.a0001")
    assert (attempts(smooth), attempts(rough)) == ([1], [1, 2])
    expected, found = state_of(final_checkpoint(smooth, phase)), final_checkpoint(rough, phase)
    assert verify(found).world_size == 2
    assert state_of(found) == expected
    assert view(rough) == view(smooth)
    [samples] = [record["samples"] for record in view(rough) if record["kind"] == "samples"]
    assert [sample["prompt"] for sample in samples] == PROMPTS


def run(config: Path, session: Path, engine: str, *, code: int, **variables: str) -> None:
    """Runs `phaseline launch` on two ranks to its end."""
    samples = f"{{prompts: {PROMPTS}, max_new_tokens: 4, temperature: 0.8}}"
    overrides = (
        f"phases[0].engine={engine}",
        "phases[0].checkpoint.every=2 steps",
        f"phases[0].evaluate.samples={samples}",
    )
    arguments = [word for override in overrides for word in ("-o", override)]
    launched = launch(
        config,
        session,
        "--processes",
        "2",
        *arguments,
        log=session.with_suffix(".log"),
        variables={
            "PYTHONPATH": str(TESTS),
            "PHASELINE_CACHE": str(session.parent / "cache"),
            **variables,
        },
    )
    assert launched.wait() == code, launched.output
