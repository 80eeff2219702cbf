"""What a phase gets from one source, for people and as facts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from phaseline.data.preparation import PhaseRows
    from phaseline.data.rows import Rows
    from phaseline.data.store import SplitData

_TOO_LONG = "prompt fills the sequence"


def describe(rows: PhaseRows) -> str:
    """In a line."""
    parts = [
        f"{label} {data.num_documents:,} documents, {len(data.tokens):,} tokens, "
        f"{side_rows.num_rows:,} sequences"
        for label, data, side_rows in _sides(rows)
    ]
    parts += [f"dropped {count:,} ({reason})" for reason, count in _dropped(rows).items()]
    return "; ".join(parts)


def facts_of(rows: PhaseRows) -> dict[str, Any]:
    """As JSON can hold it."""
    sides = {
        label.replace(" ", "_"): {
            "documents": data.num_documents,
            "tokens": len(data.tokens),
            "sequences": side_rows.num_rows,
        }
        for label, data, side_rows in _sides(rows)
    }
    return {"source": rows.store.facts["source"], **sides, "dropped": _dropped(rows)}


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
