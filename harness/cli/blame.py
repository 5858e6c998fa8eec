"""The `blame` commands and `parity --blame`: gather what they need, and give what is to be printed."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from harness import datasets, errors, registry
from harness.blame import cuts, outputs, stages
from harness.cli.arguments import add_json, path, positive
from harness.detector import artifact
from harness.detector.artifact import Artifact, Variant
from harness.errors import UsageError
from harness.parity import PairReport, ParityReport, overall
from harness.types import Category, Sample

if TYPE_CHECKING:
    from harness.blame.nodes import NodeBlame, Side

_CODES = {"passed": 0, "failed": 1, "not measured": 3}
Said = tuple[dict[str, Any], list[str], int]
"""A JSON document, the same as lines, and the exit code."""


def nodes(options: argparse.Namespace) -> Said:
    """`blame nodes`: the first node at which two sides part."""
    found, category = _subject(options.artifact, options.data)
    variant = _variant(found, options.variant)
    other = variant if options.other_variant is None else _variant(found, options.other_variant)
    if options.other_model is not None and options.other_variant is not None:
        raise UsageError("--other-model and --other-variant are two things to suspect: name one")
    same = other.id == variant.id and options.other_model is None
    if same and options.other in (None, options.reference):
        raise UsageError(
            "nothing to compare with: name --other BACKEND, --other-variant ID or --other-model FILE.onnx"
        )
    told = _nodes(
        _side(found, variant, options.reference),
        _side(found, other, options.other or options.reference, options.other_model),
        _samples(category, options.image, options.images),
        tolerance=options.tolerance,
        to=options.to,
    )
    return msgspec.to_builtins(told), told.lines(), 0 if told.verdict == "passed" else 1


def prepare(options: argparse.Namespace) -> Said:
    """`blame prepare`: truncated models for a board."""
    found, category = _subject(options.artifact, options.data)
    request = _stage("request")(
        side=_side(found, _variant(found, options.variant), options.reference),
        category=category,
        to=options.to,
        cuts=options.cuts,
        images=options.images,
        between=None if options.between is None else tuple(options.between),
    )
    index = _stage("prepare")(request)
    lines = [f"{number:02} {cut.tensor} ({cut.operator})" for number, cut in enumerate(index.cuts)]
    lines.append(
        f"{options.to}: {len(index.cuts)} cuts, {len(index.images)} images; next, on the board: export {options.to}/{cuts.CUTS} "
        f"--format om --head-in-graph …, bench --artifact {options.to}/{cuts.CUTS} --data {options.to}/{cuts.DATA} --save-outputs …"
    )
    return msgspec.to_builtins(index), lines, 0


def compare(options: argparse.Namespace) -> Said:
    """`blame compare`: the first cut over tolerance on every device."""
    found = cuts.compare(options.folder, options.outputs, tolerance=options.tolerance)
    verdict = overall(item.verdict for item in found)
    document = {
        "verdict": verdict,
        "devices": [{"verdict": item.verdict, **msgspec.to_builtins(item)} for item in found],
    }
    return document, [line for item in found for line in item.lines()], _CODES[verdict]


def parity(options: argparse.Namespace, report: ParityReport) -> Said:
    """`parity --blame`: the stage of every pair that did not pass; with `--artifact` and `--data` the node too."""
    if (options.artifact is None) != (options.data is None):
        raise UsageError("parity --blame looks into the graph with --artifact and --data together")
    blamed = stages.blame(options.results, report, inputs=options.inputs)
    lines = [line for item in blamed for line in item.lines()]
    document: dict[str, Any] = {"blame": msgspec.to_builtins(blamed)}
    if options.artifact is not None:
        document["nodes"] = []
        parted = [
            pair for pair in report.pairs if pair.verdict != "passed"
        ]  # those that are blamed, in this order
        for pair, item in zip(parted, blamed, strict=True):
            told = _of_pair(options, pair, item)
            if isinstance(told, str):
                lines.append(f"{item.category}: no node is blamed: {told}")
            else:
                document["nodes"].append(msgspec.to_builtins(told))
                lines += [f"{item.category}: {line}" for line in told.lines()]
    return document, lines, _CODES[report.verdict]


def _of_pair(options: argparse.Namespace, pair: PairReport, item: stages.StageBlame) -> NodeBlame | str:
    """The node, or why there is none to blame."""
    if pair.reason is not None or item.stage not in (None, "outputs"):
        return f"the two part at {item.stage or 'what they are'}, not in the network"
    cases = (pair.reference, pair.other)
    if any(case.source is not None for case in cases):
        return "a side was made from files, and is not run here"
    found = artifact.find(options.artifact, (item.category,))[0]
    if found.manifest.detector_sha256 != pair.detector_sha256:
        raise UsageError(f"{found.path}: another detector than the records'")
    variants = (_variant(found, cases[0].variant), _variant(found, cases[1].variant))
    formats = [variant.format for variant in variants]
    if formats != ["onnx", "onnx"]:
        return f"the graphs are {' and '.join(formats)}: see python -m harness blame prepare"
    category = datasets.load_category(options.data, item.category)
    return _nodes(
        _side(found, variants[0], cases[0].backend),
        _side(found, variants[1], cases[1].backend),
        _samples(category, None if item.image is None else [item.image], None),
        tolerance=None,
        to=None
        if options.to is None
        else options.to / f"{item.category}-{cases[1].backend}-{cases[1].variant}",
    )


def _side(found: Artifact, variant: Variant, backend: str, model: Path | None = None) -> Side:
    made: Side = _stage("side")(found, variant, backend, model=model)
    return made


def _nodes(
    reference: Side, other: Side, samples: Sequence[Sample], *, tolerance: float | None, to: Path | None
) -> NodeBlame:
    if reference.variant.input_stage != other.variant.input_stage:
        raise UsageError("the two variants take other inputs: one of them normalises in its graph")
    allowed = outputs.tolerance_of(other.variant.precision) if tolerance is None else tolerance
    outputs.require_tolerance(allowed)
    told: NodeBlame = _stage("nodes")(
        reference, other, _stage("rows")(reference, samples), tolerance=allowed, to=to
    )
    return told


def _stage(name: str) -> Any:
    """What `harness.blame.nodes` has under this name; it needs onnx."""
    return registry.resolve("stage", f"blame_{name}", registry.STAGES)


def _subject(path: Path, data: Path) -> tuple[Artifact, Category]:
    found = artifact.find(path, ())
    if len(found) != 1:
        raise UsageError(f"{path}: {len(found)} artifacts; blame takes one: {found[0].path}")
    return found[0], datasets.load_category(data, found[0].manifest.category)


def _variant(found: Artifact, wanted: str | None) -> Variant:
    if wanted is None:
        return found.variant(("onnx",))
    known = {variant.id: variant for variant in found.manifest.variants}
    if wanted not in known:
        raise UsageError(errors.unknown(f"variant of {found.path}", wanted, known))
    return known[wanted]


def _samples(category: Category, names: Sequence[str] | None, count: int | None) -> Sequence[Sample]:
    """Those named, else as many test images as asked, else all."""
    if not names:
        spread: Sequence[Sample] = _stage("chosen")(category.test, count or len(category.test))
        return spread
    known = {sample.name: sample for sample in category.test}
    for name in names:
        if name not in known:
            raise UsageError(errors.unknown(f"image of {category.root}", name, known))
    return [known[name] for name in names]


def _add_blame(commands: Any) -> None:
    kinds = commands.add_parser(
        "blame", help="find the node at which two backends part (docs/blame.md)"
    ).add_subparsers(required=True, metavar="HOW")
    nodes = kinds.add_parser("nodes", help="in an ONNX graph, whose every tensor is compared")
    prepare = kinds.add_parser(
        "prepare", help="write truncated models, for a graph that cannot be opened (OM)"
    )
    compare = kinds.add_parser("compare", help="read what a board made of them")
    for parser in (nodes, prepare):
        parser.add_argument("artifact", type=path, metavar="ARTIFACT")
        parser.add_argument(
            "--data", type=path, required=True, metavar="DIR", help="folder of the categories"
        )
        parser.add_argument("--variant", metavar="ID", help="an ONNX variant (the first in the manifest)")
        parser.add_argument("--reference", default="onnxruntime-cpu", metavar="BACKEND", help="(%(default)s)")
    nodes.add_argument("--other", metavar="BACKEND", help="what is suspected (the reference)")
    nodes.add_argument("--other-variant", metavar="ID", help="the variant suspected (--variant)")
    nodes.add_argument(
        "--other-model", type=path, metavar="FILE", help="an ONNX file of the same detector, suspected"
    )
    nodes.add_argument("--image", action="append", metavar="NAME", help="test/broken/000.png; repeats (all)")
    nodes.add_argument(
        "--images", type=positive, metavar="N", help="so many test images, evenly spread (all)"
    )
    nodes.add_argument(
        "--to", type=path, metavar="DIR", help="write the smallest model that fails, in a new folder"
    )
    prepare.add_argument("--to", type=path, required=True, metavar="DIR", help="a new folder")
    prepare.add_argument(
        "--cuts", type=positive, default=8, metavar="N", help="besides the outputs (%(default)s)"
    )
    prepare.add_argument(
        "--images", type=positive, default=2, metavar="N", help="test images, evenly spread (%(default)s)"
    )
    prepare.add_argument("--between", nargs=2, metavar="TENSOR", help="cut after the first, up to the second")
    compare.add_argument("folder", type=path, metavar="DIR", help="what `prepare` wrote")
    compare.add_argument(
        "--outputs",
        type=path,
        required=True,
        metavar="RESULTS",
        help="records of bench --save-outputs, or of score",
    )
    for parser in (nodes, compare):
        parser.add_argument(
            "--tolerance",
            type=float,
            metavar="T",
            help="of a tensor's largest value (fp32: 1e-4, others: 1e-2)",
        )
    for name, parser in (("nodes", nodes), ("prepare", prepare), ("compare", compare)):
        add_json(parser)
        parser.set_defaults(run=_blame, how=name)


def _blame(options: argparse.Namespace) -> int:
    document, lines, code = {"nodes": nodes, "prepare": prepare, "compare": compare}[options.how](options)
    print(json.dumps(document, allow_nan=False) if options.json else "\n".join(lines))
    return int(code)
