"""How much of a device's arithmetic the model's own uses."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Utilization:
    """What the share is computed from; None where it is not known.

    Attributes:
        flops_per_token: Operations that training on one token takes.
        peak_flops: Operations per second that one device can do at most.
    """

    flops_per_token: float | None = None
    peak_flops: float | None = None

    def mfu(self, tokens_per_s: float) -> float | None:
        """Model FLOPs utilization, a share of 1; None if either figure is missing.

        **Source:** PaLM (arXiv:2204.02311), appendix B.

        Args:
            tokens_per_s: Of one device.
        """
        if self.flops_per_token is None or self.peak_flops is None:
            return None
        return tokens_per_s * self.flops_per_token / self.peak_flops
