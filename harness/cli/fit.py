"""`fit`, `import` and `settings`: what is learnt."""

from __future__ import annotations

import argparse
import dataclasses
import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness import datasets, machine, registry
from harness.build import FitRequest
from harness.cli.arguments import add_category, path, positive, seed, wanted
from harness.detector import settings as settings_module
from harness.detector.artifact import Artifact
from harness.detector.settings import Settings
from harness.errors import UsageError, unknown
from harness.run.processes import Children, slot
from harness.types import Category

DETECTORS = ("padim", "patchcore", "fastflow", "stpm", "ssim_ae")
BACKBONES = ("resnet18", "wide_resnet50_2", "wide_resnet101_2")


def add(commands: Any) -> None:
    """Add the parsers of these commands."""
    for command in (_add_fit, _add_import, _add_settings):
        command(commands)


def _add_fit(commands: Any) -> None:
    fit = commands.add_parser("fit", help="fit a detector on the good images of a category")
    fit.add_argument("--detector", choices=DETECTORS, default="padim")
    _add_fit_options(fit)


def _add_import(commands: Any) -> None:
    kinds = commands.add_parser("import", help="take over what another program learnt").add_subparsers(
        required=True, metavar="WHAT"
    )
    faiss = kinds.add_parser(
        "faiss",
        help="a faiss index (IndexFlatL2) as PatchCore's memory bank",
        description="Make a PatchCore artifact whose memory bank is the index; backbone, weights, size and layers must be those "
        "it was made with. The data set's good images set the thresholds.",
    )
    faiss.add_argument("index", type=path, metavar="INDEX")
    _add_fit_options(faiss)
    faiss.set_defaults(detector="patchcore")


def _add_fit_options(fit: argparse.ArgumentParser) -> None:
    fit.add_argument("--backbone", choices=BACKBONES, help="(resnet18; SSIM-AE has none)")
    fit.add_argument(
        "--weights",
        type=path,
        metavar="W",
        help="backbone weights, or `random` for an untrained, seeded backbone (SSIM-AE has none)",
    )
    fit.add_argument(
        "--data", type=path, required=True, metavar="DIR", help="folder that holds the categories"
    )
    add_category(fit)
    fit.add_argument("--out", type=path, default=Path("artifacts"), metavar="DIR", help="(%(default)s)")
    fit.add_argument(
        "--seed", type=seed, default=0, help="of hold-out, channel draw, untrained backbone (%(default)s)"
    )
    for name, kind, what in (
        ("resize", positive, "squash images to N x N pixels"),
        ("crop", positive, "then keep the centre N x N"),
        ("epochs", positive, "passes over the images"),
        ("batch-size", positive, "images per optimiser step"),
        ("micro-batch", positive, "images per gradient, accumulated up to the batch (less memory)"),
        ("workers", positive, "processes that share each batch, one device each (msrun)"),
        ("early-stop", positive, "stop after N epochs without a lower loss on held-out good images"),
    ):
        fit.add_argument(f"--{name}", type=kind, metavar="N", help=what)
    fit.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="any other setting of the detector, repeats; see: python -m harness settings DETECTOR",
    )
    fit.add_argument("--device", choices=("cpu", "ascend", "gpu"), default="cpu", help="(%(default)s)")
    fit.add_argument("--precision", choices=("fp32", "mixed"), default="fp32", help="(%(default)s)")
    fit.add_argument(
        "--init-from", type=path, metavar="FILE", help="start from a checkpoint or a net.safetensors"
    )
    fit.add_argument(
        "--checkpoint-every", type=positive, default=10, metavar="N", help="epochs (%(default)s)"
    )
    fit.add_argument("--resume", action="store_true", help="go on with a training that was cut short")
    fit.add_argument(
        "--jobs",
        type=positive,
        default=1,
        metavar="N",
        help="categories side by side, one device each, or a share of the cores (%(default)s)",
    )
    fit.add_argument("--only", metavar="NAME", help=argparse.SUPPRESS)  # what a process of its own fits
    fit.add_argument("--force", action="store_true", help="replace an artifact fitted from another request")
    fit.set_defaults(run=_fit, continues="the same command with --resume continues")


def _add_settings(commands: Any) -> None:
    settings = commands.add_parser("settings", help="what can be set about a detector, with defaults")
    settings.add_argument("detector", choices=DETECTORS)
    settings.set_defaults(run=_describe_settings)


def _fit(options: argparse.Namespace) -> int:
    from harness import datasets

    return run_fit(options, wanted(options, datasets.list_categories(options.data)))


def _describe_settings(options: argparse.Namespace) -> int:
    from tabulate import tabulate

    from harness.detector import settings

    print(
        tabulate(
            settings.described(options.detector),
            headers="keys",
            tablefmt="rounded_outline",
            disable_numparse=True,
        )
    )
    return 0


FEW_HELD_OUT = 20
"""Fewer good images than this cannot place a 95 % quantile: the threshold is their largest score."""


_FLAGS = ("resize", "crop", "epochs", "batch_size", "micro_batch", "workers", "early_stop")


def run_fit(options: argparse.Namespace, names: Sequence[str]) -> int:
    """Fit the categories `names`, or `options.only` where this process is one of several; gives the exit code."""
    template = _template(options)
    if "index" in options and len(names) != 1:
        raise UsageError("a faiss index is the memory bank of one category: name it with --category")
    if options.only is not None:
        machine.die_with_parent(signal.SIGTERM)
        _fit_here(template, options.only, options.data)
        return 0
    if template.backbone != "none" and template.weights is None:
        print("backbone: untrained, drawn from the seed: for trying things out, never for a claim")
    code = 0
    if len(names) == 1:
        _fit_here(template, names[0], options.data)
    else:
        _require_known(names, options.data)
        registry.resolve("stage", "check_fit", registry.STAGES)(template)
        code = _fit_all(options, names)
    if code == 0:
        print(
            f"next: python -m harness export {shlex.quote(str(template.out))} --format onnx --format mindir"
        )
    return code


def _template(options: argparse.Namespace) -> FitRequest:
    """The request of every category, but for the category; `out` is the folder of them all."""
    if options.detector == "ssim_ae" and (options.weights or options.backbone) is not None:
        raise UsageError("ssim_ae has no backbone: leave out --weights and --backbone")
    backbone = "none" if options.detector == "ssim_ae" else options.backbone or "resnet18"
    if options.weights is None and backbone != "none":
        raise UsageError("fit needs --weights W: a backbone's file, or `random` for an untrained one")
    return FitRequest(
        detector=options.detector,
        backbone=backbone,
        weights=None if str(options.weights) == "random" else options.weights,
        dataset=options.data.resolve().name,
        category=Category(name="", root=options.data, train=(), test=()),
        out=options.out / (options.detector if backbone == "none" else f"{options.detector}-{backbone}"),
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
    from harness import storage

    given: dict[str, Any] = {
        name: getattr(options, name) for name in _FLAGS if getattr(options, name) is not None
    }
    if "index" in options:  # `import faiss` is a fit whose memory bank is there
        given["bank"] = str(options.index)
    for item in options.set:
        name, equals, value = item.partition("=")
        if not equals:
            raise UsageError(f"--set {item}: expected NAME=VALUE")
        storage.local_path(value)  # one of them may be a path
        name = name.strip().replace("-", "_")
        if name in given:
            raise UsageError(f"--set {item}: {name} is set twice")
        given[name] = value.strip()
    return settings_module.settings(options.detector, given)


def _fit_here(template: FitRequest, name: str, data: Path) -> None:
    category = datasets.load_category(data, name)
    request = dataclasses.replace(template, category=category, out=template.out / category.name)
    made, fresh = registry.resolve("stage", "fit", registry.STAGES)(request)
    print(f"{made.path}: {_account(made, fresh=fresh)}")
    held_out = made.manifest.thresholds.held_out_images
    if held_out < FEW_HELD_OUT:
        print(f"  the thresholds rest on {held_out} held-out images alone: take them as rough")


def _account(made: Artifact, *, fresh: bool) -> str:
    manifest = made.manifest
    report = manifest.fit_report
    words = [
        f"fitted on {manifest.training.images} images in {report['seconds']} s" if fresh else "fitted before"
    ]
    if "training" in report:
        done = report["training"]
        words.append(f"{done['epochs']} epochs, loss {done['first_loss']:.4g} → {done['last_loss']:.4g}")
    words.append(f"{manifest.thresholds.held_out_images} held out, threshold {manifest.thresholds.image:.3f}")
    if "state_bytes" in report:
        words.append(f"state {report['state_bytes'] / 1e6:.0f} MB")
    return ", ".join(words)


def _require_known(names: Sequence[str], data: Path) -> None:
    known = datasets.list_categories(data)
    for name in names:
        if name not in known:
            raise UsageError(unknown("category", name, known))


def _fit_all(options: argparse.Namespace, names: Sequence[str]) -> int:
    slots = [
        slot(index, jobs=options.jobs, workers=options.workers or 1, device=options.device)
        for index in range(options.jobs)
    ]
    children = Children(options.arguments, slots)
    try:
        ends = children.run(names)
    except KeyboardInterrupt:
        done = sum(end.code == 0 for end in children.ends.values())
        kept = f"interrupted: {done} of {len(names)} categories are fitted and kept"
        print(f"{kept}; the same command with --resume continues", file=sys.stderr)
        return 130
    failed = {name: end for name, end in ends.items() if end.code != 0}
    print(f"{len(names) - len(failed)} of {len(names)} categories fitted", flush=True)
    for name, end in failed.items():
        print(f"failed: {name}: {end.words}", file=sys.stderr)
    codes = {end.code for end in ends.values()}
    code = codes.pop() if len(codes) == 1 else 3  # all were fitted, or all failed in the same way
    return code if code >= 0 else 3
