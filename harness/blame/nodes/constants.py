"""Where two ONNX files differ before anything runs: constants and nodes."""

from __future__ import annotations

from typing import Any

from harness.blame.nodes.graph import Graph, constants
from harness.metrics.differences import relative_difference


def differences(reference: Graph, other: Graph) -> tuple[str, ...]:
    """One line per constant and per node that differs, constants first; empty where the two compute the same.

    Nodes are told apart by the tensors they compute; names of nodes and the order of files count for nothing.
    """
    return (*_constants(reference.model, other.model), *_nodes(reference.model, other.model))


def _constants(one: Any, two: Any) -> list[str]:
    mine, theirs = constants(one), constants(two)
    lines = _alone("constant", set(mine), set(theirs))
    for name in (name for name in mine if name in theirs):
        first, second = mine[name], theirs[name]
        kind = "" if first.dtype == second.dtype else f", {first.dtype} became {second.dtype}"
        if first.shape != second.shape:
            lines.append(f"constant {name}: shape {first.shape} became {second.shape}{kind}")
            continue
        apart = relative_difference(second, expected=first) if first.size else 0.0
        if apart or kind:
            lines.append(f"constant {name} differs by {apart:.2g} of its largest value{kind}")
    return lines


def _nodes(one: Any, two: Any) -> list[str]:
    mine, theirs = _makers(one), _makers(two)
    lines = _alone("tensor", set(mine), set(theirs))
    for name in (name for name in mine if name in theirs):
        first, second = mine[name], theirs[name]
        what = f"the node that computes {name}"
        if (first.domain, first.op_type) != (second.domain, second.op_type):
            lines.append(f"{what}: {first.op_type} became {second.op_type}")
        elif first.input != second.input:
            lines.append(
                f"{what} reads {', '.join(first.input)} in the reference, {', '.join(second.input)} there"
            )
        else:
            before, after = ({item.name: item for item in node.attribute} for node in (first, second))
            apart = [key for key in sorted({*before, *after}) if before.get(key) != after.get(key)]
            lines += [f"{what} has another attribute {key}" for key in apart]
    return lines


def _makers(model: Any) -> dict[str, Any]:
    """The node behind each tensor; constants are compared as values."""
    return {node.output[0]: node for node in model.graph.node if node.op_type != "Constant"}


def _alone(what: str, mine: set[str], theirs: set[str]) -> list[str]:
    return [
        f"{what}s only in the {side}: {', '.join(names[:5])}{f' and {len(names) - 5} more' if names[5:] else ''}"
        for side, names in (
            ("reference", sorted(mine - theirs)),
            ("other file", sorted(theirs - mine)),
        )
        if names
    ]
