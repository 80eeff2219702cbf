"""Sizes of batches against sequences and ranks."""

from __future__ import annotations

from collections.abc import Iterator

from phaseline.config.batch_layout import BatchLayout
from phaseline.config.checks.finding import Finding, Place
from phaseline.config.sections import PhaseSection, num_sequences_or_tokens
from phaseline.errors import ConfigurationError

_MOST_TOKENS = 2**31 - 1


def tokens_are_whole_sequences(place: Place) -> Iterator[Finding]:
    """A global batch in tokens is a whole number of sequences."""
    if _is_whole(place.phase):
        return
    tokens, length = (
        num_sequences_or_tokens(place.phase.batch.global_size),
        place.phase.data.tokens_per_row,
    )
    below, above = tokens // length * length, -(-tokens // length) * length
    sizes = " or ".join(f"'{size} tokens'" for size in (below, above) if size)
    yield Finding(
        place.loc("batch", "global_size"),
        f"is {place.phase.batch.global_size!r}; it must be a multiple of data.sequence_length, {length}",
        f"Set it to {sizes}.",
    )


def micro_batch_fits_the_batch(place: Place) -> Iterator[Finding]:
    """A micro-batch is no larger than the global batch."""
    if not _is_whole(place.phase):
        return
    global_size = place.phase.global_size
    if place.phase.batch.micro_size > global_size:
        yield Finding(
            place.loc("batch", "micro_size"),
            f"is {place.phase.batch.micro_size}, but the global batch has {global_size} sequences",
            f"Set it to at most {global_size}.",
        )


def micro_batch_can_be_indexed(place: Place) -> Iterator[Finding]:
    """Kernels count the tokens of a micro-batch in 32 bits."""
    phase = place.phase
    of_evaluation = phase.evaluate.sequence_length or phase.data.tokens_per_row
    for keys, size, length in (
        (("batch", "micro_size"), phase.batch.micro_size, phase.data.tokens_per_row),
        (("evaluate", "micro_size"), phase.evaluate.micro_size, of_evaluation),
    ):
        if size is not None and size * length > _MOST_TOKENS:
            yield Finding(
                place.loc(*keys),
                f"is {size}, which makes {size * length} tokens with sequences of {length}; a "
                f"micro-batch may have {_MOST_TOKENS}",
                f"Set it to at most {_MOST_TOKENS // length}.",
            )


def batch_spreads_over_the_ranks(place: Place) -> Iterator[Finding]:
    """Where the number of ranks is given, little of the batch is padding."""
    per_node = place.config.cluster.processes_per_node
    if per_node is None or not _is_whole(place.phase):
        return
    global_size = place.phase.global_size
    if place.phase.batch.micro_size > global_size:
        # Said by the rule above.
        return
    try:
        BatchLayout.derive(
            global_size, place.phase.batch.micro_size, place.config.cluster.nodes * per_node
        )
    except ConfigurationError as error:
        for fault in error.faults:
            yield Finding(place.loc("batch"), fault.problem, fault.fix)


def _is_whole(phase: PhaseSection) -> bool:
    size = phase.batch.global_size
    return isinstance(size, int) or num_sequences_or_tokens(size) % phase.data.tokens_per_row == 0
