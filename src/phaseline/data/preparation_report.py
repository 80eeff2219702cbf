"""What a phase gets from one source, for people and as facts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from phaseline.config.data_section import DataSection
    from phaseline.data.batch_arrays import AnyRows
    from phaseline.data.phase_rows import PhaseRows
    from phaseline.data.store import SplitData

_TOO_LONG = "nothing to learn fits the sequence"


def describe(rows: PhaseRows, data: DataSection) -> str:
    """In a line."""
    parts = [_describe_side(*side) for side in _sides(rows)]
    if rows.store.form is None:
        parts[0] += f", {_useful_frac(rows, data):.1%} of positions useful"
    if rows.store.form is not None:
        parts.append(f"each {rows.store.form}")
    if rows.store.shape == "labelled":
        parts.append(f"{rows.store.num_classes:,} classes")
    parts += [f"dropped {count:,} ({reason})" for reason, count in _dropped(rows).items()]
    if num_truncated := _num_truncated(rows):
        parts.append(f"cut {num_truncated:,} at the end to fit the sequence")
    return "; ".join(parts)


def facts_of(rows: PhaseRows, data: DataSection) -> dict[str, Any]:
    """As JSON can hold it."""
    sides = {
        label.replace(" ", "_"): {
            "documents": side.num_documents,
            "tokens": side.num_tokens,
            "sequences": side_rows.num_rows,
        }
        for label, side, side_rows in _sides(rows)
    }
    facts = {
        "source": rows.store.facts["source"],
        "shape": rows.store.shape,
        **sides,
        "useful_frac": round(_useful_frac(rows, data), 4),
        "dropped": _dropped(rows),
        "truncated": _num_truncated(rows),
    }
    if rows.store.shape == "labelled":
        facts["classes"] = rows.store.num_classes
    return facts


def _describe_side(label: str, side: SplitData, rows: AnyRows) -> str:
    if side.numbers is not None:
        return f"{label} {side.num_documents:,} samples"
    return (
        f"{label} {side.num_documents:,} documents, {side.num_tokens:,} tokens, "
        f"{rows.num_rows:,} sequences"
    )


def _useful_frac(rows: PhaseRows, data: DataSection) -> float:
    """Share of the positions of training rows that hold a token."""
    return rows.train.num_useful / (rows.train.num_rows * data.tokens_per_row)


def _num_truncated(rows: PhaseRows) -> int:
    return rows.train.num_truncated + rows.held_out.num_truncated


def _sides(rows: PhaseRows) -> tuple[tuple[str, SplitData, AnyRows], ...]:
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
