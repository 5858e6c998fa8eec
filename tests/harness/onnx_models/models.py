"""Small ONNX files from elsewhere, made by hand: suitable and unsuitable ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from harness.types import AnyArray, Float32

FLOAT, UINT8, BOOL, HALF, DOUBLE = 1, 2, 9, 10, 11
LEVEL = 0.47
"""The grey value of good surfaces for the toy detector, in [0, 1]."""
Info = tuple[str, int, Sequence[int | str]]
PICTURE: Info = ("input", FLOAT, ["n", 3, 32, 32])
MAP: Info = ("anomaly_map", FLOAT, ["n", 1, 32, 32])
SCORE: Info = ("pred_score", FLOAT, ["n", 1])


def node(operator: str, inputs: str, outputs: str, **attributes: Any) -> Any:
    """An operator whose inputs and outputs are separated by blanks."""
    return helper.make_node(operator, inputs.split(), outputs.split(), **attributes)


DEVIATION = [
    node("ReduceMean", "input", "grey", axes=[1], keepdims=1),
    node("Sub", "grey level", "signed"),
    node("Abs", "signed", "anomaly_map"),
]
LARGEST = [node("ReduceMax", "anomaly_map", "pred_score", axes=[1, 2, 3], keepdims=0)]


@dataclass(frozen=True, kw_only=True)
class Toy:
    """A small model: by default the distance of each pixel's grey value from `LEVEL`, and the largest distance."""

    nodes: Sequence[Any] = (*DEVIATION, *LARGEST)
    inputs: Sequence[Info] = (PICTURE,)
    outputs: Sequence[Info] = (MAP, ("pred_score", FLOAT, ["n"]))
    constants: Mapping[str, AnyArray] = field(default_factory=dict)
    opset: int = 13
    metadata: Mapping[str, str] = field(default_factory=dict)
    external: str | None = None
    """Name of a file that holds the constants."""
    domains: Sequence[str] = ()
    producer: str = "toys"

    def write(self, path: Path) -> Path:
        infos = [
            [helper.make_tensor_value_info(*info) for info in side] for side in (self.inputs, self.outputs)
        ]
        arrays = {"level": np.array([LEVEL], np.float32), **self.constants}
        tensors = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
        graph = helper.make_graph(list(self.nodes), "toy", *infos, tensors)
        opsets = [
            helper.make_opsetid("", self.opset),
            *(helper.make_opsetid(name, 1) for name in self.domains),
        ]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=8, producer_name=self.producer)
        helper.set_model_props(model, dict(self.metadata))
        path.parent.mkdir(parents=True, exist_ok=True)
        if self.external is not None:
            outside = bytearray()
            for tensor in model.graph.initializer:
                _put_outside(tensor, self.external, outside)
            (path.parent / self.external).write_bytes(outside)
        path.write_bytes(model.SerializeToString())
        return path


def _put_outside(tensor: Any, location: str, data: bytearray) -> None:
    entries = {"location": location, "offset": str(len(data)), "length": str(len(tensor.raw_data))}
    data += tensor.raw_data
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=value)


def expected_maps(batch: Float32) -> Float32:
    """The toy detector's maps (N, H, W) for (N, 3, H, W)."""
    return np.asarray(np.abs(batch.mean(axis=1, dtype=np.float32) - np.float32(LEVEL)))


def as_anomalib(*, normalises: bool = True, resizes_to: int | None = None) -> Toy:
    """A model like an export of anomalib 2: it resizes and normalises the picture, and decides scores at 0.5."""
    side = resizes_to or 32
    constants: dict[str, AnyArray] = {
        "mean": np.full((3, 1, 1), 0.25, np.float32),
        "std": np.full((3, 1, 1), 0.5, np.float32),
        "target": np.array([side, side], np.int64),
        "half": np.array(0.5, np.float32),
    }
    source, nodes = "input", []
    if resizes_to is not None:
        nodes += [
            node("Shape", "input", "shape"),
            node("Slice", "shape zero two", "rows"),
            node("Concat", "rows target", "sizes", axis=0),
            helper.make_node("Resize", ["input", "", "", "sizes"], ["resized"], mode="linear"),
        ]
        constants |= {"zero": np.array([0], np.int64), "two": np.array([2], np.int64)}
        source = "resized"
    if normalises:
        nodes += [node("Sub", f"{source} mean", "shifted"), node("Div", "shifted std", "normal")]
        source = "normal"
    nodes += [node("ReduceMean", source, "grey", axes=[1], keepdims=1), *DEVIATION[1:]]
    nodes += [
        node("ReduceMax", "anomaly_map", "peak", axes=[2, 3], keepdims=0),
        node("Identity", "peak", "pred_score"),
    ]
    nodes += [
        node("Greater", "pred_score half", "pred_label"),
        node("Greater", "anomaly_map half", "pred_mask"),
    ]
    free: list[int | str] = ["n", 3, "height", "width"] if resizes_to else ["n", 3, 32, 32]
    return Toy(
        nodes=nodes,
        inputs=[("input", FLOAT, free)],
        outputs=[
            SCORE,
            ("pred_label", BOOL, ["n", 1]),
            ("anomaly_map", FLOAT, ["n", 1, side, side]),
            ("pred_mask", BOOL, ["n", 1, side, side]),
        ],
        constants=constants,
    )
