"""The built-in run behind a bare `python -m harness bench`: synthetic data, PaDiM, every backend of this machine."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness import build, datasets, registry
from harness.build import FitRequest
from harness.detector.artifact import Artifact
from harness.detector.settings import Padim
from harness.errors import ArtifactError, Unavailable
from harness.run import worker

DETECTOR = "padim"
BACKBONE = "resnet18"
FORMATS = ("onnx", "mindir")

WELCOME = """\
The built-in run: make images with known defects, fit PaDiM on the good ones, export it, score every
exported variant on every backend of this machine, and say whether the backends agree.
With your own data: see README, or python -m harness fit --help.
"""

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """Artifacts, data and backends of the built-in run."""

    artifacts: Path
    data: Path
    backends: tuple[str, ...]


def runnable_backends(say: Say) -> tuple[str, ...]:
    """Backends that run on this machine, without simulators and reduced precisions; `say` gets the names of the others.

    Raises:
        Unavailable: no backend runs here.
    """
    reasons = {
        name: reason
        for name, reason in worker.probe_all().items()
        if reason is not None or not (registry.backend(name).simulated or name in registry.REDUCED_PRECISION)
    }
    absent = [name for name, reason in reasons.items() if reason is not None]
    if absent:
        say(f"not run here: {', '.join(absent)}; python -m harness backends says what each needs")
    runnable = tuple(name for name, reason in reasons.items() if reason is None)
    if not runnable:
        raise Unavailable(
            "no backend can run on this machine; python -m harness backends says what each needs"
        )
    return runnable


def prepare(folder: Path, *, seed: int, backends: Sequence[str] | None, say: Say) -> Prepared:
    """Make data and detectors below `folder`; finished work of an earlier run is used again.

    Args:
        folder: Parent of the new folders `synthetic` and `artifacts`.
        seed: Seed of the data, the untrained backbone and the fit.
        backends: Backends to use; all that run here if none is named.
        say: Called with each line about the work.

    Raises:
        Unavailable: MindSpore, which fits and exports, is not installed.
    """
    from harness.datasets import synthetic

    data = folder / "synthetic"
    artifacts = build.detector_folder(folder / "artifacts", DETECTOR, BACKBONE)
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
            detector, fresh = build.fit(request)
        except ArtifactError:  # of another seed or version: this folder is ours to replace
            detector, fresh = build.fit(dataclasses.replace(request, force=True))
        exported = _export_missing(detector)
        manifest = detector.manifest
        how = f"fitted on {manifest.training.images} good images in {manifest.fit_report['seconds']} s"
        say(
            f"        {name:<8} {how if fresh else 'fitted before'}, "
            + (f"exported as {' and '.join(exported)}" if exported else "exported before")
        )
    return Prepared(
        artifacts=artifacts,
        data=data,
        backends=tuple(dict.fromkeys(backends)) if backends else runnable_backends(say),
    )


def _export_missing(detector: Artifact) -> list[str]:
    """Export the formats that the artifact does not have yet, and return their names."""
    present = {variant.format for variant in detector.manifest.variants}
    missing = [name for name in FORMATS if name not in present]
    for name in missing:
        build.export(detector, name)
    return [name.upper() for name in missing]
