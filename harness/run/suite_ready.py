"""Check everything a suite needs before any work, and report all that is missing at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import ParamSpec, TypeVar

import msgspec

from harness import __version__, build, datasets, errors, registry, storage
from harness.detector import artifact
from harness.detector.artifact import Artifact
from harness.detector.settings import Settings
from harness.errors import ArtifactError, DatasetError, HarnessError, MissingExtra, Unavailable, UsageError
from harness.run import plan, worker
from harness.run.options import RunOptions
from harness.suites.definition import Suite
from harness.types import Category, Device

P = ParamSpec("P")
T = TypeVar("T")

UNTRAINED = "random"


@dataclass(frozen=True, slots=True, kw_only=True)
class SuiteRequest:
    """A suite, and how to run it."""

    suite: Suite
    data: Path
    """The folder that holds the categories."""
    weights: Path | None
    """Backbone weights, or `random` for an untrained backbone drawn from the suite's seed; a fit needs one of them."""
    out: Path
    """Folder for the records, and for the artifacts in `artifacts/SUITE/CATEGORY`."""
    categories: tuple[str, ...] = ()
    """Empty: all of the suite's."""
    backends: tuple[str, ...] = ()
    """Empty: the suite's, else every backend that runs on this machine."""
    device: Device = "cpu"
    """Device of the fit."""
    options: RunOptions = field(default_factory=RunOptions)
    """The suite's masks replace these; `force` also replaces detectors fitted from another request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One category of a suite."""

    category: Category
    settings: Settings
    path: Path
    """The folder of its artifact, which may not exist yet."""
    fitted: Artifact | None
    """The artifact of an earlier run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """A suite that can run."""

    request: SuiteRequest
    backends: tuple[str, ...]
    steps: tuple[Step, ...]


class _Problems:
    """Everything that is missing or wrong."""

    def __init__(self) -> None:
        self.errors: list[HarnessError] = []

    def check(self, action: Callable[P, T], *args: P.args, **named: P.kwargs) -> T | None:
        """The result of `action`; `None` if it raises an error, which is collected."""
        try:
            return action(*args, **named)
        except HarnessError as error:
            self.errors.append(error)
            return None

    def require_none(self, suite: str) -> None:
        """Raise all errors as one: `Unavailable` if only this machine lacks something, else `UsageError`."""
        if self.errors:
            kind = Unavailable if all(isinstance(error, Unavailable) for error in self.errors) else UsageError
            listed = "".join(f"\n  - {error}" for error in self.errors)
            raise kind(f"the suite {suite} cannot start; missing or wrong:{listed}")


def ready(request: SuiteRequest) -> Ready:
    """Check everything the suite needs.

    Raises:
        UsageError: something on disk is missing or wrong; the message lists everything.
        Unavailable: this machine lacks a backend, MindSpore or a package, and nothing else is wrong.
    """
    problems = _Problems()
    problems.check(plan.require_cores, request.options.threads)
    problems.check(storage.require_writable, request.out)
    digest = problems.check(_weights_digest, request)
    categories = _categories(request, problems)
    checked = [problems.check(_step, request, category, digest) for category in categories]
    steps = [step for step in checked if step is not None]
    backends = _backends(request, problems)
    if request.suite.detector == "patchcore":
        problems.check(_require_package, "faiss", "faiss-cpu", "faiss", "PatchCore's nearest neighbours")
    unfitted = _unfitted(request, steps)
    if unfitted:
        problems.check(_require_weights, request)
    if unfitted or any(missing_formats(step.fitted, backends) for step in steps if step.fitted):
        problems.check(_require_package, "mindspore", "MindSpore", "mindspore", "fitting and exporting")
    problems.require_none(request.suite.name)
    return Ready(request=request, backends=backends, steps=tuple(steps))


def missing_formats(detector: Artifact, backends: tuple[str, ...]) -> list[str]:
    """The formats that must still be exported for the backends to open the artifact."""
    present = {variant.format for variant in detector.manifest.variants}
    opened = [registry.backend(name).formats for name in backends]
    return list(dict.fromkeys(formats[0] for formats in opened if not present & set(formats)))


def _weights_digest(request: SuiteRequest) -> str | None:
    """SHA-256 of the weights file, checked to fit the backbone; `None` without a file."""
    backbone = request.suite.backbone
    if backbone == "none" or request.weights is None or str(request.weights) == UNTRAINED:
        return None
    build.require_weights(request.weights, backbone)
    return storage.sha256_of_file(request.weights)


def _require_weights(request: SuiteRequest) -> None:
    if request.weights is None and request.suite.backbone != "none":
        raise UsageError(
            f"--weights W: a fit needs weights of {request.suite.backbone}, or `{UNTRAINED}` to try things out"
        )


def _require_package(module: str, package: str, extra: str, needed_for: str) -> None:
    if not registry.is_installed(module):
        raise MissingExtra(package, extra, needed_for=needed_for)


def _requested(request: SuiteRequest) -> tuple[str, ...]:
    return request.categories or request.suite.categories


def _categories(request: SuiteRequest, problems: _Problems) -> list[Category]:
    """The requested categories that are in the suite and on disk."""
    suite = request.suite
    requested = [name for name in _requested(request) if name in suite.categories]
    for name in _requested(request):
        if name not in suite.categories:
            message = errors.unknown(f"category of the suite {suite.name}", name, suite.categories)
            problems.errors.append(UsageError(message))
    present = problems.check(datasets.list_categories, request.data)
    if present is None:
        return []
    absent = [name for name in requested if name not in present]
    if absent:
        problems.errors.append(DatasetError(f"{request.data}: no category {', '.join(absent)}"))
    checked = [problems.check(_category, request.data, name) for name in requested if name in present]
    return [category for category in checked if category is not None]


def _category(data: Path, name: str) -> Category:
    category = datasets.load_category(data, name)
    if not category.test:
        raise DatasetError(f"{category.root}/test: no test images, so nothing to score")
    return category


def _folder(request: SuiteRequest, category: str) -> Path:
    return request.out / "artifacts" / request.suite.name / category


def _unfitted(request: SuiteRequest, steps: list[Step]) -> list[str]:
    """Requested categories without a detector, whether their images exist or not."""
    fitted = {step.category.name: step.fitted is not None for step in steps}
    return [name for name in _requested(request) if not fitted.get(name, _folder(request, name).exists())]


def _step(request: SuiteRequest, category: Category, weights_sha256: str | None) -> Step:
    path = _folder(request, category.name)
    settings = request.suite.settings_for(category.name)
    fitted = artifact.read(path) if path.exists() else None
    if fitted is not None:
        difference = _difference(fitted, request, settings, category, weights_sha256)
        if difference and not request.options.force:
            raise ArtifactError(
                f"{path}: fitted with {difference}; --force fits it again, another --out keeps both"
            )
        fitted = None if difference else fitted
    return Step(category=category, settings=settings, path=path, fitted=fitted)


def _difference(
    fitted: Artifact,
    request: SuiteRequest,
    settings: Settings,
    category: Category,
    weights_sha256: str | None,
) -> str | None:
    """How an artifact differs from the requested one, in words; `None` if it does not."""
    manifest = fitted.manifest
    pairs = {
        "another detector": (manifest.detector, request.suite.detector),
        "another backbone": (manifest.backbone, request.suite.backbone),
        "another seed": (manifest.seed, request.suite.seed),
        "other settings": (manifest.settings, msgspec.json.decode(msgspec.json.encode(settings))),
        "another version of the harness": (manifest.software.get("harness"), __version__),
        "other training images": (manifest.training.fingerprint, datasets.fingerprint(category, "train")),
        "other weights": (manifest.weights.sha256, weights_sha256 or manifest.weights.sha256),
    }
    return next((words for words, (actual, requested) in pairs.items() if actual != requested), None)


def _backends(request: SuiteRequest, problems: _Problems) -> tuple[str, ...]:
    requested = request.backends or request.suite.backends
    if requested:
        return tuple(name for name in dict.fromkeys(requested) if problems.check(_runs_here, name))
    runnable = tuple(
        name
        for name, reason in worker.probe_all().items()
        if reason is None and not registry.backend(name).simulated  # simulators run only on request
    )
    if not runnable:
        problems.errors.append(
            Unavailable("no backend can run here; python -m harness backends says what each needs")
        )
    return runnable


def _runs_here(name: str) -> bool:
    """`True`.

    Raises:
        Unavailable: nothing exports for the backend, or it does not run on this machine.
    """
    formats = registry.backend(name).formats
    if formats[0] not in registry.EXPORTERS:
        raise Unavailable(f"{name}: nothing here exports {formats[0]}")
    reason = worker.probe(name)
    if reason is not None:
        raise Unavailable(f"{name}: {reason}")
    return True
