"""How the stored outputs of two networks differ, and what they resemble."""

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
class Outputs:
    """What a comparison of all outputs of all images came to."""

    differ: bool
    """Beyond tolerance, or in kind."""
    image: str | None
    """That differs most."""
    lines: tuple[str, ...]


def compare(one: Reader, two: Reader, images: Sequence[str], tolerances: Tolerances) -> Outputs:
    """Compare the stored outputs of the same images, the reference's first.

    Differences are the largest of an image, relative to the output's largest value for that image.
    """
    if one.rows != two.rows:
        return Outputs(differ=True, image=None, lines=("the images have other numbers of rows",))
    names = [set(reader.outputs(0, 1)) for reader in (one, two)]
    if names[0] != names[1]:
        wrong = f"the outputs are {', '.join(sorted(names[0]))} and {', '.join(sorted(names[1]))}"
        return Outputs(differ=True, image=None, lines=(wrong,))
    allowed = {name: tolerances.outputs.get(name, tolerances.tensor) for name in sorted(names[0])}
    worst = dict.fromkeys(allowed, (-1.0, 0))
    for index, span in enumerate(spans(one.rows)):
        mine, theirs = one.outputs(*span), two.outputs(*span)
        for name in worst:
            worst[name] = max(worst[name], (relative_difference(theirs[name], expected=mine[name]), index))
    over = {name: found for name, found in worst.items() if found[0] > allowed[name]}
    if not over:
        largest = max(apart for apart, _ in worst.values())
        how = f"differ by {largest:.2g} at most, within tolerance" if largest else "are equal bit for bit"
        return Outputs(differ=False, image=None, lines=(f"the outputs of the network {how}",))
    lines = [
        f"output {name} differs by {apart:.2g} of its largest value, most for {images[index]} (allowed {allowed[name]:g})"
        for name, (apart, index) in over.items()
    ]
    index = max(over.values())[1]
    span = spans(one.rows)[index]
    theirs = two.outputs(*span)
    lines += _other_names(one.outputs(*span), theirs, allowed)
    twin = _other_image(one, theirs, index, allowed)
    if twin is not None:
        lines.append(
            f"the outputs of {images[index]} are the reference's of {images[twin]}: a stale buffer, or another order"
        )
    return Outputs(differ=True, image=images[index], lines=tuple(lines))


def spans(rows: tuple[int, ...]) -> list[tuple[int, int]]:
    """First row of every image, and the first of the next."""
    ends = np.cumsum(rows).tolist()
    return list(zip([0, *ends[:-1]], ends, strict=True))


def _other_names(
    mine: Mapping[str, AnyArray], theirs: Mapping[str, AnyArray], allowed: Mapping[str, float]
) -> list[str]:
    """Outputs that differ and are the reference's of another name."""
    return [
        f"{name} is what the reference calls {twin}: outputs have changed names or places"
        for name in allowed
        if relative_difference(theirs[name], expected=mine[name]) > allowed[name]
        for twin in allowed
        if relative_difference(theirs[name], expected=mine[twin]) <= allowed[twin]
    ]


def _other_image(
    one: Reader, theirs: Mapping[str, AnyArray], index: int, allowed: Mapping[str, float]
) -> int | None:
    """The image whose outputs on the reference's side are `theirs`, where that is not image `index`."""
    for position, span in enumerate(spans(one.rows)):
        others = one.outputs(*span)
        if position != index and all(
            relative_difference(theirs[name], expected=others[name]) <= allowed[name] for name in allowed
        ):
            return position
    return None


def require_tolerance(tolerance: float) -> None:
    """Raise `UsageError` unless it is a number from 0 to below infinity: anything is within infinity."""
    if not (math.isfinite(tolerance) and tolerance >= 0):
        raise UsageError(f"--tolerance {tolerance}: a share of a tensor's largest value, 1e-4 say")
