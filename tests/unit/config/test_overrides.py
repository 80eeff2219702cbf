from __future__ import annotations

from pathlib import Path

import pytest

from phaseline.errors import ConfigurationError
from unit.config.session_text import load


def test_overrides_set_phase_when_addressed_by_index_or_name(tmp_path: Path) -> None:
    config = load(tmp_path, "phases[first].optimizer.lr=1", "phases[-1].optimizer.lr=2")
    assert [phase.optimizer.lr for phase in config.phases] == [1.0, 2.0]


def test_overrides_set_every_phase_when_addressed_by_star(tmp_path: Path) -> None:
    config = load(tmp_path, "phases[*].duration=7 steps")
    assert [phase.duration.value for phase in config.phases] == [7, 7]


def test_overrides_create_sections_when_file_has_none(tmp_path: Path) -> None:
    config = load(tmp_path, "tracking.wandb.mode=disabled", "session.notes='a: b=c'")
    assert config.tracking.wandb.mode == "disabled"
    assert config.session.notes == "a: b=c"


def test_overrides_win_in_order_when_repeated(tmp_path: Path) -> None:
    config = load(tmp_path, "session.seed=1", "session.seed=2")
    assert config.session.seed == 2


def test_overrides_reach_all_phases_when_set_on_defaults(tmp_path: Path) -> None:
    config = load(tmp_path, "defaults.optimizer.weight_decay=0")
    assert [phase.optimizer.weight_decay for phase in config.phases] == [0.0, 0.0]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("session.seed", r"has no `=` \(-o session\.seed\)\. Write it as"),
        ("=3", r"names no setting \(-o =3\)"),
        ("a..b=3", r"holds '', which is no key"),
        ("phases[9].name=x", r"phases has no member \[9\] .*It has 2: the first is \[0\]"),
        ("phases[secnd].name=x", r"no member named 'secnd' .*Did you mean \[second\]\?"),
        ("phases[zzz].name=x", r"no member named 'zzz' .*Its names are first, second\."),
        ("session.name.first=x", r"session\.name is 'test' \(.*:2\), which has no key `first`"),
        ("tracking[0]=x", r"tracking is not in the file, so it has no member \[0\]"),
        ("session.seed=[1", r"session\.seed is no YAML: .*\(-o session\.seed=\[1\)"),
        (
            "session.seed=x",
            r"session\.seed is 'x' \(-o session\.seed=x\); it must be a whole number",
        ),
        ("session.sead=3", r"session\.sead is no known key \(-o .*Did you mean `seed`\?"),
        (
            "session.seed=",
            r"session\.seed is null \(-o session\.seed=\); it must be a whole number",
        ),
        ("optimizer.lr=3", r"optimizer is no known key .*Did you mean `defaults\.optimizer`\?"),
    ],
)
def test_overrides_name_their_text_when_they_are_wrong(
    tmp_path: Path, override: str, message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message) as raised:
        load(tmp_path, override)
    assert [fault.location for fault in raised.value.faults] == [f"-o {override}"]


def test_overrides_report_all_faults_when_several_are_wrong(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"^3 faults") as raised:
        load(tmp_path, "a", "phases[x].name=1", "session.seed=-1")
    assert len(raised.value.faults) == 3


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("a." * 60 + "b=1", r"is nested deeper than 50 levels \(-o a\.a"),
        ("a." * 5000 + "b=1", r"has a path of 10,001 characters \(-o (a\.)+\.\.\.\)"),
        ("session.seed=" + "[" * 100, r"is nested deeper than 50 levels \(-o session\.seed"),
        (
            "session.seed=" + "1" * 10_000,
            r"a number of 10,000 characters \(-o session\.seed=1+\.{3}\)",
        ),
        ("phases[" + "9" * 500 + "].name=x", r"has no member named '9{49}\.\.\."),
        (
            "ses\nsion.seed=1",
            r"ses\\nsion\.seed holds 'ses\\nsion', which is no key \(-o ses\\nsion",
        ),
    ],
)
def test_overrides_are_shown_in_one_line_when_they_are_endless(
    tmp_path: Path, override: str, message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message) as raised:
        load(tmp_path, override)
    [fault] = raised.value.faults
    assert fault.location.startswith("-o ")
    assert len(str(fault)) < 2500
    assert len(str(fault).splitlines()) == 1
