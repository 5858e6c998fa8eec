"""`data` and `weights`: what a fit starts from."""

from __future__ import annotations

import argparse
from typing import Any

from harness.cli.arguments import add_category, grey, path, seed, wanted


def add(commands: Any) -> None:
    """Add the parsers of these commands."""
    for command in (_add_data, _add_weights):
        command(commands)


def _add_data(commands: Any) -> None:
    data = commands.add_parser("data", help="make or check data sets").add_subparsers(
        required=True, metavar="ACTION"
    )
    synth = data.add_parser("synth", help="write the synthetic data set in MVTec layout")
    synth.add_argument("out", type=path, metavar="OUT")
    add_category(synth)
    synth.add_argument("--seed", type=seed, default=0)
    synth.set_defaults(run=_synth)
    check = data.add_parser("check", help="read everything and say what is there and what is wrong")
    check.add_argument("dir", type=path, metavar="DIR", help="folder of categories, or one category")
    check.add_argument("--mask-threshold", type=grey, default=127, metavar="V")
    check.set_defaults(run=_check)


def _add_weights(commands: Any) -> None:
    weights = commands.add_parser("weights", help="convert backbone weights").add_subparsers(
        required=True, metavar="ACTION"
    )
    convert = weights.add_parser("convert", help="torchvision, timm or MindSpore file → our safetensors")
    convert.add_argument("source", type=path, metavar="W")
    convert.add_argument("target", type=path, metavar="OUT.safetensors")
    convert.set_defaults(run=_convert)


def _synth(options: argparse.Namespace) -> int:
    from harness.datasets import synthetic

    categories = wanted(options, synthetic.CATEGORIES)
    synthetic.synthesise(options.out, categories, options.seed)
    print(f"{options.out}: {', '.join(categories)} (seed {options.seed})")
    return 0


def _check(options: argparse.Namespace) -> int:
    from harness.datasets import check

    report = check.check(options.dir, mask_threshold=options.mask_threshold)
    from tabulate import tabulate

    widths = [None, None, None, None, 36, None, 24, None]
    print(tabulate(report.rows(), headers="keys", tablefmt="rounded_outline", maxcolwidths=widths))
    print("\n".join(report.lines()))
    return 2 if report.problems else 0


def _convert(options: argparse.Namespace) -> int:
    from harness import registry

    convert = registry.resolve("stage", "convert", registry.STAGES)
    made = convert(options.source, options.target)
    dtypes = ", ".join(f"{count} {name}" for name, count in sorted(made.dtypes.items()))
    print(f"{options.target}: {made.backbone}, {made.parameters} parameters as float32 (stored as {dtypes})")
    print(
        f"left out: {len(made.dropped)} entries"
        + (f" ({', '.join(made.dropped[:6])}…)" if made.dropped else "")
    )
    for note in made.notes:
        print(f"note: {note}")
    return 0
