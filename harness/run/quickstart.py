"""The built-in run behind a bare `python -m harness bench`: synthetic data, PaDiM, every backend of this machine."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness import build, datasets, registry
from harness.build import FitRequest
from harness.detector import artifact
from harness.detector.settings import Padim
from harness.errors import ArtifactError, Unavailable
from harness.run import worker

DETECTOR = "padim"
BACKBONE = "resnet18"
FORMATS = ("onnx", "mindir")

WELCOME = """\
The built-in run: make images with known defects, fit PaDiM on the good ones, export it, score every
exported form on every backend of this machine, and say whether the backends agree.
With your own data: see README, or python -m harness fit --help.
"""

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What the built-in run measures."""

    artifacts: Path
    data: Path
    backends: tuple[str, ...]


def runnable_backends(say: Say) -> tuple[str, ...]:
    """Backends that can run on this machine, without simulators and lower precisions; names the others.

    Raises:
        Unavailable: none can.
    """
    reasons = {
        name: reason
        for name, reason in worker.probe_all().items()
        if reason is not None or not (registry.backend(name).simulated or name in registry.LOWER_PRECISION)
    }
    absent = [name for name, reason in reasons.items() if reason is not None]
    if absent:
        say(f"not run here: {', '.join(absent)}; python -m harness backends says what each needs")
    found = tuple(name for name, reason in reasons.items() if reason is None)
    if not found:
        raise Unavailable(
            "no backend can run on this machine; python -m harness backends says what each needs"
        )
    return found


def prepare(folder: Path, *, seed: int, backends: Sequence[str] | None, say: Say) -> Prepared:
    """Make data and detectors below `folder`; what an earlier run finished is used again.

    Args:
        folder: Gets `synthetic` and `artifacts`.
        seed: Of the data, the untrained backbone and the fit.
        backends: Those asked for; all that can run here when none is named.
        say: Takes each line of what is going on.

    Raises:
        Unavailable: MindSpore, which fits and exports, is not installed.
    """
    from harness.datasets import synthetic

    fit = registry.resolve("stage", "fit", registry.STAGES)
    data, artifacts = folder / "synthetic", folder / "artifacts" / f"{DETECTOR}-{BACKBONE}"
    say(f"data    synthetic images with exact masks, seed {seed} → {data}")
    synthetic.synthesise(data, synthetic.CATEGORIES, seed)
    say(f"fit     PaDiM on an UNTRAINED, seeded ResNet-18 (no claim) → {artifacts}")
    for name in synthetic.CATEGORIES:
        request = FitRequest(
            detector=DETECTOR,
            backbone=BACKBONE,
            weights=None,
            dataset=data.name,
            category=datasets.load_category(data, name),
            out=artifacts / name,
            settings=Padim(),
            seed=seed,
        )
        try:
            found, fresh = fit(request)
        except ArtifactError:  # of another seed or version: this folder is ours to replace
            found, fresh = fit(dataclasses.replace(request, force=True))
        exported = _export_missing(found)
        took = f"on {found.manifest.training.images} good images in {found.manifest.fit_report['seconds']} s"
        say(
            f"        {name:<8} {f'fitted {took}' if fresh else 'fitted before'}, "
            + (f"exported as {' and '.join(exported)}" if exported else "exported before")
        )
    return Prepared(
        artifacts=artifacts,
        data=data,
        backends=tuple(dict.fromkeys(backends)) if backends else runnable_backends(say),
    )


def _export_missing(found: artifact.Artifact) -> list[str]:
    """Export the formats the artifact does not have yet, and name them."""
    have = {variant.format for variant in found.manifest.variants}
    missing = [name for name in FORMATS if name not in have]
    for name in missing:
        build.export(found, name)
    return [name.upper() for name in missing]
