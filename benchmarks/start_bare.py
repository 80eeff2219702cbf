"""A training script by hand: `python start_bare.py STEPS`."""

from __future__ import annotations

import sys

import torch
import wandb
from one_parameter import VOCAB_SIZE_OF_BYTES, OneParameter, fused_adamw, mean_loss
from start_rows import LR, MICRO_SIZE, random_batch


def main(num_steps: int) -> None:
    """Trains, and logs every ten steps to wandb."""
    run = wandb.init(project="starts", mode="offline", settings=wandb.Settings(silent=True))
    model = OneParameter(VOCAB_SIZE_OF_BYTES)
    optimizer = fused_adamw(model, LR)
    for step in range(num_steps):
        batch = random_batch(MICRO_SIZE)
        loss = mean_loss(model(batch["input_ids"]), batch["labels"])
        loss.backward()  # type: ignore[no-untyped-call]  # torch does not type it
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 10 == 0:
            run.log({"loss": loss.item()}, step=step)
    run.finish()


if __name__ == "__main__":
    main(int(sys.argv[1]))
