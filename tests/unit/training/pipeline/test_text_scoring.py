from __future__ import annotations

from typing import Any

import pytest
import torch

from phaseline.data.tokenizer import Tokenizer
from phaseline.errors import UsageError
from phaseline.training.pipeline.text_scoring import TextScorer
from unit.training.pipeline.adapter_session import tiny_llama

MAX_LENGTH = 24


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.of_bytes()


@pytest.fixture(scope="module")
def model(tokenizer: Tokenizer) -> Any:
    module = tiny_llama(vocab_size=tokenizer.vocab_size).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(20)  # else every token is as likely as the others
    return module


def scorer(model: Any, tokenizer: Tokenizer, batch_size: int = 3) -> TextScorer:
    return TextScorer(model, tokenizer, max_length=MAX_LENGTH, batch_size=batch_size)


def token_by_token(model: Any, given: list[int], wanted: list[int]) -> tuple[float, bool]:
    """Each token from all before it, in a forward of its own."""
    total, is_greedy = 0.0, True
    for idx, token in enumerate(wanted):
        ids = torch.tensor([(given + wanted[:idx])[-MAX_LENGTH:]])
        with torch.no_grad():
            last = model(input_ids=ids).logits[0, -1].double()
        total += float(last[token] - torch.logsumexp(last, 0))
        is_greedy = is_greedy and int(last.argmax()) == token
    return total, is_greedy


def greedy_text(model: Any, tokenizer: Tokenizer, context: str, num_tokens: int) -> str:
    ids = tokenizer.encode(context)
    for _ in range(num_tokens):
        with torch.no_grad():
            ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    return tokenizer.decode(ids[len(tokenizer.encode(context)) :])


@pytest.mark.parametrize("batch_size", [1, 3])
def test_continuations_are_as_likely_as_token_by_token(
    model: Any, tokenizer: Tokenizer, batch_size: int
) -> None:
    pairs = [("ab", "cde"), ("a", "b"), ("", "xyz"), ("x" * 30, "yz"), ("spaced  ", "out")]
    found = scorer(model, tokenizer, batch_size).continuations(pairs)
    eos = tokenizer.eos_id
    parts = [
        (tokenizer.encode("ab"), tokenizer.encode("cde")),
        (tokenizer.encode("a"), tokenizer.encode("b")),
        ([eos], tokenizer.encode("xyz")),
        (tokenizer.encode("x" * 30)[-(MAX_LENGTH - 1) :], tokenizer.encode("yz")),
        (tokenizer.encode("spaced"), tokenizer.encode("  out")),
    ]
    expected = [token_by_token(model, given, wanted) for given, wanted in parts]
    assert [one.log_probability for one in found] == pytest.approx(
        [total for total, _ in expected], rel=1e-5
    )
    assert [one.is_greedy for one in found] == [is_greedy for _, is_greedy in expected]


def test_greedy_continuation_is_told(model: Any, tokenizer: Tokenizer) -> None:
    # In tokens, as what the model writes need not be text.
    given = tokenizer.encode("ab")
    with torch.no_grad():
        likeliest = int(model(input_ids=torch.tensor([given])).logits[0, -1].argmax())
    rows = [(given, [likeliest]), (given, [(likeliest + 1) % 250])]
    found = scorer(model, tokenizer)._score(rows)
    assert [one.is_greedy for one in found] == [True, False]


def test_nothing_is_as_likely_as_can_be(model: Any, tokenizer: Tokenizer) -> None:
    [found] = scorer(model, tokenizer).continuations([("ab", "")])
    assert (found.log_probability, found.is_greedy) == (0.0, True)


def test_continuation_longer_than_the_model_is_refused(model: Any, tokenizer: Tokenizer) -> None:
    with pytest.raises(UsageError, match="has 25 tokens, and the model takes 24"):
        scorer(model, tokenizer).continuations([("a", "b" * 25)])


@pytest.mark.parametrize("size", [0, 1, MAX_LENGTH, MAX_LENGTH + 1, 2 * MAX_LENGTH, 60])
def test_whole_text_is_predicted_once_with_as_much_before_as_fits(
    model: Any, tokenizer: Tokenizer, size: int
) -> None:
    text = "".join(chr(97 + idx * 7 % 26) for idx in range(size))
    ids = tokenizer.encode(text)
    [found] = scorer(model, tokenizer).wholes([text])
    expected, done = 0.0, 0
    while done < size:
        end = min(done + MAX_LENGTH, size)
        # A window of the last tokens, of which those that are new are scored.
        window = [tokenizer.eos_id, *ids][max(0, end - MAX_LENGTH) : end + 1]
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([window[:-1]])).logits[0].double()
        scores = torch.log_softmax(logits, -1)
        for place in range(len(window) - 1 - (end - done), len(window) - 1):
            expected += float(scores[place, window[place + 1]])
        done = end
    assert found == pytest.approx(expected, rel=1e-5, abs=1e-9)


@pytest.mark.extended("lm-eval is installed for it")
def test_windows_are_those_of_lm_eval(
    model: Any, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_XET_HIGH_PERFORMANCE", "1")  # lm-eval sets it when it is imported
    utils = pytest.importorskip("lm_eval.utils")
    for size in (1, 23, 24, 25, 47, 48, 49, 100):
        ids = list(range(size))
        theirs = list(utils.get_rolling_token_windows(ids, tokenizer.eos_id, MAX_LENGTH, 1))
        assert scorer(model, tokenizer)._windows(ids) == [
            (given[-MAX_LENGTH:], wanted) for given, wanted in theirs
        ]


def test_model_writes_until_a_text_that_ends_it(model: Any, tokenizer: Tokenizer) -> None:
    whole = greedy_text(model, tokenizer, "ab", 8)
    one = scorer(model, tokenizer)
    assert one.go_on("ab", until=[], max_new_tokens=8) == whole
    stop = whole[3:5]
    before = whole[: whole.index(stop)]
    assert one.go_on("ab", until=["never there", stop], max_new_tokens=8) == before


def test_model_that_cannot_write_so_much_is_refused(model: Any, tokenizer: Tokenizer) -> None:
    one = scorer(model, tokenizer)
    with pytest.raises(UsageError, match=r"write 24 tokens, and it takes 24 with what it goes on"):
        one.go_on("ab", until=[], max_new_tokens=24)
    bare = TextScorer(torch.nn.Linear(2, 2), tokenizer, max_length=8, batch_size=1)
    with pytest.raises(UsageError, match="a Linear has no `generate`"):
        bare.go_on("ab", until=[], max_new_tokens=2)
