"""What a phase gets from one source, for people and as facts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from phaseline.data.preparation import PhaseRows
    from phaseline.data.rows import Rows
    from phaseline.data.store import SplitData

_TOO_LONG = "nothing to learn fits the sequence"


def describe(rows: PhaseRows, sequence_length: int) -> str:
    """In a line."""
    parts = [
        f"{label} {data.num_documents:,} documents, {len(data.tokens):,} tokens, "
        f"{side_rows.num_rows:,} sequences"
        for label, data, side_rows in _sides(rows)
    ]
    parts[0] += f", {_useful_frac(rows, sequence_length):.1%} of positions useful"
    parts += [f"dropped {count:,} ({reason})" for reason, count in _dropped(rows).items()]
    if num_truncated := _num_truncated(rows):
        parts.append(f"cut {num_truncated:,} at the end to fit the sequence")
    return "; ".join(parts)


def facts_of(rows: PhaseRows, sequence_length: int) -> dict[str, Any]:
    """As JSON can hold it."""
    sides = {
        label.replace(" ", "_"): {
            "documents": data.num_documents,
            "tokens": len(data.tokens),
            "sequences": side_rows.num_rows,
        }
        for label, data, side_rows in _sides(rows)
    }
    return {
        "source": rows.store.facts["source"],
        "shape": rows.store.shape,
        **sides,
        "useful_frac": round(_useful_frac(rows, sequence_length), 4),
        "dropped": _dropped(rows),
        "truncated": _num_truncated(rows),
    }


def _useful_frac(rows: PhaseRows, sequence_length: int) -> float:
    """Share of the positions of training rows that hold a token."""
    return rows.train.num_useful / (rows.train.num_rows * sequence_length)


def _num_truncated(rows: PhaseRows) -> int:
    return rows.train.num_truncated + rows.held_out.num_truncated


def _sides(rows: PhaseRows) -> tuple[tuple[str, SplitData, Rows], ...]:
    return (
        ("train", rows.store.train, rows.train),
        ("held out", rows.store.held_out, rows.held_out),
    )


def _dropped(rows: PhaseRows) -> dict[str, int]:
    dropped = dict(rows.store.dropped)
    num_too_long = rows.train.num_dropped + rows.held_out.num_dropped
    if num_too_long:
        dropped[_TOO_LONG] = num_too_long
    return dropped
