"""Phases that train on samples with a label: random batches, and whether the model has the classes."""

from __future__ import annotations

from typing import NoReturn

import torch

from phaseline.data.batch import LabelledBatch
from phaseline.errors import ConfigurationError, Fault
from phaseline.objectives.classification import Classification, class_logits
from phaseline.training.phases.runtime import PhaseRuntime


def random_samples(
    runtime: PhaseRuntime, num_rows: int, length: int | None, *, vocab_size: int | None = None
) -> LabelledBatch:
    """Rows as large as they come, filled at random, on the CPU.

    Args:
        runtime: A phase that trains on samples with a label.
        num_rows: Rows of the batch.
        length: Tokens of each row; None of images and features.
        vocab_size: Tokens are below it; None: all that the tokenizer has.
    """
    data = runtime.data
    labels = torch.randint(0, data.num_classes, (num_rows,))
    if data.form is not None:
        return LabelledBatch(torch.rand(num_rows, *data.form.shape), labels, num_rows)
    assert length is not None
    ids = torch.randint(0, vocab_size or data.tokenizer.vocab_size, (num_rows, length))
    return LabelledBatch(ids, labels, num_rows, torch.full((num_rows,), length))


class LabelTrial:
    """Runs one batch and holds the logits against the classes of the data."""

    def __init__(self, runtime: PhaseRuntime) -> None:
        """Takes a phase's runtime; its weights may be any."""
        self._runtime = runtime

    def run(self) -> None:
        """Compares, in evaluation mode. **Ranks:** all; one forward on each.

        Raises:
            ConfigurationError: The model takes other inputs, or gives other logits, than the
                phase needs; or there are weights for another number of classes.
        """
        runtime = self._runtime
        if not isinstance(runtime.objective, Classification):
            return  # one of the user's own reads its model in its own way
        self._require_inputs()
        num_classes, num_weights = runtime.data.num_classes, runtime.objective.num_weights
        length, num_rows = runtime.section.data.sequence_length, runtime.layout.micro_size
        batch = random_samples(runtime, num_rows, length).to(runtime.world.device)
        runtime.engine.model.eval()
        with torch.no_grad():
            shape = tuple(class_logits(runtime.engine.model, batch).shape)
        if len(shape) != 2 or shape[0] != num_rows:
            self._fail(
                f"gives logits of shape {list(shape)} for {num_rows} samples; they must be "
                f"[{num_rows}, classes]",
                "Let its forward return one row of logits for each sample.",
            )
        is_named = bool(runtime.data.class_names)
        if shape[1] < num_classes or (is_named and shape[1] != num_classes):
            told = "lists" if is_named else "has labels of"
            self._fail(
                f"gives logits of {shape[1]} classes, but the data of phase "
                f"{runtime.section.name} {told} {num_classes}",
                f"Give it {num_classes} outputs: model.config.num_labels of a model of "
                "transformers, an argument of a factory of your own.",
            )
        if num_weights is not None and num_weights != shape[1]:
            path = f"phases[{runtime.phase_idx}].objective_arguments.class_weights"
            problem = f"has {num_weights} weights, but the model gives logits of {shape[1]} classes"
            fix = "Give one weight for each class."
            raise ConfigurationError([Fault(path, "", problem, fix)])

    def _require_inputs(self) -> None:
        """Of transformers each model says what it takes."""
        form = self._runtime.data.form
        wanted = getattr(self._runtime.engine.module, "main_input_name", None)
        is_of_tokens = wanted == "input_ids"
        if wanted is not None and is_of_tokens == (form is not None):
            found = "text" if form is None else f"samples of {form}"
            self._fail(
                f"takes {wanted}, but the data of phase {self._runtime.section.name} are {found}",
                "Name another model, or another source.",
            )

    def _fail(self, problem: str, fix: str) -> NoReturn:
        kind = type(self._runtime.engine.module).__name__
        raise ConfigurationError([Fault("model", "", f"is a {kind}, which {problem}", fix)])
