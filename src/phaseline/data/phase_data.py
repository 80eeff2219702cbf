"""The data of one phase: training batches by position, and held-out batches."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import xxhash

from phaseline.data.batch import AnyBatch, build_batch
from phaseline.data.batch_arrays import (
    AnyRows,
    Assembler,
    BatchArrays,
    LabelledArrays,
    build_assembler,
)
from phaseline.data.cache import Cache
from phaseline.data.fingerprints import fingerprint_of
from phaseline.data.held_out import HeldOut
from phaseline.data.phase_rows import PhaseRows
from phaseline.data.preparation import open_rows
from phaseline.data.row_sweep import RowSweep
from phaseline.data.stream import STEPS_AT_ONCE, SampleStream
from phaseline.data.tokenizer import Tokenizer
from phaseline.data.tokenizer_building import build_tokenizer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from phaseline.config.batch_layout import BatchLayout
    from phaseline.config.sections import Config, PhaseSection
    from phaseline.data.encoded_chunk import Split
    from phaseline.data.rows import Ids, Unit


def open_phase_data(config: Config, phase_idx: int, layout: BatchLayout) -> PhaseData:
    """Opens the data that `preparation.prepare` made for one phase.

    Raises:
        DataError: It is not prepared.
    """
    phase = config.phases[phase_idx]
    assert layout.global_size == phase.global_size
    tokenizer = build_tokenizer(config.tokenizer, Cache.configured(config.preparation))
    sources = open_rows(config, phase, tokenizer)
    stream = SampleStream(
        [source.train.num_rows for source in sources],
        [section.weight for section in phase.data.sources],
        seed=config.session.seed,
        phase_idx=phase_idx,
        global_size=layout.global_size,
        is_shuffled=phase.data.order == "shuffled",
    )
    return PhaseData(phase, sources, stream, layout, tokenizer)


class _Side(NamedTuple):
    """One side of the split."""

    rows: Sequence[AnyRows]
    sequence_length: int | None
    assembler: Assembler


class PhaseData:
    """Training batches of one phase, as pure functions of step, micro-step and data rank.

    `step` counts the phase's updates from 0. Which samples make up a step depends neither on
    the number of ranks nor on the micro-batch size. Nothing here communicates.

    Attributes:
        phase: Name of the phase.
        shape: What its samples are.
        sequence_length: Positions of a row; None of images and features.
        form: Of these images or features; None where rows hold tokens.
        num_classes: Classes that labels are of, named or seen; 0 where samples have no label.
        class_names: Of each class, if a source names them.
        samples_per_epoch: Rows of the one source; None for a mixture, which has no epochs.
        tokens_per_step: Positions in a global batch, as if no row were shorter; an image or a
            row of features counts as one.
        fingerprint: Names the content of all sources. If it differs between two ranks or two
            attempts, they do not train on the same data.
        contents: Of each source by its name, a digest of what was prepared of it.
        tokenizer: What the data was tokenised with.
        token_bytes: Bytes of text that each token stands for, `[vocabulary]`, int32.
        source_names: Of each source, as metrics are named.
        layout: How a global batch is spread over ranks and micro-steps.
        held_out: What is validated on.
    """

    def __init__(
        self,
        phase: PhaseSection,
        sources: Sequence[PhaseRows],
        stream: SampleStream,
        layout: BatchLayout,
        tokenizer: Tokenizer,
    ) -> None:
        """Puts the opened parts together; `open_phase_data` opens them."""
        self.phase = phase.name
        self.shape = sources[0].store.shape
        self.sequence_length = phase.data.sequence_length
        self.samples_per_epoch = sources[0].train.num_rows if len(sources) == 1 else None
        self.form = sources[0].store.form
        self.num_classes = max(source.store.num_classes for source in sources)
        self.class_names = next(filter(None, (one.store.class_names for one in sources)), ())
        self.tokens_per_step = phase.tokens_per_step
        self.fingerprint = fingerprint_of([source.fingerprint for source in sources])
        self.tokenizer = tokenizer
        self.token_bytes: NDArray[np.int32] = tokenizer.token_bytes
        self.source_names = phase.data.source_names
        self.contents = dict(zip(self.source_names, (one.contents for one in sources), strict=True))
        self.layout = layout
        self._rows = [source.train for source in sources]
        self._stream = stream
        self._counts_of: tuple[int, Unit] = (-1, "tokens")
        self._counts = np.zeros((0, len(sources)), np.int64)

        def side(rows: Sequence[AnyRows], sequence_length: int | None) -> _Side:
            assembler = build_assembler(
                rows,
                sequence_length=sequence_length,
                pad_id=tokenizer.pad_id,
                is_separate=phase.data.separate_documents,
            )
            return _Side(rows, sequence_length, assembler)

        held_out = [source.held_out for source in sources]
        held_out_length = phase.evaluate.sequence_length or self.sequence_length
        self._sides: dict[Split, _Side] = {
            "train": side(self._rows, self.sequence_length),
            "held_out": side(held_out, held_out_length),
        }
        self.held_out = HeldOut(
            held_out,
            self._sides["held_out"].assembler,
            tokenizer,
            max_sequences=phase.evaluate.max_sequences,
        )

    def sample_ids(self, step: int) -> Ids:
        """(source index, row id) of every row of a step, `[global_size, 2]`, int64."""
        return self._stream.sample_ids(step)

    def samples_digest(self, step: int) -> str:
        """Names the samples of a step in their order: xxh3-64 of `sample_ids`, hexadecimal."""
        return xxhash.xxh3_64_hexdigest(self.sample_ids(step).data)

    def unit_counts(self, step: int, unit: Unit) -> Ids:
        """Units in the whole global batch of a step, by source. `[sources]`

        Known without communication; do not write.

        Args:
            step: Update within the phase, from 0.
            unit: Targets with loss, pairs of answers, or rows.
        """
        block_idx, place = divmod(step, STEPS_AT_ONCE)
        if (block_idx, unit) != self._counts_of:
            self._counts = self._count(self._stream.block(block_idx), unit)
            self._counts_of = (block_idx, unit)
        counts: Ids = self._counts[place]
        return counts

    def epochs(self, num_steps: int) -> list[float]:
        """How often so many steps have gone through each source."""
        return self._stream.epochs(num_steps)

    @property
    def most_bytes(self) -> int:
        """What the arrays of a micro-batch take at most."""
        return self._sides["train"].assembler.most_bytes(self.layout.micro_size)

    def arrays(self, step: int, micro_step: int, dp_rank: int) -> BatchArrays | LabelledArrays:
        """What one rank runs in one micro-step; always `micro_size` rows.

        Args:
            step: Update within the phase, from 0.
            micro_step: Position in the accumulation, from 0.
            dp_rank: Data-parallel rank.
        """
        micro_size = self.layout.micro_size
        first = (micro_step * self.layout.dp_world_size + dp_rank) * micro_size
        sample_ids = self.sample_ids(step)[first : first + micro_size]
        return self._sides["train"].assembler.assemble(sample_ids, micro_size)

    def micro_batch(self, step: int, micro_step: int, dp_rank: int) -> AnyBatch:
        """The same as tensors."""
        return build_batch(self.arrays(step, micro_step, dp_rank))

    def sweep(self, side: Split) -> RowSweep:
        """Every row of a side of the split, once."""
        chosen = self._sides[side]
        return RowSweep(chosen.rows, chosen.assembler, max_sequences=None)

    def num_pairs(self, side: Split) -> list[int]:
        """Pairs of answers of each source on a side; a batch's `pair_ids` count on over them."""
        return [rows.num_pairs for rows in self._sides[side].rows]

    def pairs_fingerprint(self, side: Split) -> str:
        """Names which pair has which number on a side, and which of its tokens are kept.

        How they are packed into rows does not matter to that.
        """
        length = self._sides[side].sequence_length
        return fingerprint_of(self.fingerprint, side, length, self.num_pairs(side))

    def held_out_prompts(self, num_prompts: int) -> list[str]:
        """At most so many prompts of the held-out pairs, spread evenly.

        Raises:
            DataError: The phase trains on text, which has no prompts.
        """
        return self.held_out.prompts(num_prompts)

    def _count(self, block: Ids, unit: Unit) -> Ids:
        """Units of each step of a block by source. `[steps, sources]`"""
        counts = np.zeros((len(block), len(self._rows)), np.int64)
        for source_idx, rows in enumerate(self._rows):
            steps, places = np.nonzero(block[:, :, 0] == source_idx)
            of_rows = rows.num_units(block[steps, places, 1], unit)
            counts[:, source_idx] = np.bincount(steps, of_rows, len(block)).astype(np.int64)
        counts.flags.writeable = False
        return counts
