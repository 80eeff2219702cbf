from __future__ import annotations

import copy
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy, linear

from phaseline.data.batch import Batch
from phaseline.errors import ConfigurationError
from phaseline.models.linear_loss import (
    LossHead,
    install_linear_loss,
    linear_cross_entropy,
    require_same_loss,
)
from phaseline.objectives.token_loss import token_cross_entropy

PATH = "phases[0].engine.linear_cross_entropy"
# More rows than the layer takes at once, and not a multiple of it.
NUM_ROWS, NUM_FEATURES, VOCABULARY = 300, 24, 50
TINY = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 1,
}


class Layer:
    """Input, weight and bias of an output layer, and targets of which some are ignored."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        torch.manual_seed(0)
        self.hidden = torch.randn(NUM_ROWS, NUM_FEATURES).to(dtype).requires_grad_()
        self.weight = torch.randn(VOCABULARY, NUM_FEATURES).to(dtype).requires_grad_()
        self.bias = torch.randn(VOCABULARY).to(dtype).requires_grad_()
        self.targets = torch.randint(0, VOCABULARY, (NUM_ROWS,))
        self.targets[::7] = -100
        self.targets[128:256] = -100

    def losses(self) -> torch.Tensor:
        found: torch.Tensor = linear_cross_entropy(
            self.hidden, self.weight, self.bias, self.targets
        )
        return found

    def plain_losses(self) -> torch.Tensor:
        logits = linear(self.hidden, self.weight, self.bias).float()
        return cross_entropy(logits, self.targets, reduction="none")

    def gradients(self, losses: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Of a sum in which every loss has another weight."""
        weights = torch.linspace(0.1, 2.0, NUM_ROWS)
        return torch.autograd.grad((losses * weights).sum(), [self.hidden, self.weight, self.bias])


def model(kind: str = "llama", **changes: Any) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **{**TINY, **changes})
    return AutoModelForCausalLM.from_config(config).float().train()


def rows() -> Batch:
    torch.manual_seed(1)
    ids = torch.randint(0, 40, (3, 61))
    targets = ids[:, 1:].clone()
    targets[0, 10:] = -100
    return Batch(ids[:, :-1], targets, 3)


def gradients(module: torch.nn.Module, batch: Batch) -> dict[str, torch.Tensor]:
    module.zero_grad()
    loss = token_cross_entropy(module, batch).sum() / 130
    loss.backward()  # type: ignore[no-untyped-call]  # torch does not type it
    return {name: p.grad for name, p in module.named_parameters() if p.grad is not None}


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found.double() - expected.double()).norm() / expected.double().norm())


def test_linear_loss_equals_the_loss_of_logits_in_values_and_gradients() -> None:
    layer = Layer()
    losses, expected = layer.losses(), layer.plain_losses()
    assert losses.dtype == torch.float32
    assert relative_error(losses.detach(), expected.detach()) < 1e-6
    assert not losses[layer.targets == -100].any()
    for found, wanted in zip(layer.gradients(losses), layer.gradients(expected), strict=True):
        assert relative_error(found, wanted) < 1e-6


@pytest.mark.skipif(
    not hasattr(torch.nn.functional, "linear_cross_entropy"),
    reason="needs torch 2.13, which brings the function",
)
def test_linear_loss_equals_torchs_own_in_fp32() -> None:
    layer = Layer()
    own: Any = torch.nn.functional.linear_cross_entropy
    expected = own(
        layer.hidden,
        layer.weight,
        layer.targets,
        linear_bias=layer.bias,
        reduction="none",
        options=torch.nn.LinearCrossEntropyOptions(batch_chunk_size=64),
    )
    losses = layer.losses()
    assert relative_error(losses.detach(), expected.detach()) < 1e-6
    for found, wanted in zip(layer.gradients(losses), layer.gradients(expected), strict=True):
        assert relative_error(found, wanted) < 1e-6


def test_linear_loss_is_fp32_and_as_near_as_that_of_logits_when_weights_are_bf16() -> None:
    layer = Layer(torch.bfloat16)
    losses, expected = layer.losses(), layer.plain_losses()
    assert losses.dtype == torch.float32
    assert relative_error(losses.detach(), expected.detach()) < 1e-3
    for found, wanted in zip(layer.gradients(losses), layer.gradients(expected), strict=True):
        assert found.dtype == torch.bfloat16
        assert relative_error(found, wanted) < 1e-2


def test_linear_loss_keeps_a_scale_that_bf16_has_not_when_weights_are_bf16() -> None:
    layer = Layer(torch.bfloat16)
    scale = 1 / 1283  # bf16 has nothing nearer than 0.17 %
    assert abs(float(torch.tensor(scale).bfloat16()) / scale - 1) > 1.5e-3

    def weight_gradient(losses: torch.Tensor) -> torch.Tensor:
        return torch.autograd.grad(losses.sum() * scale, layer.weight)[0].double()

    found, wanted = weight_gradient(layer.losses()), weight_gradient(layer.plain_losses())
    assert float((found * wanted).sum() / (wanted * wanted).sum()) == pytest.approx(1, abs=5e-4)


def test_linear_loss_follows_autocast() -> None:
    layer = Layer()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses, expected = layer.losses(), layer.plain_losses()
    assert losses.dtype == torch.float32
    assert relative_error(losses.detach(), expected.detach()) < 1e-3
    assert relative_error(losses.detach(), layer.plain_losses().detach()) > 1e-5
    for found, wanted in zip(layer.gradients(losses), layer.gradients(expected), strict=True):
        assert found.dtype == torch.float32
        assert relative_error(found, wanted) < 1e-2


def test_linear_loss_is_zero_and_can_be_trained_on_when_all_targets_are_ignored() -> None:
    layer = Layer()
    layer.targets.fill_(-100)
    losses = layer.losses()
    assert losses.tolist() == [0.0] * NUM_ROWS
    assert [bool(gradient.any()) for gradient in layer.gradients(losses)] == [False] * 3


@pytest.mark.parametrize("frozen", ["hidden", "weight", "bias"])
def test_linear_loss_has_the_other_gradients_when_a_part_is_frozen(frozen: str) -> None:
    layer = Layer()
    expected = dict(
        zip(("hidden", "weight", "bias"), layer.gradients(layer.plain_losses()), strict=True)
    )
    getattr(layer, frozen).requires_grad_(False)
    weights = torch.linspace(0.1, 2.0, NUM_ROWS)
    (layer.losses() * weights).sum().backward()  # type: ignore[no-untyped-call]  # torch's
    assert getattr(layer, frozen).grad is None
    for name in expected.keys() - {frozen}:
        assert relative_error(getattr(layer, name).grad, expected[name]) < 1e-6


@pytest.mark.parametrize("tied", [False, True])
def test_model_has_the_same_losses_and_gradients_with_it(tied: bool) -> None:
    plain = model(tie_word_embeddings=tied)
    module = copy.deepcopy(plain)
    install_linear_loss(module, path=PATH)
    batch = rows()
    losses, expected = token_cross_entropy(module, batch), token_cross_entropy(plain, batch)
    assert losses.shape == batch.targets.shape
    assert relative_error(losses.detach(), expected.detach()) < 1e-6
    found, wanted = gradients(module, batch), gradients(plain, batch)
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        assert relative_error(found[name], gradient) < 1e-6, name


def test_model_has_the_same_gradients_with_it_when_its_output_layer_is_frozen() -> None:
    plain = model()
    plain.lm_head.weight.requires_grad_(False)
    module = copy.deepcopy(plain)
    install_linear_loss(module, path=PATH)
    found, wanted = gradients(module, rows()), gradients(plain, rows())
    assert found.keys() == wanted.keys()
    assert "lm_head.weight" not in found
    for name, gradient in wanted.items():
        assert relative_error(found[name], gradient) < 1e-6, name


def test_model_passes_on_losses_through_what_wraps_it() -> None:
    class Wrapper(torch.nn.Module):
        def __init__(self, module: torch.nn.Module) -> None:
            super().__init__()
            self.module = module

        def forward(self, **arguments: Any) -> Any:
            return self.module(**arguments)

    module = model()
    expected = token_cross_entropy(module, rows())
    install_linear_loss(module, path=PATH)
    torch.testing.assert_close(token_cross_entropy(Wrapper(module), rows()), expected)


def test_model_has_the_same_names_and_writes_the_same_text_with_it() -> None:
    plain = model().eval()
    module = copy.deepcopy(plain)
    install_linear_loss(module, path=PATH)
    assert list(module.state_dict()) == list(plain.state_dict())
    assert [name for name, _ in module.named_modules()] == [
        name for name, _ in plain.named_modules()
    ]
    with torch.no_grad():
        token_cross_entropy(module, rows())
    prompt = {"inputs": torch.tensor([[3, 4, 5]]), "attention_mask": torch.ones(1, 3).long()}
    arguments: dict[str, Any] = {**prompt, "max_new_tokens": 6, "do_sample": False}
    assert torch.equal(module.generate(**arguments), plain.generate(**arguments))


def test_model_that_was_copied_takes_its_own_targets() -> None:
    module = model()
    install_linear_loss(module, path=PATH)
    copied = copy.deepcopy(module)
    with copied.losses_of(rows().targets):
        assert copied.lm_head.targets is not None
        assert module.lm_head.targets is None


def test_head_has_logits_again_when_a_forward_failed() -> None:
    module = model()
    install_linear_loss(module, path=PATH)
    with pytest.raises(IndexError, match="out of range"):
        token_cross_entropy(module, Batch(torch.tensor([[99]]), torch.tensor([[0]]), 1))
    assert module(input_ids=torch.tensor([[3]])).logits.shape == (1, 1, 40)


def test_installing_is_refused_when_the_output_layer_is_not_known() -> None:
    with pytest.raises(
        ConfigurationError,
        match=r"phases\[0\]\.engine\.linear_cross_entropy is true, but the output layer of Linear "
        "is not known; it must be a torch.nn.Linear",
    ):
        install_linear_loss(torch.nn.Linear(2, 2), path=PATH)


def test_installing_is_refused_when_the_output_layer_is_of_another_kind() -> None:
    class Scaled(torch.nn.Linear):
        pass

    module = model()
    module.set_output_embeddings(Scaled(16, 40, bias=False))
    with pytest.raises(ConfigurationError, match="of LlamaForCausalLM is a Scaled; it must be"):
        install_linear_loss(module, path=PATH)


@pytest.mark.parametrize("kind", ["llama", "qwen3", "mixtral", "granite"])
@pytest.mark.parametrize("training", [True, False])
def test_same_loss_is_found_when_logits_are_passed_on(kind: str, training: bool) -> None:
    module = model(kind).train(training)
    install_linear_loss(module, path=PATH)
    require_same_loss(module, path=PATH)
    assert module.training is training
    assert isinstance(module.lm_head, LossHead)
    assert module.lm_head.targets is None


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("gemma2", {}),
        ("cohere", {}),
        ("granite", {"logits_scaling": 8.0}),
    ],
    ids=["capped", "scaled", "divided"],
)
def test_same_loss_is_refused_when_a_model_changes_its_logits(
    kind: str, changes: dict[str, Any]
) -> None:
    module = model(kind, **changes)
    with torch.no_grad():
        module.get_output_embeddings().weight.mul_(1e-3)  # so small that a cap changes nothing
    install_linear_loss(module, path=PATH)
    with pytest.raises(
        ConfigurationError,
        match=r"linear_cross_entropy is true, but \w+ForCausalLM does something to its logits",
    ):
        require_same_loss(module, path=PATH)


def test_linear_loss_needs_less_memory_than_the_logits() -> None:
    # In a process of its own: what counts is the highest mark that it ever reached.
    answer = subprocess.run(
        [sys.executable, "-c", _PEAKS], capture_output=True, text=True, check=True, timeout=120
    )
    added, added_by_logits = map(int, answer.stdout.split())
    logits_kib = 2048 * 16384 * 4 // 1024
    assert added < logits_kib
    assert added_by_logits > 2 * logits_kib


_PEAKS = """
from pathlib import Path
import torch
from torch.nn.functional import cross_entropy, linear
from phaseline.models.linear_loss import linear_cross_entropy

def peak():
    # Not getrusage, which begins with what the process had before its exec.
    [line] = [line for line in Path("/proc/self/status").open() if line.startswith("VmHWM")]
    return int(line.split()[1])

torch.set_num_threads(1)
hidden = torch.randn(2048, 64, requires_grad=True)
weight = torch.randn(16384, 64, requires_grad=True)
targets = torch.randint(0, 16384, (2048,))
linear_cross_entropy(hidden[:4], weight[:9], None, targets[:4] % 9).sum().backward()
before = peak()
linear_cross_entropy(hidden, weight, None, targets).sum().backward()
between = peak()
cross_entropy(linear(hidden, weight).float(), targets, reduction="none").sum().backward()
print(between - before, peak() - before)
"""
