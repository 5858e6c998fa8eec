"""The first node at which two sides differ, and the smallest model that shows the difference.

Every tensor becomes an output, both sides run the input on which they differ most, and the tensors are compared in
topological order. A tensor over tolerance may only have inherited the difference. So its node runs again alone, on the
REFERENCE's values. If no single node fails alone, nodes before the first tensor over tolerance are added until the model
fails; bisection finds the fewest.
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
from harness.blame.nodes.side import InputRow, Side
from harness.errors import UsageError
from harness.metrics.differences import relative_difference
from harness.types import AnyArray

HALF_MAX = float(np.finfo(np.float16).max)


class NodeBlame(msgspec.Struct, frozen=True, kw_only=True):
    """The blamed node of two sides, for one input."""

    verdict: Literal["passed", "isolated", "accumulated", "not isolated"]
    """No output differs; one node fails alone; several nodes fail together; or no smaller model shows the difference."""
    image: str
    """The input that differs most."""
    outputs: dict[str, float | None]
    """Output → its difference in the whole model, relative to its largest value; `None` if infinite."""
    tolerance: float
    compared: int
    """Number of tensors that both sides have."""
    tensor: str | None = None
    """The blamed tensor."""
    operator: str | None = None
    node: str | None = None
    difference: float | None = None
    """The blamed tensor's difference in the whole model; `None` if infinite."""
    alone: float | None = None
    """Difference of the smallest model, run on the reference's values; `None` if infinite, or if no output differs."""
    nodes: tuple[str, ...] = ()
    """Nodes of the smallest model, in order."""
    notes: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    """Differences of the two files, before anything runs."""
    reproducer: str | None = None
    """Folder with the smallest model, its input, the expected output, and a script."""

    def lines(self) -> list[str]:
        """Lines for a terminal; the last one is the verdict."""
        worst = ", ".join(f"{name} {_number(value)}" for name, value in self.outputs.items())
        lines = [f"files: {line}" for line in self.files[:10]]
        lines += [f"files: and {len(self.files) - 10} more differences"] if len(self.files) > 10 else []
        lines.append(
            f"{self.image}: outputs differ by {worst} of the largest value (allowed {self.tolerance:g})"
        )
        lines += self.notes
        if self.reproducer is not None:
            lines.append(
                f"reproducer: {self.reproducer} (model of {len(self.nodes)} nodes: {', '.join(self.nodes[:5])})"
            )
        return [*lines, f"blame: {self._conclusion()}"]

    def _conclusion(self) -> str:
        if self.verdict == "passed":
            return "nothing differs"
        where = f"{self.operator} {self.node} (tensor {self.tensor}, {_number(self.difference)} in the whole model)"
        if self.verdict == "isolated":
            return f"{where} differs by {_number(self.alone)} when it runs on the reference's values"
        if self.verdict == "accumulated":
            return (
                f"{where} is the first over tolerance; no node alone is, {len(self.nodes)} nodes together differ by "
                f"{_number(self.alone)}"
            )
        return f"{where} is the first over tolerance, and agrees in every smaller model"


def blame(
    reference: Side, candidate: Side, rows: Sequence[InputRow], *, tolerance: float, to: Path | None = None
) -> NodeBlame:
    """Find the first node at which `candidate` differs from `reference`.

    Args:
        reference: The side to compare with.
        candidate: The side that is judged: another backend, another file of the same detector, or both.
        rows: Inputs; the one whose outputs differ most is searched.
        tolerance: Largest accepted difference of a tensor, relative to its largest value.
        to: New folder for the reproducer; `None` writes none.

    Raises:
        UsageError: the sides have different inputs or outputs, or `rows` is empty.
    """
    shared = _shared(reference, candidate)
    if not rows:
        raise UsageError("blame needs at least one image")
    files = constants.differences(reference.graph, candidate.graph)
    row, outputs = _worst(reference, candidate, rows)
    passed = NodeBlame(
        verdict="passed",
        image=row.image,
        outputs={name: _finite(difference) for name, difference in outputs.items()},
        tolerance=tolerance,
        compared=len(shared),
        files=files,
    )
    if max(outputs.values()) <= tolerance:
        return passed
    search = _Search(reference, candidate, shared, row.values, tolerance)
    first, notes = search.first(max(outputs, key=lambda name: outputs[name]))
    smallest = search.isolated(first)
    tensor = next(tensor for tensor in shared if tensor.name == smallest.tensor)
    notes += search.described(tensor.name)
    if tensor.name != first:
        notes.append(
            f"{first} is over tolerance before it: small differences add up to it, and no single node fails alone"
        )
    folder = None
    if to is not None and smallest.alone > tolerance:
        model, inputs = candidate.graph.part(tensor.name, smallest.known)
        expected = {tensor.name: search.reference[tensor.name]}
        folder = reproducer.write(to, candidate, model, inputs, expected)
    return msgspec.structs.replace(
        passed,
        verdict=smallest.verdict,
        tensor=tensor.name,
        operator=tensor.operator,
        node=tensor.node,
        difference=_finite(search.difference(tensor.name)),
        alone=_finite(smallest.alone),
        nodes=candidate.graph.operators(tensor.name, smallest.known),
        notes=tuple(notes),
        reproducer=None if folder is None else str(folder),
    )


def _shared(reference: Side, candidate: Side) -> tuple[Tensor, ...]:
    graphs = (reference.graph, candidate.graph)
    if len({(graph.input.name, frozenset(graph.outputs)) for graph in graphs}) > 1:
        one, two = (f"{graph.input.name} → {', '.join(graph.outputs)}" for graph in graphs)
        raise UsageError(
            f"the two models have different inputs or outputs: {one} and {two}; name the same network twice"
        )
    names = {tensor.name for tensor in reference.graph.tensors}
    return tuple(tensor for tensor in candidate.graph.tensors if tensor.name in names)


def _worst(reference: Side, candidate: Side, rows: Sequence[InputRow]) -> tuple[InputRow, dict[str, float]]:
    """The input whose outputs differ most, and the difference of each output."""
    batches = [row.values for row in rows]
    differences = [
        {name: relative_difference(actual[name], expected=expected[name]) for name in expected}
        for expected, actual in zip(reference.outputs(batches), candidate.outputs(batches), strict=True)
    ]
    worst = max(range(len(rows)), key=lambda index: max(differences[index].values()))
    return rows[worst], differences[worst]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Isolated:
    verdict: Literal["isolated", "accumulated", "not isolated"]
    tensor: str
    known: Mapping[str, AnyArray]
    """Tensor → values on which the smallest model runs."""
    alone: float


class _Search:
    """The tensors of both sides for one input."""

    def __init__(
        self, reference: Side, candidate: Side, shared: Sequence[Tensor], batch: AnyArray, tolerance: float
    ) -> None:
        self._sides = (reference, candidate)
        self._batch = batch
        self._tolerance = tolerance
        self._names = [tensor.name for tensor in shared]
        self.reference = reference.values(self._names, batch)
        self._actual = candidate.values(self._names, batch)

    def difference(self, name: str) -> float:
        """Difference of a tensor while all tensors are outputs."""
        return _difference(self.reference[name], self._actual[name])

    def first(self, output: str) -> tuple[str, list[str]]:
        """The first tensor over tolerance, with notes; `output` of the whole model is over tolerance."""
        over = [name for name in self._names if self.difference(name) > self._tolerance]
        if over:
            return over[0], []
        # The runtime fuses nodes unless the tensor between them is an output: so expose one tensor at a time.
        note = "while all tensors are outputs nothing differs: the difference arises in fused nodes or in gathering outputs"
        last = self._names.index(output)
        place = _bisected(last, lambda index: self._single(self._names[index]) > self._tolerance)
        return self._names[place], [note]

    def _single(self, name: str) -> float:
        """Difference of a tensor while it is the only output."""
        expected, actual = (side.values([name], self._batch)[name] for side in self._sides)
        return _difference(expected, actual)

    def isolated(self, first: str) -> _Isolated:
        """The smallest model that fails on the reference's values."""
        start = self._names.index(first)
        candidates = [first]
        candidates += [name for name in self._names[start + 1 :] if self.difference(name) > self._tolerance]
        for name in candidates:
            known = self._known(self._names.index(name))
            alone = self._alone(name, known)
            if alone > self._tolerance:
                return _Isolated(verdict="isolated", tensor=name, known=known, alone=alone)
        everything = self._alone(first, self._known(0))
        if everything <= self._tolerance:
            return _Isolated(verdict="not isolated", tensor=first, known=self._known(0), alone=everything)
        fewest = _bisected(
            start, lambda count: self._alone(first, self._known(start - count)) > self._tolerance
        )
        known = self._known(start - fewest)
        return _Isolated(verdict="accumulated", tensor=first, known=known, alone=self._alone(first, known))

    def _known(self, count: int) -> dict[str, AnyArray]:
        """The network's input, and the reference's values of the first `count` tensors."""
        source = self._sides[1].graph.input.name
        return {source: self._batch} | {name: self.reference[name] for name in self._names[:count]}

    def _alone(self, name: str, known: Mapping[str, AnyArray]) -> float:
        """Difference of a tensor that the candidate computes from the values in `known`."""
        model, inputs = self._sides[1].graph.part(name, known)
        actual = self._sides[1].run(model, next(iter(inputs.values())))[0][name]
        return _difference(self.reference[name], actual)

    def described(self, name: str) -> list[str]:
        """Notes on the values of the blamed tensor: overflows, and tensors that changed places."""
        expected, actual = self.reference[name], self._actual[name]
        notes = []
        finite = np.isfinite(expected)
        lost = int((finite & ~np.isfinite(actual)).sum()) if expected.shape == actual.shape else 0
        if lost:
            largest = float(np.abs(expected[finite]).max())
            why = ", more than float16's largest (65504)" if largest > HALF_MAX else ""
            notes.append(
                f"{lost} of {expected.size} values of {name} overflow: the reference's largest is {largest:.4g}{why}"
            )
        twins = [
            twin
            for twin in self._names
            if twin != name
            and self.difference(name) > self._tolerance
            and self.reference[twin].size
            and relative_difference(actual, expected=self.reference[twin]) <= self._tolerance
        ]
        return notes + [
            f"{name} is what the reference calls {twin}: tensors have changed places" for twin in twins[:1]
        ]


def _bisected(last: int, fails: Callable[[int], bool]) -> int:
    """The smallest index from 0 to `last` that fails. All after it must fail too; `last` is not tried."""
    low, high = 0, last
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if fails(middle) else (middle + 1, high)
    return low


def _difference(expected: AnyArray, actual: AnyArray) -> float:
    """The relative difference; 0 if both tensors are empty."""
    return relative_difference(actual, expected=expected) if expected.size or actual.size else 0.0


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _number(value: float | None) -> str:
    return "infinity" if value is None else f"{value:.2g}"
