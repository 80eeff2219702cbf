"""Text that the model writes at the end of a phase."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from phaseline.config.sections import SamplesSection
from phaseline.distributed.guards import main_process_only
from phaseline.distributed.seeding import position_seed
from phaseline.distributed.world import World
from phaseline.models.generation import Sample, generate
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

    def run(self) -> tuple[dict[str, float], list[Mapping[str, Any]]] | None:
        """Returns metrics and samples, alike on all ranks, and keeps the samples in a file.

        None: the ranks agreed to stop, and nothing is kept. The model must be in evaluation
        mode. **Ranks:** all. Collectives on the CPU.
        """
        runtime, section = self._runtime, self._section
        prompts = list(section.prompts)
        if section.held_out_prompts:
            prompts += runtime.data.held_out_prompts(section.held_out_prompts)
        mine = self._generate(prompts, runtime.world)
        if mine is None:
            return None
        samples = _merge(mine, runtime.world)
        metrics = {f"{runtime.section.name}/samples/count": float(len(samples))}
        if section.check == "python" and samples:
            num_valid = sum(bool(sample["valid"]) for sample in samples)
            metrics[f"{runtime.section.name}/samples/python_valid_frac"] = num_valid / len(samples)
        self._write(samples)
        return metrics, samples

    def _generate(self, prompts: Sequence[str], world: World) -> list[dict[str, Any]] | None:
        """This rank's samples; None if the ranks agreed to stop."""
        numbered, stop = list(enumerate(prompts)), self._runtime.stop
        in_step = self._runtime.engine.settings.partitions_weights
        found = []
        # As many turns on every rank, because each turn is an edge of the vote.
        for first in range(0, len(prompts), world.dp_world_size):
            if stop.agreed():
                return None
            if first + world.dp_rank < len(prompts):
                idx, prompt = numbered[first + world.dp_rank]
                found.append(self._judge(idx, self._continue(idx, prompt)))
            elif in_step:
                # Every rank takes part in every forward, so one with fewer prompts repeats one.
                self._continue(*numbered[0])
        # A sample may have been cut short by a request that only some ranks have heard of.
        return None if stop.agreed_now() else found

    def _continue(self, idx: int, prompt: str) -> Sample:
        runtime, section = self._runtime, self._section
        [sample] = generate(
            runtime.engine.module,
            runtime.data.tokenizer,
            [(idx, prompt)],
            max_new_tokens=section.max_new_tokens,
            temperature=section.temperature,
            seed=position_seed(runtime.seed, runtime.phase_idx, runtime.position.phase_step),
            in_step=runtime.engine.settings.partitions_weights,
            is_unwanted=runtime.stop.heard,
        )
        return sample

    def _judge(self, idx: int, sample: Sample) -> dict[str, Any]:
        valid = None
        if self._section.check == "python":
            valid = first_function_parses(
                sample.prompt, sample.completion, complete=sample.complete
            )
        return {
            "idx": idx,
            "prompt": sample.prompt,
            "completion": sample.completion,
            "complete": sample.complete,
            "valid": valid,
        }

    @main_process_only
    def _write(self, samples: Sequence[Mapping[str, Any]]) -> None:
        folder = self._runtime.samples_folder
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"step-{self._runtime.position.phase_step:08d}.json"
        write_text(path, json.dumps(list(samples), indent=1, ensure_ascii=False) + "\n")


def _merge(mine: list[dict[str, Any]], world: World) -> list[Mapping[str, Any]]:
    parts: list[list[dict[str, Any]]] = world.gather_objects(mine)
    return sorted((sample for part in parts for sample in part), key=lambda sample: sample["idx"])
