"""The first node at which two sides part, and the smallest model that shows it by itself.

Every tensor is made an output, both sides run the input they differ on most, and the tensors are compared in topological
order. A tensor that is over tolerance may only hand on what came before: so its node is run again alone, fed with what the
REFERENCE computed. Where no single node fails alone, as many nodes before the first tensor over tolerance are taken in as
it needs to fail, found by bisection.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np

from harness.blame.nodes import constants, reproducer
from harness.blame.nodes.graph import Tensor
from harness.blame.nodes.side import Row, Side
from harness.errors import UsageError
from harness.metrics.differences import relative_difference
from harness.types import AnyArray

HALF_MAX = float(np.finfo(np.float16).max)


class NodeBlame(msgspec.Struct, frozen=True, kw_only=True):
    """What two sides do to one input, node by node."""

    verdict: Literal["passed", "isolated", "accumulated", "not isolated"]
    """No output differs; one node fails alone; several together do; or the difference vanishes in every smaller model."""
    image: str
    """The input that differs most."""
    outputs: dict[str, float | None]
    """Output → its difference in the whole model, relative to its largest value; `None`: infinite."""
    tolerance: float
    compared: int
    """How many tensors both sides have."""
    tensor: str | None = None
    """The one that is blamed."""
    operator: str | None = None
    node: str | None = None
    difference: float | None = None
    """Of that tensor, within the whole model."""
    alone: float | None = None
    """Of the smallest model, which was fed with the reference's values; `None`: infinite, or no such model."""
    nodes: tuple[str, ...] = ()
    """Of the smallest model, in order."""
    notes: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    """How the two files differ before anything runs."""
    reproducer: str | None = None
    """Folder with the smallest model, its input, what is expected, and a script."""

    def lines(self) -> list[str]:
        """For a terminal; the last line is the verdict."""
        worst = ", ".join(f"{name} {_number(value)}" for name, value in self.outputs.items())
        shown = [f"files: {line}" for line in self.files[:10]]
        shown += [f"files: and {len(self.files) - 10} more differences"] if len(self.files) > 10 else []
        shown.append(
            f"{self.image}: outputs differ by {worst} of the largest value (allowed {self.tolerance:g})"
        )
        shown += self.notes
        if self.reproducer is not None:
            shown.append(
                f"reproducer: {self.reproducer} (model of {len(self.nodes)} nodes: {', '.join(self.nodes[:5])})"
            )
        return [*shown, f"blame: {self._conclusion()}"]

    def _conclusion(self) -> str:
        if self.verdict == "passed":
            return "nothing differs"
        where = f"{self.operator} {self.node} (tensor {self.tensor}, {_number(self.difference)} in the whole model)"
        if self.verdict == "isolated":
            return f"{where} differs by {_number(self.alone)} when fed with the reference's values"
        if self.verdict == "accumulated":
            return (
                f"{where} is the first over tolerance; no node alone is, {len(self.nodes)} nodes together differ by "
                f"{_number(self.alone)}"
            )
        return f"{where} is the first over tolerance, and agrees in every smaller model"


def blame(
    reference: Side, other: Side, rows: Sequence[Row], *, tolerance: float, to: Path | None = None
) -> NodeBlame:
    """Find the first node at which `other` parts from `reference`.

    Args:
        reference: What is right.
        other: What is suspected: another backend, another file of the same detector, or both.
        rows: Inputs; blame is laid on the one whose outputs differ most.
        tolerance: Largest accepted difference of a tensor, relative to its largest value.
        to: New folder for the reproducer; none is written when not given.

    Raises:
        UsageError: the two have other outputs, or no tensor in common; or there is no input.
    """
    shared = _shared(reference, other)
    if not rows:
        raise UsageError("blame needs at least one image")
    files = constants.differences(reference.graph, other.graph)
    row, outputs = _worst(reference, other, rows)
    told = NodeBlame(
        verdict="passed",
        image=row.image,
        outputs={name: _finite(apart) for name, apart in outputs.items()},
        tolerance=tolerance,
        compared=len(shared),
        files=files,
    )
    if max(outputs.values()) <= tolerance:
        return told
    search = _Search(reference, other, shared, row.values, tolerance)
    first, notes = search.first(max(outputs, key=lambda name: outputs[name]))
    found = search.isolated(first)
    tensor = next(item for item in shared if item.name == found.tensor)
    notes += search.described(found.tensor)
    if found.tensor != first:
        notes.append(
            f"{first} is over tolerance before it: small differences add up to it, no node of them fails alone"
        )
    folder = None
    if to is not None and found.alone > tolerance:
        model, given = other.graph.part(found.tensor, found.known)
        expected = {found.tensor: search.reference[found.tensor]}
        folder = reproducer.write(to, other, model, given, expected)
    return msgspec.structs.replace(
        told,
        verdict=found.verdict,
        tensor=tensor.name,
        operator=tensor.operator,
        node=tensor.node,
        difference=_finite(search.difference(tensor.name)),
        alone=_finite(found.alone),
        nodes=other.graph.operators(found.tensor, found.known),
        notes=tuple(notes),
        reproducer=None if folder is None else str(folder),
    )


def _shared(reference: Side, other: Side) -> tuple[Tensor, ...]:
    mine, theirs = reference.graph.outputs, other.graph.outputs
    if set(mine) != set(theirs) or reference.graph.input.name != other.graph.input.name:
        raise UsageError(
            f"the two models have other inputs or outputs: {reference.graph.input.name} → {', '.join(mine)} and "
            f"{other.graph.input.name} → {', '.join(theirs)}; name the same network twice"
        )
    names = {tensor.name for tensor in reference.graph.tensors}
    return tuple(tensor for tensor in other.graph.tensors if tensor.name in names)


def _worst(reference: Side, other: Side, rows: Sequence[Row]) -> tuple[Row, dict[str, float]]:
    batches = [row.values for row in rows]
    worst = (-1.0, 0, dict[str, float]())
    for index, (one, two) in enumerate(zip(reference.outputs(batches), other.outputs(batches), strict=True)):
        apart = {name: relative_difference(two[name], expected=one[name]) for name in one}
        if max(apart.values()) > worst[0]:
            worst = (max(apart.values()), index, apart)
    return rows[worst[1]], worst[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Isolated:
    verdict: Literal["isolated", "accumulated", "not isolated"]
    tensor: str
    known: Mapping[str, AnyArray]
    """What the smallest model is fed with."""
    alone: float


class _Search:
    """Both sides' tensors for one input."""

    def __init__(
        self, reference: Side, other: Side, shared: Sequence[Tensor], batch: AnyArray, tolerance: float
    ) -> None:
        self._sides = (reference, other)
        self._batch = batch
        self._tolerance = tolerance
        self._names = [tensor.name for tensor in shared]
        self.reference = reference.values(self._names, batch)
        self._other = other.values(self._names, batch)

    def difference(self, name: str) -> float:
        """Of a tensor, with all of them exposed."""
        one = self.reference[name]
        return relative_difference(self._other[name], expected=one) if one.size else 0.0

    def first(self, output: str) -> tuple[str, list[str]]:
        """The first tensor over tolerance; `output` is of the whole model, and is."""
        over = [name for name in self._names if self.difference(name) > self._tolerance]
        if over:
            return over[0], []
        # The runtime fuses nodes unless what lies between is asked for: so one tensor at a time is.
        note = "with all tensors exposed nothing differs: the difference arises where nodes are fused or outputs gathered"
        last = self._names.index(output)
        found = _bisected(last, lambda index: self._single(self._names[index]) > self._tolerance)
        return self._names[found], [note]

    def _single(self, name: str) -> float:
        """Difference of a tensor where it is the only output."""
        one, two = (side.values([name], self._batch)[name] for side in self._sides)
        return relative_difference(two, expected=one) if one.size else 0.0

    def isolated(self, first: str) -> _Isolated:
        """The smallest model that fails when fed with the reference's values."""
        start = self._names.index(first)
        candidates = [first]
        candidates += [name for name in self._names[start + 1 :] if self.difference(name) > self._tolerance]
        for name in candidates:
            known = self._known(self._names.index(name))
            alone = self._alone(name, known)
            if alone > self._tolerance:
                return _Isolated(verdict="isolated", tensor=name, known=known, alone=alone)
        whole = self._alone(first, self._known(0))
        if whole <= self._tolerance:
            return _Isolated(verdict="not isolated", tensor=first, known=self._known(0), alone=whole)
        taken = _bisected(
            start, lambda count: self._alone(first, self._known(start - count)) > self._tolerance
        )
        known = self._known(start - taken)
        return _Isolated(verdict="accumulated", tensor=first, known=known, alone=self._alone(first, known))

    def _known(self, count: int) -> dict[str, AnyArray]:
        """The network's input, and the reference's values of the first `count` tensors."""
        source = self._sides[1].graph.input.name
        return {source: self._batch} | {name: self.reference[name] for name in self._names[:count]}

    def _alone(self, name: str, known: Mapping[str, AnyArray]) -> float:
        model, given = self._sides[1].graph.part(name, known)
        found = self._sides[1].run(model, next(iter(given.values())))[0][name]
        return relative_difference(found, expected=self.reference[name]) if found.size else 0.0

    def described(self, name: str) -> list[str]:
        """What the values of the blamed tensor look like."""
        one, two = self.reference[name], self._other[name]
        notes = []
        lost = int((np.isfinite(one) & ~np.isfinite(two)).sum()) if one.shape == two.shape else 0
        if lost:
            largest = float(np.abs(one[np.isfinite(one)]).max())
            why = ", beyond what float16 holds (65504)" if largest > HALF_MAX else ""
            notes.append(
                f"{lost} of {one.size} values of {name} overflow: the reference's largest is {largest:.4g}{why}"
            )
        twins = [
            twin
            for twin in self._names
            if twin != name
            and self.difference(name) > self._tolerance
            and self.reference[twin].size
            and relative_difference(two, expected=self.reference[twin]) <= self._tolerance
        ]
        return notes + [
            f"{name} is what the reference calls {twin}: tensors have changed places" for twin in twins[:1]
        ]


def _bisected(last: int, fails: Callable[[int], bool]) -> int:
    """The smallest index from 0 to `last` that fails, where what follows a failing one fails too; `last` itself fails."""
    low, high = 0, last
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if fails(middle) else (middle + 1, high)
    return low


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _number(value: float | None) -> str:
    return "infinity" if value is None else f"{value:.2g}"
