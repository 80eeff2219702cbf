"""Step three of a run: each phase's worst case, once, before anything is spent on it."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from phaseline.checkpoint.retention import Retention
from phaseline.checkpoint.store import CheckpointStore, Origin
from phaseline.checkpoint.trial import checkpoint_bytes, require_whole_model, try_checkpoint
from phaseline.data.batch import AnyBatch, Batch
from phaseline.errors import (
    CheckpointError,
    ConfigurationError,
    EngineError,
    Fault,
    PhaselineError,
)
from phaseline.models.compilation import require_compiler
from phaseline.models.generation import generate, most_new_tokens
from phaseline.models.linear_loss import require_same_loss
from phaseline.objectives.distillation import Distillation
from phaseline.session.layout import AttemptLayout
from phaseline.training.phases.held_out import HeldOutTotals
from phaseline.training.phases.runtime import PhaseRuntime
from phaseline.training.pipeline.document_trial import DocumentTrial, pairs_in_rows, two_documents
from phaseline.training.pipeline.label_trial import LabelTrial, random_samples
from phaseline.training.pipeline.teaching import require_same_vocabulary
from phaseline.training.pipeline.vocabulary_trial import SAFE_VOCABULARY, VocabularyTrial


class PhaseValidation:
    """Tries what a phase will do: its worst batch, a checkpoint and back, the disk."""

    def __init__(
        self, runtime: PhaseRuntime, attempt: AttemptLayout, *, tries_checkpoint: bool = True
    ) -> None:
        """Takes a phase's runtime, which is used up by this.

        Args:
            runtime: Built with fresh weights.
            attempt: Where the trial checkpoint goes: no other attempt looks there.
            tries_checkpoint: Whether a checkpoint is written and read back; alike on all ranks.
        """
        self._runtime = runtime
        self._tries_checkpoint = tries_checkpoint
        self._folder = attempt.dir / "validation" / runtime.section.name
        self._attempt = attempt.number

    def run(self) -> bool:
        """Raises in words what would otherwise fail later. **Ranks:** all.

        Returns:
            Whether all was tried. False: the ranks agreed to stop in between.

        Raises:
            EngineError: The worst batch gives no finite loss.
            CheckpointError: What was written is not what is read back.
            PhaselineError: The disk is too small.
        """
        self._runtime.world.require_agreement("the phase", self._runtime.section.name)
        trials = (
            self._try_levers,
            self._try_teacher,
            self._find_the_tokens,
            self._find_the_classes,
            self._train_worst_batch,
            self._evaluate_worst_batch,
            self._keep_documents_apart,
            self._generate_once,
        )
        for trial in trials:
            trial()
            if self._runtime.stop.agreed_now():
                return False
        require_whole_model(self._runtime.engine, self._runtime.world)
        if self._tries_checkpoint:
            self._try_checkpoint()
        self._require_disk(checkpoint_bytes(self._runtime.engine, self._runtime.world))
        return True

    def _try_levers(self) -> None:
        runtime, section = self._runtime, self._runtime.section.engine
        path = f"phases[{runtime.phase_idx}].engine"
        if section.compile:
            require_compiler(runtime.world.device, path=f"{path}.compile")
        if section.linear_cross_entropy:
            require_same_loss(runtime.engine.model, path=f"{path}.linear_cross_entropy")

    def _find_the_tokens(self) -> None:
        if self._runtime.data.form is None:
            length = self._runtime.section.data.sequence_length
            VocabularyTrial(self._runtime).run(self._worst_batch(1, length, SAFE_VOCABULARY))

    def _try_teacher(self) -> None:
        if isinstance(self._runtime.objective, Distillation):
            length = self._runtime.section.data.sequence_length
            self._runtime.engine.model.eval()
            batch = self._worst_batch(1, length, SAFE_VOCABULARY)
            assert isinstance(batch, Batch), "teachers are of tokens"
            require_same_vocabulary(self._runtime, batch)

    def _find_the_classes(self) -> None:
        if self._is_labelled():
            LabelTrial(self._runtime).run()

    def _train_worst_batch(self) -> None:
        """One optimizer step on full rows; in sequences every token is a target."""
        runtime = self._runtime
        engine, layout = runtime.engine, runtime.layout
        engine.model.train()
        sequence_length = runtime.section.data.sequence_length
        of_row = runtime.section.data.tokens_per_row if not self._is_labelled() else 1
        num_targets = layout.micro_size * layout.accumulation_steps * of_row
        for micro_step in range(layout.accumulation_steps):
            batch = self._worst_batch(layout.micro_size, sequence_length)
            engine.begin_micro_step(is_last=micro_step == layout.accumulation_steps - 1)
            loss = runtime.objective.losses(engine.model, batch).values.sum()
            engine.backward(loss / num_targets)
        for group in engine.param_groups:
            group["lr"] = runtime.plan.learning_rate(1)
        report = engine.step()
        if report.skipped:
            raise EngineError(
                f"phases[{runtime.phase_idx}] ({runtime.section.name}): the first trial step, on "
                f"{self._describe(layout.micro_size)}, has a gradient that is not finite. Check the "
                "model's initialisation and its numbers."
            )

    def _evaluate_worst_batch(self) -> None:
        runtime = self._runtime
        runtime.engine.model.eval()
        evaluate = runtime.section.evaluate
        batch = self._worst_batch(
            evaluate.micro_size or runtime.section.batch.micro_size,
            evaluate.sequence_length or runtime.section.data.sequence_length,
        )
        if len(runtime.data.source_names) > 1:
            source_ids = torch.zeros(batch.rows, dtype=torch.int64, device=runtime.world.device)
            batch = replace(batch, source_ids=source_ids)
        totals = HeldOutTotals.of(runtime)
        with torch.no_grad():
            totals.look(runtime.engine.model, batch)
        found = totals.metrics("", runtime.world)
        self._require_best_is_measured(
            [*totals.names_of_parts, *(key.removeprefix("/") for key in found)]
        )

    def _require_best_is_measured(self, names: Sequence[str]) -> None:
        """What the user's own code measures is not known before."""
        runtime = self._runtime
        best = runtime.section.checkpoint.keep_best
        if best is None or best.metric in names:
            return
        fault = Fault(
            f"phases[{runtime.phase_idx}].checkpoint.keep_best.metric",
            "",
            f"is {best.metric!r}, which a validation of this phase does not measure",
            f"It measures {', '.join(names)}.",
        )
        raise ConfigurationError([fault])

    def _keep_documents_apart(self) -> None:
        runtime = self._runtime
        if self._has_pairs() and not runtime.section.data.separate_documents:
            # `validate` has said it of an objective that is built in.
            path = f"phases[{runtime.phase_idx}].data.separate_documents"
            problem = "is false, but the objective is on pairs of answers, which share sequences"
            raise ConfigurationError([Fault(path, "", problem, "Remove it, or set it to true.")])
        if not self._shares_rows():
            return
        DocumentTrial(runtime).run()
        if isinstance(runtime.objective, Distillation):
            DocumentTrial(runtime, runtime.objective.model).run()

    def _generate_once(self) -> None:
        """One token of one sample, so that the end of the phase can generate its own."""
        runtime, section = self._runtime, self._runtime.section.evaluate.samples
        if section is None:
            return
        if section.held_out_prompts:
            runtime.data.held_out_prompts(1)  # text, which some objectives take as well, has none
        if not hasattr(runtime.engine.module, "generate"):
            raise EngineError(
                f"phases[{runtime.phase_idx}].evaluate.samples is set, but the model, a "
                f"{type(runtime.engine.module).__name__}, has no `generate`. Remove `samples`, or "
                "give a model of transformers."
            )
        most = most_new_tokens(runtime.engine.module)
        is_asked = "max_new_tokens" in section.model_fields_set
        if most is not None and is_asked and section.max_new_tokens > most:
            # `validate` has said it of an architecture that it knows.
            path = f"phases[{runtime.phase_idx}].evaluate.samples.max_new_tokens"
            problem = (
                f"is {section.max_new_tokens}, but the model has {most + 1} positions, which a "
                "prompt and what is written after it share"
            )
            raise ConfigurationError([Fault(path, "", problem, f"Set it to at most {most}.")])
        generate(
            runtime.engine.module,
            runtime.data.tokenizer,
            [(0, "a")],
            max_new_tokens=1,
            temperature=0.0,
            seed=0,
            in_step=runtime.engine.settings.partitions_weights,
        )

    def _worst_batch(
        self, num_rows: int, sequence_length: int | None, vocab_size: int | None = None
    ) -> AnyBatch:
        """Full rows of random tokens, with what it takes to keep documents apart in them.

        Where samples have a label, whole random samples. Tokens are below `vocab_size`; None: all
        that the tokenizer has.
        """
        runtime = self._runtime
        if self._is_labelled():
            samples = random_samples(runtime, num_rows, sequence_length, vocab_size=vocab_size)
            return samples.to(runtime.world.device)
        assert sequence_length is not None
        vocab_size = vocab_size or runtime.data.tokenizer.vocab_size
        ids = torch.randint(0, vocab_size, (num_rows, sequence_length + 1))
        batch = Batch(input_ids=ids[:, :-1], targets=ids[:, 1:], rows=num_rows)
        if self._shares_rows():
            half = sequence_length // 2
            batch = two_documents(ids[:, : half + 1], ids[:, half:])
        if self._has_pairs():
            batch = pairs_in_rows(batch)
        return runtime.reference.attach(batch.to(runtime.world.device), "train")

    def _describe(self, num_rows: int) -> str:
        length = self._runtime.section.data.sequence_length
        if length is None:
            return f"{num_rows} random samples"
        return f"{num_rows} full sequences of {length} random tokens"

    def _is_labelled(self) -> bool:
        return self._runtime.data.num_classes > 0

    def _shares_rows(self) -> bool:
        data = self._runtime.section.data
        if self._is_labelled():
            return False
        return data.separate_documents and (data.packing or self._has_pairs())

    def _has_pairs(self) -> bool:
        return self._runtime.objective.normaliser == "pairs"

    def _try_checkpoint(self) -> None:
        """Writes some of the live engine's state, reads it back and compares every bit."""
        runtime = self._runtime
        store = CheckpointStore(
            self._folder,
            runtime.world,
            Origin(session="", attempt=self._attempt, config_fingerprint=""),
            Retention(keep_last=2),
            fence=lambda: None,
        )
        state = {"stateful": runtime.stateful.state_dict()}
        problem = ""
        try:
            try_checkpoint(
                store, runtime.engine, runtime.world, phase=runtime.section.name, state=state
            )
        except CheckpointError as error:
            problem = str(error)
        # Each rank reads its own part: one that fails alone would leave the others waiting.
        problems = [text for text in runtime.world.gather_objects(problem) if text]
        if runtime.world.is_main:
            shutil.rmtree(self._folder.parent, ignore_errors=True)
        if problems:
            raise CheckpointError(problems[0])

    def _require_disk(self, size_bytes: int) -> None:
        runtime = self._runtime
        # While one is written there is one more than are kept, and the phase's last besides.
        section = runtime.section.checkpoint
        num_kept = section.keep_last + 2 + int(section.keep_best is not None)
        if runtime.plan.keep_every_steps:
            num_kept += runtime.plan.num_steps // runtime.plan.keep_every_steps
        needed = size_bytes * num_kept
        root = _existing(self._folder)
        free = shutil.disk_usage(root).free
        if free < needed:
            raise PhaselineError(
                f"phases[{runtime.phase_idx}] ({runtime.section.name}) needs {needed / 2**20:.0f} "
                f"MiB for its checkpoints ({size_bytes / 2**20:.0f} MiB each), but {root} has "
                f"{free / 2**20:.0f} MiB free. Free some, choose another session.root, or lower "
                "checkpoint.keep_last or checkpoint.keep_every."
            )


def _existing(folder: Path) -> Path:
    while not folder.exists():
        folder = folder.parent
    return folder
