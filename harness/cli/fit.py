"""`fit`, `import` and `settings`: what is learnt."""

from __future__ import annotations

import argparse
import dataclasses
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.cli import arguments
from harness.cli.arguments import Parser, categories, path, positive
from harness.errors import UsageError

if TYPE_CHECKING:
    from harness.build import FitRequest
    from harness.detector.artifact import Artifact
    from harness.detector.settings import Settings

BACKBONES = ("resnet18", "wide_resnet50_2", "wide_resnet101_2")
FEW_HELD_OUT = 20
"""Fewer held-out images than this cannot place a 95 % quantile: the threshold is their largest score."""
_SETTINGS = {
    "resize": "squash images to N x N pixels",
    "crop": "then keep the centre N x N",
    "epochs": "passes over the images",
    "batch-size": "images per optimiser step",
    "micro-batch": "images per gradient, accumulated up to the batch (less memory)",
    "workers": "ranks that share each batch, one device each (msrun)",
    "early-stop": "stop after N epochs without a lower loss on held-out good images",
}
"""Settings with an option of their own, and its help."""


def add_fit(parser: Parser) -> None:
    """Add the options of `fit`."""
    from harness import registry

    parser.describe(
        "Fit a detector on the good images of each category, and write one artifact per category.",
        example="fit --weights resnet18.safetensors --data data --category bottle",
    )
    parser.add_argument("--detector", choices=registry.detector_names(), default="padim", help="what to fit")
    _add_fit_options(parser)


def add_import(parser: Parser) -> None:
    """Add the kinds of `import`."""
    example = "import faiss bank.faiss --weights random --data data --category bottle"
    parser.describe("Make an artifact from what another program has learnt.", example=example)
    faiss = parser.add_subparsers(required=True, metavar="WHAT").add_parser(
        "faiss", help="use a faiss index (IndexFlatL2) as PatchCore's memory bank"
    )
    faiss.describe(
        "Make a PatchCore artifact whose memory bank is the index. Backbone, weights, size and layers must be those the "
        "index was made with. The data set's good images set the thresholds.",
        example=example,
    )
    faiss.add_argument("index", type=path, metavar="INDEX", help="the faiss file")
    _add_fit_options(faiss)
    faiss.set_defaults(detector="patchcore")


def _add_fit_options(parser: Parser) -> None:
    arguments.add_data(parser)
    arguments.add_category(parser)
    parser.add_argument(
        "--backbone",
        choices=BACKBONES,
        metavar="NAME",
        help=f"{', '.join(BACKBONES)} (default: resnet18; none for SSIM-AE)",
    )
    parser.add_argument(
        "--weights", type=path, metavar="W", help="backbone weights, or `random` for an untrained backbone"
    )
    parser.add_argument("--out", type=path, default=Path("artifacts"), metavar="DIR", help="artifacts folder")
    parser.add_argument("--force", action="store_true", help="replace an artifact that was fitted otherwise")
    settings = parser.add_argument_group("settings (defaults: python -m harness settings DETECTOR)")
    for name, text in _SETTINGS.items():
        settings.add_argument(f"--{name}", type=positive, metavar="N", help=text)
    settings.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="any other setting of the detector; repeatable",
    )
    settings.add_argument(
        "--seed",
        type=arguments.seed,
        default=0,
        metavar="N",
        help="seed of hold-out, channels and untrained backbone",
    )
    settings.add_argument(
        "--precision", choices=("fp32", "mixed"), default="fp32", help="precision of the training"
    )
    training = parser.add_argument_group("training")
    training.add_argument("--device", choices=("cpu", "ascend", "gpu"), default="cpu", help="where it runs")
    training.add_argument(
        "--init-from", type=path, metavar="FILE", help="start from a checkpoint or a net.safetensors"
    )
    training.add_argument(
        "--checkpoint-every", type=positive, default=10, metavar="N", help="epochs between checkpoints"
    )
    training.add_argument("--resume", action="store_true", help="continue an interrupted training")
    training.add_argument(
        "--jobs",
        type=positive,
        default=1,
        metavar="N",
        help="categories at a time, each on a device or a share of the cores",
    )
    training.add_argument("--only", metavar="NAME", help=argparse.SUPPRESS)  # the category of a child process
    parser.set_defaults(run=_fit, continues="the same command with --resume continues")


def _fit(options: argparse.Namespace) -> int:
    """Fit each category, or in a child process only `options.only`."""
    from harness import build, datasets, registry

    names = categories(options, datasets.list_categories(options.data))
    template = _template(options)
    if "index" in options and len(names) != 1:
        raise UsageError("a faiss index is the memory bank of one category: name it with --category")
    if options.only is not None:
        _fit_as_child(template, options)
        return 0
    if template.backbone != "none" and template.weights is None:
        print("backbone: untrained, drawn from the seed: for trying things out, never for a claim")
    code = 0
    if len(names) == 1:
        _fit_here(template, names[0], options.data)
    else:
        _require_known(names, options.data)
        build.check_fit(template)
        code = _fit_in_children(options, names)
    if code == 0:
        folder = shlex.quote(str(template.out))
        if template.detector in registry.LEARNERS:
            print(f"next: python -m harness export {folder} --format onnx --format mindir")
        else:  # the fit of a plug-in writes its variant
            print(f"next: python -m harness bench {folder} --data {shlex.quote(str(options.data))}")
    return code


def _template(options: argparse.Namespace) -> FitRequest:
    """The request that all categories share; its category is empty, its `out` is the folder of all artifacts."""
    from harness import registry
    from harness.build import FitRequest, detector_folder
    from harness.types import Category

    has_backbone = registry.has_backbone(options.detector)
    if not has_backbone and (options.weights or options.backbone) is not None:
        raise UsageError(f"{options.detector} has no backbone: leave out --weights and --backbone")
    backbone = options.backbone or "resnet18" if has_backbone else "none"
    if options.weights is None and backbone != "none":
        raise UsageError("fit needs --weights W: a backbone's file, or `random` for an untrained one")
    return FitRequest(
        detector=options.detector,
        backbone=backbone,
        weights=None if str(options.weights) == "random" else options.weights,
        dataset=options.data.resolve().name,
        category=Category(name="", root=options.data, train=(), test=()),
        out=detector_folder(options.out, options.detector, backbone),
        settings=_settings(options),
        seed=options.seed,
        device=options.device,
        precision=options.precision,
        init_from=options.init_from,
        checkpoint_every=options.checkpoint_every,
        resume=options.resume,
        force=options.force,
    )


def _settings(options: argparse.Namespace) -> Settings:
    """The detector's settings, from options of their own and from `--set`.

    Raises:
        UsageError: a setting is unknown, wrong, or set twice.
    """
    from harness import storage
    from harness.detector import settings

    names = [name.replace("-", "_") for name in _SETTINGS]
    values: dict[str, Any] = {
        name: getattr(options, name) for name in names if getattr(options, name) is not None
    }
    if "index" in options:  # `import faiss` is a fit whose memory bank exists already
        values["bank"] = str(options.index)
    for assignment in options.set:
        name, equals, value = assignment.partition("=")
        if not equals:
            raise UsageError(f"--set {assignment}: expected NAME=VALUE")
        storage.local_path(value)  # it may be a path, which must not be in object storage
        name = name.strip().replace("-", "_")
        if name in values:
            raise UsageError(f"--set {assignment}: {name} is set twice")
        values[name] = value.strip()
    return settings.settings(options.detector, values)


def _fit_as_child(template: FitRequest, options: argparse.Namespace) -> None:
    import signal

    from harness import machine

    machine.die_with_parent(signal.SIGTERM)
    _fit_here(template, options.only, options.data)


def _fit_here(template: FitRequest, name: str, data: Path) -> None:
    from harness import build, datasets

    category = datasets.load_category(data, name)
    request = dataclasses.replace(template, category=category, out=template.out / category.name)
    artifact, fresh = build.fit(request)
    print(f"{artifact.path}: {_summary(artifact, fresh=fresh)}")
    held_out = artifact.manifest.thresholds.held_out_images
    if held_out < FEW_HELD_OUT:
        print(f"  the thresholds come from only {held_out} held-out images: they are rough")


def _summary(artifact: Artifact, *, fresh: bool) -> str:
    manifest = artifact.manifest
    report = manifest.fit_report
    parts = [
        f"fitted on {manifest.training.images} images in {report['seconds']} s" if fresh else "fitted before"
    ]
    if "training" in report:
        training = report["training"]
        loss = f"loss {training['first_loss']:.4g} → {training['last_loss']:.4g}"
        parts.append(f"{training['epochs']} epochs, {loss}")
    parts.append(f"{manifest.thresholds.held_out_images} held out, threshold {manifest.thresholds.image:.3f}")
    if "state_bytes" in report:
        parts.append(f"state {report['state_bytes'] / 1e6:.0f} MB")
    return ", ".join(parts)


def _require_known(names: Sequence[str], data: Path) -> None:
    from harness import datasets
    from harness.errors import unknown

    known = datasets.list_categories(data)
    for name in names:
        if name not in known:
            raise UsageError(unknown("category", name, known))


def _fit_in_children(options: argparse.Namespace, names: Sequence[str]) -> int:
    """Fit each category in a child process, and return the exit code that all have in common, else 3."""
    from harness.run.processes import Children, slot

    slots = [
        slot(index, jobs=options.jobs, workers=options.workers or 1, device=options.device)
        for index in range(options.jobs)
    ]
    ends = Children(options.arguments, slots, say=_say_as).run(names)
    failed = {name: end for name, end in ends.items() if end.code != 0}
    print(f"{len(names) - len(failed)} of {len(names)} categories fitted", flush=True)
    for name, end in failed.items():
        print(f"failed: {name}: {end.reason}", file=sys.stderr)
    codes = {end.code for end in ends.values()}
    code = codes.pop() if len(codes) == 1 else 3
    return code if code >= 0 else 3


def _say_as(name: str, line: str, *, error: bool) -> None:
    """Print a child's line after its category, in one write."""
    print(f"{name}: {line}\n", end="", file=sys.stderr if error else sys.stdout, flush=True)


def add_settings(parser: Parser) -> None:
    """Add the options of `settings`."""
    from harness import registry

    parser.describe(
        "List a detector's settings with their defaults, for fit --set NAME=VALUE.", example="settings padim"
    )
    parser.add_argument("detector", choices=registry.detector_names(), help="whose settings")
    parser.set_defaults(run=_describe_settings)


def _describe_settings(options: argparse.Namespace) -> int:
    from tabulate import tabulate

    from harness.detector import settings

    rows = settings.described(options.detector)
    print(tabulate(rows, headers="keys", tablefmt="rounded_outline", disable_numparse=True))
    return 0
