from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from harness import cli, registry
from harness.build import FitRequest
from harness.datasets import synthetic
from harness.detector import artifact
from harness.detector.artifact import Artifact, Variant
from harness.errors import ArtifactError, Unavailable
from harness.run import quickstart, worker
from tests.conftest import Tiny, write_category


def test_backends_that_cannot_run_are_left_out_each_with_its_reason_and_simulators_without(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(registry, "backend_names", lambda: ("one", "two", "three", "four"))
    simulated = {"one": False, "three": False, "four": True}
    monkeypatch.setattr(registry, "backend", lambda name: SimpleNamespace(simulated=simulated[name]))
    monkeypatch.setattr(worker, "probe", lambda name: "no board: buy one" if name == "two" else None)
    said: list[str] = []
    assert quickstart.runnable_backends(said.append) == ("one", "three")
    assert said == ["not run here: two; python -m harness backends says what each needs"]


def test_a_lower_precision_is_not_run_unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("openvino-cpu-default", "onnxruntime-cpu", "onnxruntime-tensorrt-fp16")
    monkeypatch.setattr(registry, "backend_names", lambda: names)
    monkeypatch.setattr(worker, "probe", lambda _: None)
    assert quickstart.runnable_backends(list[str]().append) == ("onnxruntime-cpu",)


def test_no_backend_at_all_is_an_error_that_says_where_to_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "backend_names", lambda: ("one",))
    monkeypatch.setattr(worker, "probe", lambda name: f"{name} is broken")
    with pytest.raises(Unavailable, match="python -m harness backends"):
        quickstart.runnable_backends(list[str]().append)


@pytest.fixture
def requests(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> list[FitRequest]:
    """Small images for the synthetic ones and a copy of the tiny detector for every fit; gives the fits asked for."""
    asked: list[FitRequest] = []

    def synthesise(out: Path, categories: tuple[str, ...], seed: int) -> None:
        assert seed == 7
        for name in categories:
            write_category(out / name)

    def fit(request: FitRequest) -> tuple[Artifact, bool]:
        asked.append(request)
        fresh = not request.out.exists()
        if fresh:
            shutil.copytree(tiny.artifact, request.out)
            manifest = artifact.read(request.out).manifest
            report = {"seconds": 0.1}
            artifact.write_manifest(request.out, msgspec.structs.replace(manifest, fit_report=report))
        return artifact.read(request.out), fresh

    parts: dict[str, Callable[..., Any]] = {"fit": fit, "mindir": describe_mindir}
    monkeypatch.setattr(synthetic, "synthesise", synthesise)
    monkeypatch.setattr(synthetic, "CATEGORIES", ("nut", "bolt"))
    monkeypatch.setattr(registry, "resolve", lambda *asked: parts[asked[1]])
    return asked


def describe_mindir(found: Artifact, *, head_in_graph: bool) -> Variant:
    assert not head_in_graph
    return msgspec.structs.replace(found.manifest.variants[0], id="mindir-fp32", format="mindir")


def test_the_built_in_run_fits_every_category_on_an_untrained_seeded_backbone_and_says_so(
    requests: list[FitRequest], tmp_path: Path
) -> None:
    said: list[str] = []
    made = quickstart.prepare(tmp_path, seed=7, backends=["one", "two", "one"], say=said.append)
    assert made.backends == ("one", "two")
    assert [(asked.category.name, asked.weights, asked.seed) for asked in requests] == [
        ("nut", None, 7),
        ("bolt", None, 7),
    ]
    assert any("UNTRAINED" in line for line in said)
    for asked in requests:
        assert asked.category.root.parent == made.data
        assert asked.out.parent == made.artifacts


def test_a_second_built_in_run_exports_nothing_again(requests: list[FitRequest], tmp_path: Path) -> None:
    first: list[str] = []
    second: list[str] = []
    quickstart.prepare(tmp_path, seed=7, backends=["one"], say=first.append)
    made = quickstart.prepare(tmp_path, seed=7, backends=["one"], say=second.append)
    assert len(requests) == 4
    assert sum("exported as MINDIR" in line for line in first) == 2  # ONNX was there
    assert sum("fitted before, exported before" in line for line in second) == 2
    formats = {variant.format for variant in artifact.read(made.artifacts / "nut").manifest.variants}
    assert formats == {"onnx", "mindir"}


def test_detectors_of_another_seed_or_version_are_replaced(
    requests: list[FitRequest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit = registry.resolve("stage", "fit", {})

    def strict(request: FitRequest) -> tuple[Artifact, bool]:
        if not request.force:
            raise ArtifactError("fitted from another request")
        return cast("tuple[Artifact, bool]", fit(request))

    parts = {"fit": strict, "mindir": describe_mindir}
    monkeypatch.setattr(registry, "resolve", lambda *asked: parts[asked[1]])
    quickstart.prepare(tmp_path, seed=7, backends=["one"], say=list[str]().append)
    assert [asked.force for asked in requests] == [True, True]


@pytest.mark.mindspore
def test_a_bare_bench_measures_and_passes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["bench", "--json"]) == 0
    shown = capsys.readouterr()
    records = json.loads(shown.out)["records"]
    assert {item["status"] for item in records} == {"measured"}
    assert {item["case"]["category"] for item in records} == set(synthetic.CATEGORIES)
    assert all(0.80 <= item["metrics"]["image_auroc"] <= 0.99 for item in records)
    assert "UNTRAINED" in shown.err
