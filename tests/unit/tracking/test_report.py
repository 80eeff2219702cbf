from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from phaseline.cli import main
from phaseline.cli.report import report
from phaseline.config.known_objectives import loss_kind
from phaseline.errors import ExitCode, UsageError
from phaseline.session.attempts import ErrorRecord, take_attempt, write_error
from phaseline.session.lease import Lease
from phaseline.tracking.report import render_report, write_report
from phaseline.tracking.report_data import PhaseStory, gather_story
from phaseline.tracking.report_figures import NARROW, WIDE, draw_curves
from unit.tracking.session_builder import SessionBuilder


@pytest.fixture
def told(session: SessionBuilder) -> SessionBuilder:
    """Two phases over three attempts, the first of which failed."""
    first = session.attempt()
    session.train(first, range(1, 101))
    write_error(
        session.layout.attempt(first),
        ErrorRecord(1, "node-7", "pretrain", 100, "RuntimeError", "lost <it>", "", False, 1.76e9),
    )
    second = session.attempt((first, 80), resumed_from="phases/pretrain/run-1/checkpoints/step-80")
    session.train(second, range(81, 201))
    session.append(
        second,
        [
            _record("validation", "pretrain", 100, {"validation/loss": 3.0}),
            _record(
                "validation",
                "pretrain",
                200,
                {"validation/loss": 2.4, "validation/bits_per_byte": 1.2345},
            ),
            _record("samples", "pretrain", 200, {"samples/python_valid_frac": 0.75}),
        ],
    )
    session.end(second, ExitCode.STOPPED, "SIGTERM")
    third = session.attempt((first, 80), (second, 123))
    session.train(third, range(201, 301), phase_idx=1)
    return session


def _record(kind: str, phase: str, step: int, metrics: dict[str, float]) -> dict[str, Any]:
    record: dict[str, Any] = {
        "kind": kind,
        "phase": phase,
        "phase_step": step,
        "global_step": step,
        "tokens": step * 2048,
        "metrics": {f"{phase}/{name}": value for name, value in metrics.items()},
        "timing": {"time": 1.76e9, f"{phase}/{kind}/duration_s": 1.5},
    }
    if kind == "samples":
        prompts = ["def <script>f():", "def g():"]
        record["samples"] = [
            {"prompt": p, "completion": "x & y" + 90 * "\n", "valid": None} for p in prompts
        ]
    return record


def test_story_tells_what_the_view_holds_when_attempts_were_interrupted(
    told: SessionBuilder,
) -> None:
    story = gather_story(told.layout.root)
    pretrain, instruct = story.phases
    assert pretrain.steps == list(range(1, 201))
    assert (pretrain.num_steps, pretrain.num_tokens) == (200, 200 * 2048)
    assert (instruct.num_steps, instruct.num_tokens) == (300, 100 * 2048)
    assert pretrain.first_loss == pytest.approx(7.9008, abs=1e-4)
    # What displays end with, and beside it the mean over the last steps.
    assert pretrain.last_loss == pytest.approx(2.2140, abs=1e-4)
    assert pretrain.num_last_steps == 10
    assert pretrain.mean_last_loss == pytest.approx(2.23, abs=0.01)
    assert pretrain.validation_changes == [
        ("loss", 3.0, 2.4),
        ("bits_per_byte", None, 1.2345),
    ]
    assert pretrain.tokens_per_s == 12345
    assert [(a.result, a.first_step, a.last_step) for a in story.attempts] == [
        ("failed", 1, 100),
        ("stopped on request", 81, 200),
        ("killed", 201, 300),
    ]
    # An attempt that left no outcome ended, as far as is known, when it last recorded something.
    assert [attempt.ended for attempt in story.attempts] == [1.76e9, 1.76e9 + 5000, 1.76e9 + 300]
    assert story.attempts[0].reason == (
        "rank 1 on node-7, pretrain step 100: RuntimeError: lost <it>"
    )
    assert story.attempts[1].resumed_from == "pretrain/step-80"


def test_story_names_the_engine_when_it_is_not_the_usual_one(session: SessionBuilder) -> None:
    file = session.layout.config_file
    text = file.read_text(encoding="utf-8")
    assert text.count("precision: fp32") == 2
    file.write_text(text.replace("precision: fp32", "precision: bf16", 1), encoding="utf-8")
    first, second = gather_story(session.layout.root).phases
    assert first.setting == "8 x 256 tokens a step, adamw at 0.001, cosine, ZeRO-1 bf16"
    assert second.setting.endswith("cosine, ZeRO-1")


def test_story_calls_an_attempt_killed_when_a_later_one_exists(session: SessionBuilder) -> None:
    session.attempt()
    take_attempt(session.layout)
    session.mark("finished")
    story = gather_story(session.layout.root)
    assert [attempt.result for attempt in story.attempts] == ["killed", "finished"]


def test_report_is_one_valid_page_that_fetches_nothing_when_written(told: SessionBuilder) -> None:
    path = write_report(told.layout.root)
    assert path == told.layout.report_file
    page = path.read_text(encoding="utf-8")
    _require_balanced(page)
    assert not re.search(r"(src|href)=\"(?!#)", page)
    assert "url(http" not in page
    for text in (
        "pretrain",
        "instruct",
        "1.2345",
        "75%",
        "stopped on request",
        "A made-up session.",
    ):
        assert text in page
    assert page.count("<svg") == 2, "a wide and a narrow drawing"
    assert [page.count(f'class="{name}"') for name in ("wide", "narrow")] == [1, 1]
    ids = re.findall(r' id="([^"]+)"', page)
    defined = [name for name in ids if name.startswith("p") and len(name) == 11]
    assert len(set(defined)) == len(defined), "the drawings' clip paths are told apart"
    assert "def &lt;script&gt;f():" in page
    assert "<script" not in page
    assert "and 90 blank lines at the end" in page


def test_story_says_that_an_attempt_runs_while_its_lease_is_held(session: SessionBuilder) -> None:
    attempt = session.attempt()
    session.train(attempt, range(1, 4))
    lease = Lease.acquire(session.layout)
    try:
        [story] = gather_story(session.layout.root).attempts
        assert (story.result, story.ended) == ("running", None)
        assert ">runs<" in render_report(gather_story(session.layout.root))
    finally:
        lease.release()
    [story] = gather_story(session.layout.root).attempts
    assert (story.result, story.ended) == ("killed", 1.76e9 + 3)


def test_report_shows_old_and_new_value_of_a_changed_setting_and_the_step(
    told: SessionBuilder,
) -> None:
    rate = {"path": "phases[0].optimizer.lr", "old": 0.003, "new": 0.001, "effect": "numbers"}
    betas = {"path": "phases[1].optimizer.arguments.betas", "old": [0.9, 0.95], "new": [0.9, 0.99]}
    passed = {"path": "phases[1]", "old": "(absent)", "new": "instruct", "effect": "ahead"}
    told.event(2, "settings_accepted", changes=[rate])
    told.event(2, "settings_changed", changes=[passed])
    told.event(3, "settings_accepted", changes=[betas])
    story = gather_story(told.layout.root)
    assert [(c.attempt, c.first_step, c.old, c.new, c.is_accepted) for c in story.changes] == [
        (2, 81, "0.003", "0.001", True),
        (2, 81, "(absent)", "instruct", False),
        (3, 201, "[0.9, 0.95]", "[0.9, 0.99]", True),
    ]
    page = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", render_report(story)))
    first, rest = page.split("Changed settings")
    assert "from step 81 on: optimizer.lr 0.003 → 0.001" in first
    assert "from step 201 on: optimizer.arguments.betas [0.9, 0.95] → [0.9, 0.99]" in first
    assert "phases[0].optimizer.lr 2 81 0.003 0.001 accepted" in rest
    assert "phases[1] 2 81 (absent) instruct" in rest


def test_report_escapes_what_a_changed_setting_says(told: SessionBuilder) -> None:
    change = {"path": "phases[0].optimizer.lr", "old": "<i>", "new": {"<b>": 300 * "x"}}
    told.event(2, "settings_accepted", changes=[change])
    page = render_report(gather_story(told.layout.root))
    assert "<i>" not in page
    assert "&lt;b&gt;" in page
    assert 121 * "x" not in page


def test_report_draws_losses_of_different_kinds_on_axes_of_their_own() -> None:
    phases = [
        _phase("a", "causal_lm"),
        _phase("b", "sft"),
        _phase("c", "dpo"),
        _phase("d", "own:x"),
    ]
    for size in (WIDE, NARROW):
        drawn = draw_curves(phases, size)
        for text in (
            "loss</text>",
            "nats per token</text>",
            "dpo loss</text>",
            "nats per pair</text>",
            "own:x loss</text>",
        ):
            assert text in drawn
        assert drawn.count('id="axes_') == 4, "three kinds of loss, and the learning rate"
        assert draw_curves(phases[:2], size).count('id="axes_') == 2


def test_report_counts_samples_where_no_tokens_are(told: SessionBuilder) -> None:
    file = told.layout.config_file
    text = file.read_text(encoding="utf-8")
    head, _, tail = text.rpartition("sequence_length: 256")
    file.write_text(f"{head}sequence_length: null{tail}", encoding="utf-8")
    story = gather_story(told.layout.root)
    assert [phase.unit for phase in story.phases] == ["tokens", "samples"]
    assert story.consumed == {"tokens": 200 * 2048, "samples": 100 * 2048}
    page = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", render_report(story)))
    assert "410k tokens 12.3k tokens/s" in page
    assert "205k samples 12.3k samples/s" in page


def _phase(name: str, objective: str) -> PhaseStory:
    steps = list(range(1, 50))
    return PhaseStory(
        name=name,
        objective=objective,
        planned="",
        setting="",
        unit="tokens",
        loss_kind=loss_kind(objective),
        steps=steps,
        losses=[1 / step for step in steps],
        lrs=[1e-3 for _ in steps],
    )


def test_report_is_the_same_when_written_again(told: SessionBuilder) -> None:
    first = write_report(told.layout.root).read_bytes()
    assert write_report(told.layout.root).read_bytes() == first


def test_report_has_no_curves_when_nothing_was_trained(session: SessionBuilder) -> None:
    page = write_report(session.layout.root).read_text(encoding="utf-8")
    _require_balanced(page)
    assert "<svg" not in page


def test_report_survives_when_losses_are_not_finite(session: SessionBuilder) -> None:
    attempt = session.attempt()
    session.append(
        attempt,
        [
            _record("train", "pretrain", step, {"train/loss": loss, "train/lr": 1e-3})
            for step, loss in [(1, 4.0), (2, float("nan")), (3, float("inf"))]
        ],
    )
    page = write_report(session.layout.root).read_text(encoding="utf-8")
    assert "<svg" in page


def test_report_survives_a_record_whose_key_the_disk_changed(told: SessionBuilder) -> None:
    path = told.layout.attempt(3).metrics_file
    path.write_bytes(path.read_bytes().replace(b"instruct/train/loss", b"instruct/train/lost", 1))
    assert "<svg" in render_report(gather_story(told.layout.root))


def test_report_command_names_the_problem_when_the_folder_is_no_session(tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(report)
    with pytest.raises(UsageError, match=r"holds no session: session\.json"):
        CliRunner().invoke(app, [str(tmp_path)], catch_exceptions=False)


def test_report_command_prints_the_path_when_it_is_written(told: SessionBuilder) -> None:
    app = typer.Typer()
    app.command()(report)
    result = CliRunner().invoke(app, [str(told.layout.root)], catch_exceptions=False)
    assert result.stdout.strip() == str(told.layout.report_file)


class _Balance(HTMLParser):
    """Checks that every element is closed in its order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, _: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, _: list[tuple[str, str | None]]) -> None:
        """Closes itself."""

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> at {self.getpos()}"


def _require_balanced(page: str) -> None:
    parser = _Balance()
    parser.feed(page)
    assert parser.open == []


def test_record_that_lost_the_name_of_its_loss_is_left_out(session: SessionBuilder) -> None:
    session.train(session.attempt(), range(1, 11))
    path = session.layout.attempt(1).metrics_file
    lines = path.read_bytes().splitlines(keepends=True)
    lines[4] = lines[4].replace(b"train/loss", b"train/losq")
    path.write_bytes(b"".join(lines))
    story = gather_story(session.layout.root)
    assert len(story.phases[0].steps) == len(story.phases[0].losses) == 9
    assert "<svg" in render_report(story)


def test_report_in_whose_place_a_folder_lies_is_refused_in_a_sentence(
    session: SessionBuilder, capsys: pytest.CaptureFixture[str]
) -> None:
    session.layout.report_file.mkdir()
    with pytest.raises(SystemExit) as end:
        main(["report", str(session.layout.root)])
    assert end.value.code == ExitCode.USAGE
    assert capsys.readouterr().err.endswith(
        "Is a directory. Name one that can be read and written.\n"
    )


def test_report_counts_lines_that_hold_no_record(told: SessionBuilder) -> None:
    path = told.layout.attempt(3).metrics_file
    path.write_bytes(path.read_bytes().replace(b'"phase_step":205', b'"phase_stop":205'))
    page = render_report(gather_story(told.layout.root))
    assert "attempts/0003/metrics.jsonl: 1 line(s) hold no record and are passed over" in page
