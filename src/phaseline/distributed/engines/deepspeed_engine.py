"""DeepSpeed's ZeRO, built by accelerate's `prepare` from numbers that we own."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch

from phaseline.distributed.engines import deepspeed_private as private
from phaseline.distributed.engines import gradients
from phaseline.distributed.engines.accelerator import build_accelerator
from phaseline.distributed.engines.base import (
    EngineSettings,
    StateFragment,
    StepReport,
    keeps_scalars_on_device,
    whole_shape,
)
from phaseline.distributed.engines.deepspeed_configuration import (
    deepspeed_configuration,
    require_live_values,
    steps_like_torch,
)
from phaseline.distributed.engines.partitioning import (
    leaf_parameters,
    mark_leaf_modules,
    own_hooks_last,
    partition,
)
from phaseline.distributed.engines.unused_parameters import GradientWatch
from phaseline.distributed.world import World
from phaseline.errors import EngineError


class DeepSpeedEngine:
    """ZeRO 0 to 3: optimizer state, gradients and weights in ever more parts."""

    def __init__(
        self,
        module: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        settings: EngineSettings,
        world: World,
    ) -> None:
        """Prepares a module and its optimizer. **Ranks:** all.

        Args:
            module: The bare model, on any device; it is moved to the world's. For stage 3 its
                parameters may be on the meta device, on all ranks but the main one; they get
                the main rank's values, or nothing if they have none there either.
            optimizer: Holds the module's trainable parameters.
            settings: What the engine is built for.
            world: The started world.

        Raises:
            EngineError: The live engine does not hold the values that it was given.
        """
        private.import_deepspeed()
        logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
        self.settings = settings
        self.module = module
        originals = _originals(module) if settings.precision == "bf16" else None
        shapes = [(n, whole_shape(p)) for n, p in module.named_parameters() if p.requires_grad]
        if settings.partitions_weights:
            mark_leaf_modules(module, settings.leaf_modules)
            partition(module, dtype=settings.model_dtype, device=world.device)
        self._accelerator = _build_accelerator(module, settings, world)
        with own_hooks_last(module):
            prepared, _ = self._accelerator.prepare(module, optimizer)
        self._engine: Any = prepared
        self.model: torch.nn.Module = prepared
        self._zero = private.zero_state(prepared.optimizer)
        self._trained = [p for p in module.parameters() if p.requires_grad]
        self._watch = self._watch_gradients()
        require_live_values(prepared, settings, world.dp_world_size)
        if originals is not None:
            self._restore_fp32(originals, shapes, world)

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The optimizer's groups."""
        return self._zero.inner.param_groups

    def begin_micro_step(self, *, is_last: bool) -> None:
        """Tells DeepSpeed where the boundary lies, so that its own counter has no say."""
        self._engine.set_gradient_accumulation_boundary(is_last)

    def backward(self, loss: torch.Tensor) -> None:
        """Adds the gradient of `loss`; DeepSpeed averages it over the ranks."""
        self._engine.backward(self._watch.before_backward(loss), scale_wrt_gas=False)
        self._watch.after_backward()

    def step(self) -> StepReport:
        """Clips, updates and clears the gradient, or skips if it is not finite."""
        if steps_like_torch(self.settings):
            gradients.fill_missing(self._trained)
            norm = gradients.clip(self._trained, self.settings.clip_norm)
            if not math.isfinite(norm):
                gradients.clear(self._trained)
                return StepReport(norm, skipped=True)
            self._step_once()
            return StepReport(norm, skipped=False)
        skipped_before = self._engine.skipped_steps
        self._step_once()
        self._zero.forget_gradients()
        if self._engine.skipped_steps != skipped_before:
            return StepReport(math.inf, skipped=True)
        return StepReport(float(self._engine.get_global_grad_norm()), skipped=False)

    def state_fragments(self) -> Iterator[StateFragment]:
        """Yields the ranges that this rank's optimizer holds, and of frozen parameters its own."""
        state = self._zero.inner.state
        on_device = any(map(keeps_scalars_on_device, self.param_groups))
        names = {id(parameter): name for name, parameter in self.module.named_parameters()}
        for piece in self._zero.ranges():
            yield StateFragment(
                name=names[id(piece.parameter)],
                start=piece.start,
                numel=piece.numel,
                shape=whole_shape(piece.parameter),
                weight=piece.owner.detach().view(-1).narrow(0, piece.offset, piece.numel),
                trainable=True,
                replicated=self._zero.replicated,
                # Not `.get`: the dictionary must be the optimizer's own when it is written to.
                state=state[piece.owner],
                owner=piece.owner,
                offset=piece.offset,
                scalars_on_device=on_device,
            )
        for name, parameter in self.module.named_parameters():
            if not parameter.requires_grad:
                yield self._frozen(name, parameter)

    def refresh_weights(self) -> None:
        """Makes the model's weights follow the fp32 fragments, over the ranks."""
        self._zero.refresh()

    def close(self) -> None:
        """Destroys the engine, and what accelerate remembers of it."""
        self._watch.close()
        # transformers looks here, whatever `zero3_init_flag` says, and would partition the model
        # that this process builds next, before it has weights.
        self._accelerator.state.deepspeed_plugin.dschf = None
        self._accelerator.free_memory(self._engine)
        self.model = self.module = torch.nn.Module()
        self._engine = self._zero = None  # type: ignore[assignment]  # nothing may use it again
        self._trained.clear()

    def _watch_gradients(self) -> GradientWatch:
        """Sees to gradients that do not arrive, in the way that the stage needs."""
        settings = self.settings
        watched = {n: p for n, p in self.module.named_parameters() if p.requires_grad}
        if settings.zero_stage == 0:
            # Reduced after the backward pass, with zeros for what is missing.
            watched = {}
        elif settings.unused_parameters and isinstance(self._zero, private.FlatState):
            if settings.zero_stage == 2:
                self._zero.reduce_in_order()
                watched = {}
        elif settings.partitions_weights:
            gathered = leaf_parameters(self.module)
            watched = {n: p for n, p in watched.items() if p not in gathered}
            if settings.unused_parameters:
                watched = {}
        return GradientWatch(watched, complete=settings.unused_parameters)

    def _step_once(self) -> None:
        steps_before = self._engine.global_steps
        self._engine.step()
        if self._engine.global_steps != steps_before + 1:
            raise EngineError(
                f"DeepSpeed counted {self._engine.global_steps - steps_before} steps where one was "
                "asked for, so its accumulation boundary is not the loop's. Please report this."
            )

    def _frozen(self, name: str, parameter: torch.nn.Parameter) -> StateFragment:
        """A frozen parameter: this rank's part under stage 3, else the whole of it."""
        weight, start = parameter.detach().reshape(-1), 0
        numel = weight.numel()
        is_partitioned = private.is_partitioned(parameter)
        if is_partitioned:
            weight = parameter.ds_tensor.detach().view(-1)  # type: ignore[attr-defined]  # DeepSpeed's
            whole = torch.Size(whole_shape(parameter)).numel()
            start = min(whole, weight.numel() * private.partition_rank(self._zero, parameter))
            numel = min(weight.numel(), whole - start)
        return StateFragment(
            name=name,
            start=start,
            numel=numel,
            shape=whole_shape(parameter),
            weight=weight.narrow(0, 0, numel),
            trainable=False,
            replicated=not is_partitioned,
        )

    @torch.no_grad()
    def _restore_fp32(
        self,
        originals: Mapping[str, torch.Tensor],
        shapes: Iterable[tuple[str, tuple[int, ...]]],
        world: World,
    ) -> None:
        """Puts back what was lost when DeepSpeed made fp32 weights of the rounded ones."""
        fragments: dict[str, list[StateFragment]] = {}
        for fragment in self.state_fragments():
            fragments.setdefault(fragment.name, []).append(fragment)
        only_main = self.settings.partitions_weights
        if only_main and not world.gather_objects(bool(originals))[0]:
            # Whoever builds the engine has values of its own to fill in.
            return
        for name, shape in shapes:
            whole = originals.get(name)
            if whole is None:
                whole = torch.empty(shape, device=world.device)
            whole = whole.to(device=world.device).reshape(-1)
            if only_main:
                world.broadcast_from_main(whole)
            for fragment in fragments.get(name, ()):
                fragment.weight.copy_(whole.narrow(0, fragment.start, fragment.numel))
        self.refresh_weights()


def _originals(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The trained parameters as they came; empty where they hold no memory."""
    return {
        name: parameter.detach()
        for name, parameter in module.named_parameters()
        if parameter.requires_grad and not parameter.is_meta
    }


def _build_accelerator(module: torch.nn.Module, settings: EngineSettings, world: World) -> Any:
    from accelerate.utils import DeepSpeedPlugin

    on_cuda = world.device.type == "cuda"
    wanted = deepspeed_configuration(settings, module, world.dp_world_size, on_cuda=on_cuda)
    # Without the flag transformers would partition whatever model is built next.
    plugin = DeepSpeedPlugin(hf_ds_config=wanted, zero3_init_flag=False)
    return build_accelerator(
        world,
        plugin=plugin,
        accumulation_steps=settings.accumulation_steps,
        precision=settings.precision,
    )
