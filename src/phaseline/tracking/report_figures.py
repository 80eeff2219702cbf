"""The report's curves, as SVG text that stands inside a page."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from phaseline.tracking.report_data import PhaseStory

COLOURS = ("#2f6fde", "#d9730d", "#0f9d74", "#8b5cd6", "#c43d5f", "#5b7083")
"""One colour per phase, in turn; the page uses the same."""

_INK = "#3a4350"
_FAINT = "#e4e8ee"
_LETTERS_PER_INCH = 10
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": _INK,
    "axes.edgecolor": "#c3cad4",
    "axes.labelcolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _FAINT,
    "xtick.color": _INK,
    "ytick.color": _INK,
}


@dataclass(frozen=True)
class Size:
    """A size that curves are drawn for.

    Attributes:
        name: Tells the drawings of one page apart.
        width_in: Inches.
        loss_height_in: Of the axes of one kind of loss.
        lr_height_in: Of the axes of the learning rate.
        most_points: On one line.
    """

    name: str
    width_in: float
    loss_height_in: float
    lr_height_in: float
    most_points: int


WIDE = Size("wide", 11, 4.2, 1.5, 1500)
NARROW = Size("narrow", 4.4, 2.8, 1.3, 400)
"""For telephones, where the wide one's text could not be read."""


def draw_curves(phases: Sequence[PhaseStory], size: Size = WIDE) -> str:
    """Draws losses and learning rate over the global step; empty text if nothing was trained.

    Losses of each kind have axes of their own.
    """
    trained = [(idx, phase) for idx, phase in enumerate(phases) if phase.steps]
    if not trained:
        return ""
    kinds = list(dict.fromkeys(phase.loss_kind for _, phase in trained))
    heights = [
        *[size.loss_height_in if len(kinds) == 1 else 0.7 * size.loss_height_in] * len(kinds)
    ]
    heights.append(size.lr_height_in)
    style = {**_STYLE, "svg.hashsalt": f"phaseline-{size.name}"}
    with mpl.rc_context(style):
        figure = Figure(figsize=(size.width_in, sum(heights)), layout="constrained")
        axes = figure.subplots(len(heights), 1, sharex=True, gridspec_kw={"height_ratios": heights})
        for kind, loss_axes in zip(kinds, axes, strict=False):
            members = [phase for _, phase in trained if phase.loss_kind == kind]
            loss_axes.set_ylim(*_loss_range(members))
            loss_axes.set_ylabel(kind if len(kinds) == 1 else kind.replace(", ", "\n"))
        lr_axes = axes[-1]
        for idx, phase in trained:
            colour = COLOURS[idx % len(COLOURS)]
            _draw_loss(axes[kinds.index(phase.loss_kind)], phase, colour, size)
            steps, lrs = _thin(phase.steps, phase.lrs, size)
            lr_axes.plot(steps, lrs, color=colour, linewidth=1.8)
        _mark_phases(axes, [phase for _, phase in trained], size)
        lr_axes.set_ylabel("learning rate")
        lr_axes.set_ylim(bottom=0)
        lr_axes.set_xlabel("global step")
        lr_axes.xaxis.set_major_locator(MaxNLocator(4 if size is NARROW else 9, integer=True))
        lr_axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        lr_axes.yaxis.set_major_locator(MaxNLocator(3))
        lr_axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.2g}"))
        return _to_svg(figure)


def _draw_loss(axes: Axes, phase: PhaseStory, colour: str, size: Size) -> None:
    steps, losses = _thin(phase.steps, phase.losses, size)
    axes.plot(steps, losses, color=colour, alpha=0.28, linewidth=0.9)
    axes.plot(steps, _smooth(losses), color=colour, linewidth=1.9)
    points = [(step, metrics["loss"]) for step, metrics in phase.validations if "loss" in metrics]
    if points:
        axes.plot(
            *zip(*points, strict=True),
            color=colour,
            linestyle=(0, (2, 2)),
            linewidth=1,
            marker="o",
            markersize=5.5,
            markerfacecolor="white",
            markeredgewidth=1.6,
        )


def _mark_phases(all_axes: Sequence[Axes], phases: Sequence[PhaseStory], size: Size) -> None:
    top = all_axes[0]
    first, last = phases[0].steps[0], phases[-1].steps[-1]
    margin = 0.008 * max(1, last - first)
    top.set_xlim(first - margin, last + margin)
    for idx, phase in enumerate(phases):
        if idx:
            for axes in all_axes:
                axes.axvline(phase.steps[0], color="#98a2b0", linewidth=1, linestyle=(0, (4, 3)))
        share = (phase.steps[-1] - phase.steps[0] + 2 * margin) / (last - first + 2 * margin)
        if share * size.width_in * _LETTERS_PER_INCH < len(phase.name):
            continue  # names would lie on each other; the legend has them all
        middle = (phase.steps[0] + phase.steps[-1]) / 2
        top.text(
            middle,
            1.02,
            phase.name,
            transform=top.get_xaxis_transform(),
            ha="center",
            va="bottom",
            weight="bold",
            clip_on=False,
        )


def _loss_range(phases: Sequence[PhaseStory]) -> tuple[float, float]:
    """Limits that single spikes do not stretch."""
    values = sorted(v for phase in phases for v in phase.losses if math.isfinite(v))
    held_out = [m["loss"] for phase in phases for _, m in phase.validations if "loss" in m]
    finite = [value for value in held_out if math.isfinite(value)]
    if not values:
        return 0.0, 1.0
    high = max([values[min(len(values) - 1, int(0.998 * len(values)))], *finite])
    low = min([values[0], *finite])
    margin = 0.05 * max(high - low, 1e-3)
    return low - margin, high + margin


def _thin(
    steps: Sequence[int], values: Sequence[float], size: Size
) -> tuple[list[float], list[float]]:
    """Means over runs of neighbours, so that a long session's page stays small."""
    span = max(1, -(-len(steps) // size.most_points))
    at = range(0, len(steps), span)
    return (
        [sum(steps[i : i + span]) / len(steps[i : i + span]) for i in at],
        [sum(values[i : i + span]) / len(values[i : i + span]) for i in at],
    )


def _smooth(values: Sequence[float]) -> list[float]:
    """Means over a window around each point; a short noisy phase gets a wide one too."""
    reach = max(len(values) // 60, min(15, len(values) // 10))
    windows = (values[max(0, i - reach) : i + reach + 1] for i in range(len(values)))
    return [sum(window) / len(window) for window in windows]


def _to_svg(figure: Figure) -> str:
    text = io.StringIO()
    # Without a date, equal records give an equal page.
    figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    svg = text.getvalue()
    return svg[svg.index("<svg") :]
