"""Models: loading the simulated `atc`'s files, and their descriptions."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from backends.simulators import om
from backends.simulators.acl.board import HOST_MODE, HardwareWouldCrash, Refused
from backends.simulators.acl.calls import api, bare, with_code
from backends.simulators.acl.objects import Description, Model
from backends.simulators.acl.state import Simulator
from backends.simulators.half import DamagedModelError, Graph

_T = TypeVar("_T")

GEAR_INPUT = "ascend_mbatch_shape_data"
_DTYPES = {"float32": 0, "float16": 1, "int8": 2, "int32": 3, "uint8": 4, "int64": 9}
_NCHW, _NHWC, _ND = 0, 1, 2
_HALF = "force_fp16"
_AS_THE_ONNX_SAYS = ("force_fp32", "must_keep_origin_dtype")


class Models:
    """`acl.mdl` but datasets and execution."""

    def __init__(self, state: Simulator) -> None:
        self._state = state
        self._loaded = 0

    def find(self, model_id: int) -> Model:
        """A loaded model.

        Raises:
            Refused: 145001, 145003.
        """
        if not self._state.initialised:
            raise Refused(145001, "init is not called")
        if model_id not in self._state.models:
            raise Refused(145003, f"there is no model {model_id}")
        return self._state.models[model_id]

    def find_here(self, model_id: int) -> Model:
        """A loaded model, for work in the context it was loaded in.

        Raises:
            Refused: 145001, 145003, 107002, 107004.
        """
        model = self.find(model_id)
        if model.context is not self._state.current():
            raise Refused(107004, f"model {model_id} was loaded in another context")
        return model

    @api("mdl.load_from_file", with_code(0))
    def load_from_file(self, path: str) -> tuple[int, int]:
        if not isinstance(path, str):
            raise TypeError(f"load_from_file takes str, not {type(path).__name__}")
        return self._load(lambda: _read(path), f"file {path}")

    @api("mdl.load_from_mem", with_code(0))
    def load_from_mem(self, pointer: int, size: int) -> tuple[int, int]:
        """From host memory, or on the SoC from its own."""
        if not pointer or size <= 0:
            raise Refused(100000, "no memory to load from")

        def read() -> bytes:
            view = self._state.memory.view(pointer, size)
            if view.device is not None and self._state.board.run_mode == HOST_MODE:
                raise HardwareWouldCrash("load_from_mem reads host memory, not the device's")
            return view.bytes.tobytes()

        return self._load(read, "memory")

    @api("mdl.unload")
    def unload(self, model_id: int) -> int:
        self.find_here(model_id)
        del self._state.models[model_id]
        return 0

    @api("mdl.create_desc", bare(0))
    def create_desc(self) -> int:
        return self._state.descriptions.add(Description())

    @api("mdl.destroy_desc")
    def destroy_desc(self, desc: int) -> int:
        self._state.descriptions.remove(desc)
        return 0

    @api("mdl.get_desc")
    def get_desc(self, desc: int, model_id: int) -> int:
        description = self._state.descriptions.get(desc)
        description.model, description.model_id = self.find(model_id), model_id
        return 0

    @api("mdl.get_num_inputs", bare(0))
    def get_num_inputs(self, desc: int) -> int:
        return len(self._described(desc).inputs)

    @api("mdl.get_num_outputs", bare(0))
    def get_num_outputs(self, desc: int) -> int:
        return len(self._described(desc).header.outputs)

    @api("mdl.get_input_size_by_index", bare(0))
    def get_input_size_by_index(self, desc: int, index: int) -> int:
        return self._described(desc).size(self._input(desc, index), None)

    @api("mdl.get_output_size_by_index", bare(0))
    def get_output_size_by_index(self, desc: int, index: int) -> int:
        return self._described(desc).size(self._output(desc, index), None)

    @api("mdl.get_input_data_type", bare(-1))
    def get_input_data_type(self, desc: int, index: int) -> int:
        return _DTYPES[self._input(desc, index).dtype]

    @api("mdl.get_output_data_type", bare(-1))
    def get_output_data_type(self, desc: int, index: int) -> int:
        return _DTYPES[self._output(desc, index).dtype]

    @api("mdl.get_input_format", bare(-1))
    def get_input_format(self, desc: int, index: int) -> int:
        if len(self._input(desc, index).shape) != 4:
            return _ND
        return _NHWC if self._described(desc).header.aipp else _NCHW

    @api("mdl.get_output_format", bare(-1))
    def get_output_format(self, desc: int, index: int) -> int:
        return _NCHW if len(self._output(desc, index).shape) == 4 else _ND

    @api("mdl.get_input_name_by_index", bare(""))
    def get_input_name_by_index(self, desc: int, index: int) -> str:
        return self._input(desc, index).name

    @api("mdl.get_output_name_by_index", bare(""))
    def get_output_name_by_index(self, desc: int, index: int) -> str:
        return self._output(desc, index).name

    @api("mdl.get_input_index_by_name", with_code(0))
    def get_input_index_by_name(self, desc: int, name: str) -> tuple[int, int]:
        return _index(self._described(desc).inputs, name), 0

    @api("mdl.get_output_index_by_name", with_code(0))
    def get_output_index_by_name(self, desc: int, name: str) -> tuple[int, int]:
        return _index(self._described(desc).header.outputs, name), 0

    @api("mdl.get_input_dims", with_code(None))
    def get_input_dims(self, desc: int, index: int) -> tuple[dict[str, Any], int]:
        tensor = self._input(desc, index)
        return _dims(tensor.name, tensor.shape), 0

    @api("mdl.get_input_dims_v2", with_code(None))
    def get_input_dims_v2(self, desc: int, index: int) -> tuple[dict[str, Any], int]:
        return self.get_input_dims(desc, index)

    @api("mdl.get_output_dims", with_code(None))
    def get_output_dims(self, desc: int, index: int) -> tuple[dict[str, Any], int]:
        tensor = self._output(desc, index)
        return _dims(tensor.name, self._described(desc).shape(tensor, None)), 0

    @api("mdl.get_cur_output_dims", with_code(None))
    def get_cur_output_dims(self, desc: int, index: int) -> tuple[dict[str, Any], int]:
        tensor = self._output(desc, index)
        model = self.find(self._state.descriptions.get(desc).model_id)
        return _dims(tensor.name, model.shape(tensor, model.gear)), 0

    @api("mdl.get_dynamic_batch", with_code(None))
    def get_dynamic_batch(self, desc: int) -> tuple[dict[str, Any], int]:
        gears = self._described(desc).header.gears
        return {"batchCount": len(gears), "batch": list(gears)}, 0

    def _load(self, read: Callable[[], bytes], where: str) -> tuple[int, int]:
        if not self._state.initialised:
            raise Refused(145001, "init is not called")
        context = self._state.current()
        try:
            file = om.parse(read())
            self._check(file.header)
            graph = Graph(file.onnx, half=file.header.precision_mode == _HALF)
        except (om.NotSimulatedOmError, DamagedModelError) as error:
            raise Refused(
                145006, f"Invalid om file. ({where}: {error})", error="E10001", title="Invalid_Argument"
            ) from error
        hidden = (om.Tensor(name=GEAR_INPUT, dtype="int32", shape=(1,)),) if file.header.gears else ()
        self._loaded += 1
        self._state.models[self._loaded] = Model(
            header=file.header, graph=graph, context=context, inputs=(*file.header.inputs, *hidden)
        )
        return self._loaded, 0

    def _check(self, header: om.Header) -> None:
        board = self._state.board
        if header.soc != board.soc:
            raise Refused(507008, f"the model is for {header.soc}, the device is {board.soc}")
        if _release(header.cann) > _release(board.cann):
            raise Refused(545001, f"the model is of CANN {header.cann}, newer than {board.cann}")
        if header.precision_mode not in (_HALF, *_AS_THE_ONNX_SAYS):
            raise ValueError(f"precision mode {header.precision_mode} is not simulated")

    def _described(self, desc: int) -> Model:
        model = self._state.descriptions.get(desc).model
        if model is None:
            raise Refused(100000, "the model description is empty: get_desc fills it")
        return model

    def _input(self, desc: int, index: int) -> om.Tensor:
        return _at(self._described(desc).inputs, index)

    def _output(self, desc: int, index: int) -> om.Tensor:
        return _at(self._described(desc).header.outputs, index)


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise Refused(145002, f"cannot read {path}: {error}") from error


def _release(cann: str) -> tuple[int, ...]:
    """Of `7.0`, `8.0.RC2`: the first two numbers."""
    return tuple(int(number) for number in re.findall(r"\d+", cann)[:2])


def _at(items: tuple[_T, ...], index: int) -> _T:
    if not 0 <= index < len(items):
        raise Refused(100000, f"there is no tensor {index}, only {len(items)}")
    return items[index]


def _index(tensors: tuple[om.Tensor, ...], name: str) -> int:
    for index, tensor in enumerate(tensors):
        if tensor.name == name:
            return index
    raise Refused(100000, f"there is no tensor {name}")


def _dims(name: str, shape: tuple[int, ...]) -> dict[str, Any]:
    return {"name": name, "dimCount": len(shape), "dims": list(shape)}
