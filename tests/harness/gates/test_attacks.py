"""Attacks: each changes the files of a gate that passes, which must not pass any more."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from harness import storage
from harness.cli import main
from harness.contracts import DeviceReport
from harness.gates import interleaved, ratios
from harness.records import record
from harness.records.record import Record
from tests.harness.gates.gatefiles import (
    BOUND,
    HOST_AWAY,
    LATENCY,
    MEMORY,
    NONINFERIOR,
    PARITY,
    RELATIVE,
    Bench,
    add,
    timed,
    write_run,
)

PIXELS = 'kind = "bound"\nvalue = "aupro"\nof = "mean"\nat_least = 0.1\n'
SPEED = 'kind = "bound"\nvalue = "images_per_second"\nstage = "infer_head"\nof = "mean"\nat_least = 20\n'
SIZE = 'kind = "growth"\nvalue = "model_bytes"\nat_most = 1.0\n'
ALL = (BOUND, PIXELS, SPEED, NONINFERIOR, MEMORY, SIZE, PARITY, LATENCY, RELATIVE)
OF_RECORDS = tuple(rule for rule in ALL if rule not in (LATENCY, RELATIVE))
SIMULATED = DeviceReport(device="npu", runtime={}, options={}, simulated=True)


@pytest.fixture
def good(bench: Bench) -> Bench:
    """All records and benchmarks of the rules `ALL`, which pass with them."""
    add(bench.baseline, finished="2024-01-01T00:00:00+00:00")
    add(bench.results)
    add(bench.results, backend="mindspore-cpu", case={"variant": "mindir-fp32"})
    write_run(bench.results.folder, [timed(1.0)])
    write_run(bench.baseline.folder, [timed(1.0, seed=1)], finished="earlier")
    return bench


def exit_code(bench: Bench, *rules: str) -> int:
    return main(["gate", str(bench.rules(*rules)), "--results", str(bench.results.folder)])


def require_nothing_measured(bench: Bench) -> None:
    """Require that every rule over records, and the gate, is not measured."""
    report = bench.judge(*OF_RECORDS)
    assert [outcome.verdict for outcome in report.outcomes] == ["not measured"] * len(OF_RECORDS)
    assert exit_code(bench, *OF_RECORDS) == 3


def file_of(bench: Bench, backend: str = "onnxruntime-cpu") -> Path:
    (path,) = bench.results.folder.glob(f"*_{backend}_*.json")
    return path


def edit(path: Path, change: Callable[[Any], object], *, seal: str | None = None) -> None:
    """Edit a JSON file by hand; with `seal`, its digest is updated too, as a forger would do."""
    document = json.loads(path.read_text())
    change(document)
    if seal is not None:
        document.pop(seal)
        document[seal] = storage.sha256_of_json(document)
    path.write_text(json.dumps(document))


def test_without_an_attack_everything_passes(good: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(good, *ALL) == 0
    assert f"{len(ALL)} rules, {len(ALL)} passed, 0 failed, 0 not measured" in capsys.readouterr().out


@pytest.mark.parametrize(
    "attack",
    [
        lambda bench: file_of(bench).unlink(),
        lambda bench: shutil.rmtree(bench.results.folder),
        lambda bench: [path.unlink() for path in bench.results.folder.glob("*.json")],
        lambda bench: edit(file_of(bench), lambda it: it.update(peak_memory_bytes=1, model_bytes=1)),
        lambda bench: edit(file_of(bench), lambda it: it["images"][0].update(score=-1.0)),
        lambda bench: edit(file_of(bench), lambda it: it["metrics"].update(image_auroc=float("nan"))),
        lambda bench: edit(file_of(bench), lambda it: it.pop("record_sha256")),
        lambda bench: file_of(bench).rename(bench.results.folder / "renamed.json"),
        lambda bench: file_of(bench).write_text("{"),
    ],
    ids=[
        *("deleted record", "no folder", "empty folder", "edited size", "edited score", "NaN metric"),
        *("digest removed", "renamed record", "half a record"),
    ],
)
def test_a_missing_or_edited_record_is_not_measured(good: Bench, attack: Callable[[Bench], object]) -> None:
    attack(good)
    require_nothing_measured(good)


@pytest.mark.parametrize(
    "changes",
    [
        {"device": SIMULATED},
        {"device": None},
        {"status": "failed", "reason": "the device went away"},
        {"status": "skipped", "reason": "no board"},
        {"case": {"variant": "onnx-fp16"}},
        {"case": {"category": "cable"}},
        {"case": {"dataset": "mvtec2"}},
        {"case": {"source": "outputs of a friend"}},
        {"case": {"suite": "padim"}},
        {"backend": "onnxruntime-cuda"},
    ],
    ids=lambda changes: str(next(iter(changes.items()))),
)
def test_a_record_of_something_else_in_its_place_is_not_measured(
    good: Bench, changes: dict[str, Any]
) -> None:
    file_of(good).unlink()
    add(good.results, **changes)
    require_nothing_measured(good)


@pytest.mark.parametrize("rule", [NONINFERIOR, MEMORY, SIZE, PARITY])
def test_another_detector_is_not_measured(good: Bench, rule: str) -> None:
    file_of(good).unlink()
    add(good.results, detector_sha256="c" * 64)
    assert exit_code(good, rule) == 3


def test_records_of_two_detectors_are_not_measured(good: Bench) -> None:
    add(good.results, detector_sha256="c" * 64)
    require_nothing_measured(good)


def test_a_newer_failure_supersedes(good: Bench) -> None:
    add(good.results, status="failed", reason="it broke", data=None, finished="2026-01-01T00:00:00+00:00")
    require_nothing_measured(good)


def test_an_unreadable_file_keeps_the_gate_from_passing(good: Bench) -> None:
    """The file may be a newer record."""
    (good.results.folder / "stray.json").write_text("{}")
    assert exit_code(good, BOUND) == 3
    (good.results.folder / "stray.json").rename(good.baseline.folder / "stray.json")
    assert exit_code(good, BOUND) == 3


def test_another_detector_than_the_one_named_is_not_measured(good: Bench) -> None:
    named = BOUND + 'find.detector_sha256 = "{}"\n'
    assert exit_code(good, named.format("d" * 64)) == 0
    assert exit_code(good, named.format("d" * 12)) == 0
    assert exit_code(good, named.format("c" * 12)) == 3


def test_memory_against_a_baseline_of_another_machine_is_not_measured(good: Bench) -> None:
    shutil.rmtree(good.baseline.folder)
    add(good.baseline, host=HOST_AWAY, finished="2024-01-01T00:00:00+00:00")
    assert exit_code(good, MEMORY) == 3
    assert exit_code(good, SIZE, NONINFERIOR) == 0  # which do not depend on the machine


@pytest.mark.parametrize("rule", [NONINFERIOR, MEMORY, SIZE])
def test_the_baselines_own_record_is_not_measured_against_itself(good: Bench, rule: str) -> None:
    shutil.rmtree(good.baseline.folder)
    shutil.copytree(good.results.folder, good.baseline.folder)
    assert exit_code(good, rule) == 3


@pytest.mark.parametrize("rule", [NONINFERIOR, MEMORY, SIZE, RELATIVE])
def test_a_missing_baseline_is_not_measured(good: Bench, rule: str) -> None:
    shutil.rmtree(good.baseline.folder)
    assert exit_code(good, rule) == 3


@pytest.mark.parametrize("change", [{"batch_size": 8}, {"threads": 2}, {"warmup": 9}])
@pytest.mark.parametrize("rule", [NONINFERIOR, MEMORY])
def test_a_baseline_of_another_setting_is_not_measured(
    good: Bench, rule: str, change: dict[str, int]
) -> None:
    shutil.rmtree(good.baseline.folder)
    add(good.baseline, case=change, finished="2024-01-01T00:00:00+00:00")
    assert exit_code(good, rule) == 3


@pytest.mark.parametrize("rule", [BOUND, PIXELS, PARITY])
def test_altered_evidence_is_not_measured(good: Bench, rule: str) -> None:
    (path,) = (good.results.folder / "evidence").glob("*_onnxruntime-cpu_*")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert exit_code(good, rule) == 3


@pytest.mark.parametrize("rule", [PIXELS, PARITY, NONINFERIOR.replace("image", "pixel")])
def test_missing_evidence_is_not_measured(good: Bench, rule: str) -> None:
    shutil.rmtree(good.results.folder / "evidence")
    assert exit_code(good, rule) == 3


@pytest.mark.parametrize(("rule", "name"), [(BOUND, "image_auroc"), (PIXELS, "aupro")])
def test_a_metric_that_its_own_images_do_not_give_is_not_measured(good: Bench, rule: str, name: str) -> None:
    edit(file_of(good), lambda it: it["metrics"].update({name: 0.9999}), seal="record_sha256")
    assert exit_code(good, rule) == 3


def test_an_undefined_metric_is_not_measured(good: Bench) -> None:
    def undefine(document: Any) -> None:
        document["undefined"]["image_auroc"] = "one class only"
        del document["metrics"]["image_auroc"]

    edit(file_of(good), undefine, seal="record_sha256")
    assert exit_code(good, BOUND) == exit_code(good, NONINFERIOR) == 3


@pytest.mark.parametrize(
    "samples", [{}, {"infer_head": [10.0]}, {"infer_head": [0.0] * 80}, {"total": [1.0] * 80}]
)
def test_times_that_are_missing_or_not_positive_are_not_measured(
    good: Bench, samples: dict[str, list[float]]
) -> None:
    file_of(good).unlink()
    add(good.results, latency_samples_ms=samples)
    assert exit_code(good, SPEED) == 3


@pytest.mark.parametrize(
    "changes",
    [
        {"benchmark": "b.py::test_renamed"},
        {"subject": "something quick"},
        {"control": "something slow"},
        {"status": "failed"},
        {"simulated": True},
        {"subject_ms": ()},
        {"control_ms": ((1.0,),) * 29},
        {"subject_ms": ((0.0,),) * 30},
        {"subject_ms": ((1.0, 2.0), *((1.0,),) * 29)},
        {"subject_ms": ((0.5,),) * 30, "control_ms": ((1.0,),) * 30},
    ],
    ids=lambda changes: f"{list(changes)} {str(changes)[:40]}",
)
@pytest.mark.parametrize("rule", [LATENCY, RELATIVE])
def test_a_benchmark_of_something_else_is_not_measured(
    good: Bench, rule: str, changes: dict[str, Any]
) -> None:
    write_run(good.results.folder, [timed(0.5, **changes)])
    assert exit_code(good, rule) == 3


def test_a_benchmark_that_is_there_twice_is_not_measured(good: Bench) -> None:
    write_run(good.results.folder, [timed(0.5), timed(0.5)])
    assert exit_code(good, LATENCY) == 3


@pytest.mark.parametrize("rule", [LATENCY, RELATIVE])
def test_too_few_processes_are_not_measured(good: Bench, rule: str) -> None:
    """This holds with many blocks and a clear ratio too."""
    few = timed(0.1, blocks=100, processes=ratios.MINIMUM_PROCESSES - 1)
    write_run(good.results.folder, [few])
    assert good.message(rule).startswith("not measured: b.py::test: 4 processes are too few")
    assert good.message(rule).endswith("pytest --interleaved-processes 5")
    write_run(good.results.folder, [timed(0.1, processes=ratios.MINIMUM_PROCESSES)])
    assert exit_code(good, rule) == 0
    write_run(good.baseline.folder, [few], finished="earlier")
    assert exit_code(good, RELATIVE) == 3


def test_one_process_that_is_there_twice_is_not_measured(good: Bench) -> None:
    processes = timed(0.5).processes
    write_run(good.results.folder, [timed(0.5, processes=(*processes[:4], processes[0]))])
    assert "two processes hold the same times" in good.message(LATENCY)


def test_too_few_blocks_are_not_measured(good: Bench) -> None:
    write_run(good.results.folder, [timed(0.5, blocks=ratios.MINIMUM_BLOCKS - 1)])
    assert exit_code(good, LATENCY) == 3
    write_run(good.results.folder, [timed(0.5, blocks=ratios.MINIMUM_BLOCKS)])
    assert exit_code(good, LATENCY) == 0


def test_an_edited_run_of_benchmarks_is_not_measured(good: Bench) -> None:
    edit(good.results.folder / interleaved.FILE, lambda it: it["benchmarks"][0].update(simulated=False))
    assert exit_code(good, LATENCY) == 0  # nothing was changed
    edit(good.results.folder / interleaved.FILE, lambda it: it["benchmarks"][0].update(processes=[]))
    assert exit_code(good, LATENCY) == 3


def test_benchmarks_against_those_of_another_machine_are_not_measured(good: Bench) -> None:
    write_run(good.baseline.folder, [timed(1.0, seed=1)], host=HOST_AWAY)
    assert exit_code(good, RELATIVE) == 3
    assert exit_code(good, LATENCY) == 0


def test_the_baselines_own_run_is_not_measured_against_itself(good: Bench) -> None:
    write_run(good.baseline.folder, [timed(1.0)])
    assert exit_code(good, RELATIVE) == 3


@pytest.mark.parametrize("rule", [NONINFERIOR, PARITY])
def test_records_of_other_images_are_not_measured(good: Bench, rule: str) -> None:
    added = record.read(file_of(good))
    file_of(good).unlink()
    assert added.data is not None
    others = tuple(
        msgspec.structs.replace(image, stages=image.stages | {"decode": "other pixels"})
        for image in added.images
    )
    add(good.results, data=msgspec.structs.replace(added.data, fingerprint="0" * 64), images=others)
    assert exit_code(good, rule) == 3


def test_parity_with_a_simulated_reference_is_not_measured(good: Bench) -> None:
    file_of(good, "mindspore-cpu").unlink()
    add(good.results, backend="mindspore-cpu", case={"variant": "mindir-fp32"}, device=SIMULATED)
    assert exit_code(good, PARITY) == 3
    assert exit_code(good, PARITY + "allow_simulated = true\n") == 0


def test_a_file_without_rules_does_not_pass(good: Bench) -> None:
    assert exit_code(good) == 3
    (good.folder / "empty.toml").write_text("")
    assert main(["gate", str(good.folder / "empty.toml"), "--results", str(good.results.folder)]) == 3


def test_results_cannot_be_their_own_baseline(good: Bench) -> None:
    path = good.rules(BOUND)
    path.write_text(path.read_text().replace('baseline = "baseline"', 'baseline = "results"'))
    assert main(["gate", str(path), "--results", str(good.results.folder)]) == 2


def test_failed_beats_not_measured(good: Bench) -> None:
    impossible = BOUND.replace("0.9", "1.5")
    missing = BOUND + 'find.backend = "nothing"\n'
    assert exit_code(good, impossible, missing) == exit_code(good, missing, impossible) == 1
    (good.results.folder / "stray.json").write_text("{}")
    assert exit_code(good, impossible, BOUND) == 1


def test_a_record_is_sealed_when_it_is_written(bench: Bench) -> None:
    added: Record = add(bench.results)
    assert record.read(record.path_of(bench.results.folder, added)) == added
    document = json.loads(file_of(bench).read_text())
    file_of(bench).write_text(json.dumps(dict(reversed(document.items())), indent=8))
    assert record.read(file_of(bench)) == added
    assert np.isclose(added.metrics["image_auroc"], 1)
