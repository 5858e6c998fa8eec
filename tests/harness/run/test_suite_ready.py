from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from harness import registry
from harness.errors import HarnessError, Unavailable, UsageError
from harness.run import suite_ready
from harness.run.suite_ready import missing_formats
from tests.harness.run.conftest import SMALL, Bench, pretend


def problems(bench: Bench, text: str = SMALL, **changes: Any) -> list[str]:
    """The problems that the suite reports, one line each."""
    with pytest.raises(HarnessError) as caught:
        suite_ready.ready(bench.request(text, **changes))
    first, *rest = str(caught.value).split("\n  - ")
    assert first == "the suite small cannot start; missing or wrong:"
    return rest


def test_a_ready_suite_has_one_step_per_category_in_its_order(bench: Bench) -> None:
    result = suite_ready.ready(bench.request())
    assert [step.category.name for step in result.steps] == ["widget", "gadget"]
    assert [step.path for step in result.steps] == [
        bench.out / "artifacts" / "small" / name for name in ("widget", "gadget")
    ]
    assert [step.fitted for step in result.steps] == [None, None]
    assert result.backends == ("fake-work",)
    assert [step.settings.crop for step in result.steps] == [32, 32]


def test_everything_missing_is_listed_at_once_and_nothing_is_started(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, mindspore=False)
    shutil.rmtree(bench.data / "widget")
    for mask in (bench.data / "gadget" / "ground_truth").rglob("*"):
        if mask.is_file():
            mask.unlink()
    text = SMALL.replace('["fake-work"]', '["fake-absent", "fake-werk"]')
    result = problems(bench, text.replace('"gadget"]', '"gadget", "sprocket"]'), weights=None, threads=10_000)
    assert len(result) == 7
    for words in (
        "--threads 10000: only",
        "--weights W: a fit needs weights of resnet18",
        "no category widget, sprocket",
        "no mask for this defective image",
        "fake-absent: there is no such board here: plug one in",
        "unknown backend 'fake-werk'; did you mean 'fake-work'",
        "pip install 'anomaly-parity-harness[mindspore]'",
    ):
        assert [line for line in result if words in line], words
    assert bench.fitted == []


def test_a_missing_data_folder_is_one_problem(bench: Bench) -> None:
    shutil.rmtree(bench.data)
    assert [line for line in problems(bench) if "no such folder" in line] == problems(bench)


def test_a_suite_is_unavailable_if_only_the_machine_lacks_something(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, mindspore=False)
    with pytest.raises(Unavailable, match="MindSpore, which is not installed"):
        suite_ready.ready(bench.request())
    with pytest.raises(UsageError, match="MindSpore, which is not installed"):
        suite_ready.ready(bench.request(weights=None))


def test_a_category_without_test_images_is_missing(bench: Bench) -> None:
    shutil.rmtree(bench.data / "gadget" / "test")
    (line,) = problems(bench)
    assert line.endswith("gadget/test: no test images, so nothing to score")


def test_a_category_the_suite_does_not_have_is_refused_with_the_nearest(bench: Bench) -> None:
    (line,) = problems(bench, categories=("wigdet",))
    assert "unknown category of the suite small 'wigdet'; did you mean 'widget'" in line


def test_only_requested_categories_are_checked(bench: Bench) -> None:
    shutil.rmtree(bench.data / "widget")
    result = suite_ready.ready(bench.request(categories=("gadget",)))
    assert [step.category.name for step in result.steps] == ["gadget"]


def test_requested_backends_replace_the_suites(bench: Bench) -> None:
    assert suite_ready.ready(bench.request(backends=("fake-chatter", "fake-off"))).backends == (
        "fake-chatter",
        "fake-off",
    )


def test_every_runnable_backend_is_used_if_none_is_named(bench: Bench) -> None:
    result = suite_ready.ready(bench.request(SMALL.replace('backends = ["fake-work"]\n', ""))).backends
    assert "fake-work" in result
    assert "fake-absent" not in result


def test_weights_of_another_backbone_are_missing_weights(bench: Bench) -> None:
    file = bench.root / "weights.safetensors"
    safetensors.numpy.save_file({"conv1.weight": np.zeros((64, 3, 7, 7), np.float32)}, file)
    (line,) = problems(bench, weights=file)
    assert "weights.safetensors is not resnet18: " in line
    (line,) = problems(bench, weights=bench.root / "nowhere.pth")
    assert "nowhere.pth: cannot be read" in line


def test_a_detector_without_a_backbone_needs_no_weights(bench: Bench) -> None:
    text = 'detector = "ssim_ae"\nbackbone = "none"\ncategories = ["widget"]\nbackends = ["fake-work"]\n'
    assert suite_ready.ready(bench.request(text, weights=None)).steps[0].fitted is None


def test_patchcore_needs_faiss(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, mindspore=True, faiss=False)
    text = SMALL.replace("padim", "patchcore")
    (line,) = problems(bench, text)
    assert "pip install 'anomaly-parity-harness[faiss]'" in line
    pretend(monkeypatch, faiss=True)
    suite_ready.ready(bench.request(text))


def test_a_folder_that_cannot_be_written_is_missing(bench: Bench) -> None:
    bench.out.touch()
    assert "out: cannot write here" in problems(bench)[0]


# --- detectors of an earlier run --------------------------------------------------------------------------------------


def test_detectors_of_an_earlier_run_need_neither_mindspore_nor_weights(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.fit()
    pretend(monkeypatch, mindspore=False)
    assert all(step.fitted is not None for step in suite_ready.ready(bench.request(weights=None)).steps)


def test_another_format_to_export_needs_mindspore(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.fit()
    result = suite_ready.ready(bench.request()).steps[0].fitted
    assert result is not None
    assert missing_formats(result, ("fake-work", "onnxruntime-cpu")) == []
    assert missing_formats(result, ("fake-work", "mindspore-cpu")) == ["mindir"]
    pretend(monkeypatch, mindspore=False)
    monkeypatch.setattr("harness.run.worker.probe", lambda _: None)
    (line,) = problems(bench, backends=("mindspore-cpu",))
    assert "fitting and exporting needs MindSpore" in line


def test_any_format_that_a_backend_opens_is_enough(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.fit()
    result = suite_ready.ready(bench.request()).steps[0].fitted
    assert result is not None
    monkeypatch.setattr(registry, "backend", lambda _: SimpleNamespace(formats=("mindir", "onnx")))
    assert missing_formats(result, ("fake-work",)) == []


def changed_image(bench: Bench) -> None:
    image = bench.data / "widget" / "train" / "good" / "000.png"
    image.write_bytes((bench.data / "widget" / "train" / "good" / "001.png").read_bytes())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (SMALL.replace("crop = 32", "crop = 24"), "other settings"),
        (SMALL.replace('"padim"', '"stpm"'), "another detector"),
        (SMALL.replace("resnet18", "wide_resnet50_2"), "another backbone"),
        (SMALL.replace("[settings]", "seed = 1\n[settings]"), "another seed"),
    ],
)
def test_a_detector_fitted_with_other_settings_is_refused_unless_forced(
    bench: Bench, text: str, words: str
) -> None:
    bench.fit()
    (line, _) = problems(bench, text)
    assert f"widget: fitted with {words}; --force fits it again" in line
    assert suite_ready.ready(bench.request(text, force=True)).steps[0].fitted is None


def test_other_training_images_are_another_detector(bench: Bench) -> None:
    bench.fit()
    changed_image(bench)
    (line,) = problems(bench)
    assert "widget: fitted with other training images" in line


def test_other_weights_are_another_detector(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.fit()
    monkeypatch.setattr("exporters.weights.convert.load_backbone", lambda *_: {})
    file = Path(bench.root / "weights.pth")
    file.write_bytes(b"other")
    assert all("fitted with other weights" in line for line in problems(bench, weights=file))


def test_a_damaged_artifact_is_a_problem_like_the_others(bench: Bench) -> None:
    bench.fit()
    (bench.out / "artifacts" / "small" / "widget" / "manifest.json").write_text("{}")
    (line,) = problems(bench)
    assert "manifest.json: not a manifest of this harness" in line
