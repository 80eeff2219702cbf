"""How fast data is prepared, and in how much memory, against `datasets.map`.

Both read the same text files and encode them with the same tokenizer in as many processes,
each in a program of its own. Speed is told per second of CPU time, of all processes together,
so that other work on the machine disturbs it little; memory is the largest sum of what the
processes hold for themselves and their share of what they hold together (PSS).
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

from phaseline.config.sections import Config
from phaseline.data.sources.python_files import stdlib_files
from phaseline.data.tokenizer import Tokenizer

MEGA = 1_000_000
VOCAB_SIZE = 4096
PHASELINE, DATASETS = "phaseline", "datasets"
POLL_S = 0.2


def main() -> None:
    """Writes the corpus and measures, or does one of the measured runs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=200)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--only", choices=[PHASELINE, DATASETS], help="measure one of the two")
    parser.add_argument("--run", choices=[PHASELINE, DATASETS], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run == PHASELINE:
        run_phaseline(arguments.folder, arguments.processes)
    elif arguments.run == DATASETS:
        run_datasets(arguments.folder, arguments.processes)
    else:
        names = [arguments.only] if arguments.only else [PHASELINE, DATASETS]
        measure(names, arguments.megabytes, arguments.processes, arguments.rounds)


def measure(names: list[str], megabytes: int, processes: int, rounds: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        num_bytes = write_corpus(folder, megabytes * MEGA)
        found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in names}
        for _ in range(rounds):
            for which, figures in found.items():
                figures.append(watch(which, folder, processes))
        print(f"{num_bytes / MEGA:.0f} MB, {processes} processes, {rounds} rounds, medians")
        for which, figures in found.items():
            wall_s, cpu_s, peak = (
                statistics.median(column) for column in zip(*figures, strict=True)
            )
            print(
                f"{which:10}: {num_bytes / MEGA / cpu_s:5.2f} MB per CPU second, "
                f"{wall_s:6.1f} s of wall, {cpu_s:6.1f} s of CPU, peak {peak / 2**20:6.0f} MiB"
            )


def write_corpus(folder: Path, num_bytes: int) -> int:
    """The standard library's files, over and over, each time under other names."""
    (folder / "corpus").mkdir()
    texts = [text for _, text in stdlib_files("benchmark", None).read()]
    Tokenizer.train(iter(texts), VOCAB_SIZE).save(folder / "tokenizer")
    written = idx = 0
    while written < num_bytes:
        # A line of its own, so that no two documents are the same.
        text = f"# {idx}\n{texts[idx % len(texts)]}"
        written += (folder / "corpus" / f"{idx:06}.txt").write_bytes(text.encode())
        idx += 1
    return written


def watch(which: str, folder: Path, processes: int) -> tuple[float, float, float]:
    """Wall seconds, CPU seconds and peak bytes of one run."""
    before = os.times()
    started_s = time.monotonic()
    words = ["--run", which, "--folder", str(folder), "--processes", str(processes)]
    process = subprocess.Popen([sys.executable, __file__, *words], stdout=subprocess.DEVNULL)
    peak = 0
    while process.poll() is None:
        peak = max(peak, memory_of(process.pid))
        time.sleep(POLL_S)
    if process.returncode:
        sys.exit(process.returncode)
    after = os.times()
    cpu_s = sum(after[2:4]) - sum(before[2:4])
    return time.monotonic() - started_s, cpu_s, peak


def memory_of(pid: int) -> int:
    """What a process and those that it started hold, each its share of what is common."""
    import psutil

    total = 0
    try:
        every = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    for process in every:
        try:
            total += process.memory_full_info().pss
        except psutil.Error:
            continue
    return total


def run_phaseline(folder: Path, processes: int) -> None:
    from phaseline.data.preparation import prepare

    phase = {
        "name": "only",
        "objective": "causal_lm",
        "duration": "1 steps",
        "data": {
            "sources": [
                {"source": "text_files", "arguments": {"paths": [str(folder / "corpus" / "*.txt")]}}
            ],
            "sequence_length": 256,
        },
        "batch": {"global_size": 1, "micro_size": 1},
        "optimizer": {"lr": 1e-3},
    }
    with tempfile.TemporaryDirectory(dir=folder) as cache:
        os.environ["PHASELINE_CACHE"] = cache
        config = Config.model_validate(
            {
                "session": {"name": "benchmark"},
                "model": {"config": {"model_type": "llama"}},
                "tokenizer": {"pretrained": str(folder / "tokenizer")},
                "preparation": {"processes": processes},
                "phases": [phase],
            }
        )
        prepare(config, print)


def run_datasets(folder: Path, processes: int) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    from datasets import load_dataset
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")

    def encode(batch: dict[str, list[str]]) -> dict[str, list[list[int]]]:
        ids = tokenizer(batch["text"], return_attention_mask=False)["input_ids"]
        return {"input_ids": [[*one, tokenizer.eos_token_id] for one in ids]}

    with tempfile.TemporaryDirectory(dir=folder) as cache:
        data = load_dataset(
            "text",
            data_files=str(folder / "corpus" / "*.txt"),
            sample_by="document",
            split="train",
            cache_dir=cache,
        )
        data.map(encode, batched=True, num_proc=processes, remove_columns=["text"])


if __name__ == "__main__":
    main()
