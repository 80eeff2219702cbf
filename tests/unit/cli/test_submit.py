from __future__ import annotations

from pathlib import Path

import pytest

from phaseline.cli import main
from phaseline.errors import ExitCode
from phaseline.session.layout import SessionLayout
from phaseline.session.lease import Lease
from unit.config.session_text import VALID, write


def submit(*words: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["submit", *words])
    return int(ended.value.code or 0)


@pytest.fixture(autouse=True)
def without_slurm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine on which there is no sbatch, whatever the test runs on."""
    monkeypatch.setenv("PATH", str(tmp_path))


def test_dry_run_shows_the_script_and_makes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, session = write(tmp_path), tmp_path / "s"
    options = (
        "--nodes",
        "3",
        "--time",
        "2:00:00",
        "--partition",
        "gpu",
        "--sbatch=--mail-type=END",
    )
    assert submit(str(config), "--session", str(session), "--dry-run", *options) == 0
    script = capsys.readouterr().out
    for option in ("nodes=3", "time=2:00:00", "partition=gpu", "mail-type=END"):
        assert f"#SBATCH --{option}\n" in script
    assert f"#SBATCH --output={session}/job-%j.log\n" in script
    assert not session.exists()


def test_flag_is_a_text_whatever_it_looks_like(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--account", "12345", "--constraint", "[a100|h100]", "--sbatch=--comment=two words")
    session = tmp_path / "my runs" / "100%"
    command = (str(write(tmp_path)), "--session", str(session), "--dry-run", *options)
    assert submit(*command) == 0
    script = capsys.readouterr().out
    assert "#SBATCH --account=12345\n" in script
    assert "#SBATCH --constraint=[a100|h100]\n" in script
    assert '#SBATCH --comment="two words"\n' in script
    assert f'#SBATCH --output="{tmp_path}/my runs/100%%/job-%j.log"\n' in script


def test_dry_run_shows_every_job_of_a_chain(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert submit(str(write(tmp_path)), "--dry-run", "--chain", "2") == 0
    script = capsys.readouterr().out
    assert "# -- job 1 of 2\n" in script
    assert "# -- job 2 of 2\n" in script
    assert script.count("#SBATCH --no-requeue\n") == 2


def test_faulty_file_is_refused_before_anything_waits_in_a_queue(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write(tmp_path, VALID.replace("lr: 1e-4", "lr: -1"))
    assert submit(str(config)) == ExitCode.USAGE
    assert "phases[1].optimizer.lr is -1" in capsys.readouterr().err


def test_member_of_an_array_is_validated_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    members = "cluster.array=[session.seed=1, session.sead=2]"
    assert submit(str(write(tmp_path)), "-o", members, "--dry-run") == ExitCode.USAGE
    assert "session.sead is no known key" in capsys.readouterr().err


def test_session_in_use_is_refused_with_its_owner(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    session = tmp_path / "s"
    session.mkdir()
    lease = Lease.acquire(SessionLayout(session))
    try:
        assert submit(str(write(tmp_path)), "--session", str(session)) == ExitCode.USAGE
    finally:
        lease.release()
    assert "is in use by process" in capsys.readouterr().err


def test_machine_without_slurm_is_named_as_such(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert submit(str(write(tmp_path)), "--session", str(tmp_path / "s")) == ExitCode.FAILED
    assert "sbatch cannot be run on this machine" in capsys.readouterr().err
