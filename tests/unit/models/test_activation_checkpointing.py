from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.nn.functional import gelu

from phaseline.errors import ConfigurationError
from phaseline.models.activation_checkpointing import checkpoint_activations

PATH = "phases[0].engine.activation_checkpointing"
IDS = torch.arange(24).view(2, 12) % 16


class Block(torch.nn.Module):
    def __init__(self, *, norm: bool = False) -> None:
        super().__init__()
        self.up = torch.nn.Linear(8, 32)
        self.down = torch.nn.Linear(32, 8)
        self.dropout = torch.nn.Dropout(0.3)
        self.norm = torch.nn.BatchNorm1d(12) if norm else torch.nn.Identity()

    def forward(self, hidden: torch.Tensor, *, scale: float = 1.0) -> torch.Tensor:
        inner = self.dropout(gelu(self.up(self.norm(hidden))))
        change: torch.Tensor = self.dropout(self.down(inner))
        return hidden + scale * change


class Model(torch.nn.Module):
    """A model of one's own: blocks in a list, one of which is used twice."""

    def __init__(self, *, norm: bool = False) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(16, 8)
        self.blocks = torch.nn.ModuleList(Block(norm=norm) for _ in range(3))
        self.blocks.append(self.blocks[0])
        self.head = torch.nn.Linear(8, 16)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        hidden: torch.Tensor = self.embed(ids)
        for block in self.blocks:
            hidden = block(hidden, scale=0.5)
        logits: torch.Tensor = self.head(hidden)
        return logits


class Wrapping(torch.nn.Module):
    """A model of one's own around one of transformers."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = transformers_model()

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.inner(input_ids=ids, use_cache=False).logits
        return logits


class Nested(torch.nn.Module):
    """Blocks in lists of lists; what is inside a block is no block."""

    def __init__(self) -> None:
        super().__init__()
        self.groups = torch.nn.ModuleList(torch.nn.ModuleList([Inner(), Inner()]) for _ in range(2))


class Inner(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.parts = torch.nn.ModuleList([torch.nn.Linear(2, 2)])


def transformers_model() -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=16, n_embd=8, n_layer=2, n_head=2, n_positions=16, bos_token_id=0, eos_token_id=0
    )
    assert config.resid_pdrop > 0
    assert config.attn_pdrop > 0
    return GPT2LMHeadModel(config).train()


def build(kind: str) -> torch.nn.Module:
    torch.manual_seed(0)
    builders = {"own": Model, "transformers": transformers_model, "wrapping": Wrapping}
    module: torch.nn.Module = builders[kind]()
    return module


def gradients(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The gradient of every parameter, of a loss with dropout, and the loss."""
    module.zero_grad()
    torch.manual_seed(7)
    arguments: dict[str, Any] = {"use_cache": False} if hasattr(module, "generate") else {}
    output = module(IDS, **arguments)
    logits: torch.Tensor = getattr(output, "logits", output)
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), IDS.flatten())
    loss.backward()  # type: ignore[no-untyped-call]  # torch does not type it
    found = {"loss": loss.detach()}
    for name, parameter in module.named_parameters():
        if parameter.grad is not None:
            found[name] = parameter.grad
    return found


def require_equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []


@contextmanager
def counted_forwards(module: torch.nn.Module) -> Iterator[list[int]]:
    calls = [0]

    def count(*_: object) -> None:
        calls[0] += 1

    handle = module.register_forward_hook(count)
    yield calls
    handle.remove()


@pytest.mark.parametrize("kind", ["own", "transformers", "wrapping"])
def test_checkpointing_changes_no_bit_of_loss_and_gradients_when_there_is_dropout(
    kind: str,
) -> None:
    plain, module = build(kind), build(kind)
    checkpoint_activations(module, path=PATH)
    require_equal(gradients(module), gradients(plain))
    assert not torch.equal(gradients(plain.eval())["loss"], gradients(plain.train())["loss"])


@pytest.mark.parametrize("kind", ["own", "transformers", "wrapping"])
def test_checkpointing_renames_no_parameter(kind: str) -> None:
    plain, module = build(kind), build(kind)
    checkpoint_activations(module, path=PATH)
    assert list(module.state_dict()) == list(plain.state_dict())
    assert [type(part) for part in module.modules()] == [type(part) for part in plain.modules()]


def test_checkpointing_runs_each_block_a_second_time_in_the_backward_pass() -> None:
    module: Any = build("own")
    checkpoint_activations(module, path=PATH)
    with counted_forwards(module.blocks[1].up) as once, counted_forwards(module.head) as head:
        gradients(module)
    assert (once[0], head[0]) == (2, 1)
    with counted_forwards(module.blocks[0].up) as shared:
        gradients(module)
    assert shared[0] == 4  # used twice, and wrapped once


@pytest.mark.parametrize("kind", ["own", "transformers"])
def test_checkpointing_keeps_less_for_the_backward_pass(kind: str) -> None:
    def kept_elements(module: torch.nn.Module) -> int:
        kept: list[int] = []

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            kept.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            module(IDS)
        return sum(kept)

    plain, module = build(kind), build(kind)
    checkpoint_activations(module, path=PATH)
    assert kept_elements(module) < kept_elements(plain) / 2


def test_checkpointing_leaves_evaluation_as_it_was() -> None:
    plain, module = build("own").eval(), build("own").eval()
    checkpoint_activations(module, path=PATH)
    with torch.no_grad():
        assert torch.equal(module(IDS), plain(IDS))


def test_checkpointing_reaches_the_outermost_blocks_of_nested_lists() -> None:
    module = Nested()
    checkpoint_activations(module, path=PATH)
    changed = [name for name, part in module.named_modules() if "forward" in vars(part)]
    assert changed == ["groups.0.0", "groups.0.1", "groups.1.0", "groups.1.1"]


def test_checkpointing_draws_no_gradient_into_a_frozen_embedding() -> None:
    module = build("transformers")
    checkpoint_activations(module, path=PATH)
    embedding: Any = module.get_submodule("transformer.wte")
    embedding.weight.requires_grad_(False)
    assert not embedding(IDS).requires_grad


def test_checkpointing_follows_a_deep_copy() -> None:
    module = build("own")
    checkpoint_activations(module, path=PATH)
    copied: Any = copy.deepcopy(module)
    with torch.no_grad():
        for parameter in copied.blocks.parameters():
            parameter.zero_()
    torch.testing.assert_close(copied(IDS), copied.head(copied.embed(IDS)))


def test_checkpointing_is_refused_when_there_are_no_blocks() -> None:
    with pytest.raises(
        ConfigurationError,
        match=r"phases\[0\]\.engine\.activation_checkpointing is true, but Linear has no blocks",
    ):
        checkpoint_activations(torch.nn.Linear(2, 2), path=PATH)


def test_checkpointing_is_refused_when_a_block_counts_its_batches() -> None:
    module: Any = Model(norm=True)
    with pytest.raises(ConfigurationError, match=r"but Block\.norm is a BatchNorm1d, which would"):
        checkpoint_activations(module, path=PATH)
    assert not any("forward" in vars(block) for block in module.blocks)


def test_checkpointing_is_refused_when_transformers_does_not_offer_it() -> None:
    from transformers import OpenAIGPTConfig, OpenAIGPTLMHeadModel

    config = OpenAIGPTConfig(vocab_size=16, n_embd=8, n_layer=1, n_head=2, n_positions=16)
    module = OpenAIGPTLMHeadModel(config)
    with pytest.raises(ConfigurationError, match="transformers refuses it: OpenAIGPTLMHeadModel"):
        checkpoint_activations(module, path=PATH)
