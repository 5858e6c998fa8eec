from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from harness import build, cli
from harness.build import OmRequest
from harness.contracts import DeviceReport
from harness.detector import artifact
from harness.detector.artifact import Artifact
from harness.errors import ArtifactError, DatasetError, HarnessError, Unavailable, UsageError
from harness.records.record import Distribution, Record
from harness.records.tuning import Trial, Tuned
from harness.run import plan, tuning
from harness.tables import tuning as tuning_table
from tests.conftest import Tiny
from tests.harness.record_factory import HOST, Outputs, Results, outputs

GROUPS = {"first": ("a",), "last": ("b",), "tail": ("c", "d"), "net/layer1": ("a", "b")}


def test_every_calibration_is_tried_with_and_without_the_ends_and_every_group_once() -> None:
    tried = tuning.reductions(GROUPS, 5)
    assert list(tried) == [
        "float16",
        *("int8 minmax", "int8 minmax, ends kept", "int8 minmax, first kept", "int8 minmax, last kept"),
        *("int8 minmax, tail kept", "int8 minmax, net/layer1 kept"),
        *("int8 percentile", "int8 percentile, ends kept"),
    ]
    assert tried["int8 percentile, ends kept"] == build.PrecisionRequest(
        precision="int8",
        calibration="percentile",
        keep_float=("a", "b", "c", "d"),
        images=5,
        label="percentile-ends-kept",
    )
    assert tried["int8 minmax, net/layer1 kept"].label == "minmax-net-layer1-kept"  # no path


def test_groups_of_the_same_nodes_are_tried_once() -> None:
    tried = tuning.reductions({"first": ("a",), "last": ("a",)}, 5)
    assert [name for name in tried if "minmax" in name] == ["int8 minmax", "int8 minmax, ends kept"]
    assert [name for name in tuning.reductions({}, 5) if "kept" in name] == []


def scored(*, moved: float = 0.0, image: int = 0) -> Outputs:
    """Scores from 1 to 4, one of them changed."""
    measured = outputs()
    measured.scores[image] += moved
    return measured


def add(results: Results, variant: str, scores: Outputs, ms: float, **changes: Any) -> Record:
    infer = Distribution(mean=3 * ms, p50=ms, p90=4 * ms, p95=5 * ms, p99=6 * ms)
    return results.add(
        changes.pop("backend", "cpu"),
        scores,
        case={"variant": variant},
        model_sha256=variant,
        latency_ms={"infer": infer},
        **changes,
    )


def tuned(results: Results, *rounds: list[Record]) -> Tuned:
    names = dict.fromkeys(case_record.case.variant for case_record in rounds[0])
    trials = tuple(Trial(variant=name, settings=f"settings of {name}") for name in names)
    return Tuned(trials=trials, rounds=tuple(map(tuple, rounds)), records=(results.folder,))


def test_a_row_shows_cost_and_gain_of_a_setting(results: Results) -> None:
    first = [
        add(results, "fp32", scored(), 10.0, peak_memory_bytes=300, model_bytes=40),
        add(results, "int8", scored(moved=0.6, image=3), 4.0, peak_memory_bytes=200, model_bytes=10),
    ]
    second = [
        add(results, "fp32", scored(), 8.0, peak_memory_bytes=310, model_bytes=40),
        add(results, "int8", scored(moved=0.6, image=3), 5.0, peak_memory_bytes=190, model_bytes=10),
    ]
    float32, int8 = tuning_table.rows(tuned(results, first, second))
    assert (float32.difference, float32.flips, float32.ratio) == (0, 0, 1)
    assert int8.difference == pytest.approx(0.6 / 3)
    assert int8.flips == 1  # 2.0 becomes 2.6, the threshold is 2.5
    assert (int8.milliseconds, int8.ratio) == (4.0, 0.5)
    assert (int8.peak_memory_bytes, int8.model_bytes) == (190, 10)
    assert int8.metrics["image_auroc"] == first[1].metrics["image_auroc"]


def test_the_difference_is_a_share_of_float32s_range(results: Results) -> None:
    records = [add(results, "fp32", scored(), 10.0), add(results, "int8", scored(moved=3.0, image=7), 4.0)]
    assert tuning_table.rows(tuned(results, records))[1].difference == pytest.approx(3.0 / 3)


def test_the_table_has_milliseconds_and_megabytes(results: Results) -> None:
    sizes = {"peak_memory_bytes": 190_000_000, "model_bytes": 12_340_000}
    records = [
        add(results, "fp32", scored(), 8.0),
        add(results, "int8", scored(moved=0.6, image=3), 4.0, **sizes),
    ]
    lines = tuning_table.lines(tuning_table.rows(tuned(results, records)), rounds=1, records=results.folder)
    (line,) = [line for line in lines if "settings of int8" in line]
    cells = [cell.strip() for cell in line.strip("│").split("│")]
    assert cells[:5] == ["★", "settings of int8", "int8", "20.00%", "1"]
    assert "cpu" in lines
    assert cells[-4:] == ["4.0", "0.50", "190", "12.3"]


def test_each_backend_has_its_own_pareto_front_and_float32_reference(results: Results) -> None:
    simulated = DeviceReport(device="chip", runtime={}, options={}, simulated=True)
    records = [
        add(results, "fp32", scored(), 10.0),
        add(results, "int8", scored(moved=0.3), 5.0),
        add(results, "fp32", scored(moved=0.3), 100.0, backend="slow"),
        add(results, "int8", scored(moved=0.3), 50.0, backend="slow"),
        add(results, "chip", scored(), 0.1, device=simulated),
    ]
    table_rows = {(row.backend, row.variant): row for row in tuning_table.rows(tuned(results, records))}
    assert {key for key, row in table_rows.items() if row.on_front} == {
        ("cpu", "fp32"),
        ("cpu", "int8"),
        ("slow", "int8"),  # as near to its float32 as that itself
    }
    assert (table_rows["slow", "int8"].ratio, table_rows["slow", "int8"].difference) == (0.5, 0.0)


def test_without_a_measured_float32_nothing_is_compared(results: Results) -> None:
    records = [
        add(results, "fp32", scored(), 10.0, status="failed", reason="killed"),
        add(results, "int8", scored(), 5.0),
    ]
    table_rows = tuning_table.rows(tuned(results, records))
    assert [row.note for row in table_rows] == ["fp32 failed: killed"] * 2
    assert [(row.difference, row.on_front) for row in table_rows] == [(None, False)] * 2


def test_the_pareto_front_contains_the_settings_that_no_other_beats(results: Results) -> None:
    settings = {
        "fp32": (0.0, 10.0),
        "near": (0.1, 6.0),
        "slower": (0.1, 7.0),
        "far": (0.3, 6.0),
        "fast": (0.2, 3.0),
    }
    records = [add(results, name, scored(moved=moved), ms) for name, (moved, ms) in settings.items()]
    table_rows = tuning_table.rows(tuned(results, records))
    assert [row.variant for row in table_rows if row.on_front] == ["fp32", "near", "fast"]


def test_simulators_failures_and_refusals_are_shown_but_never_on_the_pareto_front(results: Results) -> None:
    simulated = DeviceReport(device="chip", runtime={}, options={}, simulated=True)
    records = [
        add(results, "fp32", scored(), 10.0),
        add(results, "om", scored(), 0.1, backend="chip", device=simulated),
        add(results, "dead", scored(), 0.1, status="failed", reason="killed"),
    ]
    measured = tuned(results, records)
    refused = Trial(variant="float16", settings="float16", refused="overflows")
    measured = Tuned(trials=(*measured.trials, refused), rounds=measured.rounds, records=measured.records)
    table_rows = tuning_table.rows(measured)
    assert [row.note for row in table_rows] == [
        None,
        "SIMULATED, not hardware",
        "dead failed: killed",
        "overflows",
    ]
    assert [row.on_front for row in table_rows] == [True, False, False, False]
    assert table_rows[1].ratio is None  # of another backend
    lines = tuning_table.lines(table_rows, rounds=1, records=results.folder)
    assert "settings of om: SIMULATED, not hardware" in lines
    assert any("the images are the test images" in line for line in lines)


def test_a_trial_with_the_same_file_is_shown_without_numbers(results: Results) -> None:
    measured = tuned(results, [add(results, "fp32", scored(), 10.0), add(results, "minmax", scored(), 5.0)])
    same = Trial(variant="percentile", settings="int8 percentile", same_as="minmax")
    table_rows = tuning_table.rows(dataclasses.replace(measured, trials=(*measured.trials, same)))
    assert [row.on_front for row in table_rows] == [False, True, False]
    assert (table_rows[2].variant, table_rows[2].milliseconds) == ("percentile", None)
    lines = tuning_table.lines(table_rows, rounds=1, records=results.folder)
    assert "int8 percentile: the same file as minmax" in lines
    assert "  (unrounded values decide)" in lines


def test_times_of_two_machines_are_not_compared(results: Results) -> None:
    other = msgspec.structs.replace(HOST, name="board", processor="small")
    records = [
        add(results, "fp32", scored(), 10.0),
        add(results, "near", scored(), 5.0),
        add(results, "far", scored(), 0.1, host=other),
    ]
    float32, near, far = tuning_table.rows(tuned(results, records))
    assert [row.on_front for row in (float32, near, far)] == [False, True, False]
    assert (far.difference, far.milliseconds, far.ratio) == (None, None, None)
    assert "on several machines, bench (any), board (small): tune into another folder" in str(far.note)


def test_equal_float32_scores_give_no_scale(results: Results) -> None:
    flat = dataclasses.replace(scored(), scores=np.ones(8))
    simulated = DeviceReport(device="chip", runtime={}, options={}, simulated=True)
    records = [
        add(results, "fp32", flat, 10.0),
        add(results, "int8", flat, 5.0),
        add(results, "om", scored(), 5.0, device=simulated),
    ]
    table_rows = tuning_table.rows(tuned(results, records))
    why = "float32's scores are all equal, so there is no scale"
    assert [row.note for row in table_rows] == [why, why, f"SIMULATED, not hardware; {why}"]
    assert [(row.difference, row.on_front) for row in table_rows] == [(None, False)] * 3
    assert table_rows[1].milliseconds == 5.0
    assert not tuning_table.complete(table_rows)


@pytest.mark.parametrize(("unstable", "rows"), [("int8", [1]), ("fp32", [0, 1, 2])])
def test_scores_that_differ_from_round_to_round_have_no_difference(
    results: Results, unstable: str, rows: list[int]
) -> None:
    def measure(moved: float) -> list[Record]:
        names = ("fp32", "int8", "fp16")
        return [
            add(results, name, scored(moved=moved if name == unstable else 0), ms)
            for name, ms in zip(names, (9.0, 8.0, 7.0), strict=True)
        ]

    table_rows = tuning_table.rows(tuned(results, measure(0), measure(1e-9)))
    why = f"the scores of {unstable} differ from round to round: there is no one difference"
    assert [index for index, row in enumerate(table_rows) if row.note == why] == rows
    assert all(table_rows[index].difference is None and not table_rows[index].on_front for index in rows)
    assert not tuning_table.complete(table_rows)
    assert tuning_table.complete(tuning_table.rows(tuned(results, measure(0), measure(0))))


@pytest.mark.parametrize("refused", ["overflows", None])
def test_a_tuning_that_measured_only_float32_is_not_measured(
    results: Results, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, refused: str | None
) -> None:
    measured = tuned(results, [add(results, "fp32", scored(), 10.0)])
    trial = Trial(variant="float16", settings="float16", refused=refused)
    measured = dataclasses.replace(measured, trials=(*measured.trials, trial))
    monkeypatch.setattr(tuning, "tune", lambda *_, **__: measured)
    assert cli.main(["tune", "artifact", "--data", "data", "--to", "to"]) == 3
    assert f"float16: {refused or 'no backend opened it'}" in capsys.readouterr().out


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only two variants of reduced precision."""
    requests = {
        "float16": build.PrecisionRequest(precision="fp16"),
        "int8": build.PrecisionRequest(precision="int8", label="minmax"),
    }
    monkeypatch.setattr(tuning, "reductions", lambda *_: requests)


Cases = list[tuple[str, str, str]]


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch) -> Cases:
    """Round, backend and variant of every case, in order; none is run."""
    seen: Cases = []

    def run(plan: plan.Plan, **_: Any) -> tuple[Record, ...]:
        seen.extend((job.out.name, job.case.backend, job.case.variant) for job in plan.jobs)
        return ()

    monkeypatch.setattr(plan, "run", run)
    return seen


def tune(tiny: Tiny, to: Path, **changes: Any) -> Tuned:
    request = tuning.TuneRequest(artifact=tiny.artifact, data=tiny.data, to=to, images=2, rounds=1)
    request = dataclasses.replace(request, **changes)
    return tuning.tune(request, say=list[str]().append, report=list[Record]().append)


@pytest.mark.usefixtures("few")
def test_every_backend_measures_what_it_opens_in_every_round(
    tiny: Tiny, tmp_path: Path, planned: Cases, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    monkeypatch.setattr(tuning, "OM_MODES", ("force_fp32", "allow_mix_precision", "force_fp16"))
    backends = ("onnxruntime-cpu", "ascend310-simulated")
    om = OmRequest(soc="Ascend310", cann="7.0", atc="simulated")
    outcome = tune(tiny, tmp_path / "to", backends=backends, rounds=2, om=om)
    modes = [f"om-{mode}-ascend310-cann7.0-b1-simulated" for mode in ("force_fp32", "force_fp16")]
    once = [("onnxruntime-cpu", name) for name in ("onnx-fp32", "onnx-fp16", "onnx-int8-minmax")]
    once += [("ascend310-simulated", name) for name in modes]
    assert planned == [(folder, *case) for folder in ("round-1", "round-2") for case in once]
    assert [path.name for path in outcome.records] == ["round-1", "round-2"]
    refused = [trial.settings for trial in outcome.trials if trial.refused]
    assert refused == ["atc allow_mix_precision"]  # which the simulator does not have
    copy = artifact.read(tmp_path / "to" / "widget")

    assert tune(tiny, tmp_path / "to", backends=backends, om=om).trials == outcome.trials
    assert artifact.read(copy.path) == copy  # nothing is made again
    two = tune(tiny, tmp_path / "to", backends=backends, om=dataclasses.replace(om, batches=(2,)))
    measured = [trial.variant for trial in two.trials[3:] if not trial.refused]
    assert measured == [name.replace("b1", "b2") for name in modes]


def test_a_refused_setting_is_a_result(
    tiny: Tiny, tmp_path: Path, planned: Cases, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    request = build.PrecisionRequest(precision="int8", images=2, label="all")
    keeping = build.PrecisionRequest(precision="int8", images=2, keep_float=("Conv",), label="none")
    monkeypatch.setattr(tuning, "reductions", lambda *_: {"all": request, "none": keeping})
    float32, all_, none = tune(tiny, tmp_path / "to").trials
    assert (float32.refused, all_.refused, all_.variant) == (None, None, "onnx-int8-all-images2")
    assert "nothing was quantised" in str(none.refused)
    assert [variant for _, _, variant in planned] == ["onnx-fp32", "onnx-int8-all-images2"]


def test_a_variant_of_the_same_bytes_is_made_and_not_measured(
    tiny: Tiny, tmp_path: Path, planned: Cases, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lower(copy: Artifact, _: Any, request: build.PrecisionRequest) -> artifact.Variant:
        """A copy of the float32 file with `label` appended, listed as another variant."""
        float32 = copy.variant(("onnx",))
        name = f"onnx-{request.label}.onnx"
        content = b"float16" if request.precision == "fp16" else b"int8"
        (copy.path / name).write_bytes(content)
        files = {name: hashlib.sha256(content).hexdigest()}
        measured = msgspec.structs.replace(
            float32, id=f"onnx-{request.label}", precision=request.precision, files=files
        )
        artifact.add_variant(copy.path, measured)
        return measured

    requests = {
        "float16": build.PrecisionRequest(precision="fp16", label="half"),
        "int8 a": build.PrecisionRequest(precision="int8", label="a"),
        "int8 b": build.PrecisionRequest(precision="int8", label="b"),
    }
    monkeypatch.setattr(tuning, "reductions", lambda *_: requests)
    monkeypatch.setattr(build, "quantize", lower)
    lines: list[str] = []
    request = tuning.TuneRequest(artifact=tiny.artifact, data=tiny.data, to=tmp_path / "to", rounds=1)
    outcome = tuning.tune(request, say=lines.append, report=list[Record]().append)
    assert [trial.same_as for trial in outcome.trials] == [None, None, None, "onnx-a"]
    assert [variant for _, _, variant in planned] == ["onnx-fp32", "onnx-half", "onnx-a"]
    assert "int8 b: the same file as onnx-a, not measured again" in lines


@pytest.mark.parametrize(
    ("om", "error"),
    [
        (OmRequest(soc="Ascend310", atc="simulated"), UsageError),  # no --cann, and no toolkit to say it
        (OmRequest(soc="Ascend310", cann="7.0", atc="no-such-atc"), Unavailable),
    ],
)
def test_a_missing_atc_is_reported_before_anything_is_made(
    tiny: Tiny,
    tmp_path: Path,
    om: OmRequest,
    error: type[HarnessError],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    measured: list[Any] = []
    monkeypatch.setattr(build, "quantize", lambda *request: measured.append(request))
    with pytest.raises(error):
        tune(tiny, tmp_path / "to", backends=("onnxruntime-cpu", "ascend310-simulated"), om=om)
    assert measured == []
    assert (tmp_path / "to").exists() == (error is Unavailable)  # with float32 alone


@pytest.mark.parametrize("error", [ArtifactError, DatasetError, Unavailable, UsageError])
def test_an_error_that_affects_every_setting_stops_the_tuning(
    tiny: Tiny, tmp_path: Path, planned: Cases, error: type[HarnessError], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise error("not here")

    monkeypatch.setattr(build, "quantize", refuse)
    with pytest.raises(error, match="not here"):
        tune(tiny, tmp_path / "to")
    assert planned == []


def test_versions_of_the_packages_that_make_variants_are_recorded() -> None:
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    assert tuning._software()["onnx"] == onnx.__version__
    assert any(name.startswith("onnxruntime") for name in tuning._software())


@pytest.mark.parametrize("other", ["detector", "training images", "onnxruntime"])
def test_a_folder_holds_the_tuning_of_one_detector_on_one_data_set(
    tiny: Tiny, tmp_path: Path, planned: Cases, other: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning, "reductions", lambda *_: {})
    data = Path(shutil.copytree(tiny.data, tmp_path / "data"))
    measured = Path(shutil.copytree(tiny.artifact, tmp_path / "art" / "widget"))
    tune(tiny, tmp_path / "to", artifact=measured, data=data)
    tune(tiny, tmp_path / "to", artifact=measured, data=data)
    if other == "detector":
        manifest = msgspec.structs.replace(artifact.read(measured).manifest, detector_sha256="b" * 64)
        monkeypatch.setattr(
            artifact, "find", lambda *_: (Artifact(path=measured, manifest=manifest, sha256=""),)
        )
    elif other == "onnxruntime":
        monkeypatch.setattr(tuning, "_software", lambda: {"onnxruntime": "0.1"})
    else:
        (data / "widget" / "train" / "good" / "000.png").unlink()
    with pytest.raises(UsageError, match="holds a tuning of another detector, model, data"):
        tune(tiny, tmp_path / "to", artifact=measured, data=data)
    assert len(planned) == 2


def test_several_artifacts_are_not_tuned_at_once(tiny: Tiny, tmp_path: Path) -> None:
    for name in ("one", "two"):
        shutil.copytree(tiny.artifact, tmp_path / "art" / name)
    with pytest.raises(ArtifactError, match="2 artifacts: tune one of them"):
        tune(tiny, tmp_path / "to", artifact=tmp_path / "art")
    assert not (tmp_path / "to").exists()


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
    assert cli.main(command) == 0
    written = capsys.readouterr()
    assert "★" in written.out
    assert "onnxruntime-cpu onnx-int8-minmax: measured\n" in written.err
    assert artifact.read(tiny.artifact) == before
    records = sorted((to / "records" / "round-1").glob("*.json"))
    stamps = [path.stat().st_mtime_ns for path in records]
    assert cli.main([*command, "--json"]) == 0
    assert [path.stat().st_mtime_ns for path in records] == stamps
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["variant"] for row in rows] == ["onnx-fp32", "onnx-fp16", "onnx-int8-minmax"]
    assert rows[0]["on_front"]
    assert all(row["model_bytes"] > 0 and row["milliseconds"] > 0 for row in rows)
    assert cli.main([*command, "--images", "3"]) == 2
    assert "holds a tuning of another" in capsys.readouterr().err


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_progress_names_the_variant_and_with_json_only_failures(
    results: Results,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    flags: list[str],
) -> None:
    records = [
        add(results, "fp32", scored(), 1.0),
        add(results, "int8", scored(), 1.0, status="failed", reason="killed"),
    ]

    def tune(*_: Any, report: Any, **__: Any) -> Tuned:
        for case_record in records:
            report(case_record)
        return tuned(results, records)

    monkeypatch.setattr(tuning, "tune", tune)
    assert cli.main(["tune", "artifact", "--data", "data", "--to", "to", *flags]) == 3
    lines = capsys.readouterr().err.splitlines()
    assert lines == [*([] if flags else ["cpu fp32: measured"]), "cpu int8: failed: killed"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--cann", "7.0"], "need --soc"),
        (["--backend", "mindspore-cpu"], "opens none"),
        (["--soc", "Ascend310"], "tune makes om variants"),
        (
            [
                *("--backend", "onnxruntime-cpu", "--backend", "ascend310-simulated"),
                *("--soc", "Ascend310", "--atc", "simulated"),
            ],
            "give --cann",
        ),
    ],
)
def test_options_that_do_not_belong_together_are_wrong_use(
    tiny: Tiny, tmp_path: Path, changes: list[str], message: str, capsys: pytest.CaptureFixture[str]
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
    assert cli.main([*command, *changes]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "to").exists()
