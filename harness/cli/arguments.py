"""Parsers with short help, kinds of values, and the options that several commands share."""

from __future__ import annotations

import argparse
import math
import os

from harness.errors import UsageError

TYPE_CHECKING = False  # `typing` and `pathlib` would cost `--help` a tenth of its time
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path
    from typing import Any

CONTINUES = "the same command continues"
"""The message after Ctrl-C, for commands that keep finished work."""
OPTIONS_IN_USAGE = 5
"""A usage line with more optional options than this says `[options]`."""


class Help(argparse.HelpFormatter):
    """Help on one screen: a short usage line, `(default: X)` for each default, and the example unwrapped."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30, width=min(100, _columns()))
        self._action_max_length = 15  # argparse forgets the indent of commands' names

    def add_usage(
        self,
        usage: str | None,
        actions: Iterable[argparse.Action],
        groups: Iterable[Any],
        prefix: str | None = None,
    ) -> None:
        """Write `[options]` in place of many optional options."""
        actions = list(actions)
        always = [action for action in actions if action.required or not action.option_strings]
        if len(actions) - len(always) > OPTIONS_IN_USAGE:
            options = argparse.Action([], "options", nargs="?", metavar="options")
            actions, groups = [*always, options], ()
        super().add_usage(usage, actions, groups, prefix)

    def _get_help_string(self, action: argparse.Action) -> str | None:
        default = action.default
        if default is None or default is False or default in (argparse.SUPPRESS, []):
            return action.help
        shown = f"{default:g}" if isinstance(default, float) else default
        return f"{action.help} (default: {shown})"

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text if text.startswith("example:") else super()._fill_text(text, width, indent)


def _columns() -> int:
    """Width of the terminal, or of `COLUMNS`."""
    if os.environ.get("COLUMNS", "").isdecimal():
        return int(os.environ["COLUMNS"])
    try:
        return os.get_terminal_size().columns or 100
    except OSError:  # no terminal
        return 100


class Parser(argparse.ArgumentParser):
    """A parser with `Help`, which its subcommands inherit."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(formatter_class=Help, **settings)

    def describe(self, description: str, *, example: str) -> None:
        """Set the text above the options, and the command at the end of the help."""
        self.description = description
        self.epilog = f"example: python -m harness {example}"


def path(text: str) -> Path:
    """A local path; see `harness.storage.local_path`."""
    from harness import storage

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
        raise argparse.ArgumentTypeError(f"{text!r} is not OUTPUT=SHARE, for example embedding=1e-3")
    return name, _share(share, text)


def _share(text: str, argument: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < 1:  # a share of 1 would accept everything
        raise argparse.ArgumentTypeError(f"{argument!r}: {text!r} is not a number from 0 to below 1")
    return value


def positive(text: str) -> int:
    """A whole number from 1 on."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return int(text)


def gears(text: str) -> tuple[int, ...]:
    """Two or more different batch sizes, in ascending order."""
    sizes = sorted({positive(size) for size in text.split(",")})
    if len(sizes) < 2 or len(sizes) != len(text.split(",")):
        raise argparse.ArgumentTypeError(f"{text!r} is not two or more different batch sizes, as in 1,4,8")
    return tuple(sizes)


def grey(text: str) -> int:
    """A grey value from 0 to 254."""
    if not text.isdecimal() or int(text) > 254:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a grey value from 0 to 254 (a mask pixel is defective if it is greater)"
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


def add_artifact(parser: Any) -> None:
    """The artifact of a command that takes one, or a folder of them."""
    parser.add_argument(
        "artifact", type=path, metavar="ARTIFACT", help="an artifact, or a folder of artifacts"
    )


def add_data(parser: Any, *, required: bool = True, help_: str = "folder that holds the categories") -> None:
    """`--data`."""
    parser.add_argument("--data", type=path, required=required, metavar="DIR", help=help_)


def add_category(parser: Any) -> None:
    """`--category`, for `categories`."""
    parser.add_argument(
        "--category", action="append", metavar="NAME", help="repeatable; `all` for every one (default: all)"
    )


def add_backend(parser: Any, *, default: str = "all that run here") -> None:
    """`--backend`, repeatable; the command replaces `None` by its default."""
    parser.add_argument(
        "--backend",
        action="append",
        metavar="NAME",
        help=f"repeatable; list: python -m harness backends (default: {default})",
    )


def add_results(parser: Any, name: str = "--results", help_: str = "folder of the records") -> None:
    """The results folder, to read or to write."""
    from pathlib import Path

    parser.add_argument(name, type=path, default=Path("results"), metavar="DIR", help=help_)


def add_threads(parser: Any) -> None:
    """`--threads`."""
    parser.add_argument(
        "--threads", type=positive, metavar="N", help="cores per worker (default: all usable)"
    )


def add_warmup(parser: Any) -> None:
    """`--warmup`."""
    parser.add_argument(
        "--warmup", type=positive, default=3, metavar="N", help="untimed runs before the timed ones"
    )


def add_timeout(parser: Any) -> None:
    """`--timeout` of workers."""
    parser.add_argument(
        "--timeout",
        type=seconds,
        default=600.0,
        metavar="S",
        help="kill a worker that is silent for S seconds",
    )


def add_force(parser: Any, help_: str = "measure finished cases again") -> None:
    """`--force`."""
    parser.add_argument("--force", action="store_true", help=help_)


def add_declarations(parser: Any, prefix: str = "") -> None:
    """`--set`, which declares properties of an ONNX model that its file does not contain."""
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help=f"{prefix}declare layout, size, resize, interpolation, colour, range, mean, std, map, score, "
        "image_threshold, pixel_threshold or name; repeatable",
    )


def add_json(parser: Any) -> None:
    """`--json`; `harness.cli.program` reads it too."""
    parser.add_argument("--json", action="store_true", help="print one JSON document and nothing else")


def add_masks(parser: Any) -> None:
    """`--mask-threshold` and `--mask-resize`."""
    parser.add_argument(
        "--mask-threshold", type=grey, default=127, metavar="V", help="a mask pixel above V is defective"
    )
    parser.add_argument(
        "--mask-resize",
        choices=("nearest", "bilinear_truncated", "area_truncated", "dilated"),
        default="nearest",
        metavar="HOW",
        help="nearest, bilinear_truncated, area_truncated or dilated",
    )


def categories(options: argparse.Namespace, known: Sequence[str] = ()) -> tuple[str, ...]:
    """The category names of `--category`; `known` for `all` or without `--category`.

    Raises:
        UsageError: `all` together with a name.
    """
    names = tuple(dict.fromkeys(options.category or ["all"]))
    if "all" in names and len(names) > 1:
        raise UsageError(f"--category {' '.join(names)}: `all` stands alone")
    return tuple(known) if "all" in names else names
