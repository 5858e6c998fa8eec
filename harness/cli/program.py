"""Parse, call, exit. Nothing heavy is imported before a command needs it.

Exit codes: 0 done and passed, 1 a verdict failed, 2 wrong use, 3 something could not be measured (1 beats 3 beats 0),
130 interrupted.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
import traceback
from collections.abc import Sequence

from harness import __version__
from harness.cli import bench, data, export, files, fit, machine, parity, tables
from harness.errors import HarnessError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and give its exit code."""
    asked = sys.argv[1:] if arguments is None else arguments
    options = argparse.Namespace(json="--json" in asked)  # until the parser knows better
    os.environ.setdefault("OPENCV_LOG_LEVEL", "FATAL")  # our own errors name the file
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without box characters shows ? and goes on
    try:
        options = parser().parse_args(asked)
        options.arguments = tuple(asked)
        return int(options.run(options))
    except SystemExit as end:  # argparse has said what is wrong
        if end.code == 2 and options.json:
            print(
                json.dumps({"error": "the command line cannot be parsed: standard error says what is wrong"})
            )
        raise
    except HarnessError as error:
        return _failed(str(error), error.exit_code, options)
    except BrokenPipeError:  # the reader of our output has gone, as in `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _failed(
            f"{where}{error.strerror or error}; check the path, its permissions and the disk", 3, options
        )
    except KeyboardInterrupt as stop:
        kept = f"; what was finished is kept, {options.continues}" if hasattr(options, "continues") else ""
        print(str(stop) or f"interrupted{kept}", file=sys.stderr)
        return 130
    except Exception:  # noqa: BLE001 - a defect of ours must not look like a verdict
        traceback.print_exc()
        return _failed("this is a defect of the harness: please report it with the lines above", 3, options)


def _failed(message: str, code: int, options: argparse.Namespace) -> int:
    """Say what is wrong; a program that asked for JSON gets a document too."""
    print(f"error: {message}", file=sys.stderr)
    if getattr(options, "json", False):
        print(json.dumps({"error": message}))
    return code


def parser() -> argparse.ArgumentParser:
    """All commands; what is parsed has in `run` the function that takes it and gives the exit code."""
    whole = argparse.ArgumentParser(
        prog="python -m harness",
        description="Evaluate and benchmark industrial anomaly detectors over interchangeable backends: the same "
        "decoding, scoring and metrics everywhere, tables per category, and a verdict whether the backends agree.",
        epilog="Start with: python -m harness bench  (synthetic data, PaDiM, every backend of this machine). "
        "Exit codes: 0 done and passed, 1 a verdict failed, 2 wrong use, 3 something could not be measured.",
    )
    whole.add_argument("--version", action="version", version=__version__)
    commands = whole.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for group in (bench, fit, export, files, parity, tables, machine, data):
        group.add(commands)
    return whole
