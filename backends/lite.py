"""MINDIR variants through MindSpore Lite's Python API on an Ascend card: the "MINDIR on 310" of older programs.

Lite always adds the CPU behind an Ascend target, for nodes the card cannot take, and tells nobody which node ran where
(so from 2.0 on; 1.9 and 1.10 add none unless asked). Compare `latency_ms` with the CPU's before believing a table.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np

from backends.errors import BackendError, DeviceMismatch
from harness import machine
from harness.contracts import DeviceReport
from harness.detector.artifact import Artifact, TensorSpec, Variant
from harness.errors import MissingExtra, Unavailable
from harness.registry import is_installed
from harness.types import AnyArray

DEVICE = 0
"""The first of those that `ASCEND_RT_VISIBLE_DEVICES` leaves visible."""
_NONE: Mapping[str, float] = MappingProxyType({})
_VENDOR_ERRORS = (RuntimeError, TypeError, ValueError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lite:
    """MINDIR variants on MindSpore Lite's Ascend target, in one precision."""

    precision_mode: str
    """`enforce_origin`: as the model says, or not at all; `enforce_fp16`: in float16."""
    module: str = "mindspore_lite"
    simulated: bool = False
    formats: tuple[str, ...] = ("mindir",)
    environment: Mapping[str, str] = field(default_factory=dict)

    def unavailable(self) -> str | None:
        """Why it cannot run here; `None` when it can, as far as Lite tells before it loads a model."""
        try:
            lite = self._runtime()
            self._context(lite)
        except Unavailable as error:
            return str(error)
        return None

    def open(self, artifact: Artifact, variant: Variant, *, threads: int) -> LiteSession:
        """Build a MINDIR for the first visible Ascend device.

        Raises:
            BackendError: Lite cannot build the model.
            DeviceMismatch: Lite did not take the target or the precision, or is a simulator where hardware was asked for.
            Unavailable: MindSpore Lite is not installed, or has no Ascend target.
        """
        lite = self._runtime()
        context, options = self._context(lite)
        path = artifact.model_file(variant)
        model = lite.Model()
        try:
            model.build_from_file(str(path), lite.ModelType.MINDIR, context)
        except _VENDOR_ERRORS as error:
            raise BackendError(f"{path}: MindSpore Lite cannot build it: {error}{self._advice()}") from error
        report = DeviceReport(
            device=f"{'SIMULATED ' if self.simulated else ''}ascend:{DEVICE}",
            runtime={"mindspore_lite": _version(lite)} | ({} if self.simulated else machine.cann_report()),
            options={**options, "threads_asked": str(threads), **machine.visible_devices()},
            simulated=self.simulated,
        )
        return LiteSession(model, report, variant.outputs)

    def _runtime(self) -> Any:
        if self.simulated and not is_installed("mindspore"):
            raise MissingExtra("MindSpore", "mindspore", needed_for="The simulated MindSpore Lite")
        try:
            lite = importlib.import_module(self.module)
        except ImportError as error:
            raise Unavailable(
                f"MindSpore Lite (the module {self.module}) cannot be imported ({error}): download the wheel for your "
                f"CANN from https://www.mindspore.cn/lite, `pip install` it, then `{machine.CANN_SET_ENV}`; see docs/how-to/ascend-card.md"
            ) from error
        if getattr(lite, "SIMULATED", False) and not self.simulated:
            raise DeviceMismatch(
                f"the module {self.module} at {getattr(lite, '__file__', None)} is a simulator: it measures no "
                "hardware; remove it from PYTHONPATH, or ask for --backend ascend-lite-simulated"
            )
        return lite

    def _context(self, lite: Any) -> tuple[Any, dict[str, str]]:
        """What Lite is asked for, and how the report says it."""
        context = lite.Context()
        if hasattr(lite, "AscendDeviceInfo"):
            return self._context_of_release_1(lite, context)
        try:
            context.target = ["ascend"]
            context.ascend.device_id = DEVICE
            context.ascend.precision_mode = self.precision_mode
        except _VENDOR_ERRORS as error:
            raise Unavailable(
                f"MindSpore Lite {_version(lite)} has no usable Ascend target ({error}): pip install its wheel for "
                f"Ascend, then `{machine.CANN_SET_ENV}`"
            ) from error
        devices = (
            [name.lower() for name in context.target],
            context.ascend.device_id,
            context.ascend.precision_mode,
        )
        if devices[0][:1] != ["ascend"] or devices[1:] != (DEVICE, self.precision_mode):
            raise DeviceMismatch(
                f"asked MindSpore Lite for device {DEVICE} of ascend in {self.precision_mode}, it took {devices}"
            )
        return context, {
            "target": ", ".join(devices[0]),
            "precision_mode": self.precision_mode,
            "cpu_fallback": "added by MindSpore Lite; which node ran where is not told",
        }

    def _context_of_release_1(self, lite: Any, context: Any) -> tuple[Any, dict[str, str]]:
        if self.precision_mode != "enforce_fp16":
            raise Unavailable(
                f"MindSpore Lite {_version(lite)} cannot be asked for a precision and computes in float16: ask for "
                "--backend ascend-lite-fp16, or pip install a release from 2.0 on"
            )
        try:
            context.append_device_info(lite.AscendDeviceInfo(device_id=DEVICE))
        except _VENDOR_ERRORS as error:
            raise Unavailable(
                f"MindSpore Lite {_version(lite)} has no usable Ascend target ({error}): pip install its wheel for "
                f"Ascend, then `{machine.CANN_SET_ENV}`"
            ) from error
        return context, {
            "target": "ascend",
            "precision_mode": "default of MindSpore Lite 1 (float16), cannot be asked for",
            "cpu_fallback": "none asked for",
        }

    def _advice(self) -> str:
        if self.precision_mode == "enforce_fp16":
            return ""
        return (
            "; a chip that has no float32 convolution (Ascend 310, 310P) cannot run this in float32: "
            "ask for float16, --backend ascend-lite-fp16"
        )


class LiteSession:
    """One model built by MindSpore Lite; a batch of another size than the last is asked for by `resize`."""

    def __init__(self, model: Any, report: DeviceReport, outputs: tuple[TensorSpec, ...]) -> None:
        self.report = report
        self.device_ms = _NONE
        self._model = model
        self._outputs = outputs

    def run(self, batch: AnyArray) -> dict[str, AnyArray]:
        """Outputs by name, float32.

        Raises:
            BackendError: Lite refused the batch or failed, or its outputs are not those of the variant.
        """
        try:
            arrays = self._predict(np.ascontiguousarray(batch))
        except _VENDOR_ERRORS as error:
            raise BackendError(
                f"MindSpore Lite failed on a batch of shape {batch.shape}: {error}; if it cannot resize this model, "
                "use --batch-size 1"
            ) from error
        return _by_name(arrays, self._outputs, rows=len(batch))

    def _predict(self, batch: AnyArray) -> dict[str, AnyArray]:
        """Output name in Lite → array of our own, in Lite's order."""
        inputs = self._model.get_inputs()
        if len(inputs) != 1:
            raise ValueError(f"the model has {len(inputs)} inputs, one is needed")
        if _shape(inputs[0]) != batch.shape:
            self._model.resize(inputs, [list(batch.shape)])
            inputs = self._model.get_inputs()
            if _shape(inputs[0]) != batch.shape:
                raise ValueError(f"asked for the input shape {batch.shape}, got {_shape(inputs[0])}")
        inputs[0].set_data_from_numpy(batch)
        if hasattr(inputs[0], "get_tensor_name"):  # 1.9 and 1.10 fill the outputs they are given
            outputs = self._model.get_outputs()
            self._model.predict(inputs, outputs)
        else:
            outputs = self._model.predict(inputs)
        # A copy: Lite may hand out its own memory, which the next run writes over.
        return {_name(tensor): np.array(tensor.get_data_to_numpy(), np.float32) for tensor in outputs}

    def close(self) -> None:
        """Release the model."""
        self._model = None


def _by_name(arrays: dict[str, AnyArray], specs: tuple[TensorSpec, ...], *, rows: int) -> dict[str, AnyArray]:
    """The variant's outputs; by name, or in the variant's order where Lite calls all of them otherwise.

    Raises:
        BackendError: their number, or the shape of one, is not the variant's.
    """
    if len(arrays) != len(specs):
        raise BackendError(
            f"MindSpore Lite gives {len(arrays)} outputs ({', '.join(arrays)}), the manifest says {len(specs)}; "
            "export mindir again"
        )
    if set(arrays) != {spec.name for spec in specs}:
        arrays = dict(zip((spec.name for spec in specs), arrays.values(), strict=True))
    for spec in specs:
        expected = (rows, *spec.shape[1:])
        if arrays[spec.name].shape != expected:
            raise BackendError(
                f"MindSpore Lite gives output {spec.name!r} in the shape {arrays[spec.name].shape}, the manifest says "
                f"{expected}; export mindir again"
            )
    return {spec.name: arrays[spec.name] for spec in specs}


def _shape(tensor: Any) -> tuple[int, ...]:
    """1.9 and 1.10 have getters, later releases have properties."""
    return tuple(tensor.get_shape() if hasattr(tensor, "get_shape") else tensor.shape)


def _name(tensor: Any) -> str:
    return str(tensor.get_tensor_name() if hasattr(tensor, "get_tensor_name") else tensor.name)


def _version(lite: Any) -> str:
    """Of the distribution; the module itself need not have one."""
    if hasattr(lite, "__version__"):
        return str(lite.__version__)
    try:
        return importlib.metadata.version("mindspore_lite")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


ascend = Lite(precision_mode="enforce_origin")
ascend_fp16 = Lite(precision_mode="enforce_fp16")
ascend_simulated = Lite(precision_mode="enforce_origin", module="backends.simulators.lite", simulated=True)
