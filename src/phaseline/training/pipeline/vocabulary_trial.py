"""Whether a model has an entry for every token, tried with tokens that any model has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from phaseline.data.batch import AnyBatch, LabelledBatch
from phaseline.errors import ConfigurationError, Fault
from phaseline.models.compilation import eager
from phaseline.training.phases.runtime import PhaseRuntime

SAFE_VOCABULARY = 2
"""Tokens that every model has: a batch of these fails in none, on a GPU neither, where an index
beyond a table ends the process."""


class VocabularyTrial:
    """Runs one batch and looks at the tables in which the model finds its tokens."""

    def __init__(self, runtime: PhaseRuntime) -> None:
        """Takes a phase's runtime; its weights may be any."""
        self._runtime = runtime

    def run(self, batch: AnyBatch) -> None:
        """Compares tables with the tokenizer, in evaluation mode. **Ranks:** all; one forward each.

        Args:
            batch: Of tokens below `SAFE_VOCABULARY`, on the rank's device.

        Raises:
            ConfigurationError: A token of the tokenizer has no entry.
        """
        runtime = self._runtime
        ids = batch.inputs if isinstance(batch, LabelledBatch) else batch.input_ids
        targets = None if isinstance(batch, LabelledBatch) else batch.targets
        vocab_size = runtime.data.tokenizer.vocab_size
        watch = _TableWatch(ids, targets, vocab_size)
        runtime.engine.model.eval()
        with torch.no_grad(), eager(runtime.engine.module), watch:
            runtime.objective.losses(runtime.engine.model, batch)
        if watch.found is None:
            return
        table, num_entries, what = watch.found
        names = [name for name, one in runtime.engine.module.named_parameters() if one is table]
        where = f" ({names[0]})" if names else ""
        raise ConfigurationError(
            [
                Fault(
                    "model",
                    "",
                    f"{what} token ids below {num_entries}{where}, but the tokenizer has "
                    f"{vocab_size} entries, its special tokens included",
                    "Build it for the `vocab_size` that model.factory is given, or take a "
                    "tokenizer with fewer entries.",
                )
            ]
        )


class _TableWatch(TorchFunctionMode):
    """Notes the first look-up of a batch's tokens in a table that is too small for others."""

    def __init__(self, ids: torch.Tensor, targets: torch.Tensor | None, vocab_size: int) -> None:
        super().__init__()
        self._ids, self._targets, self._vocab_size = ids, targets, vocab_size
        self.found: tuple[Any, int, str] | None = None

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        given = kwargs or {}
        reads = _READS.get(func)
        # Inside the mode nothing is watched, so that the comparison is not either.
        if reads is not None and self.found is None:
            looked_up, table, num_entries = reads(args, given)
            is_target = func is functional.cross_entropy
            tokens = self._targets if is_target else self._ids
            is_small = 0 < num_entries < self._vocab_size
            if is_small and _is_same(looked_up, tokens):
                self.found = (table, num_entries, "predicts" if is_target else "takes")
        return func(*args, **given)


_Reading = tuple[Any, Any, int]
"""What is looked up, in what, and its number of entries; 0: it is no table."""


def _of_embedding(args: tuple[Any, ...], given: dict[str, Any]) -> _Reading:
    ids = args[0] if args else given.get("input")
    table = args[1] if len(args) > 1 else given.get("weight")
    return ids, table, _num_rows(table)


def _of_torch_embedding(args: tuple[Any, ...], _given: dict[str, Any]) -> _Reading:
    return args[1], args[0], _num_rows(args[0])


def _of_item(args: tuple[Any, ...], _given: dict[str, Any]) -> _Reading:
    table, key = args[0], args[1]
    return key[0] if isinstance(key, tuple) and key else key, table, _num_rows(table)


def _of_index_select(args: tuple[Any, ...], given: dict[str, Any]) -> _Reading:
    dim = args[1] if len(args) > 1 else given.get("dim")
    ids = args[2] if len(args) > 2 else given.get("index")
    return ids, args[0], _num_rows(args[0]) if dim == 0 else 0


def _of_one_hot(args: tuple[Any, ...], given: dict[str, Any]) -> _Reading:
    num_classes = args[1] if len(args) > 1 else given.get("num_classes", -1)
    return args[0], None, max(0, num_classes)


def _of_cross_entropy(args: tuple[Any, ...], given: dict[str, Any]) -> _Reading:
    logits = args[0] if args else given.get("input")
    targets = args[1] if len(args) > 1 else given.get("target")
    if not isinstance(logits, torch.Tensor) or logits.dim() < 2:
        return targets, None, 0
    return targets, None, int(logits.shape[1])


def _num_rows(table: Any) -> int:
    is_table = isinstance(table, torch.Tensor) and table.is_floating_point() and table.dim() > 0
    return int(table.shape[0]) if is_table else 0


def _is_same(found: Any, ids: torch.Tensor | None) -> bool:
    if ids is None or not isinstance(found, torch.Tensor) or found.is_floating_point():
        return False
    return found.numel() == ids.numel() and bool((found.flatten() == ids.flatten()).all())


_READS: dict[Callable[..., Any], Callable[[tuple[Any, ...], dict[str, Any]], _Reading]] = {
    functional.embedding: _of_embedding,
    torch.embedding: _of_torch_embedding,
    torch.Tensor.__getitem__: _of_item,
    torch.index_select: _of_index_select,
    torch.Tensor.index_select: _of_index_select,
    functional.one_hot: _of_one_hot,
    functional.cross_entropy: _of_cross_entropy,
}
