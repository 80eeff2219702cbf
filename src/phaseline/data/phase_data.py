"""The data of one phase as tensors: training batches by position, and held-out batches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from phaseline.data.cache import Cache
from phaseline.data.fingerprints import fingerprint_of
from phaseline.data.preparation import PhaseRows, open_rows
from phaseline.data.rows import Ids, PairRows, Rows, assemble
from phaseline.data.stream import SampleStream
from phaseline.data.tokenizer import Tokenizer
from phaseline.data.tokenizer_building import build_tokenizer
from phaseline.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from phaseline.config.batch_layout import BatchLayout
    from phaseline.config.sections import Config


@dataclass(frozen=True)
class Batch:
    """Rows that go through the model at once, padded on the right.

    No attention mask is needed: attention is causal and padding comes last.

    Attributes:
        input_ids: `[batch, time]`, int64.
        targets: The token after each input, `[batch, time]`, int64; -100 where there is no loss.
        rows: Rows that are samples; the others fill the batch up and have no targets.
    """

    input_ids: torch.Tensor
    targets: torch.Tensor
    rows: int

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device; itself where it already lies there."""
        if self.input_ids.device == device:
            return self
        return Batch(self.input_ids.to(device), self.targets.to(device), self.rows)


def open_phase_data(config: Config, phase_idx: int, layout: BatchLayout) -> PhaseData:
    """Opens the data that `preparation.prepare` made for one phase.

    Raises:
        DataError: It is not prepared.
    """
    phase = config.phases[phase_idx]
    assert layout.global_size == phase.batch.sequences(phase.data.sequence_length)
    tokenizer = build_tokenizer(config.tokenizer, Cache.configured(config.preparation))
    sources = open_rows(config, phase, tokenizer)
    stream = SampleStream(
        [source.train.num_rows for source in sources],
        [section.weight for section in phase.data.sources],
        seed=config.session.seed,
        phase_idx=phase_idx,
        global_size=layout.global_size,
    )
    held_out = HeldOut(
        sources,
        tokenizer,
        sequence_length=phase.evaluate.sequence_length or phase.data.sequence_length,
        max_sequences=phase.evaluate.max_sequences,
    )
    return PhaseData(sources, stream, held_out, layout, tokenizer, phase.data.sequence_length)


class PhaseData:
    """Training batches of one phase, as pure functions of step, micro-step and data rank.

    `step` counts the phase's updates from 0. Which samples make up a step depends neither on
    the number of ranks nor on the micro-batch size. Nothing here communicates.

    Attributes:
        sequence_length: Tokens per sequence.
        samples_per_epoch: Samples of the one source; None for a mixture, which has no epochs.
        tokens_per_step: Positions in a global batch, as if no row were shorter.
        fingerprint: Names the content of all sources. If it differs between two ranks or two
            attempts, they do not train on the same data.
        tokenizer: What the data was tokenised with.
        token_bytes: Bytes of text that each token stands for, `[vocabulary]`, int32.
        held_out: What is validated on.
    """

    def __init__(
        self,
        sources: Sequence[PhaseRows],
        stream: SampleStream,
        held_out: HeldOut,
        layout: BatchLayout,
        tokenizer: Tokenizer,
        sequence_length: int,
    ) -> None:
        """Puts the opened parts together; `open_phase_data` opens them."""
        self.sequence_length = sequence_length
        self.samples_per_epoch = sources[0].train.num_rows if len(sources) == 1 else None
        self.tokens_per_step = layout.global_size * sequence_length
        self.fingerprint = fingerprint_of([source.fingerprint for source in sources])
        self.tokenizer = tokenizer
        self.token_bytes: NDArray[np.int32] = tokenizer.token_bytes
        self.held_out = held_out
        self._rows = [source.train for source in sources]
        self._stream = stream
        self._layout = layout
        self._batches = _BatchMaker(self._rows, sequence_length, tokenizer.pad_id)

    def sample_ids(self, step: int) -> NDArray[np.int64]:
        """(source index, sample id) of every row of a step, `[global_size, 2]`, int64."""
        return self._stream.sample_ids(step)

    def target_count(self, step: int) -> int:
        """Targets with loss in the whole global batch of a step, known without communication."""
        sample_ids = self.sample_ids(step)
        if len(self._rows) == 1:
            return self._rows[0].target_count(sample_ids[:, 1])
        return sum(
            rows.target_count(sample_ids[sample_ids[:, 0] == source_idx, 1])
            for source_idx, rows in enumerate(self._rows)
        )

    def micro_batch(self, step: int, micro_step: int, dp_rank: int) -> Batch:
        """What one rank runs in one micro-step; always `micro_size` rows.

        Args:
            step: Update within the phase, from 0.
            micro_step: Position in the accumulation, from 0.
            dp_rank: Data-parallel rank.
        """
        micro_size = self._layout.micro_size
        first = (micro_step * self._layout.dp_world_size + dp_rank) * micro_size
        sample_ids = self.sample_ids(step)[first : first + micro_size]
        return self._batches.make(sample_ids, micro_size)

    def held_out_prompts(self, num_prompts: int) -> list[str]:
        """At most so many prompts of the held-out pairs, spread evenly.

        Raises:
            DataError: The phase trains on text, which has no prompts.
        """
        return self.held_out.prompts(num_prompts)


class HeldOut:
    """Validation batches: every held-out sequence once, source after source.

    Attributes:
        num_sequences: Sequences that are validated on, after `max_sequences`.
        sequence_length: Tokens per sequence.
    """

    def __init__(
        self,
        sources: Sequence[PhaseRows],
        tokenizer: Tokenizer,
        *,
        sequence_length: int,
        max_sequences: int | None,
    ) -> None:
        """Chooses the sequences.

        Args:
            sources: Rows of each source.
            tokenizer: Turns prompts back into text.
            sequence_length: Tokens per sequence.
            max_sequences: At most so many, spread evenly over all; None: all.
        """
        every = np.concatenate(
            [
                _with_source(idx, np.arange(source.held_out.num_rows))
                for idx, source in enumerate(sources)
            ]
        )
        self._sample_ids = every[_spread(len(every), max_sequences)]
        self._rows = [source.held_out for source in sources]
        self._tokenizer = tokenizer
        self._batches = _BatchMaker(self._rows, sequence_length, tokenizer.pad_id)
        self.num_sequences = len(self._sample_ids)
        self.sequence_length = sequence_length

    def num_batches(self, dp_world_size: int, micro_size: int) -> int:
        """Batches that every rank runs; the same on all ranks, so that collectives match."""
        return -(-self.num_sequences // (dp_world_size * micro_size))

    def batch(self, batch_idx: int, dp_rank: int, dp_world_size: int, micro_size: int) -> Batch:
        """One rank's batch; always `micro_size` rows, of which the last ones may be filler."""
        first = (batch_idx * dp_world_size + dp_rank) * micro_size
        return self._batches.make(self._sample_ids[first : first + micro_size], micro_size)

    def prompts(self, num_prompts: int) -> list[str]:
        """At most so many prompts of the pairs, spread evenly.

        Raises:
            DataError: These are texts, which have no prompts.
        """
        prompts = []
        chosen = self._sample_ids[_spread(self.num_sequences, num_prompts)]
        for source_idx, row in chosen.tolist():
            rows = self._rows[source_idx]
            if not isinstance(rows, PairRows):
                raise DataError(
                    "held-out prompts were asked for of a phase that trains on text; only pairs "
                    "have prompts. Give `evaluate.samples.prompts`, not `held_out_prompts`."
                )
            prompts.append(self._tokenizer.decode(rows.prompt(row).tolist()))
        return prompts


class _BatchMaker:
    def __init__(self, rows: Sequence[Rows], sequence_length: int, pad_id: int) -> None:
        self._rows = rows
        self._sequence_length = sequence_length
        self._pad_id = pad_id

    def make(self, sample_ids: Ids, num_rows: int) -> Batch:
        inputs, targets = assemble(
            self._rows,
            sample_ids,
            num_rows=num_rows,
            sequence_length=self._sequence_length,
            pad_id=self._pad_id,
        )
        return Batch(torch.from_numpy(inputs), torch.from_numpy(targets), len(sample_ids))


def _with_source(source_idx: int, ids: Ids) -> Ids:
    return np.stack([np.full_like(ids, source_idx), ids], axis=1)


def _spread(num_items: int, max_items: int | None) -> Ids:
    """Indices of at most so many items, evenly spaced from the first on."""
    num_chosen = num_items if max_items is None else min(max_items, num_items)
    return np.arange(num_chosen, dtype=np.int64) * num_items // max(1, num_chosen)
