"""The differences between the saved outputs of two networks, and what these outputs resemble."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from harness.errors import UsageError
from harness.metrics.differences import relative_difference
from harness.records.outputs import Reader
from harness.types import AnyArray

if TYPE_CHECKING:
    from harness.parity import Tolerances


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputComparison:
    """The comparison of all outputs of all images."""

    differ: bool
    """Beyond the tolerance, or in names or rows."""
    image: str | None
    """The image that differs most."""
    lines: tuple[str, ...]


def compare(
    reference: Reader, candidate: Reader, images: Sequence[str], tolerances: Tolerances
) -> OutputComparison:
    """Compare the saved outputs of the same images.

    An output's difference is the largest over an image, relative to the output's largest value for that image.

    Args:
        reference: Saved outputs to compare with.
        candidate: Saved outputs that are judged.
        images: Names of the images, in the order of the rows.
        tolerances: By output, relative to the output's largest value.
    """
    if reference.rows != candidate.rows:
        return OutputComparison(differ=True, image=None, lines=("the images have different numbers of rows",))
    names, candidate_names = (set(reader.outputs(0, 1)) for reader in (reference, candidate))
    if names != candidate_names:
        line = f"the outputs are {', '.join(sorted(names))} and {', '.join(sorted(candidate_names))}"
        return OutputComparison(differ=True, image=None, lines=(line,))
    allowed = {name: tolerances.of_output(name) for name in sorted(names)}
    worst = dict.fromkeys(allowed, (-1.0, 0))
    for index, span in enumerate(spans(reference.rows)):
        expected, actual = reference.outputs(*span), candidate.outputs(*span)
        for name in worst:
            worst[name] = max(
                worst[name], (relative_difference(actual[name], expected=expected[name]), index)
            )
    over = {name: largest for name, largest in worst.items() if largest[0] > allowed[name]}
    if not over:
        largest = max(difference for difference, _ in worst.values())
        how = f"differ by {largest:.2g} at most, within tolerance" if largest else "are equal bit for bit"
        return OutputComparison(differ=False, image=None, lines=(f"the outputs of the network {how}",))
    lines = [
        f"output {name} differs by {difference:.2g} of its largest value, most for {images[index]} (allowed {allowed[name]:g})"
        for name, (difference, index) in over.items()
    ]
    index = max(over.values())[1]
    span = spans(reference.rows)[index]
    actual = candidate.outputs(*span)
    lines += _other_names(reference.outputs(*span), actual, allowed)
    twin = _other_image(reference, actual, index, allowed)
    if twin is not None:
        lines.append(
            f"the outputs of {images[index]} are the reference's of {images[twin]}: a stale buffer, or another order"
        )
    return OutputComparison(differ=True, image=images[index], lines=tuple(lines))


def spans(rows: tuple[int, ...]) -> list[tuple[int, int]]:
    """First row of every image, and the first of the next."""
    ends = np.cumsum(rows).tolist()
    return list(zip([0, *ends[:-1]], ends, strict=True))


def require_tolerance(tolerance: float) -> None:
    """Raise `UsageError` unless the tolerance is finite and not negative: every difference is within infinity."""
    if not (math.isfinite(tolerance) and tolerance >= 0):
        raise UsageError(
            f"--tolerance {tolerance}: name a share of a tensor's largest value, for example 1e-4"
        )


def _other_names(
    expected: Mapping[str, AnyArray], actual: Mapping[str, AnyArray], allowed: Mapping[str, float]
) -> list[str]:
    """Outputs that differ, and equal a reference output of another name."""
    return [
        f"{name} is what the reference calls {twin}: outputs have changed names or places"
        for name in allowed
        if relative_difference(actual[name], expected=expected[name]) > allowed[name]
        for twin in allowed
        if relative_difference(actual[name], expected=expected[twin]) <= allowed[twin]
    ]


def _other_image(
    reference: Reader, actual: Mapping[str, AnyArray], index: int, allowed: Mapping[str, float]
) -> int | None:
    """The image whose reference outputs are `actual`, if it is not image `index`."""
    for position, span in enumerate(spans(reference.rows)):
        expected = reference.outputs(*span)
        if position != index and all(
            relative_difference(actual[name], expected=expected[name]) <= allowed[name] for name in allowed
        ):
            return position
    return None
