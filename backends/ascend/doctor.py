"""What an Ascend card needs, step by step: driver, toolkit, pyACL, device, chip, memory, compiler, a model that runs."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from backends.ascend import codes
from backends.ascend.adapter import DEVICE, Ascend, family
from backends.ascend.runtime import Acl, Runtime, runtime
from harness import build, machine
from harness.build import OmRequest
from harness.detector import artifact
from harness.detector.artifact import Artifact, Variant
from harness.doctor import smoke_model
from harness.doctor.steps import Fault, Step, agreement
from harness.errors import HarnessError

NODES = Path("/dev")
_MEMORY_DDR = 0
_SIMULATED_CANN = "7.0"
"""The simulated board's own."""
_DRIVER = (
    "install the driver and firmware for the card, reboot, look at `npu-smi info`, and add the user to the group "
    "HwHiAiUser; in a container, pass /dev/davinci0, davinci_manager, devmm_svm and hisi_hdc in"
)
_STARTED = "ATC start working now"


def steps(backend: Ascend) -> tuple[Step, ...]:
    """The steps for one family of cards; for the simulator, those that need no hardware."""
    walk = _Walk(backend)
    here = (
        Step(name="driver", ask=walk.driver),
        Step(name="toolkit", ask=walk.toolkit),
    )
    simulated = backend.simulated
    return (
        *(() if simulated else here),
        Step(name="acl", ask=walk.pyacl, needs=() if simulated else ("toolkit",)),
        Step(name="device", ask=walk.device, needs=("acl",)),
        Step(name="chip", ask=walk.chip, needs=("device",)),
        Step(name="run mode", ask=walk.run_mode, needs=("device",)),
        Step(name="memory", ask=walk.memory, needs=("device",)),
        Step(name="atc", ask=walk.compiler, needs=() if simulated else ("toolkit",)),
        Step(name="model", ask=walk.model, needs=("chip", "run mode", "memory", "atc")),
    )


@dataclass(frozen=True, slots=True)
class _Walk:
    backend: Ascend

    def driver(self) -> str:
        nodes = sorted(node for node in NODES.glob("davinci*") if node.name[7:].isdecimal())
        if not nodes:
            raise Fault(f"no {NODES}/davinci0: no driver is loaded, or no card is in", _DRIVER)
        closed = [str(node) for node in nodes if not os.access(node, os.R_OK | os.W_OK)]
        if closed:
            raise Fault(f"{', '.join(closed)}: this user may not open it", _DRIVER)
        tool = shutil.which("npu-smi") or "not on PATH (only needed to look)"
        return f"{', '.join(map(str, nodes))}; npu-smi: {tool}"

    def toolkit(self) -> str:
        home, version = machine.cann_home(), machine.cann_version()
        advice = f"install CANN (8.0 or older for an Ascend 310), then in this shell: {machine.CANN_SET_ENV}"
        if home is None:
            raise Fault("neither ASCEND_HOME_PATH nor ASCEND_TOOLKIT_HOME is set", advice)
        if version is None:
            raise Fault(f"{home}: no version.info that says the version", advice)
        return f"CANN {version} in {home}"

    def pyacl(self) -> str:
        module = self.backend.load()
        kind = "bytes_to_ptr" if hasattr(module.util, "bytes_to_ptr") else "numpy_to_ptr"
        return f"{getattr(module, '__file__', None) or 'simulated'}, data by {kind}"

    def device(self) -> str:
        acl = self._acl()
        count = acl.do("rt.get_device_count")
        if count < 1:
            raise Fault(
                "CANN finds no device",
                f"look at `npu-smi info`; {machine.VISIBLE_DEVICES} must not hide the card",
            )
        visible = machine.visible_devices()[machine.VISIBLE_DEVICES]
        return f"{count} visible ({machine.VISIBLE_DEVICES}: {visible}); the first is used"

    def chip(self) -> str:
        soc = self._soc()
        if family(soc) != self.backend.family:
            raise Fault(
                f"{soc}, which is not of the family {self.backend.family}",
                "ask for its backend: ascend310, ascend310p or ascend310b",
            )
        return soc

    def run_mode(self) -> str:
        modes = {
            codes.RUN_MODE_DEVICE: "device: this program runs on the chip itself",
            codes.RUN_MODE_HOST: "host: this program reaches the card over PCIe",
        }
        mode = self._acl().do("rt.get_run_mode")
        if mode not in modes:
            raise Fault(f"unknown run mode {mode}", "report it with the version of CANN")
        return modes[mode]

    def memory(self) -> str:
        acl = self._acl()
        acl.do("rt.set_device", DEVICE)
        try:
            free, total = acl.do("rt.get_mem_info", _MEMORY_DDR)
        finally:
            acl.do("rt.reset_device", DEVICE)
        if free <= 0:
            raise Fault(f"{free} of {total} bytes free", "close other programs that use the card")
        return f"{free / 2**20:.0f} of {total / 2**20:.0f} MiB free"

    def compiler(self) -> str:
        if self.backend.simulated:
            return "the simulated atc"
        program = shutil.which("atc")
        if program is None:
            raise Fault(
                "atc is not on PATH",
                f"install the toolkit, not the runtime package alone, then: {machine.CANN_SET_ENV}; or compile on another "
                "host (no card is needed) and bring the artifact here",
            )
        try:
            done = subprocess.run(
                [program, "--help"],
                capture_output=True,
                text=True,
                errors="replace",
                timeout=120,
                check=False,
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise Fault(
                f"{program} cannot be started: {error}", f"in this shell: {machine.CANN_SET_ENV}"
            ) from error
        if done.returncode != 0 or _STARTED not in done.stdout:
            last = (done.stdout + done.stderr).strip().splitlines()[-1:] or ["nothing"]
            raise Fault(
                f"{program} --help ended with status {done.returncode}: {last[0]}",
                f"in this shell: {machine.CANN_SET_ENV}; atc needs the Python packages its CANN names",
            )
        return f"{program} (of CANN {machine.cann_version()})"

    def model(self) -> str:
        simulated = self.backend.simulated
        request = OmRequest(
            soc=self._soc(),
            atc="simulated" if simulated else "atc",
            cann=_SIMULATED_CANN if simulated else None,
        )
        with tempfile.TemporaryDirectory() as folder:
            smoke_artifact = smoke_model.write(Path(folder) / "smoke")
            variant = _compiled(smoke_artifact, request)
            session = self.backend.open(artifact.read(smoke_artifact.path), variant, threads=1)
            with contextlib.closing(session):
                batch = smoke_model.images()
                outputs, times = session.run(batch), dict(session.device_ms)
        times_in_words = ", ".join(f"{name} {value:.2f} ms" for name, value in times.items())
        return f"{agreement(smoke_model.difference(outputs, batch))}, compiled in {request.precision_mode} ({times_in_words})"

    def _runtime(self) -> Runtime:
        """AscendCL, initialised once; it is finalised when this process ends."""
        loaded = runtime(self.backend.load)
        loaded.start()
        return loaded

    def _acl(self) -> Acl:
        return self._runtime().acl

    def _soc(self) -> str:
        return str(self._acl().get("get_soc_name"))


def _compiled(smoke_artifact: Artifact, request: OmRequest) -> Variant:
    """The OM of the trial model.

    Raises:
        Fault: `atc` failed; its last lines are in the message, because the folder goes.
    """
    try:
        return build.export(smoke_artifact, "om", om=request)
    except HarnessError as error:
        logs = [
            path.read_text(encoding="utf-8", errors="replace")
            for path in smoke_artifact.path.glob("*failed.log")
        ]
        said = " | ".join("".join(logs).strip().splitlines()[-5:])
        raise Fault(
            f"the trial model cannot be compiled: {str(error).partition('; its whole output')[0]}",
            f"atc said: {said or 'nothing'}; see docs/how-to/ascend-card.md",
        ) from error
