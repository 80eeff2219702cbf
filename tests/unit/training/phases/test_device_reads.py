"""Between two readings of the metrics, nothing of ours makes the host wait for the device."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from phaseline.training.phases.callbacks import Callback
from phaseline.training.phases.phase_manager import TrainingPhaseManager
from phaseline.training.phases.reference import StoredReference
from phaseline.training.phases.reference_files import SIDES, ReferenceFiles
from phaseline.training.phases.runtime import PhaseRuntime
from unit.training.phases.device_reads import DeviceReads
from unit.training.phases.phase_runtimes import RuntimeMaker, preferences

INTERVAL = 4
ENGINE = "distributed/engines/"


class ReadsOfSteps(Callback):
    """Keeps what was read from the end of one step to the end of the next."""

    def __init__(self, reads: DeviceReads) -> None:
        self.of_steps: list[dict[str, int]] = []
        self._reads = reads

    def phase_started(self, _runtime: PhaseRuntime) -> None:
        self._reads.take()

    def step_ended(self, _runtime: PhaseRuntime) -> None:
        self.of_steps.append(self._reads.take())


@pytest.mark.parametrize("micro_size", [8, 4])
def test_loop_reads_nothing_between_readings_but_what_the_engine_reads(
    maker: RuntimeMaker, micro_size: int
) -> None:
    reads = DeviceReads()
    counted = ReadsOfSteps(reads)
    runtime = maker.make(
        duration="12 steps",
        batch={"global_size": 8, "micro_size": micro_size},
        optimizer={"lr": 0.01, "arguments": {"fused": True}},
        callbacks=[counted],
    )
    with reads.counting():
        TrainingPhaseManager(runtime=runtime).run()

    ours = [
        {who: count for who, count in step.items() if not who.startswith(ENGINE)}
        for step in counted.of_steps
    ]
    # A reading belongs to the step that follows it; soon after the start there are some more.
    after_a_reading = (1, 2, INTERVAL, 2 * INTERVAL)
    for idx, step in enumerate(ours):
        expected = {"training/phases/step_metrics.py": 2} if idx in after_a_reading else {}
        assert step == expected, f"step {idx + 1}"
    engines = [step.get(f"{ENGINE}gradients.py", 0) for step in counted.of_steps]
    assert engines == [1] * 12
    assert {who for step in counted.of_steps for who in step} == {
        f"{ENGINE}gradients.py",
        "training/phases/step_metrics.py",
    }


def test_loop_reads_nothing_more_for_pairs_and_their_reference(
    maker: RuntimeMaker, tmp_path: Path
) -> None:
    reads = DeviceReads()
    counted = ReadsOfSteps(reads)
    phase = preferences(tmp_path)
    runtime = maker.make(duration="8 steps", callbacks=[counted], **phase)
    files = ReferenceFiles(
        folder=tmp_path / "reference",
        fingerprints=dict.fromkeys(SIDES, "any"),
        num_pairs={side: runtime.data.num_pairs(side) for side in SIDES},
        fence=lambda: None,
    )
    runtime.reference = StoredReference(files, runtime.world.device)
    with reads.counting():
        TrainingPhaseManager(runtime=runtime).run()
    ours = [
        {who: count for who, count in step.items() if not who.startswith(ENGINE)}
        for step in counted.of_steps[1:]
    ]
    # The pass over all pairs came before the first step.
    reading = {"training/phases/step_metrics.py": 2}
    assert ours == [reading, reading, {}, reading, {}, {}, {}]
    assert runtime.reference.is_ready
    assert files.read() is not None


@pytest.mark.parametrize(
    "read",
    [
        float,
        bool,
        lambda x: x.item(),
        lambda x: x.tolist(),
        lambda x: x.numpy(),
        lambda x: x.cpu(),
        lambda x: f"{x}",
        lambda x: x > 0 and True,
        lambda x: torch.equal(x, x),
    ],
)
def test_reads_are_counted_whatever_their_form(read: object) -> None:
    assert callable(read)
    with DeviceReads().counting() as reads:
        value = torch.ones(()) + 1
        assert reads.take() == {}
        read(value)
        assert set(reads.take()) == {"test_device_reads.py"}
