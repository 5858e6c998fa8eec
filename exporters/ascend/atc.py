"""`atc`, Ascend's compiler: its command, its version, its run, and what its output means.

It is started in a folder of its own, with plain relative names: it refuses paths with blanks, and older releases leave
files in the working directory. It was never run here against the real program (docs/reference/ascend.md).
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from exporters.errors import ExportError
from harness import machine, storage
from harness.build import OmRequest
from harness.detector.artifact import TensorSpec
from harness.errors import Unavailable, UsageError

SIMULATED = "simulated"
"""What `--atc` is given for the shipped simulator; nothing else starts it."""
SUCCESS = "ATC run success"
_LOG = "atc.log"
_CODE = re.compile(r"\b[EW][0-9A-Z]\d{4}\b")
_SEE_LOG = "look for the first error in the log"
_REPORT = "report it with the log: the exporter chose the option"
_GEARS = "give 2 to 100 different --gears, or --batch N for one size"
_SHAPES = "the shapes come from the manifest: export ONNX again, then OM; if it stays, report it with the log"

CODES: Mapping[str, tuple[str, str]] = {
    "E10001": ("a value is invalid", "check the parameter it names; a SoC this CANN does not know: --soc, or another CANN"),
    "E10002": ("--input_shape is malformed", _SHAPES),
    "E10003": ("a value is invalid", "check the option it names"),
    "E10004": ("an option is empty", "check the options given"),
    "E10006": ("a switch is neither 0 nor 1", _REPORT),
    "E10007": ("--framework is missing", _REPORT),
    "E10008": ("Caffe weights are missing", _REPORT),
    "E10009": ("gears exclude each other", _REPORT),
    "E10010": ("--log is invalid", _REPORT),
    "E10011": ("--input_shape has a size that is not positive", _SHAPES),
    "E10012": ("batch gears with too few axes", _SHAPES),
    "E10014": ("a value is invalid", "check the option it names"),
    "E10016": ("--input_shape names an unknown input", _SHAPES),
    "E10018": ("another axis than the batch is free", _SHAPES),
    "E10021": ("a path is too long", "set TMPDIR to a shorter one"),
    "E10022": ("the output has no file name", _REPORT),
    "E10031": ("no input has a free batch for the gears", _SHAPES),
    "E10035": ("fewer than two gears", _GEARS),
    "E10036": ("more than 100 gears", _GEARS),
    "E10038": ("a gear is not positive", _GEARS),
    "E10039": ("two gears are the same", _GEARS),
    "E10040": ("gears need an axis of -1", _SHAPES),
    "E10041": ("the model cannot be loaded", "export ONNX again; atc takes no .mindir"),
    "E10049": ("--input_shape has another rank than the model", _SHAPES),
    "E10052": ("the AIPP file is invalid", "export without --aipp, and report it with the log"),
    "E10054": ("a required option is empty", "give --soc; report it with the log if you did"),
    "E10056": ("two options exclude each other", _REPORT),
    "E10501": ("an operator is not registered", "this CANN lacks the operator or its ops package: install it, or a newer CANN"),
    "E11005": ("an input has no shape", _SHAPES),
    "E13001": ("a file cannot be opened", "check permissions and the disk of the temporary folder (TMPDIR)"),
    "E13004": ("a file cannot be written", "check permissions and the disk of the temporary folder (TMPDIR)"),
    "E13005": ("a file cannot be parsed", "export ONNX again"),
    "E16001": ("the model has no input or output", "export ONNX again"),
    "E16002": ("no ONNX parser for an operator in this opset", "compile with a newer CANN, or export without --head-in-graph"),
    "E16005": ("several operator domains", "export ONNX again with the harness: its graphs have one domain"),
    "E19010": ("no ONNX parser for an operator in this opset", "compile with a newer CANN, or export without --head-in-graph"),
    "E19999": ("an internal error of atc", "set ASCEND_SLOG_PRINT_TO_STDOUT=1, export again and look into the log"),
}  # fmt: skip
"""Code → what it means, what to do; in the exporter's words."""


def arguments(request: OmRequest, source: TensorSpec, *, model: str, aipp: str | None) -> tuple[str, ...]:
    """What `atc` is given for the staged `model`, an `.onnx` or an `.air` with the input `source` (N, C, H, W)."""
    batches = request.batches
    batch = batches[0] if len(batches) == 1 else -1
    sizes = ",".join(map(str, (batch, *source.shape[1:])))
    onnx = model.endswith(".onnx")
    options = {
        "framework": "5" if onnx else "1",
        "model": model,
        "output": Path(model).stem,
        "input_format": "NCHW",
        "input_shape": f"{source.name}:{sizes}" if onnx else None,  # an AIR brings its own
        "dynamic_batch_size": ",".join(map(str, batches)) if batch < 0 else None,
        "soc_version": request.soc,
        "output_type": request.output_type,
        "precision_mode": request.precision_mode,
        "insert_op_conf": aipp,
        "log": "error",
    }
    return tuple(f"--{option}={value}" for option, value in options.items() if value is not None)


def program(atc: str) -> tuple[str, ...]:
    """The command line that starts `atc`.

    Raises:
        Unavailable: there is no such program.
        UsageError: nothing is named.
    """
    if atc == SIMULATED:
        # Only the simulator gets our packages: the real atc compiles with a Python of its own.
        path = f"PYTHONPATH={machine.python_path()}"
        return ("env", path, sys.executable, "-m", "backends.simulators.atc")
    words = shlex.split(atc)
    if not words:
        raise UsageError("--atc: name a command, or leave it out")
    executable = shutil.which(words[0])
    if executable is None:
        raise Unavailable(
            f"{words[0]}: not found; source set_env.sh of the CANN toolkit (compiling needs no NPU), or give --atc COMMAND; "
            "--atc simulated tries the way without CANN, for no hardware"
        )
    return (os.path.abspath(executable), *words[1:])  # noqa: PTH100 - a link to it stays a link


def run(
    command: Sequence[str], folder: Path, *, cann: str, timeout_s: float, failed_log: Path
) -> tuple[Path, bytes]:
    """Run `atc` in `folder`; gives the OM it wrote there, and its whole output.

    Raises:
        ExportError: it failed, took too long, or wrote no OM; its output is then in `failed_log`.
    """
    environment = os.environ | {"SIMULATED_CANN": cann}  # only the simulator reads it
    status: int | None = None
    with (folder / _LOG).open("w+b") as log:
        log.write(f"$ {shlex.join(command)}\n".encode())
        log.flush()
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            with contextlib.suppress(subprocess.TimeoutExpired):
                status = process.wait(timeout_s)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # what it started must not outlive it
            process.wait()
        log.seek(0)
        output = log.read()
    problem = _problem(status, output.decode(errors="replace"), timeout_s)
    # A graph with host-specific parts is called <name>_<os>_<arch>.om.
    models = [path for path in sorted(folder.glob("*.om")) if path.stat().st_size]
    if problem is None and len(models) != 1:
        problem = f"it reports success and wrote {len(models)} .om files in place of one"
    if problem is not None:
        storage.write_bytes(failed_log, output)
        raise ExportError(f"atc: {problem}; its whole output: {failed_log}")
    return models[0], output


def _problem(status: int | None, output: str, timeout_s: float) -> str | None:
    """What went wrong, and what to do; `None` after a success."""
    if status is None:
        return f"stopped after {timeout_s:g} s (--timeout)"
    said = output.partition("\n")[2]  # the first line is our command
    if status == 0 and SUCCESS in said:
        return None
    if status == 0:
        return f"exit status 0 without the line {SUCCESS!r}: {_SEE_LOG}"
    how = f"killed by signal {-status}" if status < 0 else f"exit status {status}"
    return f"{how}: {explained(said)}"


def explained(output: str) -> str:
    """The errors in `atc`'s output: the line of each code, what it means and what to do; errors before warnings."""
    first_lines: dict[str, str] = {}
    for line in output.splitlines():
        for code in _CODE.findall(line):
            first_lines.setdefault(code, line.strip())
    if not first_lines:
        return f"no error code in its output: {_SEE_LOG}"
    unknown = ("a code this exporter does not know", _SEE_LOG)
    internal = ("a kernel could not be compiled", f"{_SEE_LOG}; an operator may lack a form this SoC has")
    parts: list[str] = []
    for code, line in sorted(first_lines.items(), key=lambda entry: entry[0][0] != "E"):
        if code[0] == "W" and parts:
            break  # warnings explain nothing where there are errors
        meaning, advice = CODES.get(code, internal if code.startswith("EZ") else unknown)
        parts.append(f"{code}, {meaning} ({_message(line, code)}): {advice}")
    return "; ".join(parts)


def _message(line: str, code: str) -> str:
    """What follows the code in either form, `Kind(E10001): …` and `E10001: …`."""
    return line.partition(code)[2].lstrip("): ").rstrip(".") or line
