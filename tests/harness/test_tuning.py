from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness import artifact, cli, precision, tuning, tuning_front
from harness.record import Device, Distribution, Record
from harness.tuning import Trial, Tuned
from tests.conftest import Tiny
from tests.harness.records import Outputs, Results, outputs

GROUPS = {"first": ("a",), "last": ("b",), "tail": ("c", "d"), "net/layer1": ("a", "b")}


def test_every_calibration_is_tried_with_and_without_the_ends_and_every_group_once() -> None:
    tried = tuning.lowerings(GROUPS, 5)
    assert list(tried) == [
        "float16",
        *("int8 minmax", "int8 minmax, ends kept", "int8 minmax, first kept", "int8 minmax, last kept"),
        *("int8 minmax, tail kept", "int8 minmax, net/layer1 kept"),
        *("int8 percentile", "int8 percentile, ends kept", "int8 entropy", "int8 entropy, ends kept"),
    ]
    assert tried["int8 entropy, ends kept"] == precision.PrecisionRequest(
        precision="int8",
        calibration="entropy",
        keep_float=("a", "b", "c", "d"),
        images=5,
        label="entropy-ends-kept",
    )
    assert tried["int8 minmax, net/layer1 kept"].label == "minmax-net-layer1-kept"  # no path


def test_groups_of_the_same_nodes_are_tried_once() -> None:
    tried = tuning.lowerings({"first": ("a",), "last": ("a",)}, 5)
    assert [name for name in tried if "minmax" in name] == ["int8 minmax", "int8 minmax, ends kept"]
    assert [name for name in tuning.lowerings({}, 5) if "kept" in name] == []


def given(*, moved: float = 0.0, image: int = 0) -> Outputs:
    """Scores from 1 to 4, one of them moved."""
    made = outputs()
    made.scores[image] += moved
    return made


def add(results: Results, variant: str, scores: Outputs, ms: float, **changes: Any) -> Record:
    infer = Distribution(mean=ms, p50=ms, p90=ms, p95=ms, p99=ms)
    return results.add(
        changes.pop("backend", "cpu"),
        scores,
        case={"variant": variant},
        model_sha256=variant,
        latency_ms={"infer": infer},
        **changes,
    )


def tuned(results: Results, *rounds: list[Record]) -> Tuned:
    names = dict.fromkeys(item.case.variant for item in rounds[0])
    trials = tuple(Trial(variant=name, settings=f"settings of {name}") for name in names)
    return Tuned(trials=trials, rounds=tuple(map(tuple, rounds)), records=(results.folder,))


def test_a_row_says_what_a_setting_costs_and_gives(results: Results) -> None:
    first = [
        add(results, "fp32", given(), 10.0, peak_memory_bytes=300, model_bytes=40),
        add(results, "int8", given(moved=0.6, image=3), 4.0, peak_memory_bytes=200, model_bytes=10),
    ]
    second = [
        add(results, "fp32", given(), 8.0, peak_memory_bytes=310, model_bytes=40),
        add(results, "int8", given(moved=0.6, image=3), 5.0, peak_memory_bytes=190, model_bytes=10),
    ]
    float32, int8 = tuning_front.rows(tuned(results, first, second))
    assert (float32.difference, float32.flips, float32.ratio) == (0, 0, 1)
    assert int8.difference == pytest.approx(0.6 / 3)
    assert int8.flips == 1  # 2.0 becomes 2.6, the threshold is 2.5
    assert (int8.milliseconds, int8.ratio) == (4.0, 0.5)
    assert (int8.peak_memory_bytes, int8.model_bytes) == (190, 10)
    assert int8.metrics["image_auroc"] == first[1].metrics["image_auroc"]


def test_the_front_holds_what_no_other_setting_beats(results: Results) -> None:
    settings = {
        "fp32": (0.0, 10.0),
        "near": (0.1, 6.0),
        "slower": (0.1, 7.0),
        "far": (0.3, 6.0),
        "fast": (0.2, 3.0),
    }
    records = [add(results, name, given(moved=moved), ms) for name, (moved, ms) in settings.items()]
    found = tuning_front.rows(tuned(results, records))
    assert [row.variant for row in found if row.on_front] == ["fp32", "near", "fast"]


def test_a_simulator_a_failure_and_a_refusal_are_shown_and_never_on_the_front(results: Results) -> None:
    simulated = Device(device="chip", runtime={}, options={}, simulated=True)
    records = [
        add(results, "fp32", given(), 10.0),
        add(results, "om", given(), 0.1, backend="chip", device=simulated),
        add(results, "dead", given(), 0.1, status="failed", reason="killed"),
    ]
    made = tuned(results, records)
    refused = Trial(variant="float16", settings="float16", refused="overflows")
    made = Tuned(trials=(*made.trials, refused), rounds=made.rounds, records=made.records)
    found = tuning_front.rows(made)
    assert [row.note for row in found] == [
        None,
        "SIMULATED, not hardware",
        "dead failed: killed",
        "overflows",
    ]
    assert [row.on_front for row in found] == [True, False, False, False]
    assert found[1].ratio is None  # of another backend
    lines = tuning_front.lines(found, rounds=1, records=results.folder)
    assert "settings of om: SIMULATED, not hardware" in lines
    assert any("the images are the test images" in line for line in lines)


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two lowered variants alone."""
    requests = {
        "float16": precision.PrecisionRequest(precision="fp16"),
        "int8": precision.PrecisionRequest(precision="int8", label="minmax"),
    }
    monkeypatch.setattr(tuning, "lowerings", lambda *_: requests)


@pytest.mark.usefixtures("few")
def test_tuning_makes_measures_and_continues(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    to = tmp_path / "tuned"
    command = [
        "tune",
        str(tiny.artifact),
        "--data",
        str(tiny.data),
        "--to",
        str(to),
        "--rounds",
        "1",
        "--threads",
        "1",
    ]
    before = artifact.read(tiny.artifact)
    assert cli.main([*command, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["variant"] for row in rows] == ["onnx-fp32", "onnx-fp16", "onnx-int8-minmax"]
    assert rows[0]["on_front"]
    assert all(row["model_bytes"] > 0 and row["milliseconds"] > 0 for row in rows)
    assert artifact.read(tiny.artifact) == before
    records = sorted((to / "records" / "round-1").glob("*.json"))
    stamps = [path.stat().st_mtime_ns for path in records]
    assert cli.main(command) == 0
    assert [path.stat().st_mtime_ns for path in records] == stamps
    assert "★" in capsys.readouterr().out
    assert cli.main([*command, "--images", "3"]) == 2
    assert "holds a tuning of another" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given_", "message"),
    [
        (["--cann", "7.0"], "need --soc"),
        (["--backend", "mindspore-cpu"], "opens none"),
        (["--soc", "Ascend310"], "tune makes om variants"),
    ],
)
def test_options_that_do_not_fit_are_wrong_use(
    tiny: Tiny, tmp_path: Path, given_: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [
        "tune",
        str(tiny.artifact),
        "--data",
        str(tiny.data),
        "--to",
        str(tmp_path / "to"),
        "--threads",
        "1",
    ]
    assert cli.main([*command, *given_]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "to").exists()
