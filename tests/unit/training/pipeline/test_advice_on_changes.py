"""What a refused change advises is done, and seen to be accepted."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from phaseline.errors import ConfigurationError, ExitCode, SessionChangedError, SessionError
from phaseline.session.metrics_view import read_metrics
from unit.session_place import SessionPlace

pytestmark = pytest.mark.extended("a session for each piece of advice, which is followed")

_FIRST = "  - {name: first, objective: causal_lm, duration: 2 steps}\n"
_SECOND = (
    "  - {name: second, objective: causal_lm, duration: 4 steps, trainable: {freeze: [embed]},\n"
    '     callbacks: ["advice_callback:StopAt"]}\n'
)
_HEAD = """\
session: {name: advised, seed: 3}
model:
  config: {model_type: llama, hidden_size: 16, intermediate_size: 32, num_hidden_layers: 1,
           num_attention_heads: 2, num_key_value_heads: 2, max_position_embeddings: 64}
defaults:
  data: {source: text_files, arguments: {paths: ["corpus/*.txt"]}, held_out_frac: 0.2,
         sequence_length: 16}
  batch: {global_size: 4, micro_size: 2}
  engine: {kind: plain}
  optimizer: {lr: 1e-2}
tracking: {console: "off", wandb: {mode: disabled}}
phases:
"""
_CALLBACK = """
from phaseline.training.phases.callbacks import Callback

stops = {}


class StopAt(Callback):
    def step_ended(self, runtime):
        step = runtime.position.global_step
        if step in stops:
            stops.pop(step).set()


class Silent(Callback):
    pass
"""
_OTHER = '{source: text_files, arguments: {paths: ["other/*.txt"]}}'
_THIRD = "  - {name: third, objective: causal_lm, duration: 2 steps"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A session that was stopped in its second phase, and one of the first phase alone, done."""
    folder = tmp_path_factory.mktemp("advised")
    for name in ("corpus", "other"):
        (folder / name).mkdir()
        for idx in range(30):
            words = " ".join(f"{name}{idx * word % 13}" for word in range(20 + idx))
            (folder / name / f"{idx:02}.txt").write_text(words, encoding="utf-8")
    with pytest.MonkeyPatch.context() as monkeypatch:
        place = enter(folder, monkeypatch, _HEAD + _FIRST + _SECOND)
        assert place.run_until("under way", 4).code is ExitCode.STOPPED
        write(place, _HEAD + _FIRST)
        assert place.run("done").code is ExitCode.FINISHED
    return folder


def enter(folder: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> SessionPlace:
    place = SessionPlace.make(
        folder, monkeypatch, module="advice_callback", code=_CALLBACK, last="second"
    )
    write(place, text)
    return place


def write(place: SessionPlace, text: str) -> None:
    (place.folder / "session.yaml").write_text(text, encoding="utf-8")


@pytest.fixture
def place(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SessionPlace:
    shutil.copytree(made, tmp_path / "copy")
    for path in (tmp_path / "copy").glob("*/session.json"):
        # As if it had been made here: a copy would be refused.
        path.write_text(path.read_text().replace(str(made), str(tmp_path / "copy")))
    place = enter(tmp_path / "copy", monkeypatch, _HEAD + _FIRST + _SECOND)
    monkeypatch.setenv("PHASELINE_CACHE", str(made / "cache"))
    return place


def refusal(place: SessionPlace, session: str, text: str) -> str:
    write(place, text)
    with pytest.raises(SessionChangedError, match="was started with other settings") as refused:
        place.run(session)
    return str(refused.value)


def steps_of(place: SessionPlace, session: str, phase: str) -> int:
    records = read_metrics(place.layout(session))
    steps = [r["phase_step"] for r in records if r["phase"] == phase and r["kind"] == "train"]
    return max(steps, default=0)


@pytest.mark.parametrize(
    ("changed", "advice", "advised"),
    [
        pytest.param(
            _FIRST + _SECOND.replace("duration", f"data: {_OTHER}, duration"),
            "Train on other data in a phase behind it",
            _FIRST + _SECOND + f"{_THIRD}, data: {_OTHER}}}\n",
            id="other data",
        ),
        pytest.param(
            _FIRST + _SECOND.replace("duration", "optimizer: {name: sgd}, duration"),
            "Use it in a phase behind it",
            _FIRST + _SECOND + f"{_THIRD}, optimizer: {{name: sgd}}}}\n",
            id="another optimizer",
        ),
        pytest.param(
            _FIRST + _SECOND.replace("{freeze: [embed]}", "{lora: {rank: 2}}"),
            "Use it in a phase behind it",
            _FIRST + _SECOND + f"{_THIRD}, trainable: {{lora: {{rank: 2}}}}}}\n",
            id="adapters",
        ),
        pytest.param(
            _FIRST + _SECOND.replace("{freeze: [embed]}", "{freeze: []}"),
            "Train it in a phase behind this one",
            f"{_FIRST}{_SECOND}{_THIRD}}}\n",
            id="thawed",
        ),
        pytest.param(
            _FIRST.replace("2 steps", "5 steps") + _SECOND,
            "add a phase behind second with `inherit: {weights: phase:first}`",
            _FIRST + _SECOND + f'{_THIRD}, inherit: {{weights: "phase:first"}}}}\n',
            id="a longer phase that another stands on",
        ),
        pytest.param(
            _FIRST.replace("2 steps", "2 steps, optimizer: {lr: 1}") + _SECOND,
            "Set it in a phase behind it",
            _FIRST + _SECOND + f"{_THIRD}, optimizer: {{lr: 1}}}}\n",
            id="a setting of a finished phase",
        ),
        pytest.param(
            f"{_FIRST}{_THIRD}}}\n{_SECOND}",
            "keep their places; add others behind them",
            f"{_FIRST}{_SECOND}{_THIRD}}}\n",
            id="a phase between",
        ),
    ],
)
def test_advice_is_accepted_when_it_is_taken(
    place: SessionPlace, changed: str, advice: str, advised: str
) -> None:
    assert advice in refusal(place, "under way", _HEAD + changed)
    write(place, _HEAD + advised)
    assert place.run("under way").code is ExitCode.FINISHED
    assert steps_of(place, "under way", "second") == 4
    assert steps_of(place, "under way", "third") == 2


def test_finished_session_trains_longer_as_it_is_advised(place: SessionPlace) -> None:
    longer = _FIRST.replace("2 steps", "5 steps")
    told = refusal(place, "done", _HEAD + longer)
    assert "written as it is, with `inherit: {optimizer: keep}`" in told
    more = _FIRST.replace("first", "more").replace("2 steps", "3 steps, inherit: {optimizer: keep}")
    write(place, _HEAD + _FIRST + more)
    assert place.run("done").code is ExitCode.FINISHED
    assert steps_of(place, "done", "more") == 3


def test_state_that_is_gone_is_begun_anew_as_it_is_advised(place: SessionPlace) -> None:
    inherit = 'inherit: {weights: "phase:first", optimizer: keep}'
    write(place, _HEAD + _FIRST + _SECOND + f"{_THIRD}, {inherit}}}\n")
    with pytest.raises(ConfigurationError, match=r"Set inherit\.optimizer to reset"):
        place.run("under way")
    write(place, (place.folder / "session.yaml").read_text().replace("keep}", "reset}"))
    assert place.run("under way").code is ExitCode.FINISHED


def test_checkpoint_whose_records_are_gone_is_trained_on_as_it_is_advised(
    place: SessionPlace,
) -> None:
    shutil.rmtree(place.layout("under way").attempt(1).dir)
    where = r"begin another session \(--session DIR\) with inherit\.weights: (.*)\.$"
    with pytest.raises(SessionError, match=r"is missing, and .* was written by that") as refused:
        place.run("under way")
    advised = re.search(where, str(refused.value))
    assert advised is not None
    outcome = place.run("another", f"phases[0].inherit.weights={advised[1]}")
    assert outcome.code is ExitCode.FINISHED


def test_setting_of_a_finished_phase_is_taken_in_one_still_to_come(place: SessionPlace) -> None:
    rate = "2 steps, optimizer: {lr: 1}"
    told = refusal(place, "done", _HEAD + _FIRST.replace("2 steps", rate) + _SECOND)
    assert "Set it in the phases still to come" in told
    write(place, _HEAD + _FIRST + _SECOND.replace("4 steps", rate))
    assert place.run("done").code is ExitCode.FINISHED


def test_changed_configuration_is_trained_in_a_session_of_its_own(place: SessionPlace) -> None:
    told = refusal(place, "done", _HEAD + _FIRST.replace("2 steps", "1 steps"))
    assert "train the changed configuration in a session of its own (--session DIR)" in told
    assert place.run("of its own").code is ExitCode.FINISHED


@pytest.mark.parametrize(
    "overrides",
    [
        (
            *("duration=6 steps", "schedule.name=linear", "batch.global_size=8"),
            *("data.sequence_length=8", "engine.precision=bf16", "trainable.freeze=[embed, norm]"),
        ),
        (
            *("duration=3 steps", "data.packing=false", "data.order=sequential"),
            *("optimizer.no_decay=[x]", "evaluate.sequence_length=32"),
            "callbacks=['advice_callback:StopAt', 'advice_callback:Silent']",
        ),
    ],
)
def test_words_that_accept_changes_are_enough(
    place: SessionPlace, overrides: tuple[str, ...]
) -> None:
    changes = [f"phases[1].{override}" for override in overrides]
    with pytest.raises(SessionChangedError, match="or accept them with") as refused:
        place.run("under way", *changes)
    words = re.findall(r"--accept-change '([^']+)'", str(refused.value))
    assert len(words) >= len(changes)
    assert place.run("under way", *changes, accept=words).code is ExitCode.FINISHED


def test_what_may_be_accepted_is_told_from_what_must_be_put_back(place: SessionPlace) -> None:
    changes = ("phases[1].optimizer.lr=1", "phases[1].data.held_out_frac=0.5")
    with pytest.raises(SessionChangedError, match="Put back what cannot be accepted") as refused:
        place.run("under way", *changes)
    words = re.findall(r"--accept-change '([^']+)'", str(refused.value))
    assert place.run("under way", changes[0], accept=words).code is ExitCode.FINISHED
