from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from phaseline.config.sections import Config
from phaseline.data.preview import Run, preview

MakeConfig = Callable[..., Config]

_MODULE = """
from phaseline.data.sources import Chat, Preference


class Chats:
    shape = "chats"

    def fingerprint(self):
        return "chats"

    def samples(self):
        yield Chat("c", [{"role": "user", "content": "é<eos>"}, {"role": "assistant", "content": "数"}])


class Preferences:
    shape = "preferences"

    def fingerprint(self):
        return "preferences"

    def samples(self):
        yield Preference("p", "ask", "good", "bad")
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "previewed.py").write_text(_MODULE, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    return "previewed"


def test_preview_shows_what_is_read_and_what_is_learnt(
    module: str, make_config: MakeConfig
) -> None:
    config = make_config({"source": f"{module}:Chats"}, objective="sft")
    (chat,) = preview(config, config.phases[0], 3, pytest.fail)
    assert chat.runs == (
        Run("<|im_start|>user\né<eos><eos>\n<|im_start|>assistant\n", is_learnt=False),
        Run("数<eos>", is_learnt=True),
        Run("\n", is_learnt=False),
    )
    assert (chat.sample_id, chat.name, chat.num_learnt) == ("c", "", 4)


def test_preview_shows_both_answers_of_a_preference(module: str, make_config: MakeConfig) -> None:
    config = make_config({"source": f"{module}:Preferences"}, objective="dpo:Objective")
    both = list(preview(config, config.phases[0], 3, pytest.fail))
    assert [(one.name, one.runs[-1].text) for one in both] == [
        ("chosen", "good<eos>"),
        ("rejected", "bad<eos>"),
    ]
