"""Whatever a session file or an override holds: it is valid, or refused in words at a line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from phaseline.cli import main
from unit.config.mutants import Mutant, Mutation

_ROOT = Path(__file__).parents[3]
_FILES = sorted((_ROOT / "configs").glob("*.yaml"))
_NUM_PER_NIGHT = 5000
_PLACE = re.compile(r" \((session\.yaml:\d+|-o .+?)( does not set it)?\)")
# Of the file as a whole.
_WHOLE = re.compile(r"configuration is empty \(session\.yaml\)")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a session file is tried, with the examples' modules at hand."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(_ROOT / "examples"))
    return tmp_path


@pytest.mark.parametrize("seed", range(10))
def test_validate_ends_in_words_when_a_file_or_an_override_is_a_mutant(
    folder: Path, seed: int, capsys: pytest.CaptureFixture[str]
) -> None:
    mutation = Mutation(_FILES, seed)
    for _ in range(50):
        _try(mutation.next(), folder, capsys)


@pytest.mark.nightly
@pytest.mark.timeout(3600)
def test_validate_ends_in_words_when_mutants_are_many(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mutation = Mutation(_FILES, seed=-1)
    for _ in range(_NUM_PER_NIGHT):
        _try(mutation.next(), folder, capsys)


def test_mutation_makes_the_same_when_its_seed_is_the_same() -> None:
    one, same, other = (Mutation(_FILES, seed) for seed in (1, 1, 2))
    mutants = [one.next() for _ in range(20)]
    assert mutants == [same.next() for _ in range(20)]
    assert mutants != [other.next() for _ in range(20)]
    assert len({mutant.content for mutant in mutants}) > 10


def _try(mutant: Mutant, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Validates a mutant as the command line does, in this process."""
    (folder / "session.yaml").write_bytes(mutant.content)
    words = ["validate", "session.yaml"]
    for override in mutant.overrides:
        words += ["-o", override]
    try:
        main(words)
        code: object = 0
    except SystemExit as ended:
        code = ended.code
    except Exception as error:  # its story is what finds it again
        raise AssertionError(f"{mutant.story}: {error!r}") from error
    out, err = capsys.readouterr()
    if code == 0:
        assert "is valid" in out, mutant.story
        assert not err, mutant.story
        return
    assert code == 2, f"{mutant.story}: {code}, {err}"
    head, *faults = err.splitlines()
    assert re.fullmatch(r"phaseline: \d+ faults? in the configuration:", head), mutant.story
    assert faults, mutant.story
    for fault in faults:
        assert _PLACE.search(fault) or _WHOLE.search(fault), f"{mutant.story}: {fault}"
