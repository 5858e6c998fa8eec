"""A front as a picture, PNG or SVG."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from harness import storage
from harness.errors import MissingExtra, UsageError
from harness.tables.front import Front, Point
from harness.tables.plain import METRICS

SUFFIXES = (".png", ".svg")
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000", "#999999")
"""Okabe and Ito's, which colour-blind people tell apart."""
_DPI = 150


def require_suffix(path: Path) -> None:
    """Raise `UsageError` unless a picture can be written under this name."""
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"--picture {path}: name a file that ends in .png or .svg")


def write(found: Sequence[Front], path: Path) -> None:
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
    heights = [5 + 0.2 * len(item.points) for item in found]
    with mpl.rc_context({"svg.hashsalt": "front", "svg.fonttype": "none"}):
        figure = Figure(figsize=(9, sum(heights)), layout="constrained")
        panels = figure.subplots(len(found), squeeze=False, height_ratios=heights)
        for panel, item in zip(panels[:, 0], found, strict=True):
            _draw(panel, item)
        content = io.BytesIO()
        figure.savefig(content, format=kind, dpi=_DPI, metadata={"Date": None} if kind == "svg" else None)
    storage.write_bytes(path, content.getvalue())


def _draw(panel: object, item: Front) -> None:
    from matplotlib.axes import Axes
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    assert isinstance(panel, Axes)  # noqa: S101 - what `subplots` gives
    placed = [
        (point, point.milliseconds, point.accuracy)
        for point in item.points
        if point.milliseconds is not None and point.accuracy is not None
    ]
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
            label=f"{number}  {_label(point, item)}",
        )
        panel.annotate(
            str(number),
            (milliseconds, accuracy),
            xytext=(7, 7),
            textcoords="offset points",
            fontsize=9,
        )
    front = [(milliseconds, accuracy) for point, milliseconds, accuracy in placed if point.on_front]
    panel.step(
        [milliseconds for milliseconds, _ in front],
        [accuracy for _, accuracy in front],
        where="post",
        color="#bbbbbb",
        zorder=0,
    )
    panel.set_xscale("log")
    panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    panel.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    panel.xaxis.set_minor_formatter(NullFormatter())
    panel.set_xlabel(f"median ms per image ({item.stage}), logarithmic")
    panel.set_ylabel(METRICS[item.metric])
    panel.set_title(f"{item.title}\n★ on the front; hollow: left out of it", fontsize=10)
    panel.grid(visible=True, alpha=0.25)
    panel.margins(0.08)
    panel.legend(loc="upper left", bbox_to_anchor=(0, -0.12), fontsize=8, frameon=False)


def _label(point: Point, item: Front) -> str:
    """What tells the point from the others, and its numbers."""
    cases = [other.case for other in item.points]
    differing = [
        value
        for value, several in (
            (f"{point.case.detector} {point.case.backbone}", {(c.detector, c.backbone) for c in cases}),
            (point.case.runner, {c.runner for c in cases}),
            (point.case.variant, {c.variant for c in cases}),
            (f"batch {point.case.batch_size}", {c.batch_size for c in cases}),
            (f"{point.case.threads} threads", {c.threads for c in cases}),
        )
        if len(several) > 1
    ]
    mark = " (SIMULATED)" if point.left_out and "SIMULATED" in point.left_out else ""
    return f"{', '.join(differing) or point.case.variant}{mark}: {point.accuracy:.4f}, {point.milliseconds:.1f} ms"
