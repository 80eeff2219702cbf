"""Documents have the losses and gradients in packed rows that they have alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import pytest
import torch

from phaseline.data.batch import Batch
from phaseline.data.batch_arrays import BatchAssembler
from phaseline.data.cutting import build_rows
from phaseline.models.compilation import compile_module
from phaseline.models.linear_loss import install_linear_loss
from phaseline.objectives.token_loss import token_cross_entropy
from unit.data.stores import side_of

LENGTH, VOCAB_SIZE, EOS = 48, 1000, 900
KINDS: dict[str, dict[str, Any]] = {
    "llama": {"intermediate_size": 32, "num_key_value_heads": 1},
    "gpt2": {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
    "qwen2": {"intermediate_size": 32, "num_key_value_heads": 2},
}


def model(kind: str, attention: str) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    fields = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = AutoConfig.for_model(kind, vocab_size=VOCAB_SIZE, **fields, **KINDS[kind])
    built = AutoModelForCausalLM.from_config(config, attn_implementation=attention)
    # Larger weights than fresh ones: what a document sees changes its losses by a lot.
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.mul_(3.0)
    return built.float().train()


def batch_of(shape: Literal["text", "pairs"], *, is_packed: bool) -> Batch:
    """All rows of a ragged store in one batch, which holds every document's targets once."""
    generator = np.random.default_rng(0)
    documents = [generator.integers(0, EOS, size).tolist() for size in (3, 20, 9, 31, 1, 14, 25, 8)]
    rows = build_rows(
        shape, side_of(documents, is_text=shape == "text"), LENGTH, is_packed=is_packed
    )
    assembler = BatchAssembler([rows], sequence_length=LENGTH, pad_id=0, is_separate=True)
    ids = np.stack([np.zeros(rows.num_rows, np.int64), np.arange(rows.num_rows)], axis=1)
    return Batch.from_arrays(assembler.assemble(ids, rows.num_rows))


def losses_by_document(losses: torch.Tensor, batch: Batch) -> list[float]:
    """Summed loss of every document that has any, in order of size."""
    documents = (
        torch.zeros_like(batch.targets) if batch.document_ids is None else batch.document_ids
    )
    numbers = documents + torch.arange(len(documents)).unsqueeze(1) * documents.shape[1]
    sums = torch.zeros(numbers.numel()).index_add_(0, numbers.flatten(), losses.detach().flatten())
    return sorted(value for value in sums.tolist() if value)


def run(module: Any, batch: Batch) -> tuple[list[float], dict[str, torch.Tensor]]:
    losses = token_cross_entropy(module, batch)
    names, parameters = zip(*module.named_parameters(), strict=True)
    mean = losses.sum() / (batch.targets != -100).sum()
    gradients = torch.autograd.grad(mean, parameters)
    return losses_by_document(losses, batch), dict(zip(names, gradients, strict=True))


def require_equal(module: Any, prepare: Callable[[Any], None] = lambda _module: None) -> None:
    packed, alone = (batch_of("pairs", is_packed=is_packed) for is_packed in (True, False))
    assert packed.position_ids is not None
    assert alone.position_ids is None
    assert len(packed.input_ids) < len(alone.input_ids)
    expected_losses, expected_gradients = run(module, alone)
    prepare(module)
    losses, gradients = run(module, packed)
    assert losses == pytest.approx(expected_losses, rel=1e-5, abs=1e-5)
    for name, expected in expected_gradients.items():
        torch.testing.assert_close(gradients[name], expected, rtol=1e-4, atol=1e-5, msg=name)
    joined = Batch(packed.input_ids, packed.targets, packed.rows)
    whole = run(module, joined)[0]
    assert sum(whole) != pytest.approx(sum(expected_losses), rel=1e-3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_packed_pairs_have_the_losses_and_gradients_that_they_have_alone(
    kind: str, attention: str
) -> None:
    require_equal(model(kind, attention))


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_packed_pairs_have_them_also_when_losses_are_taken_without_logits(kind: str) -> None:
    require_equal(model(kind, "sdpa"), lambda module: install_linear_loss(module, path=""))


@pytest.mark.extended("what is compiled takes a C++ compiler a minute")
@pytest.mark.usefixtures("settings_of_the_compiler")
def test_packed_pairs_have_them_also_when_the_model_is_compiled() -> None:
    require_equal(model("llama", "sdpa"), compile_module)


def test_windows_of_text_have_the_losses_that_each_piece_of_a_document_has_alone() -> None:
    module = model("llama", "sdpa")
    packed = batch_of("text", is_packed=True)
    assert packed.position_ids is not None
    losses = token_cross_entropy(module, packed)
    assert packed.document_ids is not None
    for row in range(len(packed.input_ids)):
        for document in range(int(packed.document_ids[row].max()) + 1):
            here = packed.document_ids[row] == document
            piece = Batch(packed.input_ids[row, here][None], packed.targets[row, here][None], 1)
            torch.testing.assert_close(
                losses[row, here][None], token_cross_entropy(module, piece), rtol=1e-5, atol=1e-5
            )
    # The last token of a document, of which the window holds it whole, predicts nothing.
    is_end = packed.input_ids == EOS
    assert is_end.any()
    assert (packed.targets[is_end] == -100).all()
