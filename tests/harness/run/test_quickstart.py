from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from harness import build, cli, registry
from harness.build import FitRequest
from harness.datasets import synthetic
from harness.detector import artifact
from harness.detector.artifact import Artifact, Variant
from harness.errors import ArtifactError, Unavailable
from harness.run import quickstart, worker
from tests.conftest import Tiny, write_category


def test_backends_that_cannot_run_are_named_and_simulators_are_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(registry, "backend_names", lambda: ("one", "two", "three", "four"))
    simulated = {"one": False, "three": False, "four": True}
    monkeypatch.setattr(registry, "backend", lambda name: SimpleNamespace(simulated=simulated[name]))
    monkeypatch.setattr(worker, "probe", lambda name: "no board: buy one" if name == "two" else None)
    lines: list[str] = []
    assert quickstart.runnable_backends(lines.append) == ("one", "three")
    assert lines == ["not run here: two; python -m harness backends says what each needs"]


def test_a_backend_of_reduced_precision_runs_only_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("openvino-cpu-default", "onnxruntime-cpu", "onnxruntime-tensorrt-fp16")
    monkeypatch.setattr(registry, "backend_names", lambda: names)
    monkeypatch.setattr(worker, "probe", lambda _: None)
    assert quickstart.runnable_backends(list[str]().append) == ("onnxruntime-cpu",)


def test_no_runnable_backend_is_an_error_with_the_next_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "backend_names", lambda: ("one",))
    monkeypatch.setattr(worker, "probe", lambda name: f"{name} is broken")
    with pytest.raises(Unavailable, match="python -m harness backends"):
        quickstart.runnable_backends(list[str]().append)


@pytest.fixture
def requests(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> list[FitRequest]:
    """Replace the synthetic images by small ones and each fit by a copy of the tiny detector; return the fit requests."""
    fit_requests: list[FitRequest] = []

    def synthesise(out: Path, categories: tuple[str, ...], seed: int) -> None:
        assert seed == 7
        for name in categories:
            write_category(out / name)

    def fit(request: FitRequest) -> tuple[Artifact, bool]:
        fit_requests.append(request)
        fresh = not request.out.exists()
        if fresh:
            shutil.copytree(tiny.artifact, request.out)
            manifest = artifact.read(request.out).manifest
            report = {"seconds": 0.1}
            artifact.write_manifest(request.out, msgspec.structs.replace(manifest, fit_report=report))
        return artifact.read(request.out), fresh

    exporters: dict[str, Callable[..., Any]] = {"mindir": describe_mindir}
    monkeypatch.setattr(synthetic, "synthesise", synthesise)
    monkeypatch.setattr(synthetic, "CATEGORIES", ("nut", "bolt"))
    monkeypatch.setattr(build, "fit", fit)
    monkeypatch.setattr(registry, "resolve", lambda _, name, __: exporters[name])
    return fit_requests


def describe_mindir(detector: Artifact, *, head_in_graph: bool) -> Variant:
    assert not head_in_graph
    return msgspec.structs.replace(detector.manifest.variants[0], id="mindir-fp32", format="mindir")


def test_the_built_in_run_fits_every_category_on_an_untrained_seeded_backbone_and_says_so(
    requests: list[FitRequest], tmp_path: Path
) -> None:
    lines: list[str] = []
    measured = quickstart.prepare(tmp_path, seed=7, backends=["one", "two", "one"], say=lines.append)
    assert measured.backends == ("one", "two")
    assert [
        (fit_request.category.name, fit_request.weights, fit_request.seed) for fit_request in requests
    ] == [
        ("nut", None, 7),
        ("bolt", None, 7),
    ]
    assert any("UNTRAINED" in line for line in lines)
    for fit_request in requests:
        assert fit_request.category.root.parent == measured.data
        assert fit_request.out.parent == measured.artifacts


def test_a_second_built_in_run_exports_nothing(requests: list[FitRequest], tmp_path: Path) -> None:
    first: list[str] = []
    second: list[str] = []
    quickstart.prepare(tmp_path, seed=7, backends=["one"], say=first.append)
    measured = quickstart.prepare(tmp_path, seed=7, backends=["one"], say=second.append)
    assert len(requests) == 4
    assert sum("exported as MINDIR" in line for line in first) == 2  # ONNX was there
    assert sum("fitted before, exported before" in line for line in second) == 2
    formats = {variant.format for variant in artifact.read(measured.artifacts / "nut").manifest.variants}
    assert formats == {"onnx", "mindir"}


def test_detectors_of_another_seed_or_version_are_replaced(
    requests: list[FitRequest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit = build.fit

    def strict(request: FitRequest) -> tuple[Artifact, bool]:
        if not request.force:
            raise ArtifactError("fitted from another request")
        return fit(request)

    monkeypatch.setattr(build, "fit", strict)
    quickstart.prepare(tmp_path, seed=7, backends=["one"], say=list[str]().append)
    assert [fit_request.force for fit_request in requests] == [True, True]


@pytest.mark.mindspore
def test_a_bare_bench_measures_and_passes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["bench", "--json"]) == 0
    shown = capsys.readouterr()
    records = json.loads(shown.out)["records"]
    assert {row["status"] for row in records} == {"measured"}
    assert {row["case"]["category"] for row in records} == set(synthetic.CATEGORIES)
    assert all(0.80 <= row["metrics"]["image_auroc"] <= 0.99 for row in records)
    assert "UNTRAINED" in shown.err
