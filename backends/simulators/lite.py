"""A stand-in for the module `mindspore_lite`: its Python interface, strict as the documents say, without an Ascend card.

MindSpore's CPU target computes (`program_of`), so a MINDIR runs in float32; in `enforce_fp16` only what goes in and comes
out is rounded to float16. Names below are Lite's own, releases 2.0 and later; `release_1` has the form of 1.9 and 1.10.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from harness.types import AnyArray

SIMULATED = True
__version__ = "2.3 (SIMULATED, not hardware)"
PRECISION_MODES = ("enforce_fp32", "preferred_fp32", "enforce_fp16", "enforce_origin", "preferred_optimal")


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """What computes in place of the card."""

    shape: tuple[int, ...]
    """Of the input, as the model was exported."""
    run: Callable[[AnyArray], dict[str, AnyArray]]
    """A float32 input → Lite's output names with their arrays."""


def program_of(path: str) -> Program:
    """The MINDIR at `path` on MindSpore's CPU target.

    Raises:
        RuntimeError: MindSpore is not installed, or cannot load the file.
    """
    try:
        import mindspore
        from mindspore.train import mind_ir_pb2
    except ImportError as error:
        raise RuntimeError(
            f"the simulated MindSpore Lite computes with MindSpore, which is missing: {error}"
        ) from error
    try:
        graph = mindspore.nn.GraphCell(mindspore.load(path))
    except (RuntimeError, ValueError, TypeError) as error:
        raise RuntimeError(f"build_from_file failed! Error is {error}") from error
    described = mind_ir_pb2.ModelProto.FromString(Path(path).read_bytes()).graph

    def run(batch: AnyArray) -> dict[str, AnyArray]:
        result = graph(mindspore.Tensor(batch))
        tensors = result if isinstance(result, tuple | list) else (result,)
        return {f"output{index}": tensor.asnumpy() for index, tensor in enumerate(tensors)}

    return Program(shape=tuple(described.input[0].tensor[0].dims), run=run)


class ModelType(enum.Enum):
    """What a model file is."""

    MINDIR = 0
    MINDIR_LITE = 4


class DataType(enum.Enum):
    """Types of a tensor's elements that occur here."""

    FLOAT16 = 42
    FLOAT32 = 43


@dataclass
class _Ascend:
    """`Context.ascend`, which checks what it is set to."""

    device_id: int = 0
    precision_mode: str = "enforce_fp16"
    provider: str = ""
    rank_id: int = 0

    def __setattr__(self, name: str, value: object) -> None:
        if name not in self.__dataclass_fields__:
            raise AttributeError(name)
        if not isinstance(value, int if name.endswith("_id") else str):
            raise TypeError(f"{name} must not be {type(value)}")
        if name == "precision_mode" and value not in PRECISION_MODES:
            raise ValueError(f"precision_mode must be in {PRECISION_MODES}, but got {value}")
        object.__setattr__(self, name, value)


class Context:
    """What a model is built for; the CPU, until its `target` is set."""

    def __init__(self) -> None:
        self.ascend = _Ascend()
        self._target = ["cpu"]

    @property
    def target(self) -> list[str]:
        """As it was set: the CPU that Lite adds behind an Ascend target is not shown."""
        return self._target

    @target.setter
    def target(self, target: Any) -> None:
        if not isinstance(target, list) or not all(isinstance(name, str) for name in target):
            raise TypeError(f"target must be a list of str, but got {target}")
        if not all(name.lower() in ("cpu", "gpu", "ascend") for name in target):
            raise ValueError(f"target elements must be in ['cpu', 'gpu', 'ascend'], but got {target}")
        self._target = target


@dataclass
class Tensor:
    """An input or output of a model."""

    name: str
    shape: list[int]
    dtype: DataType = DataType.FLOAT32
    memory: AnyArray | None = field(default=None, repr=False)

    def set_data_from_numpy(self, array: Any) -> None:
        """Take over `array`, whose type and number of bytes must be the tensor's; its shape is not looked at."""
        if not isinstance(array, np.ndarray):
            raise TypeError(f"numpy_obj must be numpy.ndarray, but got {type(array)}.")
        if not array.flags.c_contiguous:  # stricter than Lite, whose releases differ in what they do with it
            raise RuntimeError("the array is not contiguous")
        if array.dtype.name.upper() != self.dtype.name:
            raise RuntimeError(f"data type not equal! Numpy type: {array.dtype}, Tensor type: {self.dtype}")
        if array.size != np.prod(self.shape):
            raise RuntimeError(f"data size not equal! Numpy: {array.size}, Tensor: {np.prod(self.shape)}")
        self.memory = array.reshape(self.shape)

    def get_data_to_numpy(self) -> AnyArray:
        """The tensor's own memory, which the next run writes over."""
        if self.memory is None:
            raise RuntimeError("the tensor has no data")
        return self.memory


class Model:
    """A model built for a context."""

    def __init__(self) -> None:
        self._program: Program | None = None
        self._precision = "enforce_origin"
        self._inputs: list[Any] = []
        self._outputs: dict[str, Any] = {}

    def build_from_file(
        self, model_path: Any, model_type: Any, context: Context | None = None, config_path: str = ""
    ) -> None:
        """Load and compile a model."""
        if not (isinstance(model_path, str) and isinstance(model_type, ModelType)):
            raise TypeError(f"a path and a ModelType are needed, but got {model_path}, {model_type}")
        if model_type is not ModelType.MINDIR or config_path:
            raise RuntimeError("the simulated MindSpore Lite builds MINDIR alone, and reads no configuration")
        if not Path(model_path).exists():
            raise RuntimeError("build_from_file failed, model_path does not exist!")
        if context is not None and context.target[0].lower() == "ascend":
            self._precision = context.ascend.precision_mode
        self._program = program_of(model_path)
        self._inputs = [Tensor("input0", list(self._program.shape))]

    def get_inputs(self) -> list[Any]:
        """The inputs, in the model's order."""
        return list(self._inputs)

    def resize(self, inputs: Any, dims: Any) -> None:
        """Compile for inputs of other shapes."""
        if not isinstance(dims, list) or not all(isinstance(row, list) for row in dims):
            raise TypeError("dims must be a list of lists")
        if len(inputs) != len(dims) or len(inputs[0].shape) != len(dims[0]):
            raise ValueError("inputs' size does not match dims' size")
        self._inputs = [Tensor(tensor.name, list(row)) for tensor, row in zip(inputs, dims, strict=True)]

    def predict(self, inputs: Any, outputs: Any = None) -> Any:
        """Run the model on the data of `inputs`."""
        if self._program is None:
            raise RuntimeError("predict failed! Error is the model was not built")
        if not isinstance(inputs, list) or outputs is not None:
            raise TypeError("inputs must be a list of Tensor; outputs are not taken by the simulator")
        for name, array in self._program.run(self._rounded(inputs[0].get_data_to_numpy())).items():
            batch = self._rounded(array)
            tensor = self._outputs.get(name)
            if tensor is None or tensor.shape != list(batch.shape):
                dtype = DataType[batch.dtype.name.upper()]
                tensor = self._outputs[name] = Tensor(name, list(batch.shape), dtype, np.empty_like(batch))
            tensor.get_data_to_numpy()[...] = batch
        return list(self._outputs.values())

    def _rounded(self, array: AnyArray) -> AnyArray:
        if self._precision != "enforce_fp16":
            return array
        return array.astype(np.float16).astype(array.dtype)


class _TensorOfRelease1(Tensor):
    """A tensor with getters."""

    def get_tensor_name(self) -> str:
        """Its name."""
        return self.name

    def get_shape(self) -> list[int]:
        """Its shape."""
        return self.shape


class _ModelOfRelease1(Model):
    """A model that fills the outputs it is given."""

    def build_from_file(
        self, model_path: Any, model_type: Any, context: Any = None, config_path: str = ""
    ) -> None:
        """Load and compile a model for the first device that was appended to `context`."""
        super().build_from_file(model_path, model_type, None, config_path)
        self._inputs = [_TensorOfRelease1("input0", self._inputs[0].shape)]
        self._precision = "enforce_fp16" if context.devices else "enforce_origin"

    def get_outputs(self) -> list[Any]:
        """The outputs, empty until `predict` has filled them."""
        if not self._outputs:
            results = self._program.run(np.zeros(self._inputs[0].shape, np.float32)) if self._program else {}
            self._outputs = {
                name: _TensorOfRelease1(name, list(array.shape), DataType[array.dtype.name.upper()])
                for name, array in results.items()
            }
        return list(self._outputs.values())

    def resize(self, inputs: Any, dims: Any) -> None:
        """Compile for inputs of other shapes."""
        super().resize(inputs, dims)
        self._inputs = [_TensorOfRelease1(tensor.name, tensor.shape) for tensor in self._inputs]
        self._outputs = {}

    def predict(self, inputs: Any, outputs: Any = None) -> Any:
        """Run the model on the data of `inputs` and put the results into `outputs`."""
        if not isinstance(outputs, list):
            raise TypeError(f"outputs must be list, but got {type(outputs)}.")
        assert self._program is not None  # noqa: S101 - there are no inputs without one
        results = self._program.run(self._rounded(inputs[0].get_data_to_numpy()))
        for tensor in outputs:
            tensor.memory = self._rounded(results[tensor.name])


class _ContextOfRelease1:
    """Devices in the order they may be used."""

    def __init__(self) -> None:
        self.devices: list[Any] = []

    def append_device_info(self, device: Any) -> None:
        """Add a device."""
        self.devices.append(device)


release_1 = SimpleNamespace(
    SIMULATED=True,
    __version__="1.10 (SIMULATED, not hardware)",
    Context=_ContextOfRelease1,
    AscendDeviceInfo=lambda device_id=0: SimpleNamespace(device_id=device_id),
    Model=_ModelOfRelease1,
    ModelType=ModelType,
)
