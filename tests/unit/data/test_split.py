from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from phaseline.data.split import SplitRule

FRACS = st.floats(0, 1, exclude_min=True, exclude_max=True)


@given(seed=st.integers(0, 2**63 - 1), document_id=st.text(), fracs=st.tuples(FRACS, FRACS))
def test_split_holds_out_what_a_smaller_share_does_when_the_share_grows(
    seed: int, document_id: str, fracs: tuple[float, float]
) -> None:
    if SplitRule(seed, min(fracs)).holds_out(document_id):
        assert SplitRule(seed, max(fracs)).holds_out(document_id)


def test_split_holds_out_the_share_when_documents_are_many() -> None:
    num_held_out = sum(SplitRule(3, 0.1).holds_out(f"document {idx}") for idx in range(5000))
    assert 420 < num_held_out < 580


def test_split_differs_when_the_seed_differs() -> None:
    sides = [[SplitRule(seed, 0.5).holds_out(str(idx)) for idx in range(64)] for seed in range(2)]
    assert sides[0] != sides[1]
