"""Differences of two ONNX files, before anything runs: constants and nodes."""

from __future__ import annotations

from typing import Any

from harness.blame.nodes.graph import Graph, constants
from harness.metrics.differences import relative_difference


def differences(reference: Graph, candidate: Graph) -> tuple[str, ...]:
    """One line per constant and per node that differs, constants first.

    A node is known by the tensor it computes; its name and its place in the file are ignored.
    """
    return (
        *_constants(reference.model, candidate.model),
        *_nodes(reference.model, candidate.model),
    )


def _constants(reference: Any, candidate: Any) -> list[str]:
    before, after = constants(reference), constants(candidate)
    lines = _on_one_side("constant", set(before), set(after))
    for name in (name for name in before if name in after):
        first, second = before[name], after[name]
        kind = "" if first.dtype == second.dtype else f", {first.dtype} became {second.dtype}"
        if first.shape != second.shape:
            lines.append(f"constant {name}: shape {first.shape} became {second.shape}{kind}")
            continue
        difference = relative_difference(second, expected=first) if first.size else 0.0
        if difference or kind:
            lines.append(f"constant {name} differs by {difference:.2g} of its largest value{kind}")
    return lines


def _nodes(reference: Any, candidate: Any) -> list[str]:
    before, after = _by_tensor(reference), _by_tensor(candidate)
    lines = _on_one_side("tensor", set(before), set(after))
    for name in (name for name in before if name in after):
        first, second = before[name], after[name]
        node = f"the node that computes {name}"
        if (first.domain, first.op_type) != (second.domain, second.op_type):
            lines.append(f"{node}: {first.op_type} became {second.op_type}")
        elif first.input != second.input:
            lines.append(
                f"{node} reads {', '.join(first.input)} in the reference, {', '.join(second.input)} in the candidate"
            )
        else:
            old, new = (
                {attribute.name: attribute for attribute in side.attribute} for side in (first, second)
            )
            changed = [key for key in sorted({*old, *new}) if old.get(key) != new.get(key)]
            lines += [f"{node} has another attribute {key}" for key in changed]
    return lines


def _by_tensor(model: Any) -> dict[str, Any]:
    """Tensor → the node that computes it, without the constants: their values are compared."""
    return {node.output[0]: node for node in model.graph.node if node.op_type != "Constant"}


def _on_one_side(kind: str, reference: set[str], candidate: set[str]) -> list[str]:
    return [
        f"{kind}s only in the {side}: {', '.join(names[:5])}{f' and {len(names) - 5} more' if names[5:] else ''}"
        for side, names in (
            ("reference", sorted(reference - candidate)),
            ("candidate", sorted(candidate - reference)),
        )
        if names
    ]
