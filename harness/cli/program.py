"""Parse, call, exit. Only the module of the requested command is imported, and it imports heavy modules when it runs.

Exit codes: 0 done and passed, 1 a verdict failed, 2 wrong use, 3 something could not be measured (1 beats 3 beats 0),
130 interrupted.
"""

from __future__ import annotations

import argparse
import importlib
import io
import os
import sys

from harness import __version__
from harness.cli.arguments import Parser
from harness.errors import HarnessError, UsageError, unknown

TYPE_CHECKING = False  # `typing` would cost `--help` time
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

PROGRAM = "python -m harness"
COMMANDS = {
    "bench": ("bench", "measure accuracy and latency on one or more backends"),
    "reproduce": ("reproduce", "fit, export and measure with the settings of a published table"),
    "replay": ("replay", "score saved outputs again, without data set, model and device"),
    "fit": ("fit", "fit a detector on the good images of a category"),
    "import": ("fit", "use what another program has learnt"),
    "settings": ("fit", "list a detector's settings with their defaults"),
    "export": ("export", "write runnable variants of an artifact's network"),
    "tune": ("tune", "try settings of float16 and int8, and print the Pareto front of accuracy and latency"),
    "onnx": ("onnx", "describe an ONNX model from elsewhere"),
    "inputs": ("files", "write preprocessed test images for a program outside the harness"),
    "score": ("files", "make records from the outputs that such a program wrote"),
    "pack": ("files", "put records and evidence into one file, to carry elsewhere"),
    "merge": ("files", "add a packed file to a results folder, completely or not at all"),
    "parity": ("parity", "judge from records whether backends agree"),
    "blame": ("blame", "find the node at which two backends first differ"),
    "gate": ("gate", "judge records and benchmarks by rules: passed, failed or not measured"),
    "baseline": ("gate", "manage the records that gates compare with"),
    "tables": ("tables", "print tables from records"),
    "backends": ("machine", "list the backends; which run here, and why others do not"),
    "doctor": ("machine", "check step by step what a backend needs, down to a model that runs"),
    "data": ("data", "make or check data sets"),
    "weights": ("data", "convert backbone weights"),
}
"""Command → the module of `harness.cli` that has its `add_COMMAND`, and one line of help."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    options = argparse.Namespace(json="--json" in arguments)  # until the arguments are parsed
    os.environ.setdefault("OPENCV_LOG_LEVEL", "FATAL")  # our own errors name the file
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without box characters shows ? instead
    try:
        options = _parsed(arguments)
        return int(options.run(options))
    except SystemExit as end:  # argparse has printed what is wrong
        if end.code == 2 and options.json:
            _print_json_error("the command line cannot be parsed: standard error says what is wrong")
        raise
    except HarnessError as error:
        return _failed(str(error), error.exit_code, options)
    except BrokenPipeError:  # the reader of our output has ended, as in `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _failed(
            f"{where}{error.strerror or error}; check the path, its permissions and the disk", 3, options
        )
    except KeyboardInterrupt as stop:
        hint = f"; finished work is kept, {options.continues}" if hasattr(options, "continues") else ""
        print(str(stop) or f"interrupted{hint}", file=sys.stderr)
        return 130
    except Exception:  # noqa: BLE001 - a defect of ours must not look like a verdict
        import traceback

        traceback.print_exc()
        return _failed("this is a defect of the harness: please report it with the lines above", 3, options)


def _parsed(arguments: list[str]) -> argparse.Namespace:
    """The options of the requested command; `--help` alone imports no command's module."""
    if arguments[:1] == ["bench"]:
        from harness.cli import old_spellings

        arguments, hints = old_spellings.translated(arguments)
        for hint in hints:
            print(hint, file=sys.stderr)
    if arguments and arguments[0] in COMMANDS:
        command = Parser(prog=f"{PROGRAM} {arguments[0]}")
        _add_options(arguments[0], command)
        options = command.parse_args(arguments[1:])
    elif arguments and not arguments[0].startswith("-"):
        raise UsageError(unknown("command", arguments[0], COMMANDS, "python -m harness --help"))
    else:  # help, version, or no command
        options = _program(dict)[0].parse_args(arguments)
    options.arguments = tuple(arguments)
    return options


def parser() -> Parser:
    """The parser of all commands with all their options; the parsed `run` is the command's function."""
    program, parsers = _program(Parser)
    for name, command in parsers.items():
        _add_options(name, command)
    return program


def _program(kind: Any) -> tuple[Parser, dict[str, Any]]:
    """The parser with its list of commands, and a new `kind` for each command; `dict` is the cheapest that help needs."""
    program = Parser(
        prog=PROGRAM,
        description="Evaluate and benchmark industrial anomaly detectors on interchangeable backends: the same "
        "decoding, scoring and metrics everywhere, tables per category, and a verdict whether the backends agree. "
        "Without a model, `bench` makes synthetic data, fits PaDiM and runs every backend of this machine. "
        "Exit codes: 0 done and passed, 1 a verdict failed, 2 wrong use, 3 something could not be measured.",
        epilog=f"example: {PROGRAM} bench",
    )
    program.add_argument("--version", action="version", version=__version__)
    commands = program.add_subparsers(title="commands", required=True, metavar="COMMAND", parser_class=kind)
    return program, {name: commands.add_parser(name, help=text) for name, (_, text) in COMMANDS.items()}


def _add_options(command: str, parser: Parser) -> None:
    module = importlib.import_module(f"harness.cli.{COMMANDS[command][0]}")
    getattr(module, f"add_{command}")(parser)


def _failed(message: str, code: int, options: argparse.Namespace) -> int:
    """Print what is wrong, with `--json` as a document too."""
    print(f"error: {message}", file=sys.stderr)
    if getattr(options, "json", False):
        _print_json_error(message)
    return code


def _print_json_error(message: str) -> None:
    import json

    print(json.dumps({"error": message}))
