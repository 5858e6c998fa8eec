from __future__ import annotations

import dataclasses
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import pytest

import harness
from harness import build, datasets
from harness.run.options import RunOptions
from tests.conftest import Tiny

BACKEND = "onnxruntime-cpu"
ONE_CORE = RunOptions(threads=1)
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")


@pytest.fixture(scope="module")
def results(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Records of the tiny detector on two backends."""
    pytest.importorskip("openvino", reason="openvino, the second backend, is not installed")
    out = tmp_path_factory.mktemp("results")
    backends = [BACKEND, "openvino-cpu"]
    harness.bench(tiny.artifact, tiny.data, backends=backends, out=out, options=ONE_CORE, save_outputs=True)
    return out


def record_of(results: Path, backend: str = BACKEND) -> harness.Record:
    (record,) = [record for record in harness.read_records(results) if record.case.backend == backend]
    return record


def paths_of(tiny: Tiny) -> list[Path]:
    return [sample.path for sample in datasets.load_category(tiny.data, "widget").test]


def python(code: str) -> str:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_importing_the_harness_loads_one_module_of_ours_and_nothing_heavy() -> None:
    code = "import sys; before = set(sys.modules); import harness; print(*sorted(set(sys.modules) - before))"
    assert python(code).split() == ["harness"]


def test_all_is_all_there_is() -> None:
    code = (
        "import types, harness; names = {name for name in vars(harness) if not name.startswith('_')};"
        "print(*sorted(names)); print(*sorted(name for name in dir(harness) if not name.startswith('_')))"
    )
    before, listed = (set(line.split()) for line in python(code).splitlines())
    assert before == {"TYPE_CHECKING"}
    assert listed - before == set(harness.__all__) - {"__version__"}


@pytest.mark.parametrize("name", harness.__all__)
def test_every_public_name_is_there_and_documented(name: str) -> None:
    assert name == "__version__" or getattr(harness, name).__doc__ or name == "Progress"


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'harness' has no attribute 'scores_of'"):
        harness.scores_of  # type: ignore[attr-defined] # noqa: B018


def test_scores_of_files_are_those_that_bench_records(tiny: Tiny, results: Path) -> None:
    scores = harness.load_artifact(tiny.artifact).score(paths_of(tiny), backend=BACKEND, threads=1)
    record = record_of(results)
    evidence = harness.read_evidence(results, record)
    assert evidence is not None
    assert scores.images.tolist() == [image.score for image in record.images]
    assert scores.images.dtype == np.float32
    np.testing.assert_array_equal(scores.maps, evidence.maps)
    np.testing.assert_array_equal(scores.frames, evidence.frames)
    assert scores.names == tuple(map(str, paths_of(tiny)))


def test_scores_of_arrays_are_those_of_their_files(tiny: Tiny) -> None:
    detector, paths = harness.load_artifact(tiny.artifact), paths_of(tiny)[:3]
    arrays = np.stack([cv2.imread(str(path))[:, :, ::-1] for path in paths])
    of_files = detector.score(paths, backend=BACKEND, threads=1)
    of_arrays = detector.score(arrays, backend=BACKEND, threads=1)
    np.testing.assert_array_equal(of_files.maps, of_arrays.maps)
    assert of_files.images.tolist() == of_arrays.images.tolist()
    assert of_arrays.names == ("0", "1", "2")


def test_a_folder_is_scored_in_the_order_of_its_names(tiny: Tiny) -> None:
    folder = tiny.data / "widget" / "test" / "scratch"
    scores = harness.load_artifact(str(tiny.artifact)).score(str(folder), backend=BACKEND, threads=1)
    assert scores.names == tuple(str(path) for path in sorted(folder.glob("*.png")))


def test_images_and_pixels_are_decided_at_the_frozen_thresholds(tiny: Tiny) -> None:
    detector = harness.load_artifact(tiny.artifact)
    scores = detector.score(paths_of(tiny), backend=BACKEND, threads=1)
    thresholds = detector.manifest.thresholds
    assert thresholds.image is not None
    assert scores.defective is not None
    assert scores.defective.tolist() == [float(score) > thresholds.image for score in scores.images]
    assert scores.defective_pixels is not None
    assert scores.defective_pixels.shape == scores.maps.shape
    near = dataclasses.replace(
        scores, thresholds=msgspec.structs.replace(thresholds, image=float(scores.images[0]) - 1e-12)
    )
    assert near.defective is not None
    assert near.defective[0]  # float32 cannot tell the two apart
    without = msgspec.structs.replace(thresholds, image=None, pixel=None)
    assert dataclasses.replace(scores, thresholds=without).defective is None


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        ([], harness.DatasetError, "no images to score"),
        (["absent.png"], harness.DatasetError, "no such file"),
        (np.zeros((2, 8, 8), np.float32), harness.UsageError, r"float32 \(8, 8\) is no image"),
        (np.zeros((8, 8, 3), np.uint8), harness.UsageError, r"one image is given as \[image\]"),
    ],
)
def test_what_is_no_image_is_refused(
    tiny: Tiny, images: Any, error: type[harness.HarnessError], message: str
) -> None:
    with pytest.raises(error, match=message):
        harness.load_artifact(tiny.artifact).score(images, backend=BACKEND, threads=1)


def test_an_absent_backend_and_unknown_names_are_errors_of_the_tree(tiny: Tiny) -> None:
    detector, images = harness.load_artifact(tiny.artifact), paths_of(tiny)[:1]
    with pytest.raises(harness.UsageError, match="did you mean 'onnxruntime-cpu'"):
        detector.score(images, backend="onnxruntime-cpux")
    with pytest.raises(harness.UsageError, match="unknown variant"):
        detector.score(images, backend=BACKEND, variant="onnx-fp23")
    with pytest.raises(harness.Unavailable):
        detector.score(images, backend="onnxruntime-gpu", threads=1)
    with pytest.raises(harness.ArtifactError):
        harness.load_artifact("nowhere")


def test_progress_goes_to_the_callback_and_nothing_is_printed(
    tiny: Tiny, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    calls: list[tuple[str, int, int]] = []
    harness.bench(
        tiny.artifact,
        tiny.data,
        backends=BACKEND,
        out=tmp_path,
        options=ONE_CORE,
        progress=lambda label, done, total: calls.append((label, done, total)),
    )
    assert [done for _, done, _ in calls] == list(range(1, 9))
    assert {(label, total) for label, _, total in calls} == {("onnxruntime-cpu widget", 8)}
    detector = harness.load_artifact(tiny.artifact)
    detector.score(paths_of(tiny)[:1], backend=BACKEND, threads=1)
    assert capfd.readouterr() == ("", "")


def test_a_case_that_was_measured_is_not_measured_again(tiny: Tiny, results: Path) -> None:
    (again,) = harness.bench(tiny.artifact, tiny.data, backends=BACKEND, out=results, options=ONE_CORE)
    assert again == record_of(results)


def test_a_comparison_has_levels_verdicts_and_flips(results: Path) -> None:
    report = harness.compare(results, BACKEND)
    (pair,) = report.pairs
    assert report.verdict == pair.verdict == "passed"
    assert [level.name for level in pair.levels] == [
        "inputs",
        "tensors",
        "scores",
        "maps",
        "decisions",
        "metrics",
    ]
    assert pair.flips == ()
    with pytest.raises(harness.UsageError):
        harness.compare(results, BACKEND, tolerances={"absent": 0.1})


def test_a_gate_gives_its_report(results: Path, tmp_path: Path) -> None:
    rules = tmp_path / "rules.toml"
    find = "\n".join(
        f'{name} = "{getattr(record_of(results).case, name)}"'
        for name in ("detector", "backbone", "dataset", "backend", "variant")
    )
    rule = 'name = "finds defects"\nkind = "bound"\nvalue = "image_auroc"\nof = "each"\nat_least = 0.5\n'
    rules.write_text(f'[find]\n{find}\ncategories = ["widget"]\n\n[[rule]]\n{rule}')
    assert harness.gate(rules, results).verdict == "passed"


def test_metrics_take_plain_arrays() -> None:
    labels, scores = np.array([0, 0, 1, 1]), np.array([0.1, 0.4, 0.3, 0.9])
    assert harness.metrics.image_metrics(scores, labels).values["image_auroc"] == 0.75
    masks = np.zeros((1, 4, 4), np.bool_)
    masks[0, :2, :2] = True
    values = harness.metrics.pixel_metrics(masks.astype(np.float32), masks).values
    assert values == {"pixel_auroc": 1, "pixel_ap": 1, "pixel_f1_max": 1, "aupro": 1}
    interval = harness.metrics.auroc_interval(labels, scores)
    assert isinstance(interval, harness.metrics.Interval)
    assert interval.low < 0.75 < interval.high


def test_rows_have_equal_keys_and_the_records_values(results: Path) -> None:
    records = harness.read_records(results)
    rows = harness.to_rows(records)
    assert len({tuple(row) for row in rows}) == 1
    assert [row["image_auroc"] for row in rows] == [record.metrics["image_auroc"] for record in records]
    assert rows[0]["latency_total_p50_ms"] == records[0].latency_ms["total"].p50
    assert rows[0]["backend"] == records[0].case.backend


def test_a_data_frame_is_of_the_library_that_is_there(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = harness.read_records(results)
    polars = types.ModuleType("polars")
    polars.__spec__ = types.SimpleNamespace()  # type: ignore[assignment]
    polars.DataFrame = list  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pandas", None)
    monkeypatch.setitem(sys.modules, "polars", polars)
    monkeypatch.setattr("harness.registry.is_installed", lambda name: name == "polars")
    assert harness.to_dataframe(records) == harness.to_rows(records)
    with pytest.raises(harness.Unavailable, match="needs pandas, which is not installed: pip install pandas"):
        harness.to_dataframe(records, "pandas")
    monkeypatch.setattr("harness.registry.is_installed", lambda _: False)
    with pytest.raises(harness.Unavailable, match="needs pandas or polars"):
        harness.to_dataframe(records)


def test_a_fit_asks_what_the_command_asks(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    requests: list[build.FitRequest] = []

    def fit(request: build.FitRequest) -> tuple[Any, bool]:
        requests.append(request)
        return harness.load_artifact(tiny.artifact).artifact, True

    monkeypatch.setattr(build, "fit", fit)
    detector = harness.fit(tiny.data, "widget", weights="random", settings={"crop": 64}, out="made", seed=3)
    (request,) = requests
    assert detector.variants == ("onnx-fp32",)
    assert request.out == Path("made/padim-resnet18/widget")
    assert (request.weights, request.backbone, request.seed, request.settings.crop) == (
        None,
        "resnet18",
        3,
        64,
    )
    harness.fit(tiny.data, "widget", detector="ssim_ae")
    assert (requests[-1].backbone, requests[-1].out) == ("none", Path("artifacts/ssim_ae/widget"))
    with pytest.raises(harness.UsageError, match="fit needs weights"):
        harness.fit(tiny.data, "widget")
    with pytest.raises(harness.UsageError, match="setting of padim"):
        harness.fit(tiny.data, "widget", weights="random", settings={"corp": 64})


@pytest.mark.mindspore
def test_a_detector_is_fitted_exported_and_scores(
    tiny: Tiny, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    settings = {"resize": 72, "crop": 64}
    calls: list[int] = []
    detector = harness.fit(
        tiny.data,
        "widget",
        weights="random",
        settings=settings,
        out=tmp_path,
        progress=lambda *call: calls.append(call[1]),
    )
    exported = harness.export(detector, "onnx")
    reduced = harness.export(exported, precision="fp16", data=tiny.data)
    assert (detector.variants, exported.variants) == ((), ("onnx-fp32",))
    assert reduced.variants == ("onnx-fp32", "onnx-fp16")
    assert exported.score(paths_of(tiny), backend=BACKEND, threads=1).maps.shape == (8, 64, 64)
    assert calls
    assert calls == sorted(calls)
    assert "images" not in capfd.readouterr().err
    with pytest.raises(harness.UsageError, match="needs data"):
        harness.export(exported, precision="int8")


@pytest.mark.parametrize(("batch_size", "threads"), [(0, 1), (1, 0)])
def test_a_number_below_one_is_a_usage_error(tiny: Tiny, batch_size: int, threads: int) -> None:
    images = tiny.data / "widget" / "test" / "scratch"
    detector = harness.load_artifact(tiny.artifact)
    with pytest.raises(harness.UsageError, match="=0: at least 1"):
        detector.score(images, backend="onnxruntime-cpu", batch_size=batch_size, threads=threads)
