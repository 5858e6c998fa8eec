"""MindSpore cell → ONNX: named outputs, free batch axis, checked, and compared with the cell."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from exporters.base import Subject, agreement, subject
from exporters.errors import ExportError
from exporters.runtime import mindspore as ms
from harness import __version__, storage
from harness.detector.artifact import Artifact, TensorSpec, Variant
from harness.errors import MissingExtra
from harness.types import AnyArray, Float32

try:
    import onnx
    import onnx.checker
    import onnx.helper
    import onnx.numpy_helper
    import onnx.shape_inference
except ImportError as _error:
    raise MissingExtra("onnx", "mindspore", needed_for="Exporting ONNX") from _error


def export(artifact: Artifact, *, head_in_graph: bool = False) -> Variant:
    """Export the fitted network into the artifact folder and describe the new variant.

    Raises:
        ExportError: MindSpore, the ONNX checker or strict shape inference refused the graph.
        ExportMismatch: the file does not agree with the cell.
        MissingExtra: onnxruntime, which runs the comparison, is not installed.
        UsageError: the head does not fit into a graph.
    """
    net = subject(artifact, head_in_graph=head_in_graph)
    id_ = f"onnx-fp32{net.variant}"
    target = artifact.path / f"{id_}.onnx"
    with tempfile.TemporaryDirectory(
        prefix="export-"
    ) as folder:  # MindSpore refuses blanks and umlauts in paths
        model = _exported(net, Path(folder))
        _name_outputs(model, net.outputs)
        _free_batch(model)
        _describe(model, artifact)
        model = _checked(model)
        with storage.replacing(target) as temporary:
            onnx.save(model, str(temporary), format="protobuf")
            difference = agreement(net, _runner(temporary), what="ONNX")
    return Variant(
        id=id_,
        format="onnx",
        precision="fp32",
        input=_spec(model.graph.input[0]),
        input_stage=net.input_stage,
        outputs=tuple(_spec(output) for output in model.graph.output),
        contains=net.contains,
        files={target.name: storage.sha256_of_file(target)},
        agreement=difference,
        software={
            "mindspore": ms.__version__,
            "onnx": onnx.__version__,
            "opset": str(model.opset_import[0].version),
        },
    )


def _exported(net: Subject, folder: Path) -> onnx.ModelProto:
    path = folder / "model.onnx"
    try:
        image = ms.Tensor(np.zeros((1, *net.shape), np.float32))
        ms.export(net.cell, image, file_name=str(path), file_format="ONNX")
    except (RuntimeError, ValueError, TypeError) as error:
        raise ExportError(f"MindSpore cannot export this network to ONNX: {error}") from error
    return onnx.load(str(path))


def _name_outputs(model: onnx.ModelProto, names: Sequence[str]) -> None:
    """MindSpore numbers its outputs; give them the names the head asks for."""
    renamed = {output.name: name for output, name in zip(model.graph.output, names, strict=True)}
    for output in model.graph.output:
        output.name = renamed[output.name]
    for node in model.graph.node:
        node.output[:] = [renamed.get(name, name) for name in node.output]
        node.input[:] = [renamed.get(name, name) for name in node.input]


def _free_batch(model: onnx.ModelProto) -> None:
    """Make axis 0 symbolic; a Resize by absolute sizes holds the batch in a constant, so it becomes one by scales."""
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    del model.graph.value_info[:]
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant":
            constants[node.output[0]] = onnx.numpy_helper.to_array(node.attribute[0].t)
    shapes = _static_shapes(model)
    for node in model.graph.node:
        if node.op_type != "Resize" or len(node.input) < 4:
            continue
        height, width = constants[node.input[3]][2:]
        source = shapes[node.input[0]]
        name = f"{node.output[0]}.scales"
        scales = np.array([1, 1, height / source[2], width / source[3]], np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(scales, name))
        node.input[:] = [node.input[0], node.input[1], name]
    _drop_unused(model)


def _drop_unused(model: onnx.ModelProto) -> None:
    """Remove constants that no node reads any more."""
    read = {name for node in model.graph.node for name in node.input}
    for items in (model.graph.initializer, model.graph.node):
        for entry in [*items]:
            names = [entry.name] if items is model.graph.initializer else list(entry.output)
            constant = items is model.graph.initializer or entry.op_type == "Constant"
            if constant and not read.intersection(names):
                items.remove(entry)


def _static_shapes(model: onnx.ModelProto) -> dict[str, list[int]]:
    inferred = onnx.shape_inference.infer_shapes(model)
    return {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in inferred.graph.value_info
    }


def _describe(model: onnx.ModelProto, artifact: Artifact) -> None:
    manifest = artifact.manifest
    model.graph.name = (
        manifest.detector
    )  # MindSpore counts the process's graphs in it, and equal models would differ
    onnx.helper.set_model_props(
        model,
        {
            "detector": manifest.detector,
            "backbone": manifest.backbone,
            "category": manifest.category,
            "detector_sha256": manifest.detector_sha256,
            "net_sha256": manifest.net_sha256,
            "harness": __version__,
        },
    )


def _checked(model: onnx.ModelProto) -> onnx.ModelProto:
    """Strictly inferred and checked; an output whose batch came back as a number was folded somewhere."""
    for output in model.graph.output:  # inference may only confirm what it finds itself
        output.type.tensor_type.ClearField("shape")
    try:
        inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
        onnx.checker.check_model(inferred, full_check=True)
    except (onnx.shape_inference.InferenceError, onnx.checker.ValidationError) as error:
        raise ExportError(f"the exported ONNX graph is invalid: {error}") from error
    for output in inferred.graph.output:
        batch = output.type.tensor_type.shape.dim[0]
        if batch.HasField("dim_value"):
            raise ExportError(f"output {output.name}: a constant of the graph fixes its batch axis")
        batch.dim_param = "batch"  # another symbol where a Reshape to -1 made it; two batches are run below
    return inferred


def _runner(path: Path) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtra("onnxruntime", "ort", needed_for="Checking an ONNX export") from error
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    source = session.get_inputs()[0].name
    names = [output.name for output in session.get_outputs()]

    def run(batch: Float32) -> dict[str, AnyArray]:
        return dict(zip(names, session.run(None, {source: batch}), strict=True))

    return run


def _spec(value: onnx.ValueInfoProto) -> TensorSpec:
    tensor = value.type.tensor_type
    return TensorSpec(
        name=value.name,
        dtype=str(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)),
        shape=tuple(None if dim.dim_param else dim.dim_value for dim in tensor.shape.dim),
    )
