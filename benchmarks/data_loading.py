"""What batches cost the training process, with and without workers, and how long a seek takes.

The store is made up. It lies in memory once it was read; `--cold` has the kernel drop it before
each loader, so that rows come from the disk.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Literal

# Before numpy is imported: one rank on one core.
os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np

from phaseline.config.batch_layout import BatchLayout
from phaseline.config.sections import Config, PhaseSection
from phaseline.data.cutting import build_rows
from phaseline.data.loader import Loader, build_loader
from phaseline.data.phase_data import PhaseData
from phaseline.data.phase_rows import PhaseRows
from phaseline.data.store import SplitData, Store
from phaseline.data.stream import SampleStream
from phaseline.data.tokenizer import Tokenizer

SEEK_STEPS = (10, 10**5, 10**7, 10**9)
STEP_S = 0.02
"""Stands for the work of a step, during which workers read ahead."""

Shape = Literal["text", "pairs"]


def main() -> None:
    """Measures, and prints a line for each shape and number of workers."""
    arguments = _parse()
    with tempfile.TemporaryDirectory() as name:
        pairs = _made_up_side(Path(name), arguments.documents)
        sides: dict[Shape, SplitData] = {"text": replace(pairs, learnt=None), "pairs": pairs}
        for shape, side in sides.items():
            data = _open(shape, side, arguments)
            for num_workers in (0, 2):
                if arguments.cold:
                    _drop(Path(name))
                _measure(data, num_workers, arguments.steps)


def _measure(data: PhaseData, num_workers: int, num_steps: int) -> None:
    assert data.sequence_length is not None
    section = _phase("text", num_workers, data.sequence_length, data.layout).data
    loader = build_loader(section, data, seed=0, phase_idx=0, dp_rank=0)
    try:
        seeks = []
        for step in SEEK_STEPS:
            start = time.perf_counter()
            loader.micro_batch(step, 0)
            data.unit_counts(step, "tokens")
            seeks.append(f"{1e3 * (time.perf_counter() - start):.1f}")
        # The best of some stretches: the others tell of what else the machine does.
        per_s = max(
            _batches_per_s(loader, first, num_steps) for first in range(0, 5 * num_steps, num_steps)
        )
        waits = []
        for step in range(5 * num_steps, 5 * num_steps + 100):
            time.sleep(STEP_S)
            start = time.perf_counter()
            loader.micro_batch(step, 0)
            waits.append(1e3 * (time.perf_counter() - start))
    finally:
        loader.close()
    print(
        f"  {num_workers} workers: {per_s:,.0f} batches/s; beside steps of {1e3 * STEP_S:.0f} ms a "
        f"batch is waited for {np.median(waits):.2f} ms (at most {max(waits):.2f}); first batch at "
        f"step {', '.join(f'{step:.0e}' for step in SEEK_STEPS)}: {', '.join(seeks)} ms"
    )


def _batches_per_s(loader: Loader, first: int, num_steps: int) -> float:
    start = time.perf_counter()
    for step in range(first, first + num_steps):
        loader.micro_batch(step, 0)
    return num_steps / (time.perf_counter() - start)


def _open(shape: Shape, side: SplitData, arguments: argparse.Namespace) -> PhaseData:
    length, micro_size = arguments.sequence_length, arguments.micro_size
    start = time.process_time()
    rows = build_rows(shape, side, length)
    opened_s = time.process_time() - start
    print(
        f"{shape}: {side.num_documents:,} documents, {side.num_tokens:,} tokens, "
        f"{rows.num_rows:,} rows of {length} in {opened_s:.2f} s of CPU, "
        f"{rows.num_useful / (rows.num_rows * length):.1%} of positions useful"
    )
    layout = BatchLayout.derive(micro_size, micro_size, 1)
    stream = SampleStream([rows.num_rows], [1.0], seed=0, phase_idx=0, global_size=micro_size)
    source = PhaseRows("made up", "made up", Store(shape, side, side, {}, {}), rows, rows)
    phase = _phase(shape, 0, length, layout)
    return PhaseData(phase, [source], stream, layout, Tokenizer.of_bytes())


def _phase(
    shape: Shape, num_workers: int, sequence_length: int, layout: BatchLayout
) -> PhaseSection:
    phase = {
        "name": shape,
        "objective": "causal_lm",
        "duration": "10 steps",
        "data": {
            "sources": [{"source": "text_files"}],
            "sequence_length": sequence_length,
            "num_workers": num_workers,
        },
        "batch": {"global_size": layout.global_size, "micro_size": layout.micro_size},
        "optimizer": {"lr": 1.0},
    }
    return Config.model_validate(
        {"session": {"name": "data"}, "model": {}, "phases": [phase]}
    ).phases[0]


def _made_up_side(folder: Path, num_documents: int) -> SplitData:
    """Ragged pairs, a third of each prompt, mapped from files as a store's are."""
    generator = np.random.default_rng(0)
    lengths = np.clip(generator.lognormal(5.0, 1.0, num_documents), 4, 4096).astype(np.int64)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    generator.integers(0, 256, offsets[-1], dtype=np.uint16).tofile(folder / "tokens")
    prompts = np.repeat(offsets[:-1] + lengths // 3, lengths)
    (np.arange(offsets[-1]) >= prompts).astype(np.uint8).tofile(folder / "learnt")
    return SplitData(
        np.asarray(np.memmap(folder / "tokens", np.uint16, mode="r")),
        offsets,
        np.asarray(np.memmap(folder / "learnt", np.uint8, mode="r")),
    )


def _drop(folder: Path) -> None:
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=1_000_000)
    parser.add_argument("--sequence-length", type=int, default=2048)
    parser.add_argument("--micro-size", type=int, default=8)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--cold", action="store_true", help="rows come from the disk")
    return parser.parse_args()


if __name__ == "__main__":
    main()
