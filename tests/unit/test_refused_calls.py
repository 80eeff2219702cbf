"""A call to the file system that is refused for a while: code 1, and exact after the next start."""

from __future__ import annotations

import errno
import random
import shutil
from collections.abc import Sequence

import pytest
import torch

from phaseline.errors import ExitCode, PhaselineError
from unit.refusing_files import ERRORS, Refusing
from unit.session_place import SessionPlace
from unit.test_training_pipeline import place

__all__ = ["place"]

Refusal = tuple[str, int, int]


def _refusals(place: SessionPlace) -> list[Refusal]:
    """The first and the last call of each place in the code, with each error."""
    counting = Refusing(place.folder / "counted")
    with counting.at_work():
        assert place.run("counted").code is ExitCode.FINISHED
    shutil.rmtree(place.folder / "counted")
    return [
        (name, number, code)
        for name, count in sorted(counting.seen.items())
        for number in sorted({1, count})
        for code in ERRORS
    ]


def _problems(place: SessionPlace, refusals: Sequence[Refusal]) -> list[str]:
    assert place.run("whole").code is ExitCode.FINISHED
    metrics, weights = place.metrics("whole"), place.weights("whole")
    found = []
    for refusal in refusals:
        name, number, code = refusal
        where = f"{errno.errorcode[code]} at call {number} of {name}"
        refusing = Refusing(place.folder / "refused", refusal)
        try:
            with refusing.at_work():
                place.run("refused")
        except PhaselineError as error:
            if error.exit_code is not ExitCode.FAILED:
                found.append(f"{where}: ends with {error.exit_code!r}: {error}")
        except OSError as error:
            if error.errno != code:
                found.append(f"{where}: {error!r}")
        except Exception as error:  # noqa: BLE001 - whatever it is, it is looked at
            found.append(f"{where}: {type(error).__name__}: {error}")
        try:
            assert place.run("refused").code is ExitCode.FINISHED
            again = place.weights("refused")
            if any(not torch.equal(again[key], tensor) for key, tensor in weights.items()):
                found.append(f"{where}: other weights")
            if place.metrics("refused") != metrics:
                found.append(f"{where}: other metrics")
        except Exception as error:  # noqa: BLE001 - the start after it must always work
            found.append(f"{where}: the next start: {type(error).__name__}: {error}")
        shutil.rmtree(place.folder / "refused")
    return found


@pytest.mark.extended("a session of two phases runs twice for each kind of error")
def test_refused_call_ends_with_code_1_and_the_next_start_is_exact(place: SessionPlace) -> None:
    every = _refusals(place)
    chosen = random.Random(5)
    of_each = [chosen.choice([one for one in every if one[2] == code]) for code in ERRORS]
    assert _problems(place, of_each) == []


@pytest.mark.nightly
def test_every_refused_call_ends_with_code_1_and_the_next_start_is_exact(
    place: SessionPlace,
) -> None:
    assert _problems(place, _refusals(place)) == []
