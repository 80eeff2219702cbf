"""Text that the model writes at the end of a phase."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from phaseline.config.sections import SamplesSection
from phaseline.distributed.guards import main_process_only
from phaseline.distributed.seeding import position_seed
from phaseline.distributed.world import World
from phaseline.models.generation import generate
from phaseline.models.python_check import first_function_parses
from phaseline.session.files import write_text
from phaseline.training.phases.runtime import PhaseRuntime


class Sampler:
    """Generates a phase's samples, each rank its share of the prompts."""

    def __init__(self, runtime: PhaseRuntime, section: SamplesSection) -> None:
        """Takes the phase's collaborators.

        Args:
            runtime: The phase's runtime.
            section: What to generate.
        """
        self._runtime = runtime
        self._section = section

    @property
    def is_main(self) -> bool:
        """Whether this is the rank that writes the file."""
        return self._runtime.world.is_main

    def run(self) -> tuple[dict[str, float], list[Mapping[str, Any]]]:
        """Returns metrics and samples, alike on all ranks, and keeps the samples in a file.

        The model must be in evaluation mode. **Ranks:** all. Collectives on the CPU.
        """
        runtime, section = self._runtime, self._section
        prompts = list(section.prompts)
        if section.held_out_prompts:
            prompts += runtime.data.held_out_prompts(section.held_out_prompts)
        samples = _merge(self._generate(prompts, runtime.world), runtime.world)
        metrics = {f"{runtime.section.name}/samples/count": float(len(samples))}
        if section.check == "python" and samples:
            num_valid = sum(bool(sample["valid"]) for sample in samples)
            metrics[f"{runtime.section.name}/samples/python_valid_frac"] = num_valid / len(samples)
        self._write(samples)
        return metrics, samples

    def _generate(self, prompts: Sequence[str], world: World) -> list[dict[str, Any]]:
        runtime, section = self._runtime, self._section
        mine = list(enumerate(prompts))[world.dp_rank :: world.dp_world_size]
        in_step = runtime.engine.settings.partitions_weights
        # Every rank takes part in every forward, so one with fewer prompts repeats some.
        share = -(-len(prompts) // world.dp_world_size)
        padding = list(enumerate(prompts))[: share - len(mine)] if in_step else []
        samples = generate(
            runtime.engine.module,
            runtime.data.tokenizer,
            [*mine, *padding],
            max_new_tokens=section.max_new_tokens,
            temperature=section.temperature,
            seed=position_seed(runtime.seed, runtime.phase_idx, runtime.position.phase_step),
            in_step=in_step,
        )
        found = []
        for (idx, _), sample in zip(mine, samples[: len(mine)], strict=True):
            valid = None
            if section.check == "python":
                valid = first_function_parses(
                    sample.prompt, sample.completion, complete=sample.complete
                )
            found.append(
                {
                    "idx": idx,
                    "prompt": sample.prompt,
                    "completion": sample.completion,
                    "complete": sample.complete,
                    "valid": valid,
                }
            )
        return found

    @main_process_only
    def _write(self, samples: Sequence[Mapping[str, Any]]) -> None:
        folder = self._runtime.samples_folder
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"step-{self._runtime.position.phase_step:08d}.json"
        write_text(path, json.dumps(list(samples), indent=1, ensure_ascii=False) + "\n")


def _merge(mine: list[dict[str, Any]], world: World) -> list[Mapping[str, Any]]:
    parts: list[list[dict[str, Any]]] = world.gather_objects(mine)
    return sorted((sample for part in parts for sample in part), key=lambda sample: sample["idx"])
