from __future__ import annotations

import io
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from phaseline.cli import main
from phaseline.errors import ExitCode, UsageError
from phaseline.training.pipeline.talking import Talk
from phaseline.training.pipeline.trained_phase import TrainedPhase
from unit.training.pipeline.adapter_session import Place

TEMPLATE = (
    "{% for m in messages %}{{ m.role[0] }}:{{ m.content }}<eos>{% endfor %}"
    "{% if add_generation_prompt %}a:{% endif %}"
)


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One phase of the session of adapters."""
    place = Place.make(tmp_path_factory.mktemp("sampled"))
    text = (place.folder / "session.yaml").read_text()
    head, _, rest = text.partition("  - {name: lora")
    tail = rest[rest.index("tracking:") : rest.index("export:")]
    (place.folder / "chat.jinja").write_text(TEMPLATE)
    template = f"tokenizer: {{chat_template: {place.folder / 'chat.jinja'}}}\n"
    (place.folder / "session.yaml").write_text(head + tail + template)
    with pytest.MonkeyPatch.context() as monkeypatch:
        place.enter(monkeypatch)
        assert place.run("whole").code is ExitCode.FINISHED
        yield place.layout().root


def sample(session: Path, *words: str) -> int:
    with pytest.raises(SystemExit) as end:
        main(["sample", str(session), "--max-new-tokens", "6", *words])
    return int(end.value.code or 0)


def test_sample_continues_a_prompt_and_the_same_seed_writes_the_same(
    session: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn = ("--prompt", "word", "--temperature", "1.0")
    texts = []
    for seed in ("1", "1", "2"):
        assert sample(session, *drawn, "--seed", seed) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1]
    assert texts[0] != texts[2]


def test_sample_asks_for_a_prompt_where_nobody_could_type_one(
    session: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("word\n"))
    assert sample(session) == ExitCode.USAGE
    assert "give --prompt TEXT, or start it on a terminal" in capsys.readouterr().err


def test_sample_says_that_it_writes_less_when_the_model_has_fewer_positions(
    session: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sample(session, "--prompt", "word", "--max-new-tokens", "64") == 0
    assert capsys.readouterr().err == (
        "At most 63 tokens are written, not 64: the model has 64 positions, and the text that is "
        "continued takes one at least.\n"
    )
    assert sample(session, "--prompt", "word", "--max-new-tokens", "63") == 0
    assert not capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("--max-new-tokens", "2147483648"),
            "'--max-new-tokens': Input should be less than or equal to 1000000",
        ),
        (
            ("--max-new-tokens", "0"),
            "'--max-new-tokens': Input should be greater than or equal to 1",
        ),
        (("--temperature", "1e-320"), "--temperature is 1e-320; other than 0 it must be at least"),
        (("--temperature", "1e300"), "'--temperature': Input should be less than or equal to 1000"),
        (("--temperature", "nan"), "'--temperature': Input should be less than or equal to 1000"),
        (("--seed", str(2**64)), "'--seed': Input should be less than or equal to 922337203"),
    ],
)
def test_sample_refuses_numbers_beyond_all_bounds(
    session: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], message: str
) -> None:
    assert sample(session, "--prompt", "word", *words) == ExitCode.USAGE
    assert message in " ".join(capsys.readouterr().err.split())


def test_sample_answers_on_a_terminal_until_an_empty_line(
    session: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = io.StringIO("word\nword\n\nnever read\n")
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdin", terminal)
    assert sample(session, "--temperature", "1.0") == 0
    captured = capsys.readouterr()
    assert "full at step 3 continues what you write. An empty line ends it." in captured.err
    first, second = captured.out.split("> ")[1:3]
    assert first != second  # each answer is drawn from its own number
    assert terminal.read() == "never read\n"


def test_dialogue_outlives_bytes_that_are_no_text(
    session: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = io.TextIOWrapper(io.BytesIO(b"caf\xe9\nword\n\n"), "utf-8", "surrogateescape")
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdin", terminal)
    assert sample(session) == 0
    captured = capsys.readouterr()
    assert captured.err.count("That is no text in UTF-8. Write it again.") == 1
    assert captured.out.count("> ") == 3


def test_dialogue_goes_through_the_chat_template_and_is_remembered(
    session: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[int]] = []
    trained = TrainedPhase.find(session, None)
    talk = Talk(trained, max_new_tokens=2, temperature=0.0, seed=0, is_chat=True)
    module: Any = talk._module
    generate = module.generate

    def watched(inputs: Any, **arguments: Any) -> Any:
        seen.append(inputs[0].tolist())
        return generate(inputs, **arguments)

    monkeypatch.setattr(module, "generate", watched)
    answer = talk.answer("hi")
    talk.answer("ho")
    eos = talk._trained.tokenizer.eos_id
    encode = talk._trained.tokenizer.encode
    first = [*encode("u:hi"), eos, *encode("a:")]
    assert talk.title == "full at step 3 answers"
    assert seen == [first, [*first, *encode(answer), eos, *encode("u:ho"), eos, *encode("a:")]]


def test_dialogue_that_the_chat_template_refuses_is_told_in_a_sentence(session: Path) -> None:
    trained = TrainedPhase.find(session, None)
    talk = Talk(trained, max_new_tokens=2, temperature=0.0, seed=0, is_chat=True)
    chat: Any = talk._chat
    for template in ("{{ raise_exception('only questions') }}", "{{ messages[0].content / 0 }}"):
        chat.chat_template = template
        with pytest.raises(UsageError, match=r"cannot write this dialogue: .*Give --no-chat"):
            talk.answer("hi")


def test_phase_speaks_in_turns_once_it_has_learnt_chats(
    session: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    copy = Path(shutil.copytree(session, tmp_path / "copy"))
    assert not TrainedPhase.find(copy, None).has_learnt_chats()
    [events] = copy.glob("attempts/*/events.jsonl")
    lines = [json.loads(line) for line in events.read_text().splitlines()]
    [prepared] = [line for line in lines if line["event"] == "data_prepared"]
    assert [source["shape"] for source in prepared["sources"]] == ["text"]
    for source in prepared["sources"]:
        source["shape"] = "chats"
    events.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert TrainedPhase.find(copy, None).has_learnt_chats()
    for words, how in (([], "answers"), (["--no-chat"], "continues what you write")):
        monkeypatch.setattr(sys, "stdin", io.StringIO())
        monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
        assert sample(copy, *words) == 0
        assert capsys.readouterr().err == f"full at step 3 {how}. An empty line ends it.\n"
