"""A classifier of images of your own, trained in two phases: its head, then all of it.

session: {name: small-digits}
model: {factory: "digits_model:build", arguments: {channels: 8}}
phases:
  - name: digits
    objective: classification
    duration: 20 steps
    data: {source: digits, held_out_frac: 0.1}
    batch: {global_size: 64, micro_size: 32}
    optimizer: {lr: 1e-2}
    engine: {kind: plain}
"""

from __future__ import annotations

import torch


class DigitsModel(torch.nn.Module):
    """Two convolutions, called the backbone, and a head that tells ten digits apart."""

    def __init__(self, channels: int, num_classes: int) -> None:
        """Makes the layers.

        Args:
            channels: Of the first convolution; the second has twice as many.
            num_classes: Logits of the head.
        """
        super().__init__()
        self.backbone = torch.nn.Sequential(
            torch.nn.Conv2d(1, channels, 3, padding=1),
            torch.nn.ReLU(),
            torch.nn.Conv2d(channels, 2 * channels, 3, padding=1),
            torch.nn.ReLU(),
            torch.nn.MaxPool2d(2),
            torch.nn.Flatten(),
        )
        self.head = torch.nn.Linear(2 * channels * 4 * 4, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Returns logits. [rows, 1, 8, 8] to [rows, classes]"""
        logits: torch.Tensor = self.head(self.backbone(images))
        return logits


def build(channels: int, num_classes: int = 10) -> torch.nn.Module:
    """What `model.factory` names; it takes no `vocab_size`, as images have no tokens."""
    return DigitsModel(channels, num_classes)
