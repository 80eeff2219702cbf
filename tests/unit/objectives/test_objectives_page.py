"""docs/objectives.md says what there is, and its example is a session."""

from __future__ import annotations

import re
from pathlib import Path

from phaseline.config.known_objectives import OBJECTIVES
from phaseline.config.loading import load_config

PAGE = (Path(__file__).parents[3] / "docs" / "objectives.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))


def test_page_names_every_argument_and_metric_of_the_objectives_that_it_has() -> None:
    assert {"dpo", "reward_model"} <= SECTIONS.keys() <= OBJECTIVES.keys()
    for name, text in SECTIONS.items():
        known = OBJECTIVES[name]
        named = set(re.findall(r"`(\w+)`", text))
        assert {*known.arguments, *known.metrics} <= named, name


def test_examples_of_the_page_are_a_session_together(tmp_path: Path) -> None:
    blocks = re.findall(r"^```yaml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    text = "session: {name: page}\nmodel: {config: {model_type: llama}}\n" + "".join(blocks)
    (tmp_path / "page.yaml").write_text(text, encoding="utf-8")
    config = load_config(tmp_path / "page.yaml").config
    assert [phase.objective for phase in config.phases] == ["sft", "dpo", "reward_model"]
