"""The simulated `atc`'s options: which there are, in which order they are checked, what each fault is called.

Codes and order are those of current releases; a fault that the documents give no code for says so below.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

OPTIONS = frozenset({
    *("mode", "model", "weight", "framework", "output", "soc_version", "input_format", "input_shape"),
    *("dynamic_batch_size", "dynamic_image_size", "dynamic_dims", "input_shape_range", "insert_op_conf"),
    *("precision_mode", "precision_mode_v2", "output_type", "op_select_implmode", "optypelist_for_implmode"),
    *("out_nodes", "input_fp16_nodes", "is_input_adjust_hw_layout", "is_output_adjust_hw_layout", "log"),
    *("check_report", "disable_reuse_memory", "deterministic"),
})  # fmt: skip
UNSIMULATED = (
    *("dynamic_image_size", "dynamic_dims", "input_shape_range", "out_nodes", "input_fp16_nodes"),
    *("is_input_adjust_hw_layout", "is_output_adjust_hw_layout"),
)
"""Known, and refused: the simulator would otherwise have to pretend."""
PRECISION_MODES = (
    *("force_fp16", "force_fp32", "cube_fp16in_fp32out", "allow_fp32_to_fp16", "must_keep_origin_dtype"),
    *("allow_mix_precision", "allow_mix_precision_fp16", "allow_mix_precision_bf16", "allow_fp32_to_bf16"),
)
PRECISION_MODES_V2 = {
    "fp16": "force_fp16",
    "origin": "must_keep_origin_dtype",
    **{
        mode: mode
        for mode in ("cube_fp16in_fp32out", "mixed_float16", "mixed_bfloat16", "mixed_hif8", "cube_hif8")
    },
}
OUTPUT_TYPES = {
    "FP32": "float32",
    "FP16": "float16",
    "UINT8": "uint8",
    "INT8": "int8",
    "INT32": "int32",
    "INT64": "int64",
}
SOC = re.compile(r"Ascend(310|310P[1-7]|310B[1-4]|610\w*|910\w*)", re.ASCII)
"""Of the shape of real names; which of them a release knows is not known here."""
GEARS = (2, 100)
LONGEST_PATH = 4096


class AtcError(Exception):
    """What the program ends with: a code and its message."""

    def __init__(self, code: str, message: str, solution: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.solution = solution


class FlagError(AtcError):
    """Found while the options are parsed, before anything else."""


def unsimulated(what: str) -> AtcError:
    """The real program could do it."""
    return AtcError("E19999", f"Inner Error! The simulated atc does not do this: {what}.")


def invalid(parameter: str, value: str, reason: str) -> AtcError:
    """The commonest fault."""
    return AtcError("E10001", f"Value [{value}] for parameter [--{parameter}] is invalid. Reason: {reason}.")


def parse(arguments: Sequence[str]) -> dict[str, str]:
    """Options from `--k=v` and `--k v`, with the enumerations checked.

    Raises:
        FlagError: an unknown option (whose code is an assumption), one without a value, or a value out of its enumeration.
    """
    options: dict[str, str] = {}
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        name, equals, value = word.removeprefix("--").partition("=")
        if not word.startswith("--") or name not in OPTIONS:
            raise FlagError("E10001", f"Value [{word}] is invalid. Reason: it is no option of atc.")
        if not equals:
            if not rest or rest[0].startswith("--"):
                raise FlagError("E10004", f"Value for [--{name}] is empty.")
            value = rest.pop(0)
        options[name] = value.strip("\"'")
    _check_enumerations(options)
    return options


def _check_enumerations(options: Mapping[str, str]) -> None:
    for name, allowed in (("mode", ("0", "1", "3", "5", "6", "30")), ("framework", ("0", "1", "3", "5"))):
        if options.get(name, allowed[0]) not in allowed:
            raise FlagError(
                "E10001",
                f"Value [{options[name]}] for parameter [--{name}] is invalid. Reason: it is not within the range {{{','.join(allowed)}}}.",
            )
    if options.get("log", "null") not in {"debug", "info", "warning", "error", "null"}:
        raise FlagError("E10010", f"Value [{options['log']}] for parameter [--log] is invalid.")
    for name in ("disable_reuse_memory", "deterministic"):
        if options.get(name, "0") not in {"0", "1"}:
            raise FlagError(
                "E10006", f"Value [{options[name]}] for parameter [--{name}] is invalid. It must be 1 or 0."
            )
    if options.get("output_type", "FP32") not in OUTPUT_TYPES:
        raise FlagError(
            "E10001", f"Value [{options['output_type']}] for parameter [--output_type] is invalid."
        )


def check(options: Mapping[str, str], cann: tuple[int, int]) -> None:
    """Everything up to the AIPP file, in the program's order.

    Raises:
        AtcError: the first fault.
    """
    if options.get("mode", "0") not in {"0", "3"}:
        raise unsimulated(f"--mode={options['mode']}")
    framework = _framework(options)
    _check_format(options, framework)
    _check_soc(options, cann)
    for name in ("output", "model"):
        if not options.get(name):
            raise AtcError("E10054", f"The required parameter [--{name}] for ATC is empty.")
    _check_readable("model", options["model"])
    _check_output(options["output"])
    if options.get("op_select_implmode", "high_performance").removesuffix("_for_all") not in {
        "high_performance",
        "high_precision",
    }:
        raise invalid("op_select_implmode", options["op_select_implmode"], "it is not supported")
    precision(options)
    _check_gears(options)
    for name in UNSIMULATED:
        if options.get(name):
            raise unsimulated(f"--{name}")
    if options.get("insert_op_conf"):
        _check_readable("insert_op_conf", options["insert_op_conf"])


def _framework(options: Mapping[str, str]) -> str:
    framework = options.get("framework")
    if options.get("weight"):
        _check_readable("weight", options["weight"])
    if framework is None:
        raise AtcError(
            "E10007",
            "[--framework] is required. The value must be 0(Caffe) or 1(MindSpore) or 3(TensorFlow) or 5(Onnx).",
        )
    if framework == "0" and not options.get("weight"):
        raise AtcError("E10008", "Value for [--weight] must not be empty when [--framework] is 0(Caffe).")
    return framework


def _check_format(options: Mapping[str, str], framework: str) -> None:
    name = options.get("input_format", "NCHW")
    allowed = (
        ("NCHW",)
        if framework == "1"
        else ("NCHW", "NHWC")
        if options.get("insert_op_conf")
        else ("NCHW", "NCDHW", "ND")
    )
    if name not in allowed:
        raise invalid("input_format", name, f"only {', '.join(allowed)} is supported here")


def _check_soc(options: Mapping[str, str], cann: tuple[int, int]) -> None:
    soc = options.get("soc_version")
    if not soc:
        raise AtcError("E10054", "The required parameter [--soc_version] for ATC is empty.")
    if not SOC.fullmatch(soc):
        raise invalid("soc_version", soc, "it is not a chip of this release")
    # The product lists name the 310 up to 8.3; which release really dropped it is not known.
    if soc == "Ascend310" and cann >= (8, 5):
        raise invalid("soc_version", soc, "this release does not support it any more")


def _check_readable(name: str, path: str) -> None:
    if not re.fullmatch(r"[\w./-]+", path, re.ASCII):
        raise invalid(name, path, "the path may hold letters, digits, '_', '-' and '.'")
    try:
        with Path(path).open("rb"):
            pass
    except OSError as error:
        raise invalid(name, path, str(error.strerror)) from error


def _check_output(path: str) -> None:
    if len(path) > LONGEST_PATH:
        raise AtcError("E10021", f"The path [--output] is too long, at most {LONGEST_PATH}.")
    if path.endswith("/"):
        raise AtcError("E10022", f"Path [{path}] for [--output] does not include a file name.")
    if not re.fullmatch(r"[\w./-]+", path, re.ASCII):
        raise invalid("output", path, "the path may hold letters, digits, '_', '-' and '.'")
    folder = Path(path).parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        reason = errno.EACCES if folder.is_dir() else errno.ENOENT
        raise invalid("output", path, os.strerror(reason))


def precision(options: Mapping[str, str]) -> str:
    """The precision mode in effect, by its older name.

    Raises:
        AtcError: unknown, both forms given, or one that is not simulated.
    """
    old, new = options.get("precision_mode"), options.get("precision_mode_v2")
    if old and new:
        raise AtcError(
            "E10056", "[--precision_mode] and [--precision_mode_v2] cannot be configured at the same time."
        )
    if old and old not in PRECISION_MODES:
        raise invalid("precision_mode", old, "it is not supported")
    if new and new not in PRECISION_MODES_V2:
        raise invalid("precision_mode_v2", new, "it is not supported")
    mode = PRECISION_MODES_V2[new] if new else old or "force_fp16"
    if mode not in {"force_fp16", "force_fp32", "must_keep_origin_dtype"}:
        raise unsimulated(f"--precision_mode={mode}")
    return mode


def shapes(options: Mapping[str, str]) -> dict[str, tuple[int, ...]]:
    """`name:n,c,h,w;…` as shapes; −1 stands only where gears are given.

    Raises:
        AtcError: malformed, a range, or a size that is not positive.
    """
    by_name = {}
    for entry in filter(None, options.get("input_shape", "").split(";")):
        name, colon, sizes = entry.rpartition(":")
        if "~" in sizes:
            code = "E10040" if options.get("dynamic_batch_size") else "E10001"
            raise AtcError(
                code,
                f"Value [{entry}] for parameter [--input_shape] is invalid: a range is not supported here.",
            )
        if not colon or not re.fullmatch(r"-?\d+(,-?\d+)*", sizes):
            raise AtcError(
                "E10002",
                f'Value [{entry}] for [--input_shape] is invalid. It is formatted as "name1:n,c,h,w".',
            )
        shape = tuple(map(int, sizes.split(",")))
        lowest = -1 if options.get("dynamic_batch_size") else 1
        if any(size < lowest or size == 0 for size in shape):
            raise AtcError(
                "E10011",
                f"Value [{entry}] for [--input_shape] is invalid. The values must be positive integers.",
            )
        by_name[name] = shape
    return by_name


def gears(options: Mapping[str, str]) -> tuple[int, ...]:
    """Batch gears, ascending; empty without.

    Raises:
        AtcError: malformed (whose code is an assumption), not positive, too few, too many, or twice the same.
    """
    text = options.get("dynamic_batch_size", "")
    if not text:
        return ()
    if not re.fullmatch(r"-?\d+(,-?\d+)*", text):
        raise AtcError("E10014", f"Value [{text}] for [--dynamic_batch_size] is invalid.")
    sizes = [int(number) for number in text.split(",")]
    fewest, most = GEARS
    if len(sizes) < fewest:
        raise AtcError(
            "E10035", f"[--dynamic_batch_size] has {len(sizes)} gears, fewer than the minimum {fewest}."
        )
    if len(sizes) > most:
        raise AtcError(
            "E10036", f"[--dynamic_batch_size] has {len(sizes)} gears, more than the maximum {most}."
        )
    if min(sizes) < 1:
        raise AtcError("E10038", "A gear of [--dynamic_batch_size] is not greater than 0.")
    if len(set(sizes)) < len(sizes):
        raise AtcError("E10039", "[--dynamic_batch_size] has duplicate gears.")
    return tuple(sorted(sizes))


def _check_gears(options: Mapping[str, str]) -> None:
    exclusive = ("dynamic_batch_size", "dynamic_image_size", "dynamic_dims", "input_shape_range")
    if sum(bool(options.get(name)) for name in exclusive) > 1:
        raise AtcError("E10009", f"[{', '.join(f'--{name}' for name in exclusive)}] are mutually exclusive.")
    shapes_by_name = shapes(options)
    if options.get("dynamic_batch_size"):
        if any(-1 in shape[1:] for shape in shapes_by_name.values()):
            raise AtcError("E10018", "With [--dynamic_batch_size] only the first axis may be -1.")
        if not any(shape[0] == -1 for shape in shapes_by_name.values()):
            raise AtcError("E10031", "No input of [--input_shape] has a batch of -1.")
    gears(options)
    if options.get("dynamic_dims") and options.get("insert_op_conf"):
        raise invalid("insert_op_conf", options["insert_op_conf"], "it cannot be used with --dynamic_dims")
