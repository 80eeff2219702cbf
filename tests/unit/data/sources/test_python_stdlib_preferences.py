from __future__ import annotations

import ast
import re
from collections import Counter

import pytest

from phaseline.config.known_sources import PreferenceKind
from phaseline.data.sources.protocol import Pair, Preference
from phaseline.data.sources.python_files import stdlib_files
from phaseline.data.sources.python_stdlib_functions import PythonStdlibFunctions, extract_pairs
from phaseline.data.sources.python_stdlib_preferences import PythonStdlibPreferences
from phaseline.errors import DataError

PACKAGES = ["json", "email", "asyncio"]
KINDS: tuple[PreferenceKind, ...] = ("other", "renamed", "truncated")


@pytest.fixture(scope="module")
def pairs() -> dict[str, Pair]:
    return {pair.id: pair for pair in PythonStdlibFunctions(PACKAGES).samples()}


@pytest.fixture(scope="module")
def by_kind() -> dict[str, list[Preference]]:
    samples = list(PythonStdlibPreferences(PACKAGES, KINDS).samples())
    assert len({sample.id for sample in samples}) == len(samples)
    return {kind: [one for one in samples if one.id.endswith(f":{kind}")] for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_chosen_answer_is_the_real_body_and_the_rejected_one_is_not(
    kind: str, by_kind: dict[str, list[Preference]], pairs: dict[str, Pair]
) -> None:
    assert len(by_kind[kind]) > len(pairs) / 2
    for sample in by_kind[kind]:
        pair = pairs[sample.id.removesuffix(f":{kind}")]
        assert (sample.prompt, sample.chosen) == (pair.prompt, pair.completion)
        assert sample.document == pair.document
        assert sample.rejected != sample.chosen


@pytest.mark.parametrize("kind", ["other", "renamed"])
def test_lengths_tell_nothing(kind: str, by_kind: dict[str, list[Preference]]) -> None:
    differences = [(len(one.rejected) - len(one.chosen)) / len(one.chosen) for one in by_kind[kind]]
    assert max(map(abs, differences)) <= 0.2
    assert abs(sum(differences) / len(differences)) < 0.03


def test_other_body_is_of_the_same_file_so_that_a_split_keeps_them_together(
    by_kind: dict[str, list[Preference]],
) -> None:
    bodies: dict[str | None, set[str]] = {
        path: {pair.completion for pair in extract_pairs(path, text)}
        for path, text in stdlib_files("these", PACKAGES).read()
    }
    for one in by_kind["other"]:
        assert one.rejected in bodies[one.document]


def test_renamed_body_has_one_name_that_the_function_does_not_know(
    by_kind: dict[str, list[Preference]],
) -> None:
    for one in by_kind["renamed"]:
        assert isinstance(one.prompt, str)
        assert isinstance(one.chosen, str)
        assert isinstance(one.rejected, str)
        known, strange = (_names(one.prompt + body) for body in (one.chosen, one.rejected))
        [new] = strange - known
        words = [re.findall(r"\w+|\W", body) for body in (one.chosen, one.rejected)]
        changed = Counter((was, now) for was, now in zip(*words, strict=True) if was != now)
        [(_, to)] = changed
        assert to == new


def test_truncated_body_ends_within_a_word(by_kind: dict[str, list[Preference]]) -> None:
    for one in by_kind["truncated"]:
        assert isinstance(one.chosen, str)
        assert isinstance(one.rejected, str)
        assert one.chosen.startswith(one.rejected)
        assert one.chosen[len(one.rejected) - 1 : len(one.rejected) + 1].isalnum()
        assert len(one.rejected) / len(one.chosen) + 1 / len(one.chosen) >= 0.4
        assert len(one.rejected) <= 0.8 * len(one.chosen)


def test_samples_are_the_same_each_time_and_the_fingerprint_knows_the_kinds() -> None:
    first, again = (PythonStdlibPreferences(["json"]) for _ in range(2))
    assert list(first.samples()) == list(again.samples())
    assert first.fingerprint() == again.fingerprint()
    assert first.fingerprint() != PythonStdlibPreferences(["json"], ["other"]).fingerprint()


def test_unknown_kind_is_refused() -> None:
    with pytest.raises(DataError, match=r"`kinds` of .* is \['odd'\]; it must be a list of other"):
        PythonStdlibPreferences(kinds=["odd"])  # type: ignore[list-item]


def _names(text: str) -> set[str]:
    nodes = list(ast.walk(ast.parse(text)))
    return {node.id for node in nodes if isinstance(node, ast.Name)}
