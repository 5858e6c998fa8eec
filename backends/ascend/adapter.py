"""OM variants through pyACL: one adapter, one row per family of cards, and one for the simulator."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from backends.ascend.runtime import Runtime, runtime
from backends.ascend.session import AscendSession
from backends.errors import BackendError, DeviceMismatch
from harness.contracts import DeviceReport
from harness.detector.artifact import Artifact, Variant
from harness.errors import Unavailable

DEVICE = 0
"""The first of those that `ASCEND_RT_VISIBLE_DEVICES` leaves visible."""


def installed_acl() -> Any:
    """The module `acl` of the CANN installation.

    Raises:
        DeviceMismatch: what goes by that name is a simulator.
        Unavailable: there is none.
    """
    try:
        import acl
    except ImportError as error:
        raise Unavailable(
            f"pyACL (the Python module acl) cannot be imported ({error}): install the Ascend driver and CANN, then "
            "`source /usr/local/Ascend/ascend-toolkit/set_env.sh`; see docs/how-to/ascend-card.md"
        ) from error
    if getattr(acl, "SIMULATED", False):
        raise DeviceMismatch(
            f"the module acl at {getattr(acl, '__file__', None)} is a simulator: it measures no hardware; "
            "remove it from PYTHONPATH, or ask for --backend ascend310-simulated"
        )
    return acl


def simulated_acl() -> Any:
    """A simulated board with one Ascend 310.

    Raises:
        MissingExtra: onnxruntime, which computes for it, is not installed.
    """
    from backends.simulators.acl import Board, create

    return create(Board())


@dataclass(frozen=True, slots=True, kw_only=True)
class Ascend:
    """OM variants on one family of Ascend cards."""

    family: str
    """Of the SoC, what stands before its number: `Ascend310`, `Ascend310P`."""
    load: Callable[[], Any] = installed_acl
    """Gives the module `acl`."""
    simulated: bool = False
    formats: tuple[str, ...] = ("om",)
    environment: Mapping[str, str] = field(default_factory=dict)

    def unavailable(self) -> str | None:
        """Why no such card can be used here; `None` when one can. Opens and closes the device."""
        try:
            acl = self._runtime()
            acl.start()
            try:
                count = acl.acl.do("rt.get_device_count")
                if count < 1:
                    return "CANN finds no Ascend device: see npu-smi info"
                self._soc(acl)
            finally:
                acl.finish()
        except (Unavailable, BackendError) as error:
            return str(error)
        return None

    def open(self, artifact: Artifact, variant: Variant, *, threads: int) -> AscendSession:
        """Open an OM on the first visible device.

        Raises:
            BackendError: a pyACL call failed, or the OM is not what the manifest says.
            DeviceMismatch: another card, an OM for another family, a simulator where hardware was asked for, or the
                other way round.
            Unavailable: pyACL is not installed.
        """
        del threads  # the host only copies
        acl = self._runtime()
        if variant.target is None:
            raise BackendError(
                f"{artifact.path}: {variant.id} does not say what it was compiled for; export it again"
            )
        if variant.target.simulated != self.simulated:
            what = ("simulated", "hardware") if variant.target.simulated else ("real", "the simulator")
            raise DeviceMismatch(
                f"{artifact.path}: {variant.id} was compiled by a {what[0]} atc and does not run on {what[1]}; "
                "export it with the other atc, or choose another --variant"
            )
        if family(variant.target.soc) != self.family:
            raise DeviceMismatch(
                f"{artifact.path}: {variant.id} was compiled for {variant.target.soc}, not for {self.family}; "
                f"choose another --variant, or export with --soc"
            )
        model = artifact.model_file(variant)
        acl.start()
        soc = self._soc(acl)
        report = DeviceReport(
            device=f"{'SIMULATED ' if self.simulated else ''}{soc}:{DEVICE}",
            runtime={
                "acl": "simulated" if self.simulated else "pyACL",
                "compiled by CANN": variant.target.cann,
            },
            options={**variant.target.options, "soc": soc, "compiled for": variant.target.soc},
            simulated=self.simulated,
        )
        try:
            return AscendSession(acl, model, variant, device=DEVICE, report=report)
        except BackendError as error:
            error.args = (f"{model}: {error}",)
            raise

    def _runtime(self) -> Runtime:
        return runtime(self.load)

    def _soc(self, acl: Runtime) -> str:
        """Name of the chip.

        Raises:
            DeviceMismatch: it is of another family.
        """
        soc: str | None = acl.acl.get("get_soc_name")
        if soc is None or family(soc) != self.family:
            raise DeviceMismatch(
                f"the chip here is {soc or 'unknown to CANN'}, asked for {self.family}: choose its --backend"
            )
        return soc


def family(soc: str) -> str:
    """`Ascend310P3` → `Ascend310P`."""
    match = re.match(r"Ascend\d+[A-Z]*", soc)
    return match.group() if match else soc


ascend310 = Ascend(family="Ascend310")
ascend310p = Ascend(family="Ascend310P")
ascend310b = Ascend(family="Ascend310B")
ascend310_simulated = Ascend(family="Ascend310", load=simulated_acl, simulated=True)
