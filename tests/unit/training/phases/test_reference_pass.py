from __future__ import annotations

from pathlib import Path

import pytest

from phaseline.training.phases import reference_pass
from phaseline.training.phases.reference_pass import ReferencePass
from unit.training.phases.phase_runtimes import RuntimeMaker, preferences, seen


@pytest.mark.parametrize(("every_s", "is_said"), [(0.0, True), (60.0, False)])
def test_pass_says_how_far_it_is_once_in_a_while(
    maker: RuntimeMaker,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    every_s: float,
    is_said: bool,
) -> None:
    monkeypatch.setattr(reference_pass, "_SAY_EVERY_S", every_s)
    runtime = maker.make(**preferences(tmp_path))
    assert ReferencePass(runtime).run() is not None
    notes = seen(runtime).notes
    for pairs in ("training pairs", "held-out pairs"):
        said = f"only: the reference is measured on 0% of the {pairs}"
        assert (said in notes) is is_said
    assert bool(notes) is is_said
