from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phaseline.config.loading import load_config
from phaseline.config.model_section import ModelSection
from phaseline.config.resolved import fingerprint, from_yaml, to_yaml
from phaseline.config.sections import Config
from phaseline.errors import SessionError
from unit.config.session_text import load

_CONFIGS = Path(__file__).parents[3] / "configs"
_TINY = load_config(_CONFIGS / "tiny.yaml").config
_TEXTS = st.text("ayno01eE.+-_~ :#'\"\\[]{}&*!|>%@`,?=<\n\té漢\U0001f600", max_size=8)
_SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from(["null", "no", "1e5", "0x1", "2026-01-31", "<<", "=", "---"]),
    _TEXTS,
)
_VALUES = st.one_of(
    _SCALARS,
    st.lists(_SCALARS, max_size=3),
    st.dictionaries(_TEXTS, _SCALARS, max_size=3),
)


@pytest.mark.parametrize("name", ["quickstart.yaml", "tiny.yaml"])
def test_from_yaml_reads_the_same_when_written_by_to_yaml(name: str) -> None:
    config = load_config(_CONFIGS / name).config
    assert from_yaml(to_yaml(config)) == config
    assert to_yaml(from_yaml(to_yaml(config))) == to_yaml(config)


@settings(max_examples=30, deadline=None)
@given(st.dictionaries(_TEXTS, _VALUES, max_size=3))
def test_from_yaml_reads_the_same_when_model_config_is_any(values: dict[str, object]) -> None:
    config = Config(**{**dict(_TINY), "model": ModelSection(config=values)})
    assert from_yaml(to_yaml(config)) == config


def test_from_yaml_says_so_when_text_is_no_configuration() -> None:
    with pytest.raises(SessionError, match=r"config\.yaml, which .* is no configuration"):
        from_yaml("format: 2\nsession: {}")


@pytest.mark.parametrize(
    "override",
    [
        "session.notes=hello",
        "session.root=/elsewhere",
        "session.name=other",
        "tracking.interval_steps=3",
        "resilience.max_skipped_steps=9",
        "cluster.processes_per_node=2",
        "export.phases=[first]",
        "phases[0].checkpoint.every=5 steps",
    ],
)
def test_fingerprint_stays_when_no_number_changes(tmp_path: Path, override: str) -> None:
    assert fingerprint(load(tmp_path, override)) == fingerprint(load(tmp_path))


@pytest.mark.parametrize(
    "override",
    [
        "session.seed=1",
        "model.config.hidden_size=64",
        "phases[1].optimizer.lr=1",
        "phases[0].evaluate.max_sequences=3",
        "tokenizer.train.source=python_stdlib",
    ],
)
def test_fingerprint_changes_when_a_number_does(tmp_path: Path, override: str) -> None:
    assert fingerprint(load(tmp_path, override)) != fingerprint(load(tmp_path))
