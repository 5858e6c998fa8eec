"""Walks what a backend needs, step by step, and says of each what was found and what to do.

A backend brings its own steps (`harness.registry.DOCTORS`); every other one is asked whether it can run here, and runs a
model of one convolution. The steps run in a process of their own (`harness.run.worker.examine`), because a driver may take
its process down.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from harness import registry
from harness.doctor import smoke_model
from harness.errors import HarnessError


class Check(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How one step ended."""

    name: str
    passed: bool | None
    """`None`: not checked."""
    found: str
    advice: str = ""
    simulated: bool = False

    def line(self) -> str:
        """One line for a terminal, two where there is something to do."""
        verdict = {True: "passed", False: "FAILED", None: "not checked"}[self.passed]
        mark = "SIMULATED  " if self.simulated else ""
        advice = f"\n{mark}{'':11}  what to do: {self.advice}" if self.advice else ""
        return f"{mark}{verdict:11}  {self.name}: {self.found}{advice}"


class Fault(HarnessError):  # noqa: N818 - what a step finds
    """A step that did not pass; `advice` says what to do."""

    def __init__(self, found: str, advice: str) -> None:
        super().__init__(found)
        self.advice = advice


class NotChecked(HarnessError):  # noqa: N818 - what a step finds
    """A step that could not be made, through no fault of the machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One thing to look at."""

    name: str
    ask: Callable[[], str]
    """Gives what was found; raises `Fault`, `NotChecked` or any other `HarnessError`."""
    needs: tuple[str, ...] = ()
    """Steps without which this one makes no sense."""


def examine(backend: str) -> Iterator[Check]:
    """Every step of `backend`, in order, as it is made; in this process.

    Raises:
        UsageError: there is no such backend.
    """
    asked = registry.backend(backend)
    if backend not in registry.DOCTORS:
        return walk(_generic(backend), simulated=asked.simulated)
    steps = registry.resolve("doctor", backend, registry.DOCTORS)
    return walk(steps(asked), simulated=asked.simulated)


def walk(steps: Sequence[Step], *, simulated: bool = False) -> Iterator[Check]:
    """Make the steps in order; one whose needs did not pass is not made."""
    passed: set[str] = set()
    for step in steps:
        missing = [name for name in step.needs if name not in passed]
        if missing:
            found = f"needs {', '.join(missing)}"
            yield Check(name=step.name, passed=None, found=found, simulated=simulated)
            continue
        try:
            check = Check(name=step.name, passed=True, found=step.ask(), simulated=simulated)
            passed.add(step.name)
        except NotChecked as error:
            check = Check(name=step.name, passed=None, found=str(error), simulated=simulated)
        except Fault as error:
            check = Check(
                name=step.name, passed=False, found=str(error), advice=error.advice, simulated=simulated
            )
        except HarnessError as error:  # its message says the next step
            check = Check(name=step.name, passed=False, found=str(error), simulated=simulated)
        yield check


def _generic(backend: str) -> tuple[Step, ...]:
    return (
        Step(name="installed", ask=lambda: _installed(backend)),
        Step(name="model", ask=lambda: _model(backend), needs=("installed",)),
    )


def _installed(backend: str) -> str:
    reason = registry.backend(backend).unavailable()
    if reason is not None:
        raise Fault("cannot run here", reason)
    return "can run here"


def _model(backend: str) -> str:
    asked = registry.backend(backend)
    if "onnx" not in asked.formats:
        raise NotChecked(
            f"there is no ten-line model in format {asked.formats[0]}: run bench on an exported artifact"
        )
    with tempfile.TemporaryDirectory() as folder:
        found = smoke_model.write(Path(folder) / "smoke")
        session = asked.open(found, found.variant(("onnx",)), threads=1)
        try:
            batch = smoke_model.images()
            outputs, report = session.run(batch), session.report
        finally:
            session.close()
    runtime = ", ".join(f"{name} {version}" for name, version in report.runtime.items())
    return f"{agreement(smoke_model.difference(outputs, batch))} on {report.device} ({runtime})"


def agreement(difference: float) -> str:
    """What is found of a model's answer that lies `difference` from the right one.

    Raises:
        Fault: too far.
    """
    if difference > smoke_model.TOLERANCE:
        raise Fault(
            f"the model of one convolution gives another result than numpy (relative difference {difference:.1e}, "
            f"{smoke_model.TOLERANCE:g} allowed)",
            "believe no number of this backend; try another release of its runtime or driver",
        )
    return f"the model of one convolution agrees with numpy to {difference:.1e}"
