"""Every file of a session and of its cache, damaged in every way, then the same command.

It ends as the session that nobody touched, or says in a sentence what is wrong and what to do;
never with a traceback, never otherwise without a word, and nothing outside has changed.
"""

from __future__ import annotations

import hashlib
import random
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from phaseline.errors import ExitCode, PhaselineError
from unit.file_damage import DAMAGES, link_outside, wrong_fields
from unit.session_place import SessionPlace
from unit.test_training_pipeline import place

__all__ = ["place"]

_IN_CI = 12
_REMEDY = re.compile(
    # A sentence, or a part of one, that tells a person what to do; or what goes on by itself.
    r"(?:^|[.:;,] (?:or )?)(?:Restore|Remove|Use|Start|Run|Put|Wait|Give|Move|Make|Prepare|Name"
    r"|restore|remove|use|start|run|put|move)\b|next start|same command"
)
_WORDS_ON_LOSS = ("metrics.jsonl", "damaged-", "left out", "trained again")


@dataclass(frozen=True)
class Untouched:
    """A session that was stopped in its second phase, and how it ends if nobody touches it."""

    place: SessionPlace
    metrics: list[dict[str, Any]]
    weights: dict[str, torch.Tensor]

    def files(self) -> list[Path]:
        """Files of the stopped session and of the cache, relative to the folder."""
        folders = [self.place.folder / name for name in ("stopped", "cache")]
        found = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
        return sorted(path.relative_to(self.place.folder) for path in found)


@pytest.fixture
def untouched(place: SessionPlace) -> Untouched:
    assert place.run_until("stopped", 8).code is ExitCode.STOPPED
    shutil.copytree(place.folder / "stopped", place.folder / "whole")
    (place.folder / "stopped").rename(place.folder / "aside")
    (place.folder / "whole").rename(place.folder / "stopped")
    assert place.run("stopped").code is ExitCode.FINISHED
    whole = Untouched(place, place.metrics("stopped"), place.weights("stopped"))
    shutil.rmtree(place.folder / "stopped")
    (place.folder / "aside").rename(place.folder / "stopped")
    guarded = place.folder / "guarded"
    guarded.mkdir()
    (guarded / "precious.txt").write_text("mine")
    return whole


def cases(untouched: Untouched) -> Iterator[tuple[Path, str, bytes | None]]:
    """Every file with every damage; with the content that it then has where that is given."""
    for path in untouched.files():
        for name in [*DAMAGES, "outside"]:
            yield path, name, None
        if path.suffix in (".json", ".jsonl"):
            for field, content in wrong_fields(untouched.place.folder / path):
                yield path, f"field {field}", content


def try_case(
    untouched: Untouched,
    case: tuple[Path, str, bytes | None],
    capfd: pytest.CaptureFixture[str],
) -> str:
    """What is wrong with how the damaged session ends; empty: nothing."""
    path, damage, content = case
    folder = untouched.place.folder
    kept = folder / "kept"
    kept.mkdir()
    for name in ("stopped", "cache"):
        shutil.copytree(folder / name, kept / name, symlinks=True)
    before = _hash_of(folder / "guarded")
    try:
        if content is not None:
            (folder / path).write_bytes(content)
        elif damage == "outside":
            link_outside(folder / path, folder / "guarded")
            before = _hash_of(folder / "guarded")
        else:
            DAMAGES[damage](folder / path)
        capfd.readouterr()
        problem = _end(untouched, capfd)
        return problem or (
            "something outside has changed" if _hash_of(folder / "guarded") != before else ""
        )
    finally:
        for name in ("stopped", "cache"):
            shutil.rmtree(folder / name, ignore_errors=True)
            (kept / name).rename(folder / name)
        kept.rmdir()
        for extra in (folder / "guarded").glob("*"):
            if extra.name != "precious.txt":
                extra.unlink()


def _end(untouched: Untouched, capfd: pytest.CaptureFixture[str]) -> str:
    place = untouched.place
    try:
        for _ in range(2):
            # What is made anew is made at the next start.
            outcome = place.run("stopped")
            if outcome.code is ExitCode.FINISHED:
                break
    except PhaselineError as error:
        said = str(error)
        return "" if _REMEDY.search(said) else f"no remedy in: {said}"
    except Exception as error:  # noqa: BLE001 - a traceback, which is what is looked for
        return f"{type(error).__name__}: {error}"
    weights, said = place.weights("stopped"), capfd.readouterr().err
    if any(not torch.equal(weights[key], tensor) for key, tensor in untouched.weights.items()):
        return "other weights, exit 0"
    is_told = any(word in said for word in _WORDS_ON_LOSS)
    if place.metrics("stopped") != untouched.metrics and not is_told:
        return "other metrics, and not a word"
    return ""


def _hash_of(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def _problems(
    untouched: Untouched,
    chosen: Sequence[tuple[Path, str, bytes | None]],
    capfd: pytest.CaptureFixture[str],
) -> list[str]:
    found = []
    for case in chosen:
        problem = try_case(untouched, case, capfd)
        if problem:
            found.append(f"{case[0]} {case[1]}: {problem}")
    return found


@pytest.mark.extended("a session of two phases is finished again for each of a dozen damages")
def test_damaged_file_ends_in_the_same_bits_or_in_a_sentence(
    untouched: Untouched, capfd: pytest.CaptureFixture[str]
) -> None:
    every = list(cases(untouched))
    chosen = random.Random(17).sample(every, _IN_CI)
    assert _problems(untouched, chosen, capfd) == []


@pytest.mark.nightly
def test_every_damaged_file_ends_in_the_same_bits_or_in_a_sentence(
    untouched: Untouched, capfd: pytest.CaptureFixture[str]
) -> None:
    problems = _problems(untouched, list(cases(untouched)), capfd)
    assert problems == []
