"""The level of tensors: the networks' outputs, where both sides saved them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from harness import storage
from harness.detector.artifact import HEAD
from harness.errors import RecordError
from harness.parity.pair import Float64, Sides, number
from harness.parity.report import LevelReport, TensorDifference
from harness.records.outputs import Reader
from harness.records.record import Record
from harness.types import AnyArray


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredTensors:
    """The outputs of both networks, compared; or why they were not."""

    differences: tuple[TensorDifference, ...] = ()
    wrong: tuple[str, ...] = ()
    """Why two sets of outputs cannot be those of one network: a failure."""
    lacking: tuple[str, ...] = ()
    """What is missing although it was asked for: not measured."""
    left_out: str | None = None
    """Why the level was not asked for and does not count; see `docs/decisions/0009-parity-levels.md`."""


def measure(folder: Path, sides: Sides) -> MeasuredTensors:
    """Compare the stored outputs of both sides, image by image.

    Raises:
        RecordError: a file of outputs was altered.
    """
    left_out = _why_left_out(*sides.records)
    if left_out is not None:
        return MeasuredTensors(left_out=left_out)
    found = [_reader(folder, record) for record in sides.records]
    readers = [item for item in found if isinstance(item, Reader)]
    if len(readers) < len(found):
        return MeasuredTensors(lacking=tuple(item for item in found if isinstance(item, str)))
    one, two = readers
    wrong = _why_incomparable(sides, one, two)
    if wrong is not None:
        return MeasuredTensors(wrong=(wrong,))
    sums = {name: _Sums(name) for name in sorted(one.outputs(0, 1))}
    for image, mine, theirs in zip(sides.names, _by_image(one), _by_image(two), strict=True):
        for name, found_so_far in sums.items():
            found_so_far.add(image, mine[name], theirs[name])
    return MeasuredTensors(differences=tuple(item.difference() for item in sums.values()))


def tensor_level(measured: MeasuredTensors, sides: Sides) -> LevelReport | None:
    """Every output against its tolerance; `None` for a level that was left out."""
    if measured.left_out is not None:
        return None
    if not measured.differences:
        return LevelReport(
            name="tensors",
            verdict="failed" if measured.wrong else "not measured",
            messages=measured.wrong or measured.lacking,
        )
    asked = {found.output: sides.tolerances.of_output(found.output) for found in measured.differences}
    over = [
        found
        for found in measured.differences
        if found.tolerance_needed is None or found.tolerance_needed > asked[found.output]
    ]
    worst = max(measured.differences, key=lambda found: _excess(found, asked[found.output]))
    return LevelReport(
        name="tensors",
        verdict="failed" if over else "passed",
        messages=tuple(_message(found, asked[found.output], sides) for found in over),
        numbers={"tolerance_needed": worst.tolerance_needed, "outputs": len(measured.differences)},
        tolerance=asked,
        images={} if worst.image is None else {"tolerance_needed": worst.image},
    )


def _why_left_out(reference: Record, other: Record) -> str | None:
    having = [item for item in (reference, other) if item.outputs is not None]
    if not having:
        return "neither side's outputs were saved: bench both with --save-outputs"
    if len(having) == 2:
        headed = [item for item in having if item.outputs and HEAD in item.outputs.variant.contains]
        if len(headed) == 1:
            return f"{headed[0].case.runner} has the head in its graph, so the networks share no outputs"
        return None
    (lacking,) = (item for item in (reference, other) if item.outputs is None)
    if _from_files(lacking):
        return f"{lacking.case.runner} played stored outputs and keeps none: compare the record it played"
    if _from_files(having[0]):
        return (
            f"{lacking.case.runner} saved no outputs (those of {having[0].case.runner} came as files): bench it "
            "with --save-outputs"
        )
    return None


def _from_files(record: Record) -> bool:
    """Whether the outputs were played or scored: nobody asked for them to be saved."""
    return record.source is not None and record.source.outputs_sha256 is not None


def _reader(folder: Path, record: Record) -> Reader | str:
    """Of the record's outputs, or what is missing."""
    if record.outputs is None:
        return f"{record.case.runner} saved no outputs, the other side did: bench it with --save-outputs"
    path = storage.inside(folder, record.outputs.file, RecordError)
    if not path.is_file():
        return f"the outputs of {record.case.runner} are missing: copy `evidence` along with the records"
    return Reader(path, record.outputs.sha256)


def _why_incomparable(sides: Sides, one: Reader, two: Reader) -> str | None:
    if not len(one.rows) == len(two.rows) == len(sides.names) or one.rows != two.rows:
        counts = " and ".join(f"{sum(item.rows)} rows of {len(item.rows)} images" for item in (one, two))
        return f"the outputs are {counts}"
    shapes = [
        {name: array.shape[1:] for name, array in reader.outputs(0, 1).items()} for reader in (one, two)
    ]
    if shapes[0] != shapes[1] or not shapes[0]:
        described = (
            ", ".join(f"{name} {shape}" for name, shape in sorted(found.items())) or "none"
            for found in shapes
        )
        texts = (f"{text} on {runner}" for text, runner in zip(described, sides.backends, strict=True))
        return f"the outputs are {' and '.join(texts)}"
    return None


def _by_image(reader: Reader) -> Iterator[dict[str, AnyArray]]:
    start = 0
    for count in reader.rows:
        yield reader.outputs(start, start + count)
        start += count


def _excess(found: TensorDifference, asked: float) -> float:
    """How many times the tolerance asked for is needed; infinite where none would do."""
    if found.tolerance_needed is None:
        return math.inf
    if asked == 0:
        return math.inf if found.tolerance_needed else 0.0
    return found.tolerance_needed / asked


def _message(found: TensorDifference, asked: float, sides: Sides) -> str:
    where = "" if found.image is None else f", most of all {found.image}"
    if any(found.not_finite):
        counts = " and ".join(
            f"{count} on {runner}" for count, runner in zip(found.not_finite, sides.backends, strict=True)
        )
        return f"{found.output}: NaN or infinite values, {counts} of {found.values}{where}"
    if found.tolerance_needed is None:
        return f"{found.output}: nothing to compare with, the reference's {found.values} values are all 0"
    return (
        f"{found.output} needs a tolerance of {found.tolerance_needed:.2g}, asked for {asked:.2g}: differs by "
        f"{found.largest:.3g} at most, relative L2 {found.relative_l2:.2g}{where}"
    )


class _Sums:
    """What one output adds up to, in float64, in which no sum of float32 products overflows."""

    def __init__(self, output: str) -> None:
        self._output = output
        self._values = self._divisible = 0
        self._not_finite = [0, 0]
        self._image: str | None = None
        self._largest = -1.0
        self._total = self._largest_relative = self._total_relative = self._scale = 0.0
        self._products = np.zeros(4)
        """a·a, b·b, a·b and d·d, d being b - a."""

    def add(self, image: str, reference: AnyArray, other: AnyArray) -> None:
        """Take in the output of one image; both arrays are of one shape."""
        self._values += reference.size
        broken = [int(np.count_nonzero(~np.isfinite(array))) for array in (reference, other)]
        if any(broken) and not any(self._not_finite):
            self._image = image
        self._not_finite = [sum(pair) for pair in zip(self._not_finite, broken, strict=True)]
        if any(self._not_finite) or not reference.size:
            return
        one, two = (array.astype(np.float64).ravel() for array in (reference, other))
        apart = two - one
        size, scale = np.abs(apart), np.abs(one)
        if size.max() > self._largest:
            self._largest, self._image = float(size.max()), image
        self._total += float(size.sum())
        self._scale = max(self._scale, float(scale.max()))
        self._products += [one @ one, two @ two, one @ two, apart @ apart]
        divisible = scale > 0
        relative: Float64 = size[divisible] / scale[divisible]
        self._divisible += len(relative)
        self._largest_relative = max(self._largest_relative, float(relative.max(initial=0.0)))
        self._total_relative += float(relative.sum())

    def difference(self) -> TensorDifference:
        """All of it, over all images."""
        not_finite = (self._not_finite[0], self._not_finite[1])
        if any(not_finite) or not self._values:
            return TensorDifference(
                output=self._output, values=self._values, not_finite=not_finite, image=self._image
            )
        ones, twos, product, apart = self._products.tolist()
        lengths = math.sqrt(ones) * math.sqrt(twos)
        l2 = _ratio(math.sqrt(apart), math.sqrt(ones))
        needed = max(l2, _ratio(self._largest, self._scale))
        return TensorDifference(
            output=self._output,
            values=self._values,
            not_finite=not_finite,
            largest=self._largest,
            mean=self._total / self._values,
            largest_relative=number(self._largest_relative) if self._divisible else None,
            mean_relative=self._total_relative / self._divisible if self._divisible else None,
            cosine=min(1.0, max(-1.0, product / lengths)) if lengths else None,
            relative_l2=number(l2),
            tolerance_needed=number(needed),
            image=self._image,
        )


def _ratio(value: float, scale: float) -> float:
    """Infinite for a difference from nothing; 0 where there is no difference."""
    if value == 0:
        return 0.0
    return value / scale if scale else math.inf
