from __future__ import annotations

from dataclasses import replace

import pytest

from phaseline.data.tokenizer import OWN_SETTINGS, Tokenizer
from phaseline.errors import DataError
from phaseline.training.pipeline.content_identity import ContentIdentity, tokenizer_identity

BYTES = Tokenizer.of_bytes()


def test_identity_is_taken_when_nothing_changed() -> None:
    tokenizer_identity(BYTES, "second").load_state_dict(
        tokenizer_identity(Tokenizer.of_bytes(), "first").state_dict()
    )


@pytest.mark.parametrize(
    ("other", "part"),
    [
        (Tokenizer.of_bytes(["<a>"]), ": other vocabulary"),
        (
            Tokenizer.of_bytes(settings=replace(OWN_SETTINGS, pad="<eos>")),
            ": other vocabulary, special tokens",
        ),
        (
            Tokenizer.of_bytes(settings=replace(OWN_SETTINGS, chat_template="{{ 1 }}")),
            ": other chat template",
        ),
    ],
)
def test_tokenizer_is_refused_at_the_edge_of_phases_when_a_part_of_it_changed(
    other: Tokenizer, part: str
) -> None:
    saved = tokenizer_identity(BYTES, "first").state_dict()
    with pytest.raises(DataError, match=f"tokenizer of phase second is not the one.*{part}"):
        tokenizer_identity(other, "second").load_state_dict(saved)


def test_data_is_refused_when_its_source_changed() -> None:
    with pytest.raises(DataError, match=r"data of phase first is not the one.*its source changed"):
        ContentIdentity("data", "new", "first").load_state_dict({"fingerprint": "old"})
