"""What a suite needs, found before any work; what is missing is said all at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ParamSpec, TypeVar

import msgspec

from harness import __version__, datasets, errors, registry, storage
from harness.detector import artifact
from harness.detector.artifact import Artifact
from harness.detector.settings import Settings
from harness.errors import ArtifactError, DatasetError, HarnessError, MissingExtra, Unavailable, UsageError
from harness.run import plan, worker
from harness.suites.definition import Suite
from harness.types import Category, Device

P = ParamSpec("P")
T = TypeVar("T")

UNTRAINED = "random"


@dataclass(frozen=True, slots=True, kw_only=True)
class SuiteRequest:
    """A suite, and on what it is to be run."""

    suite: Suite
    data: Path
    """The folder that holds the categories."""
    weights: Path | None
    """Backbone weights; `random` for an untrained backbone drawn from the suite's seed. A fit needs one or the other."""
    out: Path
    """Gets the records, and the artifacts in `artifacts/SUITE/CATEGORY`."""
    categories: tuple[str, ...] = ()
    """Empty: all of the suite's."""
    backends: tuple[str, ...] = ()
    """Empty: the suite's, else every backend of this machine."""
    device: Device = "cpu"
    """What a fit runs on."""
    batch_size: int = 1
    threads: int = 1
    warmup: int = 3
    timeout: float = 600.0
    force: bool = False
    """Measure finished cases again, and replace detectors fitted from another request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One category, with all that is known of it."""

    category: Category
    settings: Settings
    path: Path
    """Where its artifact is, or will be."""
    fitted: Artifact | None
    """The artifact of an earlier run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """A suite that nothing is missing for."""

    request: SuiteRequest
    backends: tuple[str, ...]
    steps: tuple[Step, ...]


class _Problems:
    """What is missing, gathered."""

    def __init__(self) -> None:
        self.found: list[HarnessError] = []

    def of(self, action: Callable[P, T], *args: P.args, **named: P.kwargs) -> T | None:
        """What `action` gives; `None` when it says that something is missing."""
        try:
            return action(*args, **named)
        except HarnessError as error:
            self.found.append(error)
            return None

    def require_none(self, name: str) -> None:
        """Raise them all as one, `Unavailable` when nothing else than this machine is at fault."""
        if self.found:
            kind = Unavailable if all(isinstance(error, Unavailable) for error in self.found) else UsageError
            listed = "".join(f"\n  - {error}" for error in self.found)
            raise kind(f"the suite {name} cannot start; missing or wrong:{listed}")


def ready(request: SuiteRequest) -> Ready:
    """Find everything the suite needs.

    Raises:
        UsageError: something is missing on disk or wrong; lists all of it.
        Unavailable: only what this machine lacks is missing: a backend, MindSpore, a package.
    """
    problems = _Problems()
    problems.of(plan.require_cores, request.threads)
    problems.of(storage.require_writable, request.out)
    digest = problems.of(_weights_digest, request)
    found = [problems.of(_step, request, category, digest) for category in _categories(request, problems)]
    steps = [step for step in found if step is not None]
    backends = _backends(request, problems)
    if request.suite.detector == "patchcore":
        problems.of(_require_package, "faiss", "faiss-cpu", "faiss", "PatchCore's nearest neighbours")
    unfitted = _unfitted(request, steps)
    if unfitted:
        problems.of(_require_weights, request)
    if unfitted or any(missing_formats(step.fitted, backends) for step in steps if step.fitted):
        problems.of(_require_package, "mindspore", "MindSpore", "mindspore", "fitting and exporting")
    problems.require_none(request.suite.name)
    return Ready(request=request, backends=backends, steps=tuple(steps))


def missing_formats(found: Artifact, backends: tuple[str, ...]) -> list[str]:
    """The formats still to be exported for the backends to open the artifact."""
    have = {variant.format for variant in found.manifest.variants}
    wanted = [registry.backend(name).formats for name in backends]
    return list(dict.fromkeys(formats[0] for formats in wanted if not have & set(formats)))


def _wanted(request: SuiteRequest) -> tuple[str, ...]:
    return request.categories or request.suite.categories


def _folder(request: SuiteRequest, category: str) -> Path:
    return request.out / "artifacts" / request.suite.name / category


def _unfitted(request: SuiteRequest, steps: list[Step]) -> list[str]:
    """Categories that have no detector yet, whether or not their images were found."""
    found = {step.category.name: step.fitted is not None for step in steps}
    return [name for name in _wanted(request) if not found.get(name, _folder(request, name).exists())]


def _categories(request: SuiteRequest, problems: _Problems) -> list[Category]:
    wanted = _wanted(request)
    strange = [name for name in wanted if name not in request.suite.categories]
    for name in strange:
        unknown = errors.unknown(
            f"category of the suite {request.suite.name}", name, request.suite.categories
        )
        problems.found.append(UsageError(unknown))
    there = problems.of(datasets.list_categories, request.data)
    if there is None:
        return []
    absent = [name for name in wanted if name not in there and name not in strange]
    if absent:
        problems.found.append(DatasetError(f"{request.data}: no category {', '.join(absent)}"))
    present = [name for name in wanted if name in there and name not in strange]
    found = [problems.of(_category, request.data, name) for name in present]
    return [category for category in found if category is not None]


def _category(data: Path, name: str) -> Category:
    category = datasets.load_category(data, name)
    if not category.test:
        raise DatasetError(f"{category.root}/test: no test images, so nothing to score")
    return category


def _weights_digest(request: SuiteRequest) -> str | None:
    """SHA-256 of the weights file after it was found to be the backbone's; `None` where no file is given."""
    backbone = request.suite.backbone
    if backbone == "none" or request.weights is None or str(request.weights) == UNTRAINED:
        return None
    load = registry.resolve("stage", "load_weights", registry.STAGES)
    load(request.weights, backbone)
    return storage.sha256_of_file(request.weights)


def _require_weights(request: SuiteRequest) -> None:
    if request.weights is None and request.suite.backbone != "none":
        raise UsageError(
            f"--weights W: a fit needs weights of {request.suite.backbone}, or `{UNTRAINED}` to try things out"
        )


def _step(request: SuiteRequest, category: Category, weights_sha256: str | None) -> Step:
    path = _folder(request, category.name)
    settings = request.suite.settings_for(category.name)
    found = artifact.read(path) if path.exists() else None
    if found is not None:
        other = _differs(found, request, settings, category, weights_sha256)
        if other and not request.force:
            raise ArtifactError(
                f"{path}: fitted with {other}; --force fits it anew, another --out keeps both"
            )
        found = None if other else found
    return Step(category=category, settings=settings, path=path, fitted=found)


def _differs(
    found: Artifact, request: SuiteRequest, settings: Settings, category: Category, weights_sha256: str | None
) -> str | None:
    """In what an artifact differs from the one wanted, in words."""
    manifest = found.manifest
    wanted = {
        "another detector": (manifest.detector, request.suite.detector),
        "another backbone": (manifest.backbone, request.suite.backbone),
        "another seed": (manifest.seed, request.suite.seed),
        "other settings": (manifest.settings, msgspec.json.decode(msgspec.json.encode(settings))),
        "another version of the harness": (manifest.software.get("harness"), __version__),
        "other training images": (manifest.training.fingerprint, datasets.fingerprint(category, "train")),
        "other weights": (manifest.weights.sha256, weights_sha256 or manifest.weights.sha256),
    }
    return next((words for words, (mine, theirs) in wanted.items() if mine != theirs), None)


def _backends(request: SuiteRequest, problems: _Problems) -> tuple[str, ...]:
    asked = request.backends or request.suite.backends
    if not asked:
        runnable = tuple(
            name
            for name, reason in worker.probe_all().items()
            if reason is None and not registry.backend(name).simulated  # those run only when asked for
        )
        if not runnable:
            problems.found.append(
                Unavailable("no backend can run here; python -m harness backends says what each needs")
            )
        return runnable
    return tuple(name for name in dict.fromkeys(asked) if problems.of(_runs_here, name))


def _runs_here(name: str) -> bool:
    formats = registry.backend(name).formats
    if formats[0] not in registry.EXPORTERS:
        raise Unavailable(f"{name}: nothing here exports {formats[0]}")
    reason = worker.probe(name)
    if reason is not None:
        raise Unavailable(f"{name}: {reason}")
    return True


def _require_package(module: str, package: str, extra: str, needed_for: str) -> None:
    if not registry.is_installed(module):
        raise MissingExtra(package, extra, needed_for=needed_for)
