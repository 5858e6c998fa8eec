"""Pareto fronts drawn with matplotlib as PNG or SVG."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness import storage
from harness.errors import MissingExtra, UsageError
from harness.tables.pareto import Front, Point
from harness.tables.summary import METRICS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SUFFIXES = (".png", ".svg")
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000", "#999999")
"""Okabe and Ito's, which colour-blind people tell apart."""
_DPI = 150
_INCHES = (9.0, 5.0)
"""Width of the picture, and height of a panel."""
_LINE = (0.19, 0.15)
"""Height in inches of a point's line in the legend, and of a note's."""
_LETTERS = (110, 130)
"""After so many a point's line is wrapped, and a note: they fit the width."""


def require_suffix(path: Path) -> None:
    """Raise `UsageError` unless a picture can be written under this name."""
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"--picture {path}: name a file that ends in .png or .svg")


def write(fronts: Sequence[Front], path: Path) -> None:
    """Write one panel per front, equal bytes for equal fronts; an older picture is replaced.

    Raises:
        MissingExtra: matplotlib is not installed.
        UsageError: the suffix is neither `.png` nor `.svg`.
    """
    require_suffix(path)
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtra("matplotlib", "plots", needed_for="--picture") from error
    kind = path.suffix.lower()[1:]
    heights = [height for front in fronts for height in (_INCHES[1], _height_below(front))]
    with mpl.rc_context({"svg.hashsalt": "front", "svg.fonttype": "none"}):
        figure = Figure(figsize=(_INCHES[0], sum(heights)), layout="constrained")
        axes = figure.subplots(2 * len(fronts), squeeze=False, height_ratios=heights)[:, 0]
        for panel, below, front in zip(axes[::2], axes[1::2], fronts, strict=True):
            _draw(panel, front)
            _explain(below, panel, front)
        content = io.BytesIO()
        figure.savefig(content, format=kind, dpi=_DPI, metadata={"Date": None} if kind == "svg" else None)
    storage.write_bytes(path, content.getvalue())


def _height_below(front: Front) -> float:
    """Inches of the legend and the notes."""
    points = sum(1 + _label(point, front).count("\n") for point, _, _ in _placed(front))
    return _LINE[0] * points + _LINE[1] * len(_notes(front)) + 0.4


def _explain(below: Axes, panel: Axes, front: Front) -> None:
    """The legend of `panel`, and what the table says below its rows: a picture is passed around alone."""
    below.axis("off")
    legend = below.legend(*panel.get_legend_handles_labels(), loc="upper left", fontsize=8, frameon=False)
    low = 0.2 / _height_below(front)
    notes = below.text(
        0.01, low, "\n".join(_notes(front)), fontsize=7, va="bottom", transform=below.transAxes
    )
    for written in (legend, notes):
        written.set_in_layout(False)  # the panel keeps its width


def _notes(front: Front) -> list[str]:
    """The notes of the table, in lines that fit."""
    legend, *others = front.explained
    hollow = "; hollow: left out of it" if any(point.left_out for point, _, _ in _placed(front)) else ""
    notes = [legend + hollow, *others]
    return [line for note in notes for line in textwrap.wrap(note, _LETTERS[1], subsequent_indent="   ")]


def _placed(front: Front) -> list[tuple[Point, float, float]]:
    """The points that have a place, with their milliseconds and accuracy."""
    return [
        (point, point.milliseconds, point.accuracy)
        for point in front.points
        if point.milliseconds is not None and point.accuracy is not None
    ]


def _draw(panel: Axes, front: Front) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    placed = _placed(front)
    backends = sorted({point.case.runner for point, _, _ in placed})
    for number, (point, milliseconds, accuracy) in enumerate(placed, start=1):
        colour = _COLOURS[backends.index(point.case.runner) % len(_COLOURS)]
        hollow = point.left_out is not None
        panel.plot(
            [milliseconds],
            [accuracy],
            marker="*" if point.on_front else "o",
            markersize=13 if point.on_front else 8,
            markerfacecolor="none" if hollow else colour,
            markeredgecolor=colour,
            linestyle="none",
            label=f"{number}  {_label(point, front)}",
        )
        panel.annotate(
            str(number),
            (milliseconds, accuracy),
            xytext=(7, 7),
            textcoords="offset points",
            fontsize=9,
        )
    for where in dict.fromkeys(point.where for point, _, _ in placed if point.on_front):
        steps = [
            (milliseconds, accuracy)
            for point, milliseconds, accuracy in placed
            if point.on_front and point.where == where
        ]
        panel.step(*zip(*steps, strict=True), where="post", color="#bbbbbb", zorder=0)
    panel.set_xscale("log")
    panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    panel.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    panel.xaxis.set_minor_formatter(NullFormatter())
    panel.set_xlabel(f"median ms per image ({front.stage}), logarithmic")
    panel.set_ylabel(METRICS[front.metric])
    panel.set_title("\n".join(textwrap.wrap(front.title, 110)), fontsize=10)
    panel.grid(visible=True, alpha=0.25)
    panel.margins(0.08)


def _label(point: Point, front: Front) -> str:
    """What tells the point from the others, and its numbers."""
    cases = [other.case for other in front.points]
    differing = [
        value
        for value, several in (
            (f"{point.case.detector} {point.case.backbone}", {(c.detector, c.backbone) for c in cases}),
            (point.case.runner, {c.runner for c in cases}),
            (point.case.variant, {c.variant for c in cases}),
            (f"batch {point.case.batch_size}", {c.batch_size for c in cases}),
            (f"{point.case.threads} threads", {c.threads for c in cases}),
            (point.where, {other.where for other in front.points if other.left_out is None}),
        )
        if len(several) > 1
    ]
    mark = " (SIMULATED)" if point.left_out and "SIMULATED" in point.left_out else ""
    name = f"{', '.join(differing) or point.case.variant}{mark}: {point.accuracy:.4f}, {point.milliseconds:.1f} ms"
    return "\n".join(textwrap.wrap(name, _LETTERS[0], subsequent_indent="    "))
