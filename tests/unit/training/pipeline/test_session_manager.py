from __future__ import annotations

import errno
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import xxhash

from phaseline.distributed.environment import RankEnvironment
from phaseline.errors import (
    CheckpointFormatError,
    ExitCode,
    PhaselineError,
    SessionBusyError,
    SessionChangedError,
    SessionError,
    UsageError,
)
from phaseline.session.attempts import read_adopted, read_outcome
from phaseline.session.identity import load_identity
from phaseline.session.layout import SessionLayout
from phaseline.session.records import read_records
from phaseline.training.pipeline.session_manager import SessionManager
from unit.checkpoint.made_checkpoints import make_checkpoint
from unit.covered_lines import covered_of
from unit.training.pipeline.sessions import TEXT, THIRD, configure, open_session, publish, run_once


@pytest.fixture
def layout(tmp_path: Path) -> SessionLayout:
    return SessionLayout(tmp_path / "session")


def test_new_session_has_an_identity_a_configuration_and_a_first_attempt(
    tmp_path: Path, layout: SessionLayout
) -> None:
    configuration = configure(tmp_path)
    session = open_session(configuration)
    assert session.attempt.number == 1
    assert (session.adopted.checkpoints, session.adopted.resumed_from) == ((), None)
    identity = load_identity(layout)
    assert identity == session.identity
    assert identity is not None
    assert (identity.name, identity.state) == ("test", "open")
    assert identity.config_fingerprint == configuration.fingerprint
    facts = json.loads(session.attempt.environment_file.read_text())
    assert facts["world_size"] == 1
    session.end(ExitCode.FINISHED, "a test")
    outcome = read_outcome(session.attempt)
    assert outcome is not None
    assert (outcome.code, outcome.reason) == (ExitCode.FINISHED, "a test")
    events = [record["event"] for record in read_records(session.attempt.events_file)]
    assert events == ["image_started", "attempt_ended"]


def test_resumed_session_keeps_its_identity_and_goes_on_from_what_got_furthest(
    tmp_path: Path, layout: SessionLayout
) -> None:
    run_once(tmp_path)
    before = load_identity(layout)
    paths = [
        publish(layout, "first", 5, 1),
        publish(layout, "first", 10, 1, final=True),
        publish(layout, "second", 3, 1),
    ]
    session = open_session(configure(tmp_path))
    assert load_identity(layout) == before
    assert session.attempt.number == 2
    assert session.trusted_checkpoints() == paths
    assert session.adopted.resumed_from == "phases/second/run-1/checkpoints/step-00000003.a0001"
    assert session.adopted.committed == covered_of(layout, (1, 3))
    assert read_adopted(session.attempt) == session.adopted
    session.abandon()
    session.close()


def test_resumed_session_passes_over_a_checkpoint_that_does_not_verify(
    tmp_path: Path, layout: SessionLayout
) -> None:
    run_once(tmp_path)
    publish(layout, "first", 5, 1)
    bad = publish(layout, "first", 8, 1)
    (bad / "a.bin").write_bytes(b"other byte")
    session = open_session(configure(tmp_path))
    assert session.adopted.resumed_from == "phases/first/run-1/checkpoints/step-00000005.a0001"
    session.end(ExitCode.STOPPED, "a test")


def test_what_is_left_out_when_a_session_resumes_is_not_adopted(
    tmp_path: Path, layout: SessionLayout
) -> None:
    run_once(tmp_path)
    ours = publish(layout, "first", 5, 1)
    folder = layout.phase("first").checkpoints_dir
    foreign = make_checkpoint(folder, 900, phase="first", session="another")
    (make_checkpoint(folder, 8, phase="first", session="s") / "manifest.json").write_text("{")
    session = open_session(configure(tmp_path))
    assert session.trusted_checkpoints() == [ours]
    assert foreign.is_dir()
    assert ["belongs to another session" in note for note in session.notes] == [False, True]
    session.end(ExitCode.STOPPED, "a test")


def test_checkpoint_that_lost_its_manifest_is_told_once_and_put_aside(
    tmp_path: Path, layout: SessionLayout
) -> None:
    run_once(tmp_path)
    paths = [publish(layout, "first", step, 1) for step in (5, 8)]
    run_once(tmp_path)  # adopts both
    (paths[1] / "manifest.json").unlink()
    session = open_session(configure(tmp_path))
    assert session.trusted_checkpoints() == paths[:1]
    [note] = session.notes
    assert "It is kept as damaged-step-00000008.a0001. 3 step(s) are trained" in note
    session.end(ExitCode.STOPPED, "a test")


def test_committed_metrics_that_are_gone_or_changed_are_told_at_the_start(
    tmp_path: Path, layout: SessionLayout
) -> None:
    run_once(tmp_path)
    publish(layout, "first", 5, 1)
    path = layout.attempt(1).metrics_file
    whole = path.read_text()
    for damaged, words in (
        (whole[:6], "attempts/0001/metrics.jsonl has lost 3 of the 5 line(s)"),
        (whole.replace("{}", "[]", 1), "was changed after it was written, within the 5 line(s)"),
        (None, "has lost 5 of the 5 line(s)"),
    ):
        path.unlink() if damaged is None else path.write_text(damaged)
        session = open_session(configure(tmp_path))
        [note] = session.notes
        assert words in note
        session.end(ExitCode.STOPPED, "a test")
        events = read_records(session.attempt.events_file)
        assert [one["problem"] for one in events if one["event"] == "metrics_damaged"] == [note]


def test_changed_versions_and_own_code_are_told_at_the_next_start(
    tmp_path: Path, layout: SessionLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    own = tmp_path / "own_objective.py"
    own.write_text("class Own: ...\n")
    text = TEXT.replace(
        "objective: causal_lm, duration", "objective: 'own_objective:Own', duration"
    )

    def notes() -> tuple[str, ...]:
        session = open_session(configure(tmp_path, text=text))
        session.end(ExitCode.STOPPED, "a test")
        return session.notes

    assert notes() == ()
    assert notes() == ()
    own.write_text("class Own: pass\n")
    [note] = notes()
    assert note.startswith("own code changed since the last start: own_objective.py; the session")
    assert notes() == ()
    path = layout.attempt(4).environment_file
    facts = json.loads(path.read_text())
    facts["versions"]["torch"] = "1.13"
    path.write_text(json.dumps(facts))
    [note] = notes()
    assert note.startswith("versions changed since the last start: torch 1.13 -> 2.")


def test_own_code_that_is_seen_from_another_folder_is_no_other_code(
    tmp_path: Path, layout: SessionLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "own_objective.py"
    own.write_text("class Own: ...\n")
    text = TEXT.replace(
        "objective: causal_lm, duration", "objective: 'own_objective:Own', duration"
    )
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "elsewhere").mkdir()

    def notes(folder: Path) -> tuple[str, ...]:
        monkeypatch.chdir(folder)
        session = open_session(configure(tmp_path, text=text))
        session.end(ExitCode.STOPPED, "a test")
        return session.notes

    assert notes(tmp_path) == ()
    assert notes(tmp_path / "elsewhere") == ()
    own.write_text("class Own: pass\n")
    [note] = notes(tmp_path)
    assert "own_objective.py" in note


def test_later_image_goes_on_with_its_attempt_and_what_that_adopted(
    tmp_path: Path, layout: SessionLayout
) -> None:
    run_once(tmp_path)
    publish(layout, "first", 5, 1)
    first = open_session(configure(tmp_path))
    first.close()
    publish(layout, "first", 7, 1)  # late, by a stale rank
    environment = replace(RankEnvironment.read({}), image=1, attempt=2)
    session = SessionManager(configure(tmp_path), environment, take_over=False).open()
    assert session.attempt.number == 2
    assert session.adopted == first.adopted
    assert layout.attempt_numbers() == [1, 2]
    session.end(ExitCode.STOPPED, "a test")


@pytest.mark.parametrize(
    ("override", "named"),
    [
        (
            "phases[0].optimizer.lr=0.02",
            r"phases\[0\]\.optimizer\.lr was 0\.01 and is now 0\.02 \(-o phases",
        ),
        (
            "session.seed=9",
            r"session\.seed was 0 and is now 9 \(-o session\.seed=9\); this cannot be",
        ),
        ("phases[0].evaluate.at_start=true", r"phases\[0\]\.evaluate\.at_start was false"),
    ],
)
def test_changed_session_is_refused_with_the_change_named(
    tmp_path: Path, layout: SessionLayout, override: str, named: str
) -> None:
    run_once(tmp_path)
    publish(layout, "first", 5, 1)
    stored = layout.config_file.read_text()
    with pytest.raises(SessionChangedError, match=f"started with other settings:\n  {named}"):
        open_session(configure(tmp_path, override))
    assert layout.config_file.read_text() == stored
    assert layout.attempt_numbers() == [1]
    assert run_once(tmp_path) == 2  # the refusal gave the lease back


@pytest.mark.parametrize(
    "override",
    [
        "session.notes=word",
        "tracking.interval_steps=3",
        "phases[0].checkpoint.every=2 steps",
        "resilience.max_skipped_steps=9",
        "phases[1].optimizer.lr=0.5",
        "phases[1].name=renamed",
    ],
)
def test_change_is_accepted_and_written_down_when_no_number_of_what_has_begun_depends_on_it(
    tmp_path: Path, layout: SessionLayout, override: str
) -> None:
    run_once(tmp_path)
    publish(layout, "first", 5, 1)
    stored = layout.config_file.read_text()
    assert run_once(tmp_path, override) == 2
    assert layout.config_file.read_text() != stored
    identity = load_identity(layout)
    assert identity is not None
    assert identity.config_fingerprint == configure(tmp_path, override).fingerprint


def test_any_change_is_accepted_when_nothing_has_begun(tmp_path: Path) -> None:
    run_once(tmp_path)
    assert run_once(tmp_path, "session.seed=9", "phases[0].optimizer.lr=0.5") == 2


def test_configuration_without_identity_is_written_anew(
    tmp_path: Path, layout: SessionLayout
) -> None:
    # What is left when the very first start dies between its two files.
    layout.root.mkdir()
    layout.config_file.write_text("session: {name: torn")
    assert run_once(tmp_path) == 1
    assert "torn" not in layout.config_file.read_text()


def test_finished_session_says_so_until_a_phase_is_appended(
    tmp_path: Path, layout: SessionLayout
) -> None:
    session = open_session(configure(tmp_path))
    assert session.identity is not None
    for phase in ("first", "second"):
        publish(layout, phase, 10, 1, final=True)
    session.save(replace(session.identity, state="finished"))
    session.end(ExitCode.FINISHED, "a test")

    run_once(tmp_path)
    again = load_identity(layout)
    assert again is not None
    assert again.state == "finished"

    run_once(tmp_path, text=TEXT.replace("tracking:", THIRD))
    grown = load_identity(layout)
    assert grown is not None
    assert grown.state == "open"


def test_session_that_lost_its_lease_writes_nothing_more(
    tmp_path: Path, layout: SessionLayout
) -> None:
    session = open_session(configure(tmp_path))
    assert session.lease is not None
    assert session.identity is not None
    session.require_lease()
    session.lease.lost.set()
    with pytest.raises(SessionBusyError, match="attempt 1 ends here and writes nothing more"):
        session.save(replace(session.identity, state="finished"))
    identity = load_identity(layout)
    assert identity is not None
    assert identity.state == "open"
    session.close()


def test_session_that_is_moved_while_it_runs_writes_nothing_more(
    tmp_path: Path, layout: SessionLayout
) -> None:
    session = open_session(configure(tmp_path))
    assert session.identity is not None
    layout.root.rename(tmp_path / "moved")
    with pytest.raises(
        SessionError, match=f"is not at {layout.root} any more: it was moved"
    ) as told:
        session.save(session.identity)
    assert told.value.exit_code is ExitCode.FAILED
    session.abandon()
    assert not layout.root.exists()


def test_session_directory_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "session").write_text("a file")
    with pytest.raises(UsageError, match=r"session cannot be written: File exists\. Make it"):
        open_session(configure(tmp_path))


def guarded(tmp_path: Path) -> Path:
    """A folder of somebody else's, beside the session."""
    folder = tmp_path / "guarded"
    folder.mkdir()
    (folder / "keys").write_text("the victim's")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize("name", ["../keys", "/etc/keys", "..", "a/b"])
def test_manifest_that_names_files_elsewhere_stops_the_start_and_nothing_is_touched(
    tmp_path: Path, layout: SessionLayout, name: str
) -> None:
    run_once(tmp_path)
    victim = guarded(tmp_path)
    folder = publish(layout, "first", 3, 1)
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["digest"]
    manifest["files"][name] = {"size": 0, "hash": ""}
    digest = xxhash.xxh3_128_hexdigest(
        json.dumps(manifest, sort_keys=True, separators=(",", ":")).encode()
    )
    (folder / "manifest.json").write_text(json.dumps({**manifest, "digest": digest}))
    before = contents(layout.phases_dir), contents(victim)
    with pytest.raises(CheckpointFormatError, match="must be the plain name of a file") as caught:
        run_once(tmp_path)
    assert caught.value.exit_code is ExitCode.USAGE
    assert (contents(layout.phases_dir), contents(victim)) == before


@pytest.mark.parametrize("name", ["../guarded", "/etc", "phases/../../guarded"])
def test_adopted_list_that_names_folders_elsewhere_stops_the_start(
    tmp_path: Path, layout: SessionLayout, name: str
) -> None:
    run_once(tmp_path)
    victim = guarded(tmp_path)
    path = layout.attempt(1).adopted_file
    path.write_text(json.dumps({"checkpoints": [name], "resumed_from": None, "committed": []}))
    before = contents(victim)
    with pytest.raises(SessionError, match=r"adopted\.json .*path of a checkpoint inside"):
        run_once(tmp_path)
    assert contents(victim) == before


def test_session_whose_folder_leads_out_is_refused_before_anything_is_written(
    tmp_path: Path, layout: SessionLayout
) -> None:
    run_once(tmp_path)
    victim = guarded(tmp_path)
    shutil.move(layout.lease_dir, tmp_path / "lease")
    layout.lease_dir.symlink_to(victim)
    before = contents(layout.root), contents(victim)
    with pytest.raises(SessionError, match=r"lease is a link that leads to .*guarded"):
        run_once(tmp_path)
    assert (contents(layout.root), contents(victim)) == before


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.ENOSPC, ExitCode.FAILED),
        (errno.EDQUOT, ExitCode.FAILED),
        (errno.EIO, ExitCode.FAILED),
        (errno.ESTALE, ExitCode.FAILED),
        (errno.EACCES, ExitCode.USAGE),
        (errno.EROFS, ExitCode.USAGE),
    ],
)
def test_only_what_no_other_try_mends_is_a_matter_of_usage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, code: ExitCode
) -> None:
    def refuse(*_arguments: object, **_more: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("phaseline.session.lease.write_json_once", refuse)
    with pytest.raises(PhaselineError, match=r"session cannot be written") as caught:
        run_once(tmp_path)
    assert caught.value.exit_code is code
