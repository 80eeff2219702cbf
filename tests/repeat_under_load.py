"""Runs every test file several times on a machine that is busy: a test may not pass by luck.

Two processes burn the cores meanwhile, as other people's jobs do. Whatever fails once is a
fault of the test or of what it tests, and is shown with its output.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TESTS = Path(__file__).parent
FOLDERS = ("unit", "distributed", "integration")
NOTHING_COLLECTED = 5


def main() -> int:
    """Returns 1 if any run of any file failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=3, help="runs of each file")
    parser.add_argument("--burners", type=int, default=2, help="processes that burn a core each")
    parser.add_argument("--select", default="not (slurm or nightly)", help="pytest's -m")
    parser.add_argument("files", nargs="*", type=Path, help="default: every test file")
    arguments = parser.parse_args()
    files = arguments.files or [
        path for folder in FOLDERS for path in sorted((TESTS / folder).rglob("test_*.py"))
    ]
    failed: list[str] = []
    with tempfile.TemporaryDirectory() as folder, burning(arguments.burners):
        for path in files:
            for turn in range(1, arguments.times + 1):
                log = Path(folder) / "output"
                if not passes(path, arguments.select, log):
                    failed.append(f"{path} (run {turn} of {arguments.times})")
                    print(f"== {failed[-1]}\n{log.read_text(errors='replace')}", flush=True)
    print(f"{len(files)} files, {arguments.times} times each: {len(failed)} failed runs")
    for name in failed:
        print(f"  {name}")
    return 1 if failed else 0


def passes(path: Path, select: str, log: Path) -> bool:
    """Runs a file alone; what pytest prints goes to the log."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", select, str(path)]
    with log.open("wb") as stream:
        done = subprocess.run(command, stdout=stream, stderr=subprocess.STDOUT, check=False)
    return done.returncode in (0, NOTHING_COLLECTED)


@contextmanager
def burning(num_processes: int) -> Iterator[None]:
    """While it lasts, so many processes compute."""
    burners = [
        subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(num_processes)
    ]
    try:
        yield
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()


if __name__ == "__main__":
    sys.exit(main())
