"""The level of tensors: the networks' outputs, if both records' were saved."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from harness import storage
from harness.detector.artifact import HEAD
from harness.errors import RecordError
from harness.parity.pair import Float64, Pair, number
from harness.parity.report import LevelReport, TensorDifference
from harness.parity.tolerances import Tolerances
from harness.records.outputs import Reader
from harness.records.record import Record
from harness.types import AnyArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensors:
    """The differences of the outputs, or the reason why there are none."""

    names: tuple[str, str]
    differences: tuple[TensorDifference, ...] = ()
    wrong: tuple[str, ...] = ()
    """Why the outputs cannot be those of one network: a failure."""
    lacking: tuple[str, ...] = ()
    """Requested outputs that are missing: not measured."""
    left_out: str | None = None
    """Why the level was not requested and does not count; see `docs/decisions/0009-parity-levels.md`."""

    def judge(self, tolerances: Tolerances) -> LevelReport | None:
        """Judge every output by its tolerance."""
        if self.left_out is not None:
            return None
        if not self.differences:
            return LevelReport(
                name="tensors",
                verdict="failed" if self.wrong else "not measured",
                messages=self.wrong or self.lacking,
            )
        allowed = {
            difference.output: tolerances.of_output(difference.output) for difference in self.differences
        }
        over = [
            difference
            for difference in self.differences
            if difference.tolerance_needed is None or difference.tolerance_needed > allowed[difference.output]
        ]
        worst = max(self.differences, key=lambda difference: _excess(difference, allowed[difference.output]))
        return LevelReport(
            name="tensors",
            verdict="failed" if over else "passed",
            messages=tuple(
                _message(difference, allowed[difference.output], self.names) for difference in over
            ),
            numbers={"tolerance_needed": worst.tolerance_needed, "outputs": len(self.differences)},
            tolerance=allowed,
            images={} if worst.image is None else {"tolerance_needed": worst.image},
        )


def measure(folder: Path, pair: Pair) -> Tensors:
    """Compare the saved outputs of both records, image by image.

    Raises:
        RecordError: a file of outputs was altered.
    """
    left_out = _why_left_out(*pair.records)
    if left_out is not None:
        return Tensors(names=pair.names, left_out=left_out)
    readers = [_reader(folder, record) for record in pair.records]
    reference, candidate = readers
    if isinstance(reference, str) or isinstance(candidate, str):
        return Tensors(
            names=pair.names, lacking=tuple(reason for reason in readers if isinstance(reason, str))
        )
    wrong = _why_incomparable(pair, reference, candidate)
    if wrong is not None:
        return Tensors(names=pair.names, wrong=(wrong,))
    sums = [_Sums(output) for output in sorted(reference.outputs(0, 1))]
    for image, one, two in zip(pair.images, _by_image(reference), _by_image(candidate), strict=True):
        for output_sums in sums:
            output_sums.add(image, one[output_sums.output], two[output_sums.output])
    return Tensors(names=pair.names, differences=tuple(output_sums.difference() for output_sums in sums))


def _why_left_out(reference: Record, candidate: Record) -> str | None:
    both = (reference, candidate)
    saved = [record for record in both if record.outputs is not None]
    if not saved:
        return "no outputs were saved: bench both with --save-outputs"
    if len(saved) == 2:
        with_head = [record for record in saved if record.outputs and HEAD in record.outputs.variant.contains]
        if len(with_head) == 1:
            return f"{with_head[0].case.runner} has the head in its graph, so the networks share no outputs"
        return None
    (lacking,) = (record for record in both if record.outputs is None)
    if _from_files(lacking):
        return f"{lacking.case.runner} replayed saved outputs and saves none: compare the replayed record"
    if _from_files(saved[0]):
        return (
            f"{lacking.case.runner} saved no outputs (those of {saved[0].case.runner} came as files): bench it "
            "with --save-outputs"
        )
    return None


def _from_files(record: Record) -> bool:
    """Whether the outputs were replayed or scored from files, so that nobody requested to save them."""
    return record.source is not None and record.source.outputs_sha256 is not None


def _reader(folder: Path, record: Record) -> Reader | str:
    """Open the record's outputs, or say what is missing."""
    if record.outputs is None:
        return (
            f"{record.case.runner} saved no outputs, the other record has some: bench it with --save-outputs"
        )
    path = storage.inside(folder, record.outputs.file, RecordError)
    if not path.is_file():
        return f"the outputs of {record.case.runner} are missing: copy `evidence` along with the records"
    return Reader(path, record.outputs.sha256)


def _why_incomparable(pair: Pair, reference: Reader, candidate: Reader) -> str | None:
    readers = (reference, candidate)
    if not len(reference.rows) == len(candidate.rows) == len(pair.images) or reference.rows != candidate.rows:
        counts = " and ".join(f"{sum(reader.rows)} rows of {len(reader.rows)} images" for reader in readers)
        return f"the outputs are {counts}"
    shapes = [{name: array.shape[1:] for name, array in reader.outputs(0, 1).items()} for reader in readers]
    if shapes[0] != shapes[1] or not shapes[0]:
        described = (
            ", ".join(f"{name} {shape}" for name, shape in sorted(by_name.items())) or "none"
            for by_name in shapes
        )
        texts = (f"{text} on {name}" for text, name in zip(described, pair.names, strict=True))
        return f"the outputs are {' and '.join(texts)}"
    return None


def _by_image(reader: Reader) -> Iterator[dict[str, AnyArray]]:
    start = 0
    for count in reader.rows:
        yield reader.outputs(start, start + count)
        start += count


def _excess(difference: TensorDifference, allowed: float) -> float:
    """Return how many times the tolerance is needed; infinite if none would pass."""
    needed = difference.tolerance_needed
    return math.inf if needed is None else _ratio(needed, allowed)


def _message(difference: TensorDifference, allowed: float, names: tuple[str, str]) -> str:
    where = "" if difference.image is None else f", most for {difference.image}"
    if any(difference.not_finite):
        counts = " and ".join(
            f"{count} on {name}" for count, name in zip(difference.not_finite, names, strict=True)
        )
        return f"{difference.output}: NaN or infinite values, {counts} of {difference.values}{where}"
    if difference.tolerance_needed is None:
        return f"{difference.output}: nothing to compare with, the reference's {difference.values} values are all 0"
    return (
        f"{difference.output} needs a tolerance of {difference.tolerance_needed:.2g}, allowed {allowed:.2g}: differs by "
        f"{difference.largest:.3g} at most, relative L2 {difference.relative_l2:.2g}{where}"
    )


class _Sums:
    """Sums over the values of one output, image by image, so that no output is held in memory for all images.

    They are float64, in which no sum of float32 products overflows. The largest difference over the largest value is
    `harness.metrics.differences.relative_difference` of all images together.
    """

    def __init__(self, output: str) -> None:
        self.output = output
        self._values = self._divisible = 0
        self._not_finite = [0, 0]
        self._image: str | None = None
        self._largest = -1.0
        self._total = self._largest_relative = self._total_relative = self._scale = 0.0
        self._products = np.zeros(4)
        """a·a, b·b, a·b and d·d, with d = b - a."""

    def add(self, image: str, reference: AnyArray, candidate: AnyArray) -> None:
        """Add the output of one image; both arrays are of one shape."""
        self._values += reference.size
        broken = [int(np.count_nonzero(~np.isfinite(array))) for array in (reference, candidate)]
        if any(broken) and not any(self._not_finite):
            self._image = image
        self._not_finite = [sum(counts) for counts in zip(self._not_finite, broken, strict=True)]
        if any(self._not_finite) or not reference.size:
            return
        one, two = (array.astype(np.float64).ravel() for array in (reference, candidate))
        difference = two - one
        size, scale = np.abs(difference), np.abs(one)
        if size.max() > self._largest:
            self._largest, self._image = float(size.max()), image
        self._total += float(size.sum())
        self._scale = max(self._scale, float(scale.max()))
        self._products += [one @ one, two @ two, one @ two, difference @ difference]
        divisible = scale > 0
        relative: Float64 = size[divisible] / scale[divisible]
        self._divisible += len(relative)
        self._largest_relative = max(self._largest_relative, float(relative.max(initial=0.0)))
        self._total_relative += float(relative.sum())

    def difference(self) -> TensorDifference:
        """Return the differences over all images."""
        not_finite = (self._not_finite[0], self._not_finite[1])
        if any(not_finite) or not self._values:
            return TensorDifference(
                output=self.output, values=self._values, not_finite=not_finite, image=self._image
            )
        ones, twos, product, squares = self._products.tolist()
        lengths = math.sqrt(ones) * math.sqrt(twos)
        l2 = _ratio(math.sqrt(squares), math.sqrt(ones))
        needed = max(l2, _ratio(self._largest, self._scale))
        return TensorDifference(
            output=self.output,
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
    """Return value / scale; 0 for a value of 0, infinite for any other value and a scale of 0."""
    if value == 0:
        return 0.0
    return value / scale if scale else math.inf
