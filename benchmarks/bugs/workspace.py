"""The common start of all changes: two data sets, four fitted detectors with their exports, and the reference records."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.bugs import adapter_bugs
from benchmarks.bugs.deployment import HEADED, Deployment
from harness import build, datasets
from harness.build import FitRequest
from harness.datasets.synthetic import make_category
from harness.detector import artifact
from harness.detector.settings import Padim, Settings, Stpm

CATEGORY, OTHER_CATEGORY = "weave", "washer"
PADIM, STPM = Padim(resize=72, crop=64), Stpm(resize=72, crop=64, epochs=1, batch_size=16)
"""Small and untrained: the question is whether two sides agree, not how well they detect."""
_FITS: Mapping[str, tuple[str, str, Settings, int]] = {
    "padim": ("padim", CATEGORY, PADIM, 0),
    "stpm": ("stpm", CATEGORY, STPM, 0),
    "washer": ("padim", OTHER_CATEGORY, PADIM, 0),
    "seed": ("padim", CATEGORY, PADIM, 1),
}
_EXPORTS = {
    "padim": (("onnx", False), ("mindir", False), ("onnx", True)),
    "stpm": (("onnx", False),),
    "washer": (("onnx", True),),
    "seed": (("onnx", False),),
}


@dataclass(frozen=True, slots=True)
class Workspace:
    """The common data, detectors and reference records in one folder; made on first use, copied for every change."""

    folder: Path
    _references: dict[tuple[str, str], Path] = field(default_factory=dict)

    @property
    def data(self) -> Path:
        """Folder of both categories, with a third of the built-in images."""
        data = self.folder / "data"
        for category in (CATEGORY, OTHER_CATEGORY):
            if not (data / category).is_dir():
                complete = make_category(category, 0, self.folder / "complete")
                shutil.copytree(complete, data / category, ignore=_two_of_three)
        return data

    def deployment(self, name: str, subject: str, reference: str) -> Deployment:
        """A deployment of `subject` with the reference's record; `padim-head` has the head in its graph."""
        deployment = self._deployment(self.folder / "deployments" / name, subject)
        shutil.copytree(self._reference(subject, reference), deployment.results)
        return deployment

    def _deployment(self, folder: Path, subject: str) -> Deployment:
        folder.mkdir(parents=True)
        return Deployment(
            folder=folder,
            artifact=Path(
                shutil.copytree(self._artifact(subject.partition("-")[0]), folder / "artifact" / CATEGORY)
            ),
            data=self.data,
            results=folder / "results",
            others={name: self._artifact(name) for name in ("washer", "seed")},
        )

    def _reference(self, subject: str, reference: str) -> Path:
        """Results folder with the reference's record only."""
        key = (subject, reference)
        if key not in self._references:
            folder = self.folder / "references" / "-".join(key)
            shutil.rmtree(folder, ignore_errors=True)  # left by a failure
            deployment = self._deployment(folder, subject)
            deployment.bench(reference, variant=HEADED if subject == "padim-head" else None)
            self._references[key] = deployment.results
        return self._references[key]

    def _artifact(self, name: str) -> Path:
        """A fitted and exported detector."""
        from exporters.fit.job import fit

        detector, category, settings, seed = _FITS[name]
        path = self.folder / "artifacts" / name / category
        if not path.is_dir():
            request = FitRequest(
                detector=detector,
                backbone="resnet18",
                weights=None,
                dataset="data",
                category=datasets.load_category(self.data, category),
                out=path,
                settings=settings,
                seed=seed,
            )
            fit(request)
            for format_, headed in _EXPORTS[name]:
                build.export(artifact.read(path), format_, head_in_graph=headed)
        return path


def _two_of_three(folder: str, names: list[str]) -> list[str]:
    """The images whose number is no multiple of 3, with their masks."""
    del folder
    return [name for name in names if name[:3].isdecimal() and int(name[:3]) % 3]


@contextmanager
def known_backends(folder: Path) -> Iterator[None]:
    """Make the faulty backends known to this process and its workers, like an installed distribution."""
    metadata = folder / "faulty-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: faulty\nVersion: 1.0\n")
    lines = [
        f"{name} = benchmarks.bugs.faulty_backends:{attribute}"
        for name, attribute in adapter_bugs.BACKENDS.items()
    ]
    (metadata / "entry_points.txt").write_text("\n".join(["[harness.backends]", *lines, ""]))
    before = os.environ.get("PYTHONPATH")
    sys.path.append(str(folder))
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(folder), before]))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before
