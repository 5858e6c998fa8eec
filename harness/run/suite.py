"""A suite from its first category to its last: fit, export, measure; one that fails does not stop the others."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from harness import build, registry
from harness.build import FitRequest
from harness.detector.artifact import Artifact
from harness.errors import HarnessError
from harness.records.record import Record
from harness.run import plan as plan_module
from harness.run.plan import BenchRequest
from harness.run.suite_ready import UNTRAINED, Ready, Step, missing_formats

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a suite gave."""

    records: tuple[Record, ...]
    failures: dict[str, str]
    """Category → why it has no records: its fit or export failed."""


class Interrupted(Exception):  # noqa: N818 - Ctrl-C is no error
    """Ctrl-C: what is finished stays finished."""

    def __init__(self, done: int, total: int) -> None:
        super().__init__(
            f"interrupted: {done} of {total} categories are finished and kept; the same command continues"
        )


def run(plan: Ready, *, say: Say, report: Callable[[Record], None]) -> Outcome:
    """Fit what is not fitted, export what is not exported, measure what is not measured.

    Args:
        plan: From `ready`.
        say: Takes each line of what is going on.
        report: Called with each record as it is made.

    Raises:
        Interrupted: on Ctrl-C.
    """
    records: list[Record] = []
    failures: dict[str, str] = {}
    for done, step in enumerate(plan.steps):
        try:
            records += _case(plan, step, say, report)
        except (KeyboardInterrupt, plan_module.Interrupted):
            raise Interrupted(done - len(failures), len(plan.steps)) from None
        except HarnessError as error:
            if error.exit_code == 130:  # a training stopped by a signal, with a checkpoint
                raise Interrupted(done - len(failures), len(plan.steps)) from error
            failures[step.category.name] = str(error)
        except Exception as error:  # noqa: BLE001 - a defect in one category leaves the others their hours
            failures[step.category.name] = f"{type(error).__name__}: {error}"
        if step.category.name in failures:
            say(f"{step.category.name}: failed: {failures[step.category.name]}")
    return Outcome(records=tuple(records), failures=failures)


def _case(plan: Ready, step: Step, say: Say, report: Callable[[Record], None]) -> tuple[Record, ...]:
    request, name = plan.request, step.category.name
    found, fresh = _fitted(plan, step)
    took = f"fitted in {found.manifest.fit_report.get('seconds')} s" if fresh else "fitted before"
    formats = missing_formats(found, plan.backends)
    for format_ in formats:
        build.export(found, format_)
    measure = plan_module.plan(
        BenchRequest(
            artifacts=(step.path,),
            data=request.data,
            categories=(name,),
            backends=plan.backends,
            out=request.out,
            batch_size=request.batch_size,
            threads=request.threads,
            warmup=request.warmup,
            mask_threshold=request.suite.mask_threshold,
            mask_resize=request.suite.mask_resize,
            suite=request.suite.name,
            timeout=request.timeout,
            force=request.force,
        )
    )
    exported = f"exported as {' and '.join(formats)}" if formats else "exported before"
    say(
        f"{name}: {took}, {exported}, {len(measure.finished)} cases measured before, {len(measure.jobs)} to go"
    )
    return plan_module.run(measure, timeout=request.timeout, report=report)


def _fitted(plan: Ready, step: Step) -> tuple[Artifact, bool]:
    """The category's artifact, and whether it was fitted now.

    That of an earlier run where MindSpore or the weights are not there; where they are, the fit itself says whether it
    still stands.
    """
    without_weights = plan.request.weights is None and plan.request.suite.backbone != "none"
    if step.fitted is not None and (without_weights or not registry.is_installed("mindspore")):
        return step.fitted, False
    fit = registry.resolve("stage", "fit", registry.STAGES)
    wanted = _fit_request(plan, step)
    found: tuple[Artifact, bool]
    try:
        found = fit(wanted)
    except HarnessError as error:
        if not plan.request.force or error.exit_code != 2:  # 2: what is there is of another request
            raise
        found = fit(dataclasses.replace(wanted, force=True, resume=False))
    return found


def _fit_request(plan: Ready, step: Step) -> FitRequest:
    request = plan.request
    weights: Path | None = request.weights
    if request.suite.backbone == "none" or str(weights) == UNTRAINED:
        weights = None
    return FitRequest(
        detector=request.suite.detector,
        backbone=request.suite.backbone,
        weights=weights,
        dataset=request.data.resolve().name,
        category=step.category,
        out=step.path,
        settings=step.settings,
        seed=request.suite.seed,
        device=request.device,
        resume=True,
    )
