"""`onnx describe`, and the ONNX models from elsewhere that `bench` measures."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness.cli.arguments import Parser, add_declarations, add_json, path
from harness.errors import UsageError

if TYPE_CHECKING:
    from harness.onnx_models.description import Description
    from harness.onnx_models.graph import Graph

FOLDER = "onnx"
"""Below the results folder: holds the artifacts of such models."""


def add_onnx(parser: Parser) -> None:
    """Add the actions of `onnx`."""
    example = "onnx describe model.onnx --out manifest.json"
    parser.describe(
        "Describe an ONNX model that was not exported here (docs/reference/onnx-models.md).", example=example
    )
    describe = parser.add_subparsers(required=True, metavar="ACTION").add_parser(
        "describe", help="show the model's inputs and outputs, and what must be declared for bench"
    )
    describe.describe(
        "Draft the description that `bench MODEL.onnx --manifest FILE` reads, and list what must still be declared.",
        example=example,
    )
    describe.add_argument("file", type=path, metavar="FILE", help="the ONNX model")
    add_declarations(describe)
    describe.add_argument("--out", type=path, metavar="MANIFEST", help="write the description here, as JSON")
    add_json(describe)
    describe.set_defaults(run=_describe)


def _describe(options: argparse.Namespace) -> int:
    """Print the drafted description.

    Raises:
        ArtifactError: the file is no model that detects anomalies in images.
        UsageError: `--out` exists, or a declaration is wrong.
    """
    import msgspec

    from harness.onnx_models import check, description, read_graph
    from harness.onnx_models.recognise import draft

    if options.out is not None and options.out.exists():
        raise UsageError(f"--out {options.out}: is there already: name another file, or move it away")
    graph = read_graph(options.file)
    drafted, wrong = draft(graph, options.set)
    missing = [*wrong, *check.open_questions(graph, drafted)]
    if options.out is not None:
        description.write(options.out, drafted)
    if options.json:
        document = {"manifest": msgspec.to_builtins(drafted), "open": missing}
        print(json.dumps(document, allow_nan=False))
    else:
        print("\n".join([*_lines(graph, drafted), *(f"to be declared: {question}" for question in missing)]))
    return 0


def artifacts(
    options: argparse.Namespace, categories: tuple[str, ...], say: Callable[[str], None]
) -> tuple[tuple[Path, ...], int]:
    """Adopt the one model of `bench` as an artifact per category, and return them with the batch size they run with.

    Raises:
        ArtifactError: the model cannot be run as described.
        DatasetError: a category is missing.
        UsageError: data or category are missing, or an option does not apply to an ONNX model.
    """
    from harness import datasets, registry
    from harness.onnx_models import declare, description, read_graph, recognise
    from harness.onnx_models.adopt import adopt

    if options.data is None or not options.category:
        raise UsageError(
            "bench MODEL.onnx needs --data DIR, the folder that holds the categories, and --category NAME, the category "
            "that the model was trained for"
        )
    for name in ("variant", "inputs"):
        if getattr(options, name) is not None:
            raise UsageError(
                f"bench --{name} needs an artifact: an .onnx MODEL has one form, and takes images"
            )
    for name in options.backend or ():
        if "onnx" not in registry.backend(name).formats:
            raise UsageError(f"--backend {name} opens no ONNX")
    (file,) = options.model
    graph = read_graph(file)
    if options.manifest is None:
        described = recognise(graph, options.set)
    else:
        described = declare(description.read(options.manifest), options.set)
    batch_size = _batch_size(graph, options.batch_size)
    for line in _lines(graph, described):
        say(line)
    names = categories or tuple(datasets.list_categories(options.data))
    for name in names:
        datasets.load_category(options.data, name)  # before a large model is copied for it
    return tuple(adopt(graph, described, name, options.out / FOLDER) for name in names), batch_size


def backends(runnable: Sequence[str]) -> list[str]:
    """The backends that open ONNX."""
    from harness import registry

    return [name for name in runnable if "onnx" in registry.backend(name).formats]


def _batch_size(graph: Graph, requested: int | None) -> int:
    """The requested batch size, else the fixed one of the file, else 1.

    Raises:
        UsageError: the file has another fixed batch size: rows that fill it up would cost time that no image needs.
    """
    from harness.onnx_models.recognise import picture_of

    rows, *_ = picture_of(graph).shape or (None,)
    if None not in (rows, requested) and rows != requested:
        raise UsageError(
            f"--batch-size {requested}: {graph.path} runs {rows} images at a time, and is timed so: leave it out"
        )
    return requested or rows or 1


def _lines(graph: Graph, described: Description) -> list[str]:
    """The description for a person."""
    from harness.onnx_models import description
    from harness.onnx_models.graph import printable

    if_absent = {
        "score": "the largest value of the map" if described.map else "none",
        "map": "none: pixel metrics are undefined",
        "image_threshold": "unknown: parity of decisions cannot be measured",
        "pixel_threshold": "unknown",
    }
    producer = printable(graph.producer) or "unknown producer"
    lines = [f"{graph.path.name}: {producer}, {', '.join(map(str, graph.inputs))}"]
    for name in description.SETTABLE:
        value = getattr(described, name)
        if value is None:
            value = if_absent.get(name)
        elif name in ("size", "resize"):
            value = f"{value[0]}x{value[1]}"
        how = f" ({printable(described.how[name])})" if name in described.how else ""
        lines += [] if value is None else [f"  {name}: {printable(str(value))}{how}"]
    return lines
