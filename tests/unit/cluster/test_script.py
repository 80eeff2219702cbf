from __future__ import annotations

import re
import subprocess
import sys

import pytest

from phaseline.cluster.script import static_script
from phaseline.cluster.submission import plan_submission
from phaseline.config.loading import load_config
from slurm.shapes import CONFIG, ROOT, SHAPES, golden, render


@pytest.fixture(autouse=True)
def at_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def test_static_script_is_rendered_from_the_template() -> None:
    assert (ROOT / "slurm" / "session.sbatch").read_text() == static_script()


@pytest.mark.parametrize("shape", SHAPES)
def test_script_is_the_golden_one(shape: str) -> None:
    assert render(shape) == golden(shape).read_text()


@pytest.mark.parametrize("shape", SHAPES)
def test_script_is_valid_shell(shape: str) -> None:
    subprocess.run(["bash", "-n", str(golden(shape))], check=True)


@pytest.mark.parametrize("shape", SHAPES)
def test_submitted_scripts_are_the_rendered_ones(shape: str) -> None:
    loaded = load_config(CONFIG, SHAPES[shape])
    jobs = plan_submission(loaded, overrides=SHAPES[shape], session_dir=None)
    assert [job.waits for job in jobs] == [False, True, True][: loaded.config.cluster.chain]
    first = jobs[0].text.replace(sys.executable, ".venv/bin/python")
    found = re.search(r"--line ([0-9a-f]{12})", first)
    line = found[1] if found else ""
    assert first == render(shape, line=line)
    # Behind the last job of a chain there is none.
    assert [" --chained" in job.text for job in jobs] == [job is not jobs[-1] for job in jobs]
