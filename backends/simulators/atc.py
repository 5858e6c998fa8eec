"""A simulated `atc`: the options, checks, codes and console lines of the real one; it compiles for no hardware.

    python -m backends.simulators.atc --framework=5 --model=m.onnx --output=m --soc_version=Ascend310 …
    python -m backends.simulators.atc --install DIR     put an executable `atc` into DIR, for PATH

It writes `backends.simulators.om`, never a real OM. The variable SIMULATED_CANN says which release it plays (7.0): it
decides the opsets, the form of the error text, and the code for an operator without a parser. From which release on the
newer form is printed is not known; here it is 7.0. Modes 0 and 3 are simulated; what is not says so with E19999.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from backends.simulators import atc_options
from backends.simulators.atc_options import AtcError
from harness import storage

MARK = "This is the simulated atc of the harness, as CANN {cann}: what it writes runs on no hardware."
START = "ATC start working now, please wait for a moment."
SUCCESS = "ATC run success, welcome to the next use."
FAILURE = "ATC run failed, Please check the detail log, Try 'atc --help' for more information"
FAILED = 255
_TITLES = {"E10001": "Invalid_Argument", "E16002": "Unsupported_Operator", "E19999": "Inner_Error"}


def main(arguments: Sequence[str], environment: Mapping[str, str] = os.environ) -> int:
    """Do what the command line says; gives the exit status."""
    cann = environment.get("SIMULATED_CANN", "7.0")
    if arguments[:1] == ["--install"]:
        _install(Path(arguments[1]))
        return 0
    _say(MARK.format(cann=cann))
    _say(START)
    if {"--help", "-h"} & set(arguments):
        _say("usage: atc <args>\n" + "\n".join(f"  --{name}" for name in sorted(atc_options.OPTIONS)))
        return 0
    try:
        options = atc_options.parse(arguments)
        _say("...")
        _compile(options, cann, environment)
    except AtcError as error:
        _say(FAILURE)
        _say(_text(error, cann))
        return FAILED
    _say(SUCCESS)
    return 0


def _compile(options: Mapping[str, str], cann: str, environment: Mapping[str, str]) -> None:
    from backends.simulators import atc_graph  # needs onnx, which a wrong option does not

    release = atc_graph.release(cann)
    atc_options.check(options, release)
    report = Path(
        options.get("check_report") or Path(environment.get("ASCEND_WORK_PATH", "."), "check_result.json")
    )
    try:
        atc_graph.parsed(options, cann)
    except AtcError as error:
        _report(report, error)
        raise
    if options.get("mode") == "3":
        _report(report, None)
        return
    compiled = atc_graph.compiled(options, cann)
    if release < (8, 0):  # left behind by older releases; whether today's do is not known
        Path("kernel_meta").mkdir(exist_ok=True)
        Path("fusion_result.json").write_text("[]", encoding="utf-8")
    storage.write_bytes(Path(options["output"] + ".om"), compiled.to_bytes())


def _report(path: Path, error: AtcError | None) -> None:
    """The pre-check's file; its real contents are not known."""
    result = (
        {"result": "success"}
        if error is None
        else {"result": "failed", "code": error.code, "reason": error.message}
    )
    path.write_text(json.dumps(result), encoding="utf-8")


def _text(error: AtcError, cann: str) -> str:
    """The error as releases before 7.0 print it, or as later ones do."""
    solution = [f"        Solution: {error.solution}"] if error.solution else []
    trace = ["TraceBack (most recent call last):", "        the conversion was given up here"]
    if int(cann.partition(".")[0]) < 7:
        return "\n".join(
            [f"{error.code}: {error.message}", *solution, *(f"        {line.strip()}" for line in trace)]
        )
    now = dt.datetime.now(dt.timezone.utc).strftime("%Y-%m-%d-%H:%M:%S.%f")
    title = _TITLES.get(error.code, "Invalid_Argument")
    head = f"[PID: {os.getpid()}] {now[:-3]}.{now[-3:]} {title}({error.code}): {error.message}"
    return "\n".join([head, *solution, *trace])


def _install(folder: Path) -> None:
    program = folder / "atc"
    root = Path(__file__).resolve().parents[2]
    python = f"{shlex.quote(sys.executable)} -m backends.simulators.atc"
    path = f'{shlex.quote(str(root))}"${{PYTHONPATH:+:$PYTHONPATH}}"'
    storage.write_bytes(program, f'#!/bin/sh\nPYTHONPATH={path} exec {python} "$@"\n'.encode())
    program.chmod(0o755)
    _say(f"{program}: the simulated atc; put {folder} first on PATH")


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
