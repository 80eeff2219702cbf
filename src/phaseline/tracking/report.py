"""The session's report: one HTML file that needs nothing else."""

from __future__ import annotations

import time
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from phaseline.session.files import write_text
from phaseline.session.layout import SessionLayout
from phaseline.tracking.formatting import format_loss, format_quantity
from phaseline.tracking.report_data import SessionStory, gather_story


def write_report(session_dir: Path) -> Path:
    """Writes `report.html` into the session's folder and returns its path.

    Raises:
        UsageError: The folder holds no session.
    """
    path = SessionLayout(session_dir).report_file
    write_text(path, render_report(gather_story(session_dir)))
    return path


def render_report(story: SessionStory) -> str:
    """The page as text; everything that comes from outside is escaped."""
    # Imported late: matplotlib takes a second, which training's start must not pay.
    from phaseline.tracking.report_figures import COLOURS, NARROW, WIDE, draw_curves

    environment = Environment(
        loader=PackageLoader("phaseline.tracking"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        loss=format_loss,
        quantity=format_quantity,
        percent=_percent,
        moment=_moment,
        blank_end=_blank_end,
        words=lambda name: name.replace("_", " "),
    )
    environment.globals.update(
        colour=lambda idx: COLOURS[idx % len(COLOURS)],
        change=_change,
    )
    # Our own drawing, not text of others: phase names are checked to be plain words.
    curves = {
        size.name: Markup(draw_curves(story.phases, size))  # noqa: S704
        for size in (WIDE, NARROW)
        if any(phase.steps for phase in story.phases)
    }
    return environment.get_template("report.html.j2").render(story=story, curves=curves)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.0%}"


def _blank_end(text: str) -> int:
    """Line breaks after the last visible character; a young model may write nothing else."""
    return text[len(text.rstrip()) :].count("\n")


def _change(first: float | None, last: float) -> str:
    return "-" if not first else f"{(last - first) / abs(first):+.1%}"


def _moment(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))
