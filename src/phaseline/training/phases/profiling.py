"""A trace and a snapshot of the memory, of some steps of a phase."""

from __future__ import annotations

import gc
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch

from phaseline.config.tracking_section import ProfileSection
from phaseline.training.phases.callbacks import Callback
from phaseline.training.phases.runtime import PhaseRuntime


class PhaseProfiler(Callback):
    """Profiles the configured steps on every rank, and writes one trace and one snapshot each.

    A phase that is resumed within the steps profiles the rest of them. What cannot be written
    is said, and training goes on.
    """

    def __init__(self, section: ProfileSection, folder: Path) -> None:
        """Waits for the first step.

        Args:
            section: Which steps.
            folder: Where the files go, of this attempt alone.
        """
        self._first, self._last = section.bounds
        self._folder = folder
        self._profiler: torch.profiler.profile | None = None

    def step_began(self, runtime: PhaseRuntime) -> None:
        """Begins with the first step, and not with a validation or a save before it."""
        done = runtime.position.phase_step
        if self._profiler is None and self._first - 1 <= done < self._last:
            self._begin(runtime)

    def step_ended(self, runtime: PhaseRuntime) -> None:
        """Ends after the last step."""
        if self._profiler is not None and runtime.position.phase_step >= self._last:
            self._end(runtime)

    def phase_ended(self, runtime: PhaseRuntime, *, finished: bool) -> None:  # noqa: ARG002
        """Ends what a stop cut short; what there is of it is written."""
        if self._profiler is not None:
            self._end(runtime)

    def _begin(self, runtime: PhaseRuntime) -> None:
        if runtime.world.device.type == "cuda":
            torch.cuda.memory._record_memory_history()  # noqa: SLF001 - torch documents it
        self._profiler = torch.profiler.profile(profile_memory=True, record_shapes=True)
        self._profiler.start()

    def _end(self, runtime: PhaseRuntime) -> None:
        assert self._profiler is not None
        profiler, self._profiler = self._profiler, None
        profiler.stop()
        stem = (
            f"{runtime.section.name}-steps-{self._first}-{self._last}-"
            f"rank-{runtime.world.dp_rank:05d}"
        )
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            profiler.export_chrome_trace(str(self._folder / f"{stem}.trace.json"))
            _snapshot_of(runtime.world.device)(self._folder / stem)
        except (OSError, RuntimeError) as error:
            if runtime.world.is_main:
                runtime.display.note(f"the profile of {stem} could not be written: {error}")
        finally:
            if runtime.world.device.type == "cuda":
                # Or the allocator would keep every allocation of the rest of the phase.
                torch.cuda.memory._record_memory_history(enabled=None)  # noqa: SLF001


def _snapshot_of(device: torch.device) -> Callable[[Path], None]:
    return _dump_history if device.type == "cuda" else _dump_tensors


def _dump_history(stem: Path) -> None:
    """Every allocation since the first step; https://pytorch.org/memory_viz draws it."""
    torch.cuda.memory._dump_snapshot(f"{stem}.memory.pickle")  # type: ignore[no-untyped-call]  # noqa: SLF001


def _dump_tensors(stem: Path) -> None:
    """On a CPU torch keeps no history: the tensors that live now, largest kind first."""
    sizes: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    for tensor in [item for item in gc.get_objects() if type(item) in _KINDS]:
        kind = f"{tensor.dtype} {list(tensor.shape)}".removeprefix("torch.")
        counts[kind] += 1
        sizes[kind] += tensor.numel() * tensor.element_size()
    tensors = [
        {"tensor": kind, "count": counts[kind], "bytes": size} for kind, size in sizes.most_common()
    ]
    content = {"total_bytes": sizes.total(), "tensors": tensors}
    Path(f"{stem}.memory.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


_KINDS = (torch.Tensor, torch.nn.Parameter)
