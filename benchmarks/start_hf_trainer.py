"""A script with Hugging Face's Trainer: `python start_hf_trainer.py STEPS`."""

from __future__ import annotations

import sys
import tempfile

from one_parameter import VOCAB_SIZE_OF_BYTES, OneParameter, fused_adamw, mean_loss
from start_rows import LR, MICRO_SIZE, RandomRows
from transformers import Trainer, TrainingArguments


def main(num_steps: int) -> None:
    """Trains, and logs every ten steps to wandb."""
    model = OneParameter(VOCAB_SIZE_OF_BYTES)
    with tempfile.TemporaryDirectory() as folder:
        Trainer(
            model=model,
            args=TrainingArguments(
                output_dir=folder,
                max_steps=num_steps,
                per_device_train_batch_size=MICRO_SIZE,
                max_grad_norm=1.0,
                lr_scheduler_type="constant",
                logging_steps=10,
                report_to="wandb",
                save_strategy="no",
                disable_tqdm=True,
                remove_unused_columns=False,
                dataloader_pin_memory=False,
                use_cpu=True,
            ),
            train_dataset=RandomRows(num_steps * MICRO_SIZE),
            compute_loss_func=lambda logits, labels, **_: mean_loss(logits, labels),
            optimizers=(fused_adamw(model, LR), None),
        ).train()


if __name__ == "__main__":
    main(int(sys.argv[1]))
