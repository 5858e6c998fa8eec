"""What commands share: kinds of values, with what is wrong of others, and options that several take."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

from harness.errors import UsageError

CONTINUES = "the same command continues"
"""Said after an interruption, of commands that keep what they have finished."""


def path(text: str) -> Path:
    """A local path; see `harness.storage.local_path`."""
    from harness import storage  # not before there is a path to read: `--help` imports nothing heavy

    return storage.local_path(text)


def label(text: str) -> str:
    """One line of printable characters."""
    if not text.strip() or not text.isprintable():
        raise argparse.ArgumentTypeError(f"{text!r} is not a name: one line of printable characters")
    return text


def seed(text: str) -> int:
    """A whole number from 0 to 4294967295."""
    if not text.isdecimal() or int(text) >= 2**32:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 to 4294967295")
    return int(text)


def margin(text: str) -> float:
    """A number from 0 to below 1."""
    return _share(text, text)


def tolerance(text: str) -> tuple[str, float]:
    """OUTPUT=SHARE, with a share from 0 to below 1."""
    name, _, share = text.rpartition("=")
    if not name:
        raise argparse.ArgumentTypeError(f"{text!r} is not OUTPUT=SHARE, embedding=1e-3 say")
    return name, _share(share, text)


def _share(text: str, whole: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < 1:  # anything is within 1
        raise argparse.ArgumentTypeError(f"{whole!r}: {text!r} is not a number from 0 to below 1")
    return value


def positive(text: str) -> int:
    """A whole number from 1 on."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return int(text)


def gears(text: str) -> tuple[int, ...]:
    """Two or more different batch sizes, in ascending order."""
    gears = sorted({positive(item) for item in text.split(",")})
    if len(gears) < 2 or len(gears) != len(text.split(",")):
        raise argparse.ArgumentTypeError(f"{text!r} is not two or more different batch sizes, 1,4,8")
    return tuple(gears)


def grey(text: str) -> int:
    """A grey value from 0 to 254."""
    if not text.isdecimal() or int(text) > 254:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a grey value from 0 to 254 (defective is what is greater)"
        )
    return int(text)


def seconds(text: str) -> float:
    """A finite time of at least one second."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 1 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time of at least one second")
    return value


def add_category(parser: argparse.ArgumentParser) -> None:
    """`--category`, for `wanted`."""
    parser.add_argument("--category", action="append", metavar="NAME", help="repeats; `all` for every one")


def add_declarations(parser: argparse.ArgumentParser, when: str) -> None:
    """`--set`, which says of an ONNX model what it does not say itself."""
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help=f"{when}declare layout, size, resize, interpolation, colour, range, mean, std, map, score, "
        "image_threshold, pixel_threshold or name; repeats",
    )


def add_json(parser: argparse.ArgumentParser) -> None:
    """`--json`, of which `harness.cli.program` knows too."""
    parser.add_argument("--json", action="store_true", help="print one JSON document and nothing else")


def add_masks(parser: argparse.ArgumentParser) -> None:
    """How masks are read; `None` where it is not said."""
    parser.add_argument("--mask-threshold", type=grey, metavar="V", help="defective above V (127)")
    parser.add_argument(
        "--mask-resize",
        choices=("nearest", "bilinear_truncated", "area_truncated", "dilated"),
        help="how masks come to the size of the map (nearest); docs/protocols.md",
    )


def wanted(options: argparse.Namespace, known: Sequence[str]) -> tuple[str, ...]:
    """Category names asked for; all of `known` for `all` or when none is named.

    Raises:
        UsageError: `all` and a name besides.
    """
    asked = tuple(dict.fromkeys(options.category or ["all"]))
    if "all" in asked and len(asked) > 1:
        raise UsageError(f"--category {' '.join(asked)}: `all` stands alone")
    return tuple(known) if "all" in asked else asked
