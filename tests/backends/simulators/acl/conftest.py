"""A model of two operators, and a program that uses pyACL in the documented order."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from onnx import helper

from backends.simulators import om
from backends.simulators.acl import Board, create
from harness.types import AnyArray, Float32

GEARS = (1, 2, 4)
HOST_TO_DEVICE, DEVICE_TO_HOST, DEVICE_TO_DEVICE = 1, 2, 3
LARGE, SMALL = 3 * 4 * 4 * 4, 3 * 4
"""Bytes of one sample: of the input and of `map` in float32, and of `mean`."""

WriteOm = Callable[..., str]


def onnx_bytes() -> bytes:
    """`map` is 2·image + 1, `mean` its mean over height and width."""
    nodes = [
        helper.make_node("Mul", ["image", "two"], ["double"]),
        helper.make_node("Add", ["double", "one"], ["map"]),
        helper.make_node("ReduceMean", ["map"], ["mean"], axes=[2, 3], keepdims=0),
    ]
    shapes = {"image": ["n", 3, 4, 4], "map": ["n", 3, 4, 4], "mean": ["n", 3]}
    free = {name: helper.make_tensor_value_info(name, 1, shape) for name, shape in shapes.items()}
    weights = [helper.make_tensor(name, 1, [1], [value]) for name, value in (("two", 2.0), ("one", 1.0))]
    graph = helper.make_graph(nodes, "tiny", [free["image"]], [free["map"], free["mean"]], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return bytes(model.SerializeToString())


def header(
    *, batch: int = 2, gears: tuple[int, ...] = (), output: om.DType = "float32", **more: Any
) -> om.Header:
    """Of that model; `more` are fields of `om.Header`."""
    n = -1 if gears else batch
    aipp = more.get("aipp")
    image = om.Tensor(
        name="image", dtype="uint8" if aipp else "float32", shape=(n, 4, 4, 3) if aipp else (n, 3, 4, 4)
    )
    outputs = (
        om.Tensor(name="Add_1:0:map", dtype=output, shape=(n, 3, 4, 4)),
        om.Tensor(name="ReduceMean_2:0:mean", dtype="float32", shape=(n, 3)),
    )
    common = {"soc": "Ascend310", "cann": "5.0", "precision_mode": "force_fp16", **more}
    return om.Header(inputs=(image,), outputs=outputs, gears=gears, **common)


@pytest.fixture
def write_om(tmp_path: Path) -> WriteOm:
    """Writes the model's file; takes what `header` takes."""

    def write(**settings: Any) -> str:
        path = tmp_path / f"model{len(list(tmp_path.iterdir()))}.om"
        path.write_bytes(om.SimulatedOm(header=header(**settings), onnx=onnx_bytes()).to_bytes())
        return str(path)

    return write


@pytest.fixture
def acl() -> ModuleType:
    """The module of a default board, initialised, with a context of its own."""
    return started(Board())


def started(board: Board) -> ModuleType:
    acl = create(board)
    assert acl.init() == 0
    assert acl.rt.set_device(0) == 0
    assert acl.rt.create_context(0)[1] == 0
    return acl


def batch_of(count: int, seed: int = 0) -> Float32:
    """Small multiples of 1/8, exact in float16 after every operator of the model but the mean."""
    rng = np.random.default_rng(seed)
    return (rng.integers(-64, 64, (count, 3, 4, 4)) / 8).astype(np.float32)


class Program:
    """Loads, runs and releases one model in the order of the vendor's guide."""

    def __init__(self, acl: ModuleType, path: str) -> None:
        self.acl = acl
        self.context = self.ok(acl.rt.get_context())
        self.stream = self.ok(acl.rt.create_stream())
        self.model = self.ok(acl.mdl.load_from_file(path))
        self.desc = acl.mdl.create_desc()
        self.ok(acl.mdl.get_desc(self.desc, self.model))
        self.inputs = self._dataset(
            [acl.mdl.get_input_size_by_index(self.desc, i) for i in range(acl.mdl.get_num_inputs(self.desc))]
        )
        self.outputs = self._dataset(
            [
                acl.mdl.get_output_size_by_index(self.desc, i)
                for i in range(acl.mdl.get_num_outputs(self.desc))
            ]
        )

    def ok(self, result: Any) -> Any:
        """The value before a code that must be 0."""
        *values, ret = result if isinstance(result, tuple) else (result,)
        assert ret == 0, f"{ret}: {self.acl.get_recent_err_msg()}"
        return values[0] if values else None

    def _dataset(self, sizes: list[int]) -> int:
        dataset: int = self.acl.mdl.create_dataset()
        for size in sizes:
            pointer = self.ok(self.acl.rt.malloc(size, 0))
            self.ok(self.acl.mdl.add_dataset_buffer(dataset, self.acl.create_data_buffer(pointer, size)))
        return dataset

    def pointer(self, dataset: int, index: int) -> int:
        address: int = self.acl.get_data_buffer_addr(self.acl.mdl.get_dataset_buffer(dataset, index))
        return address

    def feed(self, batch: AnyArray) -> None:
        data = batch.tobytes()
        target = self.pointer(self.inputs, 0)
        source = self.acl.util.bytes_to_ptr(data)
        kind = HOST_TO_DEVICE if self.acl.rt.get_run_mode()[0] == 1 else DEVICE_TO_DEVICE
        self.ok(self.acl.rt.memcpy(target, len(data), source, len(data), kind))

    def set_gear(self, batch: int) -> int:
        index = self.ok(self.acl.mdl.get_input_index_by_name(self.desc, "ascend_mbatch_shape_data"))
        ret: int = self.acl.mdl.set_dynamic_batch_size(self.model, self.inputs, index, batch)
        return ret

    def execute(self) -> int:
        ret: int = self.acl.mdl.execute(self.model, self.inputs, self.outputs)
        return ret

    def execute_async(self, stream: int | None = None) -> int:
        wanted = self.stream if stream is None else stream
        ret: int = self.acl.mdl.execute_async(self.model, self.inputs, self.outputs, wanted)
        return ret

    def output(self, index: int) -> bytes:
        """All bytes of an output buffer."""
        pointer = self.pointer(self.outputs, index)
        size = self.acl.mdl.get_output_size_by_index(self.desc, index)
        if self.acl.rt.get_run_mode()[0] == 0:
            return bytes(self.acl.util.ptr_to_bytes(pointer, size))
        host = self.ok(self.acl.rt.malloc_host(size))
        self.ok(self.acl.rt.memcpy(host, size, pointer, size, DEVICE_TO_HOST))
        data = bytes(self.acl.util.ptr_to_bytes(host, size))
        self.ok(self.acl.rt.free_host(host))
        return data

    def map(self) -> Float32:
        return np.frombuffer(self.output(0), np.float32).reshape(-1, 3, 4, 4)

    def close(self) -> None:
        self.ok(self.acl.mdl.unload(self.model))
        self.ok(self.acl.mdl.destroy_desc(self.desc))
        for dataset in (self.inputs, self.outputs):
            for index in range(self.acl.mdl.get_dataset_num_buffers(dataset)):
                self.ok(self.acl.rt.free(self.pointer(dataset, index)))
                self.ok(self.acl.destroy_data_buffer(self.acl.mdl.get_dataset_buffer(dataset, index)))
            self.ok(self.acl.mdl.destroy_dataset(dataset))
        self.ok(self.acl.rt.destroy_stream(self.stream))
        self.ok(self.acl.rt.destroy_context(self.context))
        self.ok(self.acl.rt.reset_device(0))
        self.ok(self.acl.finalize())
