"""Pictures of the differences of two records: image, both heat maps, their difference and the mask, side by side."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from harness import storage
from harness.parity.pair import pair_names, read_again
from harness.parity.report import PairReport, ParityReport
from harness.records import record
from harness.types import AnyArray, Bool, UInt8

PANEL = 288
"""Width and height of a panel in pixels; smaller images are enlarged to it."""
MARGIN = 20
LINE = 26
"""Height of a line of text; its capitals are 13 pixels high."""
BAR = 14
"""Height of a colour bar."""
WIDTH = 5 * PANEL + 6 * MARGIN
TOP = MARGIN + 3 * LINE + MARGIN // 2
"""Upper edge of the panels, below title, summary and headings."""
HEIGHT = TOP + PANEL + 2 * LINE + BAR + MARGIN

Colour = tuple[int, int, int]
Range = tuple[float, float]

_INK: Colour = (32, 32, 32)
_ALARM: Colour = (32, 32, 200)
_FRAME: Colour = (160, 160, 160)
_BLANK = np.full((1, 1, 3), 224, np.uint8)
_WRITTEN = re.compile(r"[A-Za-z0-9-]*_[A-Za-z0-9-]*_(flip|difference)_[A-Za-z0-9-]*_[0-9a-f]{8}\.png")
"""The names that `_file_name` returns."""
_NOT_FINITE: Colour = (255, 255, 0)
"""Cyan: in neither colour map."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """One image with the values of both records, the reference's first."""

    category: str
    names: tuple[str, str]
    """What the two records are called."""
    image: str
    label: int
    scores: tuple[float, float]
    threshold: float | None
    flipped: bool
    frame: UInt8
    mask: Bool
    maps: tuple[AnyArray, AnyArray]

    @property
    def difference(self) -> AnyArray | None:
        """Absolute difference of the maps; `None` if their shapes differ."""
        reference, candidate = self.maps
        if reference.shape != candidate.shape:
            return None
        with np.errstate(invalid="ignore"):
            difference: AnyArray = np.abs(candidate.astype(np.float64) - reference)
        return difference

    def png(self) -> bytes:
        """Return the picture as a PNG file."""
        return cv2.imencode(".png", draw(self))[1].tobytes()


def write_report(folder: Path, report: ParityReport, directory: Path) -> tuple[Path, ...]:
    """Write one PNG for each flipped image and each of the largest differences of every pair.

    Pairs that were not compared, or whose evidence is missing, have no pictures; the report says why.

    Args:
        folder: Results folder of `report`.
        report: Names the images.
        directory: Created if missing. Pictures of an earlier report in it are deleted; other files stay.

    Returns:
        The paths of the pictures.

    Raises:
        RecordError: a record or its evidence was altered or removed since it was compared.
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


def of_pair(folder: Path, pair: PairReport) -> Iterator[Picture]:
    """Yield one picture for each of the largest differences and each flipped image.

    A pair without a comparison, evidence or maps has no pictures.

    Raises:
        RecordError: a record or its evidence was altered or removed since it was compared.
    """
    if not pair.levels:
        return
    reference, candidate = read_again(folder, pair)
    one, two = record.read_evidence(folder, reference), record.read_evidence(folder, candidate)
    if one is None or two is None or not one.maps.size or not two.maps.size:
        return
    position = {image.name: index for index, image in enumerate(reference.images)}
    flipped = {flip.image: True for flip in pair.flips}
    for name, flips in ({difference.image: False for difference in pair.largest} | flipped).items():
        index = position[name]
        yield Picture(
            category=reference.case.category,
            names=pair_names(reference.case, candidate.case),
            image=name,
            label=reference.images[index].label,
            scores=(reference.images[index].score, candidate.images[index].score),
            threshold=reference.thresholds.image,
            flipped=flips,
            frame=one.frames[index],
            mask=one.masks[index],
            maps=(one.maps[index], two.maps[index]),
        )


def _file_name(pair: PairReport, image: str, *, flipped: bool) -> str:
    """Return a name that is readable, safe on any file system, and unique by a digest of records and image."""
    digest = hashlib.sha256("\n".join((*pair.record_files, image)).encode()).hexdigest()[:8]
    kind = "flip" if flipped else "difference"
    parts = (pair.other.category, pair.other.runner, kind, image.rpartition(".")[0] or image)
    readable = "_".join(re.sub(r"[^A-Za-z0-9-]+", "-", part).strip("-")[:60] for part in parts)
    return f"{readable}_{digest}.png"


def draw(picture: Picture) -> UInt8:
    """Draw the picture of one image, (HEIGHT, WIDTH, 3) uint8 BGR."""
    canvas = np.full((HEIGHT, WIDTH, 3), 255, np.uint8)
    scale, difference = _finite_range(*picture.maps), picture.difference
    own_scale = (0.0, 0.0 if difference is None else _finite_range(difference)[1])
    panels = (
        cv2.cvtColor(picture.frame, cv2.COLOR_GRAY2BGR if picture.frame.shape[2] == 1 else cv2.COLOR_RGB2BGR),
        *(_heat(values, scale, cv2.COLORMAP_INFERNO) for values in picture.maps),
        _BLANK if difference is None else _heat(difference, own_scale, cv2.COLORMAP_VIRIDIS),
        cv2.cvtColor(np.where(picture.mask, 255, 0).astype(np.uint8), cv2.COLOR_GRAY2BGR),
    )
    for column, panel in enumerate(panels):
        left = _left(column)
        canvas[TOP : TOP + PANEL, left : left + PANEL] = _fitted(np.asarray(panel, np.uint8))
        # Without a frame a white image would melt into the paper.
        cv2.rectangle(canvas, (left - 1, TOP - 1), (left + PANEL, TOP + PANEL), _FRAME)
    _write_text(canvas, picture)
    _draw_bar(canvas, (1, 2), scale, cv2.COLORMAP_INFERNO, "one scale for both maps")
    if difference is not None:
        _draw_bar(canvas, (3, 3), own_scale, cv2.COLORMAP_VIRIDIS, "own scale")
    return canvas


def _write_text(canvas: UInt8, picture: Picture) -> None:
    kind, (one, two) = "defective" if picture.label else "good", picture.scores
    _put(canvas, f"{picture.category}: {picture.image}", (MARGIN, MARGIN + 18), WIDTH - 2 * MARGIN, size=0.75)
    threshold = "unknown" if picture.threshold is None else f"{picture.threshold:.6g}"
    summary = f"{kind}, threshold {threshold}, scores differ by {abs(two - one):.2g}"
    if picture.flipped:
        summary += f": FLIP, {' but '.join(_decision(picture, index) for index in (0, 1))}"
    place = (MARGIN, MARGIN + LINE + 18)
    _put(canvas, summary, place, WIDTH - 2 * MARGIN, colour=_ALARM if picture.flipped else _INK)
    difference = picture.difference
    captions = (
        ("image", f"{picture.frame.shape[1]} x {picture.frame.shape[0]} pixels"),
        (picture.names[0], f"score {one:.7g}, reference"),
        (picture.names[1], f"score {two:.7g}, candidate"),
        (
            "difference of maps",
            "shapes differ" if difference is None else f"largest {_finite_range(difference)[1]:.2g}",
        ),
        ("mask", f"{picture.mask.mean():.1%} defective" if picture.mask.any() else "nothing defective"),
    )
    for column, (heading, caption) in enumerate(captions):
        _put(canvas, heading, (_left(column), TOP - 8), PANEL)
        _put(canvas, caption, (_left(column), TOP + PANEL + LINE - 6), PANEL)


def _decision(picture: Picture, index: int) -> str:
    assert picture.threshold is not None  # noqa: S101 - without one nothing flips
    decision = "defective" if picture.scores[index] > picture.threshold else "good"
    return f"{decision} on {picture.names[index]}"


def _draw_bar(canvas: UInt8, columns: tuple[int, int], scale: Range, colours: int, caption: str) -> None:
    """Draw a colour bar below the panels from the first to the last of `columns`, with its ends and a caption."""
    left, right = _left(columns[0]), _left(columns[1]) + PANEL
    top = TOP + PANEL + LINE + 4
    ramp = np.linspace(*scale, right - left)[None].repeat(BAR, axis=0)
    canvas[top : top + BAR, left:right] = _heat(ramp, scale, colours)
    low, high = (f"{value:.2g}" for value in scale)
    baseline = top + BAR + 18
    for text, place in ((low, 0.0), (caption, 0.5), (high, 1.0)):
        _put(canvas, text, (left + int((right - left - _width(text)) * place), baseline), right - left)


def _finite_range(*arrays: AnyArray) -> Range:
    """Return the smallest and largest finite value; zeros if there is none."""
    values = np.concatenate([array[np.isfinite(array)].astype(np.float64) for array in arrays])
    return (float(values.min()), float(values.max())) if len(values) else (0.0, 0.0)


def _heat(values: AnyArray, scale: Range, colours: int) -> UInt8:
    """Return (H, W) values as (H, W, 3) colours; values that are not finite have a colour of their own."""
    low, high = scale
    finite = np.isfinite(values)
    unit = (np.where(finite, values, low).astype(np.float64) - low) / ((high - low) or 1.0)
    heat: UInt8 = cv2.applyColorMap(np.rint(unit * 255).astype(np.uint8), colours).astype(np.uint8)
    heat[~finite] = _NOT_FINITE
    return heat


def _fitted(panel: UInt8) -> UInt8:
    """Return (PANEL, PANEL, 3): the image as large as fits, centred on grey; pixels of a small image stay visible."""
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
