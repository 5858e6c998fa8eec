"""What the command line does with a model that was not exported here."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from harness import datasets, registry
from harness.cli.arguments import add_declarations, add_json, path
from harness.errors import UsageError
from harness.onnx_models import check, declare, description, read_graph, recognise
from harness.onnx_models.adopt import adopt
from harness.onnx_models.description import Description
from harness.onnx_models.graph import Graph, printable
from harness.onnx_models.recognise import draft, picture_of

FOLDER = "onnx"
"""Below the results folder: where the artifacts of such models are kept."""


def describe(options: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """Draft the manifest of `options.file`: the document, and lines for a person; written where `options.out` says.

    Raises:
        ArtifactError: the file is no model that detects anomalies in pictures.
        UsageError: something is at `options.out` already, or a declaration is wrong.
    """
    if options.out is not None and options.out.exists():
        raise UsageError(f"--out {options.out}: is there already: name another file, or move it away")
    graph = read_graph(options.file)
    found, wrong = draft(graph, options.set)
    missing = [*wrong, *check.open_questions(graph, found)]
    if options.out is not None:
        description.write(options.out, found)
    document = {"manifest": msgspec.to_builtins(found), "open": missing}
    return document, [*_lines(graph, found), *(f"to be declared: {item}" for item in missing)]


def artifacts(
    options: argparse.Namespace, categories: tuple[str, ...], say: Callable[[str], None]
) -> tuple[tuple[Path, ...], int]:
    """The artifacts of `options.onnx`, one per category, made where they are not there yet; and the batch size they run with.

    Raises:
        ArtifactError: the file is no model that can be run as described.
        DatasetError: a category that is not there.
        UsageError: what is needed is not given, or contradicts `--onnx`.
    """
    if len(options.onnx) > 1:
        raise UsageError(
            "bench --onnx takes one model at a time: run it once for each, into one --out folder"
        )
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
    (file,) = options.onnx
    graph = read_graph(file)
    if options.manifest is None:
        found = recognise(graph, options.set)
    else:
        found = declare(description.read(options.manifest), options.set)
    batch_size = _batch_size(graph, options.batch_size)
    for line in _lines(graph, found):
        say(line)
    names = categories or tuple(datasets.list_categories(options.data))
    for name in names:
        datasets.load_category(options.data, name)  # before a large model is copied for it
    return tuple(adopt(graph, found, name, options.out / FOLDER) for name in names), batch_size


def _batch_size(graph: Graph, asked: int | None) -> int:
    """What is asked for, else what the file fixes, else 1; of a fixed batch, rows that fill it up cost time that no image took.

    Raises:
        UsageError: the file fixes another.
    """
    rows, *_ = picture_of(graph).shape or (None,)
    if None not in (rows, asked) and rows != asked:
        raise UsageError(
            f"--batch-size {asked}: {graph.path} runs {rows} images at a time, and is timed so: leave it out"
        )
    return asked or rows or 1


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
        f"{graph.path.name}: {printable(graph.producer) or 'unknown producer'}, {', '.join(map(str, graph.inputs))}"
    ]
    for name in description.SETTABLE:
        value = getattr(found, name)
        if value is None:
            value = told.get(name)
        elif name in ("size", "resize"):
            value = f"{value[0]}x{value[1]}"
        how = f" ({printable(found.how[name])})" if name in found.how else ""
        lines += [] if value is None else [f"  {name}: {printable(str(value))}{how}"]
    return lines


def _add_onnx(commands: Any) -> None:
    onnx = commands.add_parser("onnx", help="models that were not exported here").add_subparsers(
        required=True, metavar="ACTION"
    )
    describe = onnx.add_parser(
        "describe", help="what a model takes and gives, and what must be declared for bench --onnx"
    )
    describe.add_argument("file", type=path, metavar="FILE")
    add_declarations(describe, "")
    describe.add_argument("--out", type=path, metavar="MANIFEST", help="write the description, as JSON")
    add_json(describe)
    describe.set_defaults(run=_onnx_describe)


def _onnx_describe(options: argparse.Namespace) -> int:
    document, lines = describe(options)
    print(json.dumps(document, allow_nan=False) if options.json else "\n".join(lines))
    return 0
