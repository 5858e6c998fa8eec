"""Pictures of where two records differ: image, both heat maps, their difference and the mask, side by side."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from harness import storage
from harness.parity import PairReport, ParityReport, read_again
from harness.records import record
from harness.types import AnyArray, Bool, UInt8

PANEL = 288
"""Side of a panel in pixels; what is smaller is enlarged to it."""
MARGIN = 20
LINE = 26
"""Height of a line of text; its capitals are 13 pixels high."""
BAR = 14
"""Height of a colour bar."""
WIDTH = 5 * PANEL + 6 * MARGIN
TOP = MARGIN + 3 * LINE + MARGIN // 2
"""Where the panels begin, below title, summary and headings."""
HEIGHT = TOP + PANEL + 2 * LINE + BAR + MARGIN

Colour = tuple[int, int, int]
Range = tuple[float, float]

_INK: Colour = (32, 32, 32)
_ALARM: Colour = (32, 32, 200)
_FRAME: Colour = (160, 160, 160)
_BLANK = np.full((1, 1, 3), 224, np.uint8)
_WRITTEN = re.compile(r"[A-Za-z0-9-]*_[A-Za-z0-9-]*_(flip|difference)_[A-Za-z0-9-]*_[0-9a-f]{8}\.png")
"""Names that `_file_name` gives."""
_NOT_FINITE: Colour = (255, 255, 0)
"""Cyan: in neither colour map."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Subject:
    """One image as both records have it, reference first."""

    category: str
    backends: tuple[str, str]
    name: str
    label: int
    scores: tuple[float, float]
    threshold: float | None
    flipped: bool
    frame: UInt8
    mask: Bool
    maps: tuple[AnyArray, AnyArray]

    @property
    def apart(self) -> AnyArray | None:
        """Size of the difference of the maps; `None` when their shapes differ."""
        one, two = self.maps
        if one.shape != two.shape:
            return None
        with np.errstate(invalid="ignore"):
            apart: AnyArray = np.abs(two.astype(np.float64) - one)
        return apart


def write_report(folder: Path, report: ParityReport, directory: Path) -> tuple[Path, ...]:
    """Write one PNG per flipped image and per image of the largest differences of every pair into `directory`.

    Pairs that were not compared, or whose evidence is missing, have no pictures; the report says why.

    Args:
        folder: Results folder `report` was made from.
        report: Says which images.
        directory: Made when missing. Pictures of an earlier report in it go; other files stay.

    Raises:
        RecordError: a record or its evidence was altered or removed since `report` was made.
    """
    for path in directory.glob("*.png"):
        if _WRITTEN.fullmatch(path.name):
            path.unlink()
    written = []
    for pair in report.pairs:
        for picture in of_pair(folder, pair):
            path = directory / _file_name(pair, picture.image, flipped=picture.flipped)
            storage.write_bytes(path, picture.png())
            written.append(path)
    return tuple(written)


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """One image of a pair, ready to be drawn."""

    image: str
    flipped: bool
    subject: _Subject

    def png(self) -> bytes:
        """The picture as a PNG file."""
        return cv2.imencode(".png", draw(self.subject))[1].tobytes()


def of_pair(folder: Path, pair: PairReport) -> Iterator[Picture]:
    """One picture per image of the largest differences and per flipped image.

    None without a comparison, evidence or maps.

    Raises:
        RecordError: a record or its evidence was altered or removed since `pair` was made.
    """
    if not pair.levels:
        return
    one, two = read_again(folder, pair)
    evidence = record.read_evidence(folder, one), record.read_evidence(folder, two)
    if (
        evidence[0] is None
        or evidence[1] is None
        or not all(arrays.maps.size for arrays in evidence if arrays)
    ):
        return
    position = {image.name: index for index, image in enumerate(one.images)}
    flipped = {flip.image: True for flip in pair.flips}
    for name, flips in ({difference.image: False for difference in pair.largest} | flipped).items():
        index = position[name]
        subject = _Subject(
            category=one.case.category,
            backends=(one.case.runner, two.case.runner),
            name=name,
            label=one.images[index].label,
            scores=(one.images[index].score, two.images[index].score),
            threshold=one.thresholds.image,
            flipped=flips,
            frame=evidence[0].frames[index],
            mask=evidence[0].masks[index],
            maps=(evidence[0].maps[index], evidence[1].maps[index]),
        )
        yield Picture(image=name, flipped=flips, subject=subject)


def _file_name(pair: PairReport, image: str, *, flipped: bool) -> str:
    """Readable, safe on any file system, and unique by a digest of records and image."""
    digest = hashlib.sha256("\n".join((*pair.record_files, image)).encode()).hexdigest()[:8]
    kind = "flip" if flipped else "difference"
    parts = (pair.other.category, pair.other.runner, kind, image.rpartition(".")[0] or image)
    readable = "_".join(re.sub(r"[^A-Za-z0-9-]+", "-", part).strip("-")[:60] for part in parts)
    return f"{readable}_{digest}.png"


def draw(subject: _Subject) -> UInt8:
    """The picture of one image, (HEIGHT, WIDTH, 3) BGR."""
    canvas = np.full((HEIGHT, WIDTH, 3), 255, np.uint8)
    scale, apart = _finite_range(*subject.maps), subject.apart
    apart_scale = (0.0, 0.0 if apart is None else _finite_range(apart)[1])
    panels = (
        cv2.cvtColor(subject.frame, cv2.COLOR_GRAY2BGR if subject.frame.shape[2] == 1 else cv2.COLOR_RGB2BGR),
        *(_heat(values, scale, cv2.COLORMAP_INFERNO) for values in subject.maps),
        _BLANK if apart is None else _heat(apart, apart_scale, cv2.COLORMAP_VIRIDIS),
        cv2.cvtColor(np.where(subject.mask, 255, 0).astype(np.uint8), cv2.COLOR_GRAY2BGR),
    )
    for column, panel in enumerate(panels):
        left = _left(column)
        canvas[TOP : TOP + PANEL, left : left + PANEL] = _fitted(np.asarray(panel, np.uint8))
        # Without a frame a white image would melt into the paper.
        cv2.rectangle(canvas, (left - 1, TOP - 1), (left + PANEL, TOP + PANEL), _FRAME)
    _write_text(canvas, subject)
    _draw_bar(canvas, (1, 2), scale, cv2.COLORMAP_INFERNO, "one scale for both maps")
    if apart is not None:
        _draw_bar(canvas, (3, 3), apart_scale, cv2.COLORMAP_VIRIDIS, "own scale")
    return canvas


def _write_text(canvas: UInt8, subject: _Subject) -> None:
    kind, (one, two) = "defective" if subject.label else "good", subject.scores
    _put(canvas, f"{subject.category}: {subject.name}", (MARGIN, MARGIN + 18), WIDTH - 2 * MARGIN, size=0.75)
    threshold = "unknown" if subject.threshold is None else f"{subject.threshold:.6g}"
    summary = f"{kind}, threshold {threshold}, scores differ by {abs(two - one):.2g}"
    if subject.flipped:
        summary += f": FLIP, {' but '.join(_decision(subject, side) for side in (0, 1))}"
    place = (MARGIN, MARGIN + LINE + 18)
    _put(canvas, summary, place, WIDTH - 2 * MARGIN, colour=_ALARM if subject.flipped else _INK)
    apart = subject.apart
    captions = (
        ("image", f"{subject.frame.shape[1]} x {subject.frame.shape[0]} pixels"),
        (subject.backends[0], f"score {one:.7g}, reference"),
        (subject.backends[1], f"score {two:.7g}"),
        (
            "difference of maps",
            "shapes differ" if apart is None else f"largest {_finite_range(apart)[1]:.2g}",
        ),
        ("mask", f"{subject.mask.mean():.1%} defective" if subject.mask.any() else "nothing defective"),
    )
    for column, (heading, caption) in enumerate(captions):
        _put(canvas, heading, (_left(column), TOP - 8), PANEL)
        _put(canvas, caption, (_left(column), TOP + PANEL + LINE - 6), PANEL)


def _decision(subject: _Subject, side: int) -> str:
    assert subject.threshold is not None  # noqa: S101 - without one nothing flips
    called = "defective" if subject.scores[side] > subject.threshold else "good"
    return f"{called} on {subject.backends[side]}"


def _draw_bar(canvas: UInt8, columns: tuple[int, int], scale: Range, colours: int, caption: str) -> None:
    """A colour bar below the panels from the first to the last of `columns`, with its ends and what it is for."""
    left, right = _left(columns[0]), _left(columns[1]) + PANEL
    top = TOP + PANEL + LINE + 4
    ramp = np.linspace(*scale, right - left)[None].repeat(BAR, axis=0)
    canvas[top : top + BAR, left:right] = _heat(ramp, scale, colours)
    low, high = (f"{value:.2g}" for value in scale)
    baseline = top + BAR + 18
    for text, place in ((low, 0.0), (caption, 0.5), (high, 1.0)):
        _put(canvas, text, (left + int((right - left - _width(text)) * place), baseline), right - left)


def _finite_range(*arrays: AnyArray) -> Range:
    """Smallest and largest finite value; zeros when there is none."""
    values = np.concatenate([array[np.isfinite(array)].astype(np.float64) for array in arrays])
    return (float(values.min()), float(values.max())) if len(values) else (0.0, 0.0)


def _heat(values: AnyArray, scale: Range, colours: int) -> UInt8:
    """(H, W) values as (H, W, 3) colours; what is not finite has a colour of its own."""
    low, high = scale
    finite = np.isfinite(values)
    unit = (np.where(finite, values, low).astype(np.float64) - low) / ((high - low) or 1.0)
    heat: UInt8 = cv2.applyColorMap(np.rint(unit * 255).astype(np.uint8), colours).astype(np.uint8)
    heat[~finite] = _NOT_FINITE
    return heat


def _fitted(panel: UInt8) -> UInt8:
    """(PANEL, PANEL, 3): the panel as large as fits, centred on grey; pixels stay visible where it is small."""
    height, width = panel.shape[:2]
    factor = PANEL / max(height, width)
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    method = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR if factor < 2 else cv2.INTER_NEAREST
    square = np.full((PANEL, PANEL, 3), 224, np.uint8)
    top, left = (PANEL - size[1]) // 2, (PANEL - size[0]) // 2
    square[top : top + size[1], left : left + size[0]] = cv2.resize(panel, size, interpolation=method)
    return square


def _left(column: int) -> int:
    return MARGIN + column * (PANEL + MARGIN)


def _width(text: str, size: float = 0.6) -> int:
    width: int = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, size, 1)[0][0]
    return width


def _put(
    canvas: UInt8, text: str, place: tuple[int, int], width: int, *, size: float = 0.6, colour: Colour = _INK
) -> None:
    """Write text with its baseline at `place`, cut to `width`; OpenCV's fonts have ASCII only."""
    shown = text.encode("ascii", "backslashreplace").decode()
    while _width(shown, size) > width:
        shown = f"{shown.removesuffix('...')[:-1]}..."
    cv2.putText(canvas, shown, place, cv2.FONT_HERSHEY_SIMPLEX, size, colour, 1, cv2.LINE_AA)
