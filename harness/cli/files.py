"""`inputs`, `score`, `pack` and `merge`: what is carried to other machines and back (docs/files.md)."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from harness.cli.arguments import (
    add_category,
    add_json,
    add_masks,
    label,
    path,
    positive,
    seconds,
    wanted,
)
from harness.cli.outcome import run_jobs
from harness.errors import UsageError


def add(commands: Any) -> None:
    """Add the parsers of these commands."""
    for command in (_add_inputs, _add_score, _add_pack, _add_merge):
        command(commands)


def _add_inputs(commands: Any) -> None:
    inputs = commands.add_parser(
        "inputs", help="write the preprocessed test images for a runner outside the harness (docs/files.md)"
    )
    inputs.add_argument("artifact", type=path, metavar="ARTIFACT", help="artifact, or a folder of them")
    inputs.add_argument("--data", type=path, required=True, metavar="DIR", help="folder of the categories")
    add_category(inputs)
    inputs.add_argument("--to", type=path, required=True, metavar="OUT", help="a new or empty folder")
    inputs.add_argument("--variant", metavar="ID", help="(the only one)")
    inputs.add_argument(
        "--batch-size", type=positive, metavar="N", help="images per batch (the variant's, or 1)"
    )
    inputs.add_argument("--format", choices=("npy", "bin"), default="npy", help="(%(default)s)")
    inputs.set_defaults(run=_inputs)


def _add_score(commands: Any) -> None:
    score = commands.add_parser(
        "score", help="turn the outputs another program wrote for such inputs into records (docs/files.md)"
    )
    score.add_argument("artifact", type=path, metavar="ARTIFACT", help="artifact, or a folder of them")
    score.add_argument("--inputs", type=path, required=True, metavar="DIR", help="what `inputs` wrote")
    score.add_argument("--outputs", type=path, required=True, metavar="DIR", help="what the program wrote")
    score.add_argument(
        "--from",
        dest="program",
        choices=("ais_bench", "cpp", "npy"),
        required=True,
        help="how its files are named",
    )
    score.add_argument("--output-dtype", choices=("float32", "float16"), help="of .bin files (float32)")
    score.add_argument("--data", type=path, required=True, metavar="DIR", help="folder of the categories")
    add_category(score)
    score.add_argument(
        "--label", type=label, metavar="NAME", help="tells outputs of several programs or boards apart"
    )
    score.add_argument(
        "--out", type=path, default=Path("results"), metavar="DIR", help="results folder (%(default)s)"
    )
    score.add_argument("--threads", type=positive, metavar="N", help="cores of head and metrics (all usable)")
    add_masks(score)
    score.add_argument("--timeout", type=seconds, default=600.0, metavar="S", help=argparse.SUPPRESS)
    score.add_argument("--force", action="store_true", help="score finished cases again")
    add_json(score)
    score.set_defaults(run=_score)


def _add_pack(commands: Any) -> None:
    pack = commands.add_parser("pack", help="put records and evidence into one file, to carry elsewhere")
    pack.add_argument("results", type=path, metavar="RESULTS")
    pack.add_argument("--to", type=path, required=True, metavar="FILE")
    pack.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="PATTERN",
        help="of record files, `*_ascend310_*`; repeats",
    )
    pack.set_defaults(run=_pack)


def _add_merge(commands: Any) -> None:
    merge = commands.add_parser("merge", help="add such a file to a results folder, all of it or nothing")
    merge.add_argument("file", type=path, metavar="FILE")
    merge.add_argument("--into", type=path, default=Path("results"), metavar="RESULTS", help="(%(default)s)")
    merge.add_argument("--force", action="store_true", help="replace other records of the same name")
    merge.set_defaults(run=_merge)


def _inputs(options: argparse.Namespace) -> int:
    from harness import datasets, errors, storage
    from harness.detector import artifact
    from harness.records import batches

    found = artifact.find(options.artifact, wanted(options, ()))
    alone = len(found) == 1 and found[0].path == options.artifact
    with storage.new_folder(options.to) as folder:
        for item in found:
            known = {variant.id: variant for variant in item.manifest.variants}
            if options.variant is None and len(known) > 1:
                raise UsageError(f"{item.path}: name one of its variants with --variant: {', '.join(known)}")
            chosen = options.variant or next(iter(known), "")
            if chosen not in known:
                raise UsageError(errors.unknown(f"variant of {item.path}", chosen, known))
            category = datasets.load_category(options.data, item.manifest.category)
            index = batches.write(
                item,
                known[chosen],
                category,
                folder if alone else folder / category.name,
                batch_size=options.batch_size,
                format_=options.format,
            )
            print(
                f"{category.name}: {len(index.images)} images in {len(index.batches)} batches for {chosen}, "
                f"input {index.input.name!r} {index.input.dtype} {index.layout}"
            )
    print(f"{options.to}: written whole; docs/files.md says how outputs must be named")
    return 0


def _score(options: argparse.Namespace) -> int:
    from harness import machine
    from harness.run import external

    if options.output_dtype is not None and options.program == "npy":
        raise UsageError("score --output-dtype is of .bin files: a .npy file says its own type")
    request = external.ScoreRequest(
        artifacts=options.artifact,
        data=options.data,
        categories=wanted(options, ()),
        inputs=options.inputs,
        outputs=options.outputs,
        program=options.program,
        out=options.out,
        threads=options.threads or machine.usable_cores(),
        label=options.label,
        output_dtype=options.output_dtype or "float32",
        mask_threshold=127 if options.mask_threshold is None else options.mask_threshold,
        mask_resize=options.mask_resize or "nearest",
    )
    return run_jobs(external.jobs(request), options)


def _pack(options: argparse.Namespace) -> int:
    from harness.records import archive

    names = archive.pack(options.results, options.to, only=options.only)
    print(f"{options.to}: {len(names)} files, {sum('/' not in name for name in names)} of them records")
    return 0


def _merge(options: argparse.Namespace) -> int:
    from harness.records import archive

    names = archive.merge(options.file, options.into, force=options.force)
    print(
        f"{options.into}: {len(names)} files added, {sum('/' not in name for name in names)} of them records"
    )
    return 0
