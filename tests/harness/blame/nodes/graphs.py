"""Small ONNX networks made by hand, and artifacts that hold one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
from onnx import helper, numpy_helper

from harness import registry, storage
from harness.blame.nodes import InputRow, Side, open_side
from harness.contracts import DeviceReport
from harness.detector.artifact import Artifact, TensorSpec, Variant
from harness.types import AnyArray

WIDTH = 4


def weights(seed: int = 0) -> dict[str, AnyArray]:
    rng = np.random.default_rng(seed)
    square = {f"w{number}": rng.normal(0, 0.6, (WIDTH, WIDTH)) for number in range(4)}
    return {name: array.astype(np.float32) for name, array in square.items()}


def chain() -> list[Any]:
    """image → m0 → r0 → m1 → sum (with m0) → m2 → left; sum → m3 → right."""
    return [
        helper.make_node("MatMul", ["image", "w0"], ["m0"], name="first"),
        helper.make_node("Relu", ["m0"], ["r0"], name="relu"),
        helper.make_node("MatMul", ["r0", "w1"], ["m1"], name="middle"),
        helper.make_node("Add", ["m1", "m0"], ["sum"], name="skip"),
        helper.make_node("MatMul", ["sum", "w2"], ["left"], name="to_left"),
        helper.make_node("MatMul", ["sum", "w3"], ["right"], name="to_right"),
    ]


def save(
    path: Path, nodes: Sequence[Any], constants: Mapping[str, AnyArray], *, outputs: Sequence[str]
) -> Path:
    values = {name: helper.make_tensor_value_info(name, 1, ["batch", WIDTH]) for name in ("image", *outputs)}
    tensors = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(
        list(nodes), "net", [values["image"]], [values[name] for name in outputs], tensors
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
    return path


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """A folder of networks that take (batch, 4) and give `left` and `right`."""

    folder: Path
    base: Artifact
    """The models borrow its manifest."""

    def side(
        self,
        nodes: Sequence[Any] | None = None,
        constants: Mapping[str, AnyArray] | None = None,
        *,
        backend: str = "onnxruntime-cpu",
        outputs: Sequence[str] = ("left", "right"),
    ) -> Side:
        """One side; by default the chain with its own weights."""
        path = self.folder / f"{len(list(self.folder.iterdir()))}.onnx"
        save(path, chain() if nodes is None else nodes, {**weights(), **(constants or {})}, outputs=outputs)
        spec = TensorSpec(name="image", dtype="float32", shape=(None, WIDTH))
        variant = Variant(
            id=path.stem,
            format="onnx",
            precision="fp32",
            input=spec,
            input_stage="layout",
            outputs=tuple(msgspec.structs.replace(spec, name=name) for name in outputs),
            files={path.name: storage.sha256_of_file(path)},
            agreement={},
        )
        return open_side(
            Artifact(path=self.folder, manifest=self.base.manifest, sha256=self.base.sha256), variant, backend
        )


def rows(count: int = 3, scale: float = 1.0) -> tuple[InputRow, ...]:
    rng = np.random.default_rng(5)
    return tuple(
        InputRow(image=f"{number}.png", values=rng.normal(0, scale, (1, WIDTH)).astype(np.float32))
        for number in range(count)
    )


class FaultyBackend:
    """onnxruntime with a fault that `break_model` puts into a copy of the file: the backend is wrong, and not the file."""

    formats = ("onnx",)
    environment: Mapping[str, str] = {}
    simulated = False

    def __init__(self, break_model: Any) -> None:
        self.break_model = break_model

    def unavailable(self) -> str | None:
        return None

    def open(self, artifact: Artifact, variant: Variant, *, threads: int) -> Session:
        model = onnx.load(str(artifact.model_file(variant)))
        self.break_model(model)
        path = artifact.path / "faulty.onnx"
        onnx.save(model, str(path))
        changed = msgspec.structs.replace(variant, files={path.name: storage.sha256_of_file(path)})
        return Session(registry.backend("onnxruntime-cpu").open(artifact, changed, threads=threads))


class Session:
    """An onnxruntime session whose report does not name onnxruntime."""

    device_ms: Mapping[str, float] = {}

    def __init__(self, session: Any) -> None:
        self._session = session
        self.report = DeviceReport(device="faulty", runtime={"faulty": "1"}, options={}, simulated=False)

    def run(self, batch: AnyArray) -> dict[str, AnyArray]:
        arrays: dict[str, AnyArray] = self._session.run(batch)
        return arrays

    def close(self) -> None:
        self._session.close()


def _leaky(model: Any) -> None:
    for node in model.graph.node:
        if node.op_type == "Relu":
            node.op_type = "LeakyRelu"


def _drifting(model: Any) -> None:
    """Every product is too large by 6e-5: within tolerance once, and not twice."""
    for tensor in model.graph.initializer:
        if tensor.name in weights():
            array = numpy_helper.to_array(tensor) * np.float32(1 + 6e-5)
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def _fused(model: Any) -> None:
    """Spoils the second product only if its input is no output, as if a runtime had fused the two nodes."""
    if "r0" not in [value.name for value in model.graph.output]:
        _leaky(model)


def _gathered(model: Any) -> None:
    """The first two outputs change names if both are requested."""
    names = [value.name for value in model.graph.output]
    if {"left", "right"} <= set(names):
        for node in model.graph.node:
            renamed = {"left": "right", "right": "left"}
            node.output[:] = [renamed.get(name, name) for name in node.output]


leaky, drifting, fused, gathered = (FaultyBackend(fault) for fault in (_leaky, _drifting, _fused, _gathered))
