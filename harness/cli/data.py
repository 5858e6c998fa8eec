"""`data` and `weights`: what a fit starts from."""

from __future__ import annotations

import argparse

from harness.cli.arguments import Parser, add_category, categories, grey, path, seed


def add_data(parser: Parser) -> None:
    """Add the actions of `data`."""
    parser.describe("Make or check data sets in MVTec layout.", example="data check data")
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    synth = actions.add_parser("synth", help="write the synthetic data set")
    synth.describe(
        "Write the synthetic data set in MVTec layout: images with known defects and exact masks.",
        example="data synth data --category all --seed 3",
    )
    synth.add_argument("out", type=path, metavar="OUT", help="folder for the categories")
    add_category(synth)
    synth.add_argument("--seed", type=seed, default=0, metavar="N", help="seed of the images")
    synth.set_defaults(run=_synth)
    check = actions.add_parser(
        "check", help="read a data set completely, count its images, list what is wrong"
    )
    check.describe(
        "Read every image and mask, count them, and list what is wrong (exit code 2).",
        example="data check data",
    )
    check.add_argument("dir", type=path, metavar="DIR", help="folder of categories, or one category")
    check.add_argument(
        "--mask-threshold", type=grey, default=127, metavar="V", help="a mask pixel above V is defective"
    )
    check.set_defaults(run=_check)


def _synth(options: argparse.Namespace) -> int:
    from harness.datasets import synthetic

    names = categories(options, synthetic.CATEGORIES)
    synthetic.synthesise(options.out, names, options.seed)
    print(f"{options.out}: {', '.join(names)} (seed {options.seed})")
    return 0


def _check(options: argparse.Namespace) -> int:
    from tabulate import tabulate

    from harness.datasets import check

    report = check.check(options.dir, mask_threshold=options.mask_threshold)
    widths = [None, None, None, None, 36, None, 24, None]
    print(tabulate(report.rows(), headers="keys", tablefmt="rounded_outline", maxcolwidths=widths))
    print("\n".join(report.lines()))
    return 2 if report.problems else 0


def add_weights(parser: Parser) -> None:
    """Add the actions of `weights`."""
    example = "weights convert resnet18.pth resnet18.safetensors"
    parser.describe("Convert backbone weights.", example=example)
    convert = parser.add_subparsers(required=True, metavar="ACTION").add_parser(
        "convert", help="convert a torchvision, timm or MindSpore file to safetensors"
    )
    convert.describe(
        "Convert a torchvision, timm or MindSpore file to safetensors, without torch and without running a pickle.",
        example=example,
    )
    convert.add_argument("source", type=path, metavar="W", help="file to convert")
    convert.add_argument("target", type=path, metavar="OUT.safetensors", help="file to write")
    convert.set_defaults(run=_convert)


def _convert(options: argparse.Namespace) -> int:
    from harness import build

    converted = build.convert_weights(options.source, options.target)
    dtypes = ", ".join(f"{count} {name}" for name, count in sorted(converted.dtypes.items()))
    print(
        f"{options.target}: {converted.backbone}, {converted.parameters} parameters as float32 (stored as {dtypes})"
    )
    names = f" ({', '.join(converted.dropped[:6])}…)" if converted.dropped else ""
    print(f"left out: {len(converted.dropped)} entries{names}")
    for note in converted.notes:
        print(f"note: {note}")
    return 0
