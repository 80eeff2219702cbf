"""The training loops that are compared: the same model, batches, loss, clipping and optimizer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from one_parameter import VOCAB_SIZE_OF_BYTES, OneParameter, fused_adamw, mean_loss
from pausing import Turnstile
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, Dataset
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

LR = 1e-3
CLIP_NORM = 1.0
LOGGING_STEPS = 10
EPOCH_ROWS = 1_000_000
"""Rows of an epoch: more than any loop here gets through."""

Loop = Callable[[Turnstile], None]
Row = dict[str, torch.Tensor]


class RandomRows(Dataset[Row]):
    """Rows that lie ready in memory."""

    def __init__(self, sequence_length: int) -> None:
        generator = torch.Generator().manual_seed(0)
        shape = (1024, sequence_length + 1)
        self._tokens = torch.randint(VOCAB_SIZE_OF_BYTES, shape, generator=generator)

    def __len__(self) -> int:
        return EPOCH_ROWS

    def __getitem__(self, idx: int) -> Row:
        tokens = self._tokens[idx % len(self._tokens)]
        return {"input_ids": tokens[:-1], "labels": tokens[1:]}


def batches(rows: RandomRows, micro_size: int) -> DataLoader[Row]:
    """The loader that the loops of others have."""
    return DataLoader(rows, batch_size=micro_size, shuffle=True)


def ready_batches(rows: RandomRows, micro_size: int) -> list[Row]:
    """A few batches that lie ready, for loops that fetch nothing."""
    return [batch for batch, _ in zip(batches(rows, micro_size), range(64), strict=False)]


def torch_bare(rows: RandomRows, micro_size: int) -> Loop:
    """What nothing can be cheaper than: the batches lie ready, nothing is read or reported."""
    ready = ready_batches(rows, micro_size)

    def loop(turnstile: Turnstile) -> None:
        _torch_loop(turnstile, lambda: iter(ready))

    return loop


def torch_with_loader(rows: RandomRows, micro_size: int) -> Loop:
    """The same with batches from a `DataLoader`: what data alone cost the others."""

    def loop(turnstile: Turnstile) -> None:
        _torch_loop(turnstile, lambda: iter(batches(rows, micro_size)))

    return loop


def _torch_loop(turnstile: Turnstile, epoch: Callable[[], Iterator[Row]]) -> None:
    model = OneParameter(VOCAB_SIZE_OF_BYTES)
    optimizer = fused_adamw(model, LR)
    while True:
        for batch in epoch():
            loss = mean_loss(model(batch["input_ids"]), batch["labels"])
            loss.backward()  # type: ignore[no-untyped-call]  # torch does not type it
            torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
            optimizer.step()
            optimizer.zero_grad()
            turnstile.step_ended()


def accelerate_loop(rows: RandomRows, micro_size: int) -> Loop:
    """The loop of accelerate's own documentation; it reports nothing."""
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=1)
    bare = OneParameter(VOCAB_SIZE_OF_BYTES)
    bare_optimizer = fused_adamw(bare, LR)
    prepared: tuple[Any, Any, Any, Any] = accelerator.prepare(
        bare, bare_optimizer, batches(rows, micro_size), LambdaLR(bare_optimizer, _constant)
    )
    model, optimizer, loader, scheduler = prepared

    def loop(turnstile: Turnstile) -> None:
        while True:
            for batch in loader:
                with accelerator.accumulate(model):
                    loss = mean_loss(model(batch["input_ids"]), batch["labels"])
                    accelerator.backward(loss)
                    if accelerator.sync_gradients:
                        accelerator.clip_grad_norm_(model.parameters(), CLIP_NORM)
                    optimizer.step()
                    scheduler.step()
                    optimizer.zero_grad()
                turnstile.step_ended()

    return loop


def hf_trainer(rows: RandomRows, micro_size: int, folder: Path) -> Loop:
    """Hugging Face's Trainer, logging every ten steps to nobody."""
    model = OneParameter(VOCAB_SIZE_OF_BYTES)
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(folder),
            max_steps=EPOCH_ROWS // micro_size,
            per_device_train_batch_size=micro_size,
            max_grad_norm=CLIP_NORM,
            lr_scheduler_type="constant",
            logging_steps=LOGGING_STEPS,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
            remove_unused_columns=False,
            dataloader_pin_memory=False,
            use_cpu=True,
        ),
        train_dataset=rows,
        compute_loss_func=_summed_then_divided,
        optimizers=(fused_adamw(model, LR), None),
    )
    # It would print to the terminal.
    trainer.remove_callback(PrinterCallback)

    def loop(turnstile: Turnstile) -> None:
        trainer.add_callback(_Pause(turnstile))
        trainer.train()

    return loop


class _Pause(TrainerCallback):  # type: ignore[misc]  # transformers' types are not followed
    def __init__(self, turnstile: Turnstile) -> None:
        self._turnstile = turnstile

    def on_step_end(self, *_arguments: Any, **_more: Any) -> None:
        self._turnstile.step_ended()


def _summed_then_divided(
    logits: torch.Tensor, labels: torch.Tensor, num_items_in_batch: torch.Tensor
) -> torch.Tensor:
    """The Trainer counts the targets of all micro-steps, so that it divides once."""
    losses = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), labels.flatten(), reduction="sum"
    )
    return losses / num_items_in_batch


def _constant(_step: int) -> float:
    return 1.0
