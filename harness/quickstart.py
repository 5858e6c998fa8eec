"""The built-in run behind a bare `python -m harness bench`: synthetic data, PaDiM, every backend of this machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from harness import artifact, datasets, registry, worker
from harness.errors import Unavailable
from harness.types import FitRequest

DETECTOR = "padim"
BACKBONE = "resnet18"
FORMATS = ("onnx", "mindir")

WELCOME = """The built-in run: make images with known defects, fit PaDiM on the good ones, export it, score every exported form on
every backend of this machine, and say whether the backends agree. With your own data: see README, or fit --help.
"""

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What the built-in run measures."""

    artifacts: Path
    data: Path
    backends: tuple[str, ...]


def runnable_backends(say: Say) -> tuple[str, ...]:
    """Backends that can run on this machine; says of each other one why it cannot.

    Raises:
        Unavailable: none can.
    """
    names = registry.backend_names()
    with ThreadPoolExecutor(2) as pool:
        reasons = dict(zip(names, pool.map(worker.probe, names), strict=True))
    for name, reason in reasons.items():
        if reason is not None:
            say(f"not run: {name}: {reason}")
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
    say(f"data    {', '.join(synthetic.CATEGORIES)}: synthetic images with exact masks, seed {seed} → {data}")
    synthetic.synthesise(data, synthetic.CATEGORIES, seed)
    say("fit     PaDiM on an UNTRAINED ResNet-18 drawn from the seed: a demonstration, never a claim")
    for name in synthetic.CATEGORIES:
        request = FitRequest(
            detector=DETECTOR,
            backbone=BACKBONE,
            weights=None,
            dataset=data.name,
            category=datasets.load_category(data, name),
            out=artifacts / name,
            seed=seed,
        )
        found, fresh = fit(request)
        report = found.manifest.fit_report
        how = (
            f"{found.manifest.training.images} good images, {report['seconds']} s"
            if fresh
            else "fitted before"
        )
        say(f"        {name}: {how}")
        _export_missing(found, say)
    return Prepared(
        artifacts=artifacts,
        data=data,
        backends=tuple(dict.fromkeys(backends)) if backends else runnable_backends(say),
    )


def _export_missing(found: artifact.Artifact, say: Say) -> None:
    have = {variant.format for variant in found.manifest.variants}
    for name in FORMATS:
        if name not in have:
            with artifact.locked(found.path):
                variant = registry.resolve("format", name, registry.EXPORTERS)(found)
                artifact.add_variant(found.path, variant)
            say(f"export  {found.path / variant.model}")
