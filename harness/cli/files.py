"""`inputs`, `score`, `pack` and `merge`: what is carried to other machines and back (docs/reference/file-formats.md)."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from harness.cli import arguments
from harness.cli.arguments import Parser, categories, path, positive
from harness.errors import UsageError


def add_inputs(parser: Parser) -> None:
    """Add the options of `inputs`."""
    parser.describe(
        "Write the preprocessed test images, so that a program outside the harness runs the network on them. "
        "`score` then makes records from its outputs (docs/reference/file-formats.md).",
        example="inputs artifacts/padim-resnet18 --data data --to inputs --format bin",
    )
    arguments.add_artifact(parser)
    arguments.add_data(parser)
    arguments.add_category(parser)
    parser.add_argument("--to", type=path, required=True, metavar="OUT", help="a new or empty folder")
    parser.add_argument(
        "--variant", metavar="ID", help="variant that the program runs (default: the only one)"
    )
    parser.add_argument(
        "--batch-size", type=positive, metavar="N", help="images per batch (default: the variant's, or 1)"
    )
    parser.add_argument("--format", choices=("npy", "bin"), default="npy", help="format of the files")
    parser.set_defaults(run=_inputs)


def _inputs(options: argparse.Namespace) -> int:
    from harness import datasets, storage
    from harness.detector import artifact
    from harness.records import batches

    detectors = artifact.find(options.artifact, categories(options))
    alone = len(detectors) == 1 and detectors[0].path == options.artifact
    with storage.new_folder(options.to) as folder:
        for detector in detectors:
            variants = [variant.id for variant in detector.manifest.variants]
            if options.variant is None and len(variants) > 1:
                raise UsageError(
                    f"{detector.path}: name one of its variants with --variant: {', '.join(variants)}"
                )
            variant = detector.variant_named(options.variant or next(iter(variants), ""))
            category = datasets.load_category(options.data, detector.manifest.category)
            index = batches.write(
                detector,
                variant,
                category,
                folder if alone else folder / category.name,
                batch_size=options.batch_size,
                format_=options.format,
            )
            print(
                f"{category.name}: {len(index.images)} images in {len(index.batches)} batches for {variant.id}, "
                f"input {index.input.name!r} {index.input.dtype} {index.layout}"
            )
    print(f"{options.to}: complete; docs/reference/file-formats.md says how outputs must be named")
    return 0


def add_score(parser: Parser) -> None:
    """Add the options of `score`."""
    parser.describe(
        "Make records from the outputs that a program outside the harness wrote for the batches of `inputs` "
        "(docs/reference/file-formats.md).",
        example="score artifacts --inputs inputs --outputs out --from cpp --data data",
    )
    arguments.add_artifact(parser)
    parser.add_argument(
        "--inputs", type=path, required=True, metavar="DIR", help="folder that `inputs` wrote"
    )
    parser.add_argument(
        "--outputs", type=path, required=True, metavar="DIR", help="folder of the program's outputs"
    )
    parser.add_argument(
        "--from",
        dest="program",
        choices=("ais_bench", "cpp", "npy"),
        required=True,
        help="how the program names its files",
    )
    parser.add_argument(
        "--output-dtype",
        choices=("float32", "float16"),
        help="type of the numbers in .bin files (default: float32)",
    )
    arguments.add_data(parser)
    arguments.add_category(parser)
    parser.add_argument(
        "--label", type=arguments.label, metavar="NAME", help="distinguishes several programs or boards"
    )
    arguments.add_results(parser, "--out", "results folder")
    parser.add_argument(
        "--threads", type=positive, metavar="N", help="cores for head and metrics (default: all usable)"
    )
    arguments.add_masks(parser)
    parser.add_argument(
        "--timeout", type=arguments.seconds, default=600.0, metavar="S", help=argparse.SUPPRESS
    )
    arguments.add_force(parser, "score finished cases again")
    arguments.add_json(parser)
    parser.set_defaults(run=_score)


def _score(options: argparse.Namespace) -> int:
    from harness.cli.outcome import run_jobs, run_options
    from harness.run.external import ScoreRequest, jobs

    if options.output_dtype is not None and options.program == "npy":
        raise UsageError("score --output-dtype is for .bin files: a .npy file contains its own type")
    request = ScoreRequest(
        artifacts=options.artifact,
        data=options.data,
        categories=categories(options),
        inputs=options.inputs,
        outputs=options.outputs,
        program=options.program,
        out=options.out,
        label=options.label,
        output_dtype=options.output_dtype or "float32",
        options=run_options(options),
    )
    return run_jobs(jobs(request), options)


def add_pack(parser: Parser) -> None:
    """Add the options of `pack`."""
    parser.describe(
        "Put records, evidence and saved outputs into one file, to carry them to another machine.",
        example="pack results --to board.pack --only '*_ascend310_*'",
    )
    parser.add_argument("results", type=path, metavar="RESULTS", help="folder of the records")
    parser.add_argument("--to", type=path, required=True, metavar="FILE", help="the file to write")
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="PATTERN",
        help="only record files whose names match, for example '*_ascend310_*'; repeatable",
    )
    parser.set_defaults(run=_pack)


def _pack(options: argparse.Namespace) -> int:
    from harness.records import archive

    names = archive.pack(options.results, options.to, only=options.only)
    print(f"{options.to}: {len(names)} files, {_records(names)} of them records")
    return 0


def add_merge(parser: Parser) -> None:
    """Add the options of `merge`."""
    parser.describe(
        "Add the files of a packed file to a results folder, completely or not at all.",
        example="merge board.pack --into results",
    )
    parser.add_argument("file", type=path, metavar="FILE", help="file that `pack` wrote")
    arguments.add_results(parser, "--into", "results folder")
    arguments.add_force(parser, "replace other records of the same name")
    parser.set_defaults(run=_merge)


def _merge(options: argparse.Namespace) -> int:
    from harness.records import archive

    names = archive.merge(options.file, options.into, force=options.force)
    print(f"{options.into}: {len(names)} files added, {_records(names)} of them records")
    return 0


def _records(names: Sequence[str]) -> int:
    return sum("/" not in name for name in names)
