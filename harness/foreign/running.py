"""What the command line does with a model that was not exported here."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from harness import datasets, registry
from harness.errors import UsageError
from harness.foreign import check, declare, description, read_graph, recognise
from harness.foreign.adopt import adopt
from harness.foreign.description import Description
from harness.foreign.graph import Graph

FOLDER = "onnx"
"""Below the results folder: where the artifacts of such models are kept."""


def describe(options: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """Draft the manifest of `options.file`: the document, and lines for a person; written where `options.out` says.

    Raises:
        ArtifactError: the file is no model that detects anomalies in pictures.
    """
    graph = read_graph(options.file)
    found = declare(recognise(graph), options.set)
    missing = check.open_questions(graph, found)
    if options.out is not None:
        description.write(options.out, found)
    document = {"manifest": msgspec.to_builtins(found), "open": missing}
    return document, [*_lines(graph, found), *(f"to be declared: {item}" for item in missing)]


def artifacts(
    options: argparse.Namespace, categories: tuple[str, ...], say: Callable[[str], None]
) -> tuple[Path, ...]:
    """The artifacts of `options.onnx`, one per category, made where they are not there yet.

    Raises:
        ArtifactError: the file is no model that can be run as described.
        DatasetError: a category that is not there.
        UsageError: what is needed is not given, or contradicts `--onnx`.
    """
    if options.data is None or not options.category:
        raise UsageError(
            "bench --onnx needs --data DIR, the folder that holds the categories, and --category NAME, what the model "
            "was trained for"
        )
    for name in ("artifact", "suite", "variant", "inputs", "outputs", "weights"):
        if getattr(options, name) is not None:
            raise UsageError(f"--{name} does not go with --onnx: the file is the model")
    for name in options.backend or ():
        if "onnx" not in registry.backend(name).formats:
            raise UsageError(f"--backend {name} opens no ONNX")
    graph = read_graph(options.onnx)
    found = recognise(graph) if options.manifest is None else description.read(options.manifest)
    found = declare(found, options.set)
    for line in _lines(graph, found):
        say(line)
    names = categories or tuple(datasets.list_categories(options.data))
    for name in names:
        datasets.load_category(options.data, name)  # before a large model is copied for it
    return tuple(adopt(graph, found, name, options.out / FOLDER) for name in names)


def backends(runnable: Sequence[str]) -> list[str]:
    """Those that open ONNX."""
    return [name for name in runnable if "onnx" in registry.backend(name).formats]


def _lines(graph: Graph, found: Description) -> list[str]:
    """The description as a person reads it."""
    told = {
        "score": "the largest value of the map" if found.map else "none",
        "map": "none: pixel metrics are undefined",
        "image_threshold": "unknown: parity of decisions cannot be measured",
        "pixel_threshold": "unknown",
    }
    lines = [
        f"{graph.path.name}: {graph.producer or 'unknown producer'}, {', '.join(map(str, graph.inputs))}"
    ]
    for name in description.SETTABLE:
        value = getattr(found, name)
        if value is None:
            value = told.get(name)
        elif name in ("size", "resize"):
            value = f"{value[0]}x{value[1]}"
        how = f" ({found.how[name]})" if name in found.how else ""
        lines += [] if value is None else [f"  {name}: {value}{how}"]
    return lines
