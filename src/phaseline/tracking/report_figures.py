"""The report's curves, as SVG text that stands inside a page."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
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
_MOST_POINTS = 1500
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "phaseline",
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


def draw_curves(phases: Sequence[PhaseStory]) -> str:
    """Draws loss and learning rate over the global step; empty text if nothing was trained."""
    trained = [(idx, phase) for idx, phase in enumerate(phases) if phase.steps]
    if not trained:
        return ""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(11, 6.0), layout="constrained")
        loss_axes, lr_axes = figure.subplots(
            2, 1, sharex=True, gridspec_kw={"height_ratios": [3.2, 1]}
        )
        for idx, phase in trained:
            colour = COLOURS[idx % len(COLOURS)]
            _draw_loss(loss_axes, phase, colour)
            steps, lrs = _thin(phase.steps, phase.lrs)
            lr_axes.plot(steps, lrs, color=colour, linewidth=1.8)
        _mark_phases((loss_axes, lr_axes), [phase for _, phase in trained])
        loss_axes.set_ylim(*_loss_range([phase for _, phase in trained]))
        loss_axes.set_ylabel("loss, nats per target")
        lr_axes.set_ylabel("learning rate")
        lr_axes.set_ylim(bottom=0)
        lr_axes.set_xlabel("global step")
        lr_axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        lr_axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        lr_axes.yaxis.set_major_locator(MaxNLocator(3))
        lr_axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.2g}"))
        return _to_svg(figure)


def _draw_loss(axes: Axes, phase: PhaseStory, colour: str) -> None:
    steps, losses = _thin(phase.steps, phase.losses)
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


def _mark_phases(both: Sequence[Axes], phases: Sequence[PhaseStory]) -> None:
    top = both[0]
    first, last = phases[0].steps[0], phases[-1].steps[-1]
    margin = 0.008 * max(1, last - first)
    top.set_xlim(first - margin, last + margin)
    for idx, phase in enumerate(phases):
        if idx:
            for axes in both:
                axes.axvline(phase.steps[0], color="#98a2b0", linewidth=1, linestyle=(0, (4, 3)))
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


def _thin(steps: Sequence[int], values: Sequence[float]) -> tuple[list[float], list[float]]:
    """Means over runs of neighbours, so that a long session's page stays small."""
    size = max(1, -(-len(steps) // _MOST_POINTS))
    at = range(0, len(steps), size)
    return (
        [sum(steps[i : i + size]) / len(steps[i : i + size]) for i in at],
        [sum(values[i : i + size]) / len(values[i : i + size]) for i in at],
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
