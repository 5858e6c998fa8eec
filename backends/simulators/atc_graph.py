"""What the simulated `atc` makes of an ONNX model and an AIPP file: the header of its own container.

Assumptions, where the documents give none: which operators are missing (`UNSUPPORTED`), that outputs are float16 under
`force_fp16` where `--output_type` is not given, and what an unnamed node is called.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import msgspec

from backends.simulators import om
from backends.simulators.atc_options import (
    OUTPUT_TYPES,
    AtcError,
    gears,
    invalid,
    precision,
    shapes,
    unsimulated,
)
from harness.errors import MissingExtra

try:
    import onnx
    import onnx.checker
    import onnx.helper
    import onnx.shape_inference
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped,unused-ignore]
except ImportError as _error:
    raise MissingExtra("onnx", "mindspore", needed_for="The simulated atc") from _error

UNSUPPORTED = frozenset({"If", "Loop", "Scan", "StringNormalizer", "TfIdfVectorizer", "Unique"})
UNSUPPORTED_WITH_GEARS = frozenset({"NonZero"})
"""Their shapes depend on the data."""
OPSETS = {(8, 0): (11, 18), (7, 0): (9, 18), (5, 0): (9, 13)}
"""First release → lowest and highest opset; 6.x is taken for a 5.x."""
_FIELDS = {
    "aipp_mode": re.compile("static|dynamic"),
    "input_format": re.compile("RGB888_U8|XRGB8888_U8|YUV420SP_U8|YUV400_U8"),
    **dict.fromkeys(("related_input_rank", "src_image_size_w", "src_image_size_h"), re.compile(r"\d+")),
    **dict.fromkeys(
        ("csc_switch", "rbuv_swap_switch", "crop", "padding", "ax_swap_switch"), re.compile("true|false")
    ),
    **{f"mean_chn_{channel}": re.compile(r"\d+") for channel in range(4)},
    **{
        f"{name}_{channel}": re.compile(r"-?\d+(\.\d*)?([eE][-+]?\d+)?")
        for name in ("min_chn", "var_reci_chn")
        for channel in range(4)
    },
}


def compiled(options: Mapping[str, str], cann: str) -> om.SimulatedOm:
    """The model with everything `acl` says of it.

    Raises:
        AtcError: it cannot be parsed or compiled.
    """
    model = parsed(options, cann)
    mode, batches = precision(options), gears(options)
    (source,) = _inputs(model)
    shape = _shape(source, options)
    conf = options.get("insert_op_conf")
    aipp = _aipp(Path(conf), shape) if conf else None
    header = om.Header(
        soc=options["soc_version"],
        cann=cann,
        precision_mode=mode,
        inputs=(_input(source, shape, with_aipp=aipp is not None),),
        outputs=_outputs(model, shape, batches, _output_type(options, mode)),
        gears=batches,
        aipp=aipp,
    )
    return om.SimulatedOm(header=header, onnx=model.SerializeToString())


def parsed(options: Mapping[str, str], cann: str) -> Any:
    """The ONNX model, every operator of which has a parser.

    Raises:
        AtcError: another framework, a damaged file, or an operator or opset that is not supported.
    """
    path = options["model"]
    if options["framework"] == "1" and not path.endswith(".air"):
        raise AtcError("E10041", f"Failed to load the model from {path}: framework 1 takes an .air file.")
    if options["framework"] != "5":
        raise unsimulated(f"--framework={options['framework']}")
    try:
        model = onnx.load(path)
        onnx.checker.check_model(model)
    except (DecodeError, onnx.checker.ValidationError) as error:
        raise AtcError("E13005", f"Failed to parse file {path}: {error}") from error
    if not (model.graph.input and model.graph.output and model.graph.node):
        raise AtcError("E16001", "The ONNX model has no input or no output node.")
    if len(model.opset_import) != 1:
        raise AtcError("E16005", "The ONNX model has several opset domains; only ai.onnx is supported.")
    _check_operators(model, options, cann)
    return model


def release(cann: str) -> tuple[int, int]:
    """Of `7.0`, `8.0.RC2`: the first two numbers."""
    numbers = re.findall(r"\d+", cann)
    return int(numbers[0]), int(numbers[1])


def _check_operators(model: Any, options: Mapping[str, str], cann: str) -> None:
    opset = model.opset_import[0].version
    lowest, highest = next((opsets for first, opsets in OPSETS.items() if release(cann) >= first), (0, 0))
    missing = UNSUPPORTED | (UNSUPPORTED_WITH_GEARS if options.get("dynamic_batch_size") else frozenset())
    for node in model.graph.node:
        if lowest <= opset <= highest and node.op_type not in missing:
            continue
        key = f"ai.onnx::{opset}::{node.op_type}"
        if release(cann) < (7, 0):
            raise AtcError("E19010", f"No parser is registered for Op [{node.name}, optype [{key}]].")
        raise AtcError(
            "E16002",
            f"No ONNX parser is registered for optype [{key}].",
            "Check the version of the operator library, and that the operator type is supported.",
        )


def _inputs(model: Any) -> Sequence[Any]:
    constants = {value.name for value in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constants]
    if len(inputs) != 1:
        raise unsimulated(f"models of {len(inputs)} inputs")
    return inputs


def _shape(source: Any, options: Mapping[str, str]) -> tuple[int, ...]:
    """The input's shape, with -1 for the batch of gears."""
    shapes_by_name = shapes(options)
    unknown = set(shapes_by_name) - {source.name}
    if unknown:
        raise AtcError(
            "E10016", f"Opname [{', '.join(sorted(unknown))}] in [--input_shape] is not found in the model."
        )
    dims = source.type.tensor_type.shape.dim
    own = tuple(dim.dim_value for dim in dims)
    shape = shapes_by_name.get(source.name, own)
    if len(shape) != len(own):
        raise AtcError(
            "E10049",
            f"Dimension {len(shape)} of [--input_shape] differs from {len(own)} of node {source.name}.",
        )
    if 0 in shape:
        raise AtcError("E11005", f"The shape of input {source.name} is not defined: use [--input_shape].")
    if any(fixed not in {0, size} for fixed, size in zip(own, shape, strict=True)):
        raise invalid("input_shape", options["input_shape"], f"the model fixes the shape {own}")
    if -1 in shape and len(shape) < 2:
        raise AtcError("E10012", "Dynamic batch size needs an input of more axes.")
    return shape


def _input(source: Any, shape: tuple[int, ...], *, with_aipp: bool) -> om.Tensor:
    if with_aipp:
        batch, channels, height, width = shape
        return om.Tensor(name=source.name, dtype="uint8", shape=(batch, height, width, channels))
    dtype = str(onnx.helper.tensor_dtype_to_np_dtype(source.type.tensor_type.elem_type))
    return om.Tensor(name=source.name, dtype=cast("om.DType", dtype), shape=shape)


def _output_type(options: Mapping[str, str], mode: str) -> str | None:
    """Of all outputs; `None`: as the last operators give them."""
    name = options.get("output_type")
    if name is None:
        return "float16" if mode == "force_fp16" else None
    return OUTPUT_TYPES[name]


def _outputs(
    model: Any, shape: tuple[int, ...], batches: Sequence[int], dtype: str | None
) -> tuple[om.Tensor, ...]:
    """Names `node:index:name`, and shapes inferred for every batch there is."""
    producers = {
        name: f"{node.name or f'{node.op_type}_{number}'}:{index}:{name}"
        for number, node in enumerate(model.graph.node)
        for index, name in enumerate(node.output)
    }
    inferred = [_inferred(model, (batch, *shape[1:])) for batch in batches or shape[:1]]
    outputs = []
    for index, value in enumerate(model.graph.output):
        selected = [result[index] for result in inferred]
        first = selected[0]
        if batches:
            if any(other != (batch, *first[1:]) for other, batch in zip(selected, batches, strict=True)):
                raise AtcError(
                    "E19999", f"Inner Error! Output {value.name} does not follow the gears: {selected}."
                )
            first = (-1, *first[1:])
        own = str(onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type))
        outputs.append(
            om.Tensor(name=producers[value.name], dtype=cast("om.DType", dtype or own), shape=first)
        )
    return tuple(outputs)


def _inferred(model: Any, shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Shapes of the outputs for one shape of the input."""
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    (source,) = _inputs(fixed)
    for dim, size in zip(source.type.tensor_type.shape.dim, shape, strict=True):
        dim.dim_value = size
    for output in fixed.graph.output:
        output.type.tensor_type.ClearField("shape")
    del fixed.graph.value_info[:]
    try:
        result = onnx.shape_inference.infer_shapes(fixed, strict_mode=True, data_prop=True)
    except onnx.shape_inference.InferenceError as error:
        raise AtcError("E19999", f"Inner Error! InferShape failed: {error}") from error
    values = [
        tuple(dim.dim_value for dim in output.type.tensor_type.shape.dim) for output in result.graph.output
    ]
    for output, sizes in zip(result.graph.output, values, strict=True):
        if 0 in sizes or not output.type.tensor_type.HasField("shape"):
            raise AtcError(
                "E19999", f"Inner Error! InferShape failed: output {output.name} has the shape {sizes}."
            )
    return values


def _aipp(path: Path, shape: tuple[int, ...]) -> om.Aipp:
    fields = _aipp_fields(path)
    if fields.get("aipp_mode") != "static":
        raise unsimulated(f"aipp_mode {fields.get('aipp_mode', 'left out')}")
    if "input_format" not in fields:
        raise _bad_aipp("input_format is required")
    if fields["input_format"] != "RGB888_U8" or len(shape) != 4 or shape[1] != 3:
        raise unsimulated(f"AIPP from {fields['input_format']} into the shape {shape}")
    for name in ("csc_switch", "crop", "padding", "ax_swap_switch"):
        if fields.get(name) == "true":
            raise unsimulated(f"AIPP with {name}")
    for name, size, largest in (("src_image_size_w", shape[3], 4096), ("src_image_size_h", shape[2], 4096)):
        if int(fields.get(name, "0")) not in {0, size} or size > largest:
            raise _bad_aipp(f"{name} {fields.get(name)} does not fit the model's {size}")
    channels = [
        [float(fields.get(f"{name}_{channel}", default)) for channel in range(3)]
        for name, default in (("mean_chn", "0"), ("min_chn", "0"), ("var_reci_chn", "1"))
    ]
    for name, values, limits in zip(
        ("mean_chn", "min_chn", "var_reci_chn"), channels, ((0, 255), (0, 255), (-65504, 65504)), strict=True
    ):
        if not all(limits[0] <= value <= limits[1] for value in values):
            raise _bad_aipp(f"{name} {values} is not within {limits}")
    mean, low, factor = channels
    return msgspec.convert(
        {
            "rbuv_swap": fields.get("rbuv_swap_switch") == "true",
            "mean": [int(value) for value in mean],
            "min": low,
            "var_reci": factor,
        },
        om.Aipp,
    )


def _aipp_fields(path: Path) -> dict[str, str]:
    text = re.sub(r"#.*", "", path.read_text("utf-8"))
    match = re.fullmatch(r"\s*aipp_op\s*\{([^{}]*)\}\s*", text)
    if match is None:
        raise _bad_aipp("it is not one aipp_op { … }")
    fields: dict[str, str] = {}
    for name, value in re.findall(r"(\S+?)\s*:\s*(\S+)", match[1]):
        if name not in _FIELDS or not _FIELDS[name].fullmatch(value) or name in fields:
            raise _bad_aipp(f"{name}: {value}")
        fields[name] = value
    if re.sub(r"\S+?\s*:\s*\S+", "", match[1]).strip():
        raise _bad_aipp("a line is not `field: value`")
    return fields


def _bad_aipp(reason: str) -> AtcError:
    return AtcError("E10052", f"The AIPP configuration is invalid. Reason: {reason}.")
