"""A suite of two small categories, and a quick fit that can be made to fail."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest

from harness import __version__, build, datasets, registry
from harness.build import FitRequest
from harness.detector import artifact
from harness.detector.artifact import Artifact, Training, Weights
from harness.errors import ArtifactError
from harness.records.record import Record
from harness.run import suite, suite_ready
from harness.run.options import RunOptions
from harness.run.suite import Outcome, fitted
from harness.run.suite_ready import SuiteRequest
from harness.suites import find, read
from tests.conftest import Tiny, write_category

SMALL = """\
detector = "padim"
backbone = "resnet18"
categories = ["widget", "gadget"]
backends = ["fake-work"]

[settings]
resize = 40
crop = 32
"""


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Folders, requests and messages of a suite that runs in a test."""

    root: Path
    fitted: list[FitRequest] = field(default_factory=list)
    """The requests for which the stand-in fitted a detector."""
    faults: dict[str, Callable[[], None]] = field(default_factory=dict)
    """Category → function to call in its fit, which may raise an error."""

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def out(self) -> Path:
        return self.root / "out"

    def request(self, text: str = SMALL, **changes: Any) -> SuiteRequest:
        """A request to run the suite `text` with an untrained backbone."""
        file = self.root / "small.toml"
        file.write_text(text, encoding="utf-8")
        options = {name: changes.pop(name) for name in RunOptions.__slots__ if name in changes}
        fields = {"data": self.data, "weights": Path("random"), "out": self.out, **changes}
        return SuiteRequest(suite=read(find(str(file))), options=RunOptions(**options), **fields)

    def run(self, text: str = SMALL, **changes: Any) -> Outcome:
        return suite.run(
            suite_ready.ready(self.request(text, **changes)),
            say=self.lines.append,
            report=self.reported.append,
        )

    def fit(self) -> None:
        """Fit the detectors without measuring them."""
        plan = suite_ready.ready(self.request())
        for step in plan.steps:
            fitted(plan, step)

    lines: list[str] = field(default_factory=list)
    reported: list[Record] = field(default_factory=list)


@pytest.fixture
def bench(tiny: Tiny, tmp_path: Path, fakes: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """Two categories, working and faulty backends, and a stand-in for the fit, which needs MindSpore."""
    del fakes
    suite_bench = Bench(root=tmp_path)
    for name in ("widget", "gadget"):
        write_category(suite_bench.data / name)
    monkeypatch.setattr(build, "fit", lambda request: _stand_in(suite_bench, tiny, request))
    pretend(monkeypatch, mindspore=True)
    return suite_bench


def pretend(monkeypatch: pytest.MonkeyPatch, **packages: bool) -> None:
    """Make these packages look installed, or not."""
    really = registry.is_installed
    monkeypatch.setattr(registry, "is_installed", lambda name: packages.get(name, really(name)))


def _stand_in(suite_bench: Bench, tiny: Tiny, request: FitRequest) -> tuple[Artifact, bool]:
    """Do what `exporters.fit.job.fit` does without learning: copy the tiny detector, and give it the requested properties."""
    suite_bench.faults.get(request.category.name, lambda: None)()
    if request.out.exists() and not request.force:
        fitted = artifact.read(request.out)
        if fitted.manifest.settings != _settings(request):
            raise ArtifactError(f"{request.out} was fitted from another request")
        return fitted, False
    suite_bench.fitted.append(request)
    shutil.rmtree(request.out, ignore_errors=True)
    shutil.copytree(tiny.artifact, request.out)
    manifest = msgspec.structs.replace(
        artifact.read(request.out).manifest,
        backbone=request.backbone,
        category=request.category.name,
        settings=_settings(request),
        seed=request.seed,
        training=Training(
            dataset=request.dataset,
            fingerprint=datasets.fingerprint(request.category, "train"),
            images=8,
            held_out=(),
        ),
        weights=Weights(source="random", sha256="0" * 64),
        software={"harness": __version__},
        fit_report={"seconds": 1.5, "training": {"epochs": 3}},
    )
    manifest = msgspec.structs.replace(manifest, detector_sha256=artifact.detector_digest(manifest))
    artifact.write_manifest(request.out, manifest)
    return artifact.read(request.out), True


def _settings(request: FitRequest) -> Any:
    return msgspec.json.decode(msgspec.json.encode(request.settings))
