from __future__ import annotations

from phaseline.session.layout import SessionLayout


def test_layout_names_every_place_as_documented(layout: SessionLayout) -> None:
    attempt = layout.attempt(7)
    phase = layout.phase("pretrain")
    paths = [
        layout.session_file,
        layout.config_file,
        layout.report_file,
        layout.exports_dir,
        attempt.outcome_file,
        attempt.error_file,
        attempt.adopted_file,
        attempt.environment_file,
        attempt.metrics_file,
        attempt.events_file,
        attempt.rank_log(3),
        phase.checkpoints_dir,
        phase.samples_dir,
        phase.final_dir,
    ]
    assert [str(path.relative_to(layout.root)) for path in paths] == [
        "session.json",
        "config.yaml",
        "report.html",
        "exports",
        "attempts/0007/outcome.json",
        "attempts/0007/error.json",
        "attempts/0007/adopted.json",
        "attempts/0007/environment.json",
        "attempts/0007/metrics.jsonl",
        "attempts/0007/events.jsonl",
        "attempts/0007/rank-00003.log",
        "phases/pretrain/run-1/checkpoints",
        "phases/pretrain/run-1/samples",
        "phases/pretrain/run-1/final",
    ]


def test_attempt_numbers_are_empty_when_nothing_was_started(layout: SessionLayout) -> None:
    assert layout.attempt_numbers() == []


def test_attempt_numbers_ascend_by_value_when_digits_outgrow_the_name(
    layout: SessionLayout,
) -> None:
    for name in ("0002", "10000", "0001", "9999", ".DS_Store", "notes"):
        (layout.attempts_dir / name).mkdir(parents=True)
    assert layout.attempt_numbers() == [1, 2, 9999, 10000]
    assert layout.attempt(10000).dir.is_dir()


def test_attempt_number_in_other_digits_is_none(layout: SessionLayout) -> None:
    for name in ("0001", "00001", "00007"):
        (layout.attempts_dir / name).mkdir(parents=True)
    assert layout.attempt_numbers() == [1]
