"""The `blame` commands and `parity --blame`: gather what they need, and give what is to be printed."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from harness import datasets, registry
from harness.blame import cuts, stages, tensors
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
    allowed = tensors.tolerance_of(other.variant.precision) if tolerance is None else tolerance
    tensors.require_tolerance(allowed)
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
        raise UsageError(registry.unknown(f"variant of {found.path}", wanted, known))
    return known[wanted]


def _samples(category: Category, names: Sequence[str] | None, count: int | None) -> Sequence[Sample]:
    """Those named, else as many test images as asked, else all."""
    if not names:
        spread: Sequence[Sample] = _stage("chosen")(category.test, count or len(category.test))
        return spread
    known = {sample.name: sample for sample in category.test}
    for name in names:
        if name not in known:
            raise UsageError(registry.unknown(f"image of {category.root}", name, known))
    return [known[name] for name in names]
