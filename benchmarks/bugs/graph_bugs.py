"""Bugs of an exported graph: another model file, which the manifest lists like an exporter's own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import onnx
from onnx import numpy_helper

from benchmarks.bugs.change import Change, Place
from benchmarks.bugs.deployment import HEADED, Deployment
from harness import build
from harness.build import OmRequest
from harness.detector import artifact
from harness.heads.resampling import resampling_matrix
from harness.types import AnyArray

Edit = Callable[[onnx.ModelProto], None]
_ONNX = "onnxruntime-cpu"
_UNOPTIMISED = "onnxruntime-unoptimised"


def node(model: onnx.ModelProto, operator: str, number: int = 0) -> onnx.NodeProto:
    """The `number`-th node of this operator, in the graph's order."""
    return [candidate for candidate in model.graph.node if candidate.op_type == operator][number]


def constant(model: onnx.ModelProto, name: str) -> AnyArray:
    """An initialiser's values."""
    values: AnyArray = numpy_helper.to_array(_initialiser(model, name))
    return values


def replace(model: onnx.ModelProto, name: str, values: AnyArray) -> None:
    """Give an initialiser other values."""
    _initialiser(model, name).CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values), name))


def _initialiser(model: onnx.ModelProto, name: str) -> onnx.TensorProto:
    return next(tensor for tensor in model.graph.initializer if tensor.name == name)


def _wrong_layer(model: onnx.ModelProto) -> None:
    """Layer 1 is tapped after its first block; both blocks have the same shape."""
    tapped = node(model, "Gather")
    first_block = node(model, "Relu", 2).output[0]
    tapped.input[0] = first_block


def _upsampled_linearly(model: onnx.ModelProto) -> None:
    for number in range(2):
        resize = node(model, "Resize", number)
        del resize.attribute[:]
        resize.attribute.append(onnx.helper.make_attribute("mode", "linear"))


def _other_channels(model: onnx.ModelProto) -> None:
    """The choice of layer 1 drawn again."""
    name = node(model, "Gather").input[1]
    chosen = constant(model, name)
    drawn = np.sort(np.random.default_rng(1).choice(64, len(chosen), replace=False))
    replace(model, name, drawn.astype(chosen.dtype))


def _other_epsilon(model: onnx.ModelProto) -> None:
    for candidate in model.graph.node:
        for attribute in candidate.attribute:
            if candidate.op_type == "BatchNormalization" and attribute.name == "epsilon":
                attribute.f = 1e-3


def _padded_at_the_end(model: onnx.ModelProto) -> None:
    """Like TensorFlow's SAME: with an even side and a stride of two, only the end is padded."""
    stem = node(model, "Conv")
    for attribute in stem.attribute:
        if attribute.name == "pads":
            attribute.ints[:] = [2, 2, 3, 3]


def _weights_of_another_training(deployment: Deployment) -> None:
    other = onnx.load(str(deployment.others["seed"] / "onnx-fp32.onnx"))
    weights = {tensor.name: tensor for tensor in other.graph.initializer}

    def edit(model: onnx.ModelProto) -> None:
        for tensor in model.graph.initializer:
            if tensor.name.startswith("backbone."):
                tensor.CopyFrom(weights[tensor.name])

    deployment.edit_graph(edit)
    deployment.bench()


def _quantised_blindly(deployment: Deployment) -> None:
    """Static quantisation with one black calibration image."""
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

    class Black(CalibrationDataReader):  # type: ignore[misc]
        exhausted = False

        def get_next(self) -> dict[str, AnyArray] | None:
            self.exhausted, before = True, self.exhausted
            return None if before else {"image": np.zeros((1, 3, 64, 64), np.float32)}

    variant = deployment.variant()
    target = deployment.artifact / "onnx-int8.onnx"
    quantize_static(
        str(deployment.artifact / variant.model),
        str(target),
        Black(),
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    listed = msgspec.structs.replace(variant, id="onnx-int8", precision="int8", files={target.name: ""})
    deployment.relist(listed)
    deployment.bench(variant="onnx-int8")


def _trained_mode(deployment: Deployment) -> None:
    """The network was exported without `set_train(False)`: it normalises by the batch's own statistics."""
    from exporters.base import subject
    from exporters.runtime import mindspore as ms

    net = subject(deployment.opened(), head_in_graph=False)
    net.cell.set_train(True)
    variant = deployment.variant("mindir-fp32")
    image = ms.Tensor(np.zeros((1, *net.shape), np.float32))
    exported = deployment.folder / "training.mindir"
    ms.export(net.cell, image, file_name=str(exported), file_format="MINDIR")
    (deployment.artifact / variant.model).write_bytes(exported.read_bytes())
    deployment.relist(variant)
    deployment.bench("mindspore-cpu")


def rescale(model: onnx.ModelProto) -> None:
    """Multiply the stem's weights by 10⁶, which its normalisation undoes: float32 gives the same outputs."""
    stem, norm = node(model, "Conv"), node(model, "BatchNormalization")
    factor = np.float32(1e6)
    replace(model, stem.input[1], constant(model, stem.input[1]) * factor)
    replace(model, norm.input[3], constant(model, norm.input[3]) * factor)
    replace(model, norm.input[4], constant(model, norm.input[4]) * factor**2)


def compile_om(deployment: Deployment, *, batches: tuple[int, ...] = (1,), aipp: bool = False) -> None:
    """`harness export --format om` with the simulated compiler."""
    om = OmRequest(soc="Ascend310", cann="7.0", batches=batches, aipp=aipp, atc="simulated")
    build.export(deployment.opened(), "om", om=om)


def _overflow(deployment: Deployment) -> None:
    deployment.edit_graph(rescale)
    compile_om(deployment)
    deployment.bench("ascend310-simulated")


def _other_aipp(deployment: Deployment) -> None:
    """The chip's normalisation has mean and std of 0.5."""
    steps = deployment.opened().manifest.preprocessing
    half = tuple(
        msgspec.structs.replace(step, mean=(0.5,) * 3, std=(0.5,) * 3) if step.stage == "normalise" else step
        for step in steps
    )
    right = deployment.opened().manifest
    deployment.edit_manifest(sign=True, preprocessing=half)
    compile_om(deployment, aipp=True)
    compiled = deployment.opened().manifest.variants
    artifact.write_manifest(deployment.artifact, msgspec.structs.replace(right, variants=compiled))
    deployment.bench("ascend310-simulated")


def _without_blur(model: onnx.ModelProto) -> None:
    """The resampling matrices of the head's map lack the Gaussian."""
    plain = resampling_matrix(16, 64, 0.0, half_pixel=True)
    first, second = node(model, "MatMul", 1), node(model, "MatMul", 2)
    replace(model, first.input[0], plain)
    replace(model, second.input[1], plain.T)


def _other_upsampling(model: onnx.ModelProto) -> None:
    """The corners are aligned by another convention."""
    other = resampling_matrix(16, 64, 4.0, half_pixel=False)
    first, second = node(model, "MatMul", 1), node(model, "MatMul", 2)
    replace(model, first.input[0], other)
    replace(model, second.input[1], other.T)


def _washers_model(deployment: Deployment) -> None:
    variant = deployment.variant(HEADED)
    Path(deployment.artifact / variant.model).write_bytes(
        (deployment.others["washer"] / variant.model).read_bytes()
    )
    deployment.relist(variant)
    deployment.bench(_UNOPTIMISED, variant=HEADED)


def _edited(name: str, edit: Edit, place: Place = "outputs") -> Change:
    def inject(deployment: Deployment) -> None:
        deployment.edit_graph(edit)
        deployment.bench()

    return Change(name=name, where="graph", inject=inject, place=place)


def _headed(name: str, edit: Edit) -> Change:
    def inject(deployment: Deployment) -> None:
        deployment.edit_graph(edit, HEADED)
        deployment.bench(_UNOPTIMISED, variant=HEADED)

    return Change(
        name=name, where="graph", inject=inject, place="outputs", subject="padim-head", reference=_ONNX
    )


BUGS = (
    _edited("wrong layer tapped", _wrong_layer),
    _edited("features upsampled linearly, not by nearest neighbour", _upsampled_linearly),
    _edited("channel choice from another seed", _other_channels),
    _edited("another epsilon in batch normalisation", _other_epsilon),
    _edited("stem padded at the end alone", _padded_at_the_end),
    Change(
        name="weights of another training",
        where="graph",
        inject=_weights_of_another_training,
        place="outputs",
    ),
    Change(name="quantised without calibration", where="graph", inject=_quantised_blindly, place="outputs"),
    Change(
        name="batch normalisation in training mode (MINDIR)",
        where="graph",
        inject=_trained_mode,
        place="outputs",
        reference=_ONNX,
    ),
    Change(name="float16 overflow (OM, simulated)", where="graph", inject=_overflow, place="outputs"),
    Change(
        name="AIPP with mean and std of 0.5 (OM, simulated)",
        where="graph",
        inject=_other_aipp,
        place="outputs",
    ),
    _headed("head in the graph: blur missing", _without_blur),
    _headed("head in the graph: map upsampled otherwise", _other_upsampling),
    Change(
        name="head in the graph: another category's model",
        where="graph",
        inject=_washers_model,
        place="outputs",
        subject="padim-head",
        reference=_ONNX,
    ),
)
