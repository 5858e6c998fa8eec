"""`fit`, `import` and `settings`: what is learnt."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from harness.cli.arguments import add_category, path, positive, seed, wanted

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
    from harness import datasets, fitting

    return fitting.fit(options, wanted(options, datasets.list_categories(options.data)))


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
