"""The training script of accelerate's documentation: `python start_accelerate.py STEPS`."""

from __future__ import annotations

import sys
from typing import Any

from accelerate import Accelerator
from one_parameter import VOCAB_SIZE_OF_BYTES, OneParameter, fused_adamw, mean_loss
from start_rows import LR, MICRO_SIZE, RandomRows
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader


def main(num_steps: int) -> None:
    """Trains, and logs every ten steps to wandb."""
    accelerator = Accelerator(cpu=True, log_with="wandb")
    accelerator.init_trackers("starts", init_kwargs={"wandb": {"mode": "offline"}})
    bare = OneParameter(VOCAB_SIZE_OF_BYTES)
    bare_optimizer = fused_adamw(bare, LR)
    rows = DataLoader(RandomRows(num_steps * MICRO_SIZE), batch_size=MICRO_SIZE, shuffle=True)
    prepared: tuple[Any, Any, Any, Any] = accelerator.prepare(
        bare, bare_optimizer, rows, LambdaLR(bare_optimizer, lambda _: 1.0)
    )
    model, optimizer, loader, scheduler = prepared
    for step, batch in enumerate(loader):
        with accelerator.accumulate(model):
            loss = mean_loss(model(batch["input_ids"]), batch["labels"])
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
        if step % 10 == 0:
            accelerator.log({"loss": loss.item()}, step=step)
    accelerator.end_training()


if __name__ == "__main__":
    main(int(sys.argv[1]))
