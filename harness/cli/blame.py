"""`blame` and `parity --blame`: find where two backends first differ."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.cli import arguments
from harness.cli.arguments import Parser, path, positive
from harness.cli.outcome import EXIT
from harness.errors import UsageError, unknown

if TYPE_CHECKING:
    from harness.blame.nodes import NodeBlame, Side
    from harness.blame.stages import StageBlame
    from harness.detector.artifact import Artifact, Variant
    from harness.parity import PairReport, ParityReport
    from harness.types import Category, Sample


def add_blame(parser: Parser) -> None:
    """Add the kinds of `blame`."""
    parser.describe(
        "Find the node at which two backends first differ (docs/explanation/blame.md).",
        example="blame nodes artifacts/bottle --data data --other openvino-cpu",
    )
    kinds = parser.add_subparsers(required=True, metavar="HOW")
    _add_nodes(kinds.add_parser("nodes", help="compare every tensor of an ONNX graph"))
    _add_prepare(
        kinds.add_parser("prepare", help="write truncated models, for a graph that cannot be opened (OM)")
    )
    _add_compare(kinds.add_parser("compare", help="compare the outputs that a board gave for them"))


def _add_nodes(parser: Parser) -> None:
    parser.describe(
        "Compare every tensor of an ONNX graph on two backends, or of two variants or models, and name the first node "
        "whose outputs differ.",
        example="blame nodes artifacts/bottle --data data --other openvino-cpu",
    )
    _add_subject(parser)
    parser.add_argument("--other", metavar="BACKEND", help="suspected backend (default: the reference)")
    parser.add_argument("--other-variant", metavar="ID", help="suspected variant (default: --variant)")
    parser.add_argument(
        "--other-model", type=path, metavar="FILE", help="suspected ONNX file of the same detector"
    )
    parser.add_argument(
        "--image", action="append", metavar="NAME", help="test/broken/000.png; repeatable (default: all)"
    )
    parser.add_argument(
        "--images", type=positive, metavar="N", help="number of test images, evenly spread (default: all)"
    )
    parser.add_argument(
        "--to", type=path, metavar="DIR", help="write the smallest model that differs, in a new folder"
    )
    _add_tolerance(parser)
    parser.set_defaults(run=_nodes)


def _add_prepare(parser: Parser) -> None:
    parser.describe(
        "Write truncated models, for a board that runs graphs that cannot be opened (OM).",
        example="blame prepare artifacts/bottle --data data --to cuts",
    )
    _add_subject(parser)
    parser.add_argument("--to", type=path, required=True, metavar="DIR", help="a new folder")
    parser.add_argument(
        "--cuts", type=positive, default=8, metavar="N", help="number of cuts, besides the outputs"
    )
    parser.add_argument(
        "--images", type=positive, default=2, metavar="N", help="number of test images, evenly spread"
    )
    parser.add_argument(
        "--between", nargs=2, metavar="TENSOR", help="cut after the first tensor, up to the second"
    )
    arguments.add_json(parser)
    parser.set_defaults(run=_prepare)


def _add_compare(parser: Parser) -> None:
    parser.describe(
        "Compare the outputs that a board gave for the truncated models, and name the first cut that differs.",
        example="blame compare cuts --outputs board-results",
    )
    parser.add_argument("folder", type=path, metavar="DIR", help="folder that `prepare` wrote")
    parser.add_argument(
        "--outputs",
        type=path,
        required=True,
        metavar="RESULTS",
        help="records of bench --save-outputs, or of score",
    )
    _add_tolerance(parser)
    parser.set_defaults(run=_compare)


def _add_subject(parser: Parser) -> None:
    parser.add_argument("artifact", type=path, metavar="ARTIFACT", help="an artifact with an ONNX variant")
    arguments.add_data(parser)
    parser.add_argument(
        "--variant", metavar="ID", help="an ONNX variant (default: the first in the manifest)"
    )
    parser.add_argument(
        "--reference", default="onnxruntime-cpu", metavar="BACKEND", help="backend to compare with"
    )


def _add_tolerance(parser: Parser) -> None:
    parser.add_argument(
        "--tolerance",
        type=float,
        metavar="T",
        help="share of a tensor's largest value (default: 1e-4 for fp32, else 1e-2)",
    )
    arguments.add_json(parser)


def _nodes(options: argparse.Namespace) -> int:
    """Name the first node at which the two sides differ."""
    from harness.blame import nodes

    artifact, category = _subject(options.artifact, options.data)
    variant = _variant(artifact, options.variant)
    other = variant if options.other_variant is None else _variant(artifact, options.other_variant)
    if options.other_model is not None and options.other_variant is not None:
        raise UsageError("--other-model and --other-variant are two suspects: name one")
    same = other.id == variant.id and options.other_model is None
    if same and options.other in (None, options.reference):
        raise UsageError(
            "nothing to compare with: name --other BACKEND, --other-variant ID or --other-model FILE.onnx"
        )
    blamed = _blame_nodes(
        nodes.open_side(artifact, variant, options.reference),
        nodes.open_side(artifact, other, options.other or options.reference, model=options.other_model),
        _samples(category, options.image, options.images),
        tolerance=options.tolerance,
        to=options.to,
    )
    _print(options, blamed, blamed.lines())
    return EXIT["passed" if blamed.verdict == "passed" else "failed"]


def _prepare(options: argparse.Namespace) -> int:
    """Write truncated models for a board."""
    from harness.blame import cuts, nodes

    artifact, category = _subject(options.artifact, options.data)
    request = nodes.PrepareRequest(
        side=nodes.open_side(artifact, _variant(artifact, options.variant), options.reference),
        category=category,
        to=options.to,
        cuts=options.cuts,
        images=options.images,
        between=None if options.between is None else tuple(options.between),
    )
    index = nodes.prepare(request)
    lines = [f"{number:02} {cut.tensor} ({cut.operator})" for number, cut in enumerate(index.cuts)]
    lines.append(
        f"{options.to}: {len(index.cuts)} cuts, {len(index.images)} images; next, on the board: export "
        f"{options.to}/{cuts.CUTS} --format om --head-in-graph …, bench {options.to}/{cuts.CUTS} "
        f"--data {options.to}/{cuts.DATA} --save-outputs …"
    )
    _print(options, index, lines)
    return 0


def _compare(options: argparse.Namespace) -> int:
    """Name the first cut over tolerance on every device."""
    import msgspec

    from harness.blame import cuts
    from harness.parity import overall

    devices = cuts.compare(options.folder, options.outputs, tolerance=options.tolerance)
    verdict = overall(device.verdict for device in devices)
    document = {
        "verdict": verdict,
        "devices": [{"verdict": device.verdict, **msgspec.to_builtins(device)} for device in devices],
    }
    _print(options, document, [line for device in devices for line in device.lines()])
    return EXIT[verdict]


def _print(options: argparse.Namespace, document: Any, lines: Sequence[str]) -> None:
    import msgspec

    text = json.dumps(msgspec.to_builtins(document), allow_nan=False) if options.json else "\n".join(lines)
    print(text)


def of_report(options: argparse.Namespace, report: ParityReport) -> tuple[dict[str, Any], list[str]]:
    """For `parity --blame`: the blamed stage of every pair that did not pass; with `--artifact` and `--data` its node too.

    Returns:
        Entries of the JSON document, and the same as lines.
    """
    import msgspec

    from harness.blame import stages

    if (options.artifact is None) != (options.data is None):
        raise UsageError("parity --blame searches the graph with --artifact and --data together")
    blamed_stages = stages.blame(options.results, report, inputs=options.inputs)
    lines = [line for blamed in blamed_stages for line in blamed.lines()]
    document: dict[str, Any] = {"blame": msgspec.to_builtins(blamed_stages)}
    if options.artifact is not None:
        document["nodes"] = []
        not_passed = [
            pair for pair in report.pairs if pair.verdict != "passed"
        ]  # `stages.blame` keeps this order
        for pair, stage in zip(not_passed, blamed_stages, strict=True):
            blamed = _node_of_pair(options, pair, stage)
            if isinstance(blamed, str):
                lines.append(f"{stage.category}: no node is blamed: {blamed}")
            else:
                document["nodes"].append(msgspec.to_builtins(blamed))
                lines += [f"{stage.category}: {line}" for line in blamed.lines()]
    return document, lines


def _node_of_pair(options: argparse.Namespace, pair: PairReport, blamed: StageBlame) -> NodeBlame | str:
    """The blamed node, or why there is none."""
    from harness import datasets
    from harness.blame import nodes
    from harness.detector import artifact

    if pair.reason is not None or blamed.stage not in (None, "outputs"):
        return f"the two first differ at {blamed.stage or 'their identity'}, not in the network"
    cases = (pair.reference, pair.other)
    if any(case.source is not None for case in cases):
        return "one side comes from files, and is not run here"
    (detector, *_) = artifact.find(options.artifact, (blamed.category,))
    if detector.manifest.detector_sha256 != pair.detector_sha256:
        raise UsageError(f"{detector.path}: another detector than the records'")
    variants = (_variant(detector, cases[0].variant), _variant(detector, cases[1].variant))
    formats = [variant.format for variant in variants]
    if formats != ["onnx", "onnx"]:
        return f"the graphs are {' and '.join(formats)}: see python -m harness blame prepare"
    name = f"{blamed.category}-{cases[1].backend}-{cases[1].variant}"
    return _blame_nodes(
        nodes.open_side(detector, variants[0], cases[0].backend),
        nodes.open_side(detector, variants[1], cases[1].backend),
        _samples(
            datasets.load_category(options.data, blamed.category),
            None if blamed.image is None else [blamed.image],
            None,
        ),
        tolerance=None,
        to=None if options.to is None else options.to / name,
    )


def _blame_nodes(
    reference: Side, other: Side, samples: Sequence[Sample], *, tolerance: float | None, to: Path | None
) -> NodeBlame:
    from harness.blame import nodes, outputs
    from harness.parity.tolerances import search_tolerance

    if reference.variant.input_stage != other.variant.input_stage:
        raise UsageError("the two variants take different inputs: one of them normalises in its graph")
    allowed = search_tolerance(other.variant.precision) if tolerance is None else tolerance
    outputs.require_tolerance(allowed)
    return nodes.blame(reference, other, nodes.input_rows(reference, samples), tolerance=allowed, to=to)


def _subject(path: Path, data: Path) -> tuple[Artifact, Category]:
    from harness import datasets
    from harness.detector import artifact

    artifacts = artifact.find(path, ())
    if len(artifacts) != 1:
        raise UsageError(f"{path}: {len(artifacts)} artifacts; blame takes one: {artifacts[0].path}")
    return artifacts[0], datasets.load_category(data, artifacts[0].manifest.category)


def _variant(artifact: Artifact, id_: str | None) -> Variant:
    """The named variant, else the first ONNX variant."""
    return artifact.variant(("onnx",)) if id_ is None else artifact.variant_named(id_)


def _samples(category: Category, names: Sequence[str] | None, count: int | None) -> Sequence[Sample]:
    """The named test images, else `count` evenly spread ones, else all."""
    if not names:
        from harness.blame import nodes

        return nodes.evenly_spread(category.test, count or len(category.test))
    samples = {sample.name: sample for sample in category.test}
    for name in names:
        if name not in samples:
            raise UsageError(unknown(f"image of {category.root}", name, samples))
    return [samples[name] for name in names]
