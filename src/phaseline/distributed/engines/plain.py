"""accelerate alone: one process, or DistributedDataParallel over several."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch.nn.parallel import DistributedDataParallel

from phaseline.distributed.engines import gradients
from phaseline.distributed.engines.accelerator import build_accelerator
from phaseline.distributed.engines.base import (
    EngineSettings,
    StateFragment,
    StepReport,
    keeps_scalars_on_device,
)
from phaseline.distributed.world import World


class PlainEngine:
    """Weights and optimizer state whole on every rank; gradients averaged by DDP."""

    def __init__(
        self,
        module: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        settings: EngineSettings,
        world: World,
    ) -> None:
        """Prepares a module and its optimizer. **Ranks:** all.

        Args:
            module: The bare model, on any device; it is moved to the world's.
            optimizer: Holds the module's trainable parameters.
            settings: What the engine is built for.
            world: The started world.
        """
        accelerator = build_accelerator(
            world,
            plugin=None,
            accumulation_steps=settings.accumulation_steps,
            precision=settings.precision,
        )
        self.settings = settings
        self.module = module
        self.model, prepared = accelerator.prepare(module, optimizer)
        # accelerate's wrapper decides again when a step is due; the loop has decided.
        self._optimizer: torch.optim.Optimizer = prepared.optimizer
        self._ddp = self.model if isinstance(self.model, DistributedDataParallel) else None
        self._trained = [p for group in self.param_groups for p in group["params"]]

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The optimizer's groups."""
        return self._optimizer.param_groups

    def begin_micro_step(self, *, is_last: bool) -> None:
        """Averages over the ranks in the last backward only."""
        if self._ddp is not None:
            self._ddp.require_backward_grad_sync = is_last  # what no_sync() sets

    def backward(self, loss: torch.Tensor) -> None:
        """Adds the gradient of `loss`."""
        loss.backward()  # type: ignore[no-untyped-call]  # torch does not type it

    def step(self) -> StepReport:
        """Clips, updates and clears the gradient, or skips if it is not finite."""
        gradients.fill_missing(self._trained)
        norm = gradients.clip(self._trained, self.settings.clip_norm)
        skipped = not math.isfinite(norm)
        if not skipped:
            self._optimizer.step()
        gradients.clear(self._trained)
        return StepReport(norm, skipped)

    def state_fragments(self) -> Iterator[StateFragment]:
        """Yields every parameter whole, as every rank holds all of it."""
        groups = {id(p): group for group in self.param_groups for p in group["params"]}
        for name, parameter in self.module.named_parameters():
            group = groups.get(id(parameter))
            has_state = group is not None
            yield StateFragment(
                name=name,
                start=0,
                numel=parameter.numel(),
                shape=tuple(parameter.shape),
                weight=parameter.detach().view(-1),
                trainable=has_state,
                replicated=True,
                # Not `.get`: the dictionary must be the optimizer's own when it is written to.
                state=self._optimizer.state[parameter] if has_state else {},
                owner=parameter if has_state else None,
                scalars_on_device=group is not None and keeps_scalars_on_device(group),
            )

    def refresh_weights(self) -> None:
        """Nothing to do: the fragments are the weights."""

    def close(self) -> None:
        """Releases the model and the optimizer."""
        self._optimizer.state.clear()
        self._optimizer.param_groups.clear()
        self._trained.clear()
        self.model = self.module = torch.nn.Module()
        self._ddp = None
