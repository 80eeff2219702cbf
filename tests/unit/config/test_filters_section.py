from __future__ import annotations

from pathlib import Path

from phaseline.config.data_section import FiltersSection
from unit.config.session_text import VALID, load

_SOURCE = "    source: python_stdlib\n"
_FILTERED = VALID.replace(_SOURCE, f"{_SOURCE}    filters: {{min_chars: 9}}\n")


def test_filters_beside_a_single_source_are_those_of_its_entry(tmp_path: Path) -> None:
    for phase in load(tmp_path, text=_FILTERED).phases:
        [entry] = phase.data.sources
        assert entry.filters == FiltersSection(min_chars=9)
        assert entry.filters.is_given


def test_filters_of_a_default_are_dropped_when_a_phase_names_its_own_source(tmp_path: Path) -> None:
    override = "phases[1].data.source=torch_source"
    first, second = load(tmp_path, override, text=_FILTERED).phases
    assert first.data.sources[0].filters.is_given
    assert not second.data.sources[0].filters.is_given
