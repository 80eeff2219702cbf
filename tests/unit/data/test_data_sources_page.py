"""The examples of docs/data-sources.md are what a session file may hold."""

from __future__ import annotations

import re
from pathlib import Path
from textwrap import indent

import pytest

from phaseline.data.sources import Document
from phaseline.data.sources.filters import FilteredSource
from phaseline.data.sources.registry import build_source
from unit.config.session_text import VALID, load

_PAGE = (Path(__file__).parents[3] / "docs" / "data-sources.md").read_text(encoding="utf-8")
_YAML = re.findall(r"```yaml\n(.*?)```", _PAGE, re.DOTALL)
_PYTHON = re.findall(r"```python\n(.*?)```", _PAGE, re.DOTALL)


@pytest.mark.parametrize("example", _YAML)
def test_example_is_valid_when_it_stands_in_a_session(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, example: str
) -> None:
    # The plugins of the page, found but not imported; the objective is of a shape of its own.
    (tmp_path / "my_package.py").write_text("")
    monkeypatch.chdir(tmp_path)
    section = "  data:\n    source: python_stdlib\n    sequence_length: 64\n"
    assert section in VALID
    text = VALID.replace(section, indent(example, "  ")).replace("causal_lm", "my_package:mine")
    text = text.replace("max_position_embeddings: 64", "max_position_embeddings: 1024")
    assert load(tmp_path, text=text).phases[0].data.sources


def test_own_source_and_filter_work_when_written_as_the_page_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_english, stories = _PYTHON
    (tmp_path / "page_example.py").write_text(is_english + stories)
    (tmp_path / "stories.txt").write_text("in the woods\nim Wald\n")
    monkeypatch.syspath_prepend(tmp_path)
    source = build_source("page_example:Stories", {"path": str(tmp_path / "stories.txt")})
    assert source.fingerprint() == source.fingerprint()
    from phaseline.config.data_section import FiltersSection

    kept = FilteredSource(source, FiltersSection(keep_if="page_example:is_english"))
    assert list(kept.samples()) == [Document("story 0", "in the woods\n")]
