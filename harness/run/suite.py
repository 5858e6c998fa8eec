"""Run a suite category by category: fit, export, measure. A category that fails does not stop the others."""

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
from harness.run import plan
from harness.run.interrupted import Interrupted
from harness.run.suite_ready import UNTRAINED, Ready, Step, missing_formats

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The records of a suite, and the categories without records."""

    records: tuple[Record, ...]
    failures: dict[str, str]
    """Category → why its fit or export failed."""


def run(
    ready: Ready, *, say: Say, report: Callable[[Record], None], progress: plan.Progress | None = None
) -> Outcome:
    """Fit, export and measure whatever is not finished.

    Args:
        ready: From `suite_ready.ready`.
        say: Called with each line about the work.
        report: Called with each record as it is written.
        progress: Shows the progress of each case.

    Raises:
        Interrupted: on Ctrl-C.
    """
    records: list[Record] = []
    failures: dict[str, str] = {}
    for number, step in enumerate(ready.steps):
        name = step.category.name
        stopped = Interrupted(number - len(failures), len(ready.steps), "categories are finished and kept")
        try:
            measurement = _prepared(ready, step, say)
            timeout = ready.request.options.timeout
            records += plan.run(measurement, timeout=timeout, report=report, progress=progress)
        except KeyboardInterrupt:
            raise stopped from None
        except HarnessError as error:
            if error.exit_code == 130:  # a signal stopped a training, which wrote a checkpoint
                raise stopped from error
            failures[name] = str(error)
        except Exception as error:  # noqa: BLE001 - a defect in one category must not stop the others
            failures[name] = f"{type(error).__name__}: {error}"
        if name in failures:
            say(f"{name}: failed: {failures[name]}")
    return Outcome(records=tuple(records), failures=failures)


def fitted(ready: Ready, step: Step) -> tuple[Artifact, bool]:
    """The category's artifact, and whether it was fitted now.

    Without MindSpore or weights it is that of an earlier run; with them the fit itself decides whether that is still valid.
    """
    without_weights = ready.request.weights is None and ready.request.suite.backbone != "none"
    if step.fitted is not None and (without_weights or not registry.is_installed("mindspore")):
        return step.fitted, False
    request = _fit_request(ready, step)
    result: tuple[Artifact, bool]
    try:
        result = build.fit(request)
    except HarnessError as error:
        if not ready.request.options.force or error.exit_code != 2:  # 2: fitted from another request
            raise
        result = build.fit(dataclasses.replace(request, force=True, resume=False))
    return result


def _prepared(ready: Ready, step: Step, say: Say) -> plan.Plan:
    """Fit and export one category, and plan its cases."""
    request, name = ready.request, step.category.name
    artifact, fresh = fitted(ready, step)
    formats = missing_formats(artifact, ready.backends)
    for format_ in formats:
        build.export(artifact, format_)
    suite = request.suite
    measurement = plan.plan(
        plan.BenchRequest(
            artifacts=(step.path,),
            data=request.data,
            categories=(name,),
            backends=ready.backends,
            out=request.out,
            suite=suite.name,
            options=dataclasses.replace(
                request.options, mask_threshold=suite.mask_threshold, mask_resize=suite.mask_resize
            ),
        )
    )
    how_fitted = f"fitted in {artifact.manifest.fit_report.get('seconds')} s" if fresh else "fitted before"
    how_exported = f"exported as {' and '.join(formats)}" if formats else "exported before"
    say(
        f"{name}: {how_fitted}, {how_exported}, {len(measurement.finished)} cases measured before, "
        f"{len(measurement.jobs)} to go"
    )
    return measurement


def _fit_request(ready: Ready, step: Step) -> FitRequest:
    request = ready.request
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
