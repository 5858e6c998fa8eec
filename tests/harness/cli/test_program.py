from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from exporters.weights.backbones import BACKBONES
from harness import cli, registry
from harness.cli import export, fit, outcome
from harness.contracts import DeviceReport
from harness.records import record
from harness.records.record import Source
from tests.conftest import Tiny, write_image
from tests.harness.record_factory import Results, outputs

pytestmark = pytest.mark.usefixtures("fakes")

BENCH = (
    "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); from harness import cli; "
)


def bench(tiny: Tiny, out: Path, *backends: str, more: tuple[str, ...] = ()) -> list[str]:
    """A `bench` of the tiny detector on one thread."""
    arguments = [part for name in backends for part in ("--backend", name)]
    where = [str(tiny.artifact), "--data", str(tiny.data), "--out", str(out)]
    return ["bench", *where, *arguments, "--threads", "1", *more]


def printed(capsys: pytest.CaptureFixture[str]) -> Any:
    """Standard output as the one JSON document it must be."""
    return json.loads(capsys.readouterr().out)


def statuses(document: Any) -> dict[str, str]:
    return {row["case"]["backend"]: row["status"] for row in document["records"]}


def test_category_all_together_with_a_name_is_wrong_use(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["data", "synth", str(tmp_path / "data"), "--category", "all", "--category"]
    assert cli.main([*arguments, "typo"]) == 2
    assert "--category all typo: `all` stands alone" in capsys.readouterr().err
    assert not (tmp_path / "data").exists()


def test_bench_json_is_one_document_with_a_record_per_case(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = bench(tiny, tmp_path / "out", "fake-work", "fake-chatter", more=("--json",))
    assert cli.main(arguments) == 0
    first = printed(capsys)
    assert set(first) == {"records", "parity"}
    assert first["parity"]["verdict"] == "passed"
    assert statuses(first) == {"fake-work": "measured", "fake-chatter": "measured"}
    assert cli.main(arguments) == 0  # from the records of the first
    assert printed(capsys) == first


def test_records_measured_on_another_machine_are_named(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cli.main(bench(tiny, tmp_path / "out", "fake-work"))
    (measured,) = record.read_all(tmp_path / "out")
    board = msgspec.structs.replace(measured.host, name="board", processor="Kunpeng 920")
    record.write(tmp_path / "out", msgspec.structs.replace(measured, host=board))
    assert "board" not in capsys.readouterr().err
    assert cli.main(bench(tiny, tmp_path / "out", "fake-work")) == 0
    assert "fake-work widget was measured on board (Kunpeng 920), 20" in capsys.readouterr().err


def test_arguments_that_cannot_be_parsed_give_a_json_document_too(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        cli.main(["bench", "--json", "--batch-size", "0"])
    document = json.loads(capsys.readouterr().out)
    assert "standard error says what is wrong" in document["error"]


@pytest.mark.parametrize(
    ("backends", "reference"),
    [
        (("openvino-cpu-default", "onnxruntime-cpu"), "onnxruntime-cpu"),
        (("ascend310-simulated", "openvino-cpu-default"), "openvino-cpu-default"),
        (("onnxruntime-cpu", "mindspore-cpu"), "mindspore-cpu"),
        (("openvino-cpu", "onnxruntime-cpu"), "openvino-cpu"),
        (("replay (ascend310-simulated)", "replay (mindspore-cpu)"), "replay (mindspore-cpu)"),
        (("onnxruntime-cpu (inputs 12)", "mindspore-cpu (inputs 12)"), "mindspore-cpu (inputs 12)"),
        (("openvino-cpu-default (inputs 12)", "openvino-cpu (inputs 12)"), "openvino-cpu (inputs 12)"),
    ],
)
def test_the_reference_is_the_training_framework_else_the_most_exact_backend(
    results: Results, backends: tuple[str, str], reference: str
) -> None:
    for name in backends:
        device = DeviceReport(device="any", runtime={}, options={}, simulated="simulated" in name)
        backend, _, source = name.removesuffix(")").partition(" (")
        replayed = Source(record_sha256="1" * 64, made_by=source) if backend == "replay" else None
        results.add(backend, outputs(), device=device, case={"source": source or None}, source=replayed)
    report = outcome._parity_of(record.read_all(results.folder), backends, (), results.folder)
    assert report is not None
    assert report.reference == reference


@pytest.mark.parametrize("command", [["parity", "--reference", "fake-work"], ["tables"]])
def test_reports_in_json_are_one_document(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    cli.main(bench(tiny, tmp_path / "out", "fake-work", "fake-chatter"))
    capsys.readouterr()
    report = ["--report", str(tmp_path / "pictures")] if command[0] == "parity" else []
    assert cli.main([*command, *report, "--results", str(tmp_path / "out"), "--json"]) == 0
    document = printed(capsys)
    if command[0] == "parity":
        assert document["verdict"] == "passed"
    else:
        assert [table["rows"][0]["category"] for table in document["tables"]] == ["widget", "widget"]


def test_backends_json_says_of_each_whether_it_runs_and_why_not(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["backends", "--json"]) == 0
    rows = {row["backend"]: row for row in printed(capsys)["backends"]}
    assert {"onnxruntime-cpu", "onnxruntime-gpu", "mindspore-cpu", "ascend910"} <= set(rows)
    assert rows["fake-work"]["runs_here"] is True
    assert rows["fake-work"]["reason"] is None
    assert rows["fake-absent"]["reason"] == "there is no such board here: plug one in"
    assert all((row["reason"] is None) == row["runs_here"] for row in rows.values())


def test_bench_shows_a_table_per_backend_and_the_verdict(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(bench(tiny, tmp_path / "out", "fake-work", "fake-chatter")) == 0
    shown = capsys.readouterr().out
    for words in (
        "fake-work · onnx-fp32",
        "fake-chatter · onnx-fp32",
        "image AUROC",
        "mean of 1",
        "untrained",
    ):
        assert words in shown
    assert len(re.findall(r"^│ widget +│ +[01]\.\d{4} │", shown, re.MULTILINE)) == 2
    assert "passed" in shown


@pytest.mark.parametrize(
    ("backends", "code"),
    [
        (("fake-work",), 0),
        (("fake-work", "fake-chatter"), 0),
        (("fake-work", "fake-absent"), 3),
        (("fake-nan",), 3),
        (("fake-work", "fake-off"), 1),
        (("fake-work", "fake-off", "fake-absent"), 1),
    ],
)
def test_failed_beats_not_measured_beats_passed(
    tiny: Tiny, tmp_path: Path, backends: tuple[str, ...], code: int
) -> None:
    assert cli.main(bench(tiny, tmp_path / "out", *backends)) == code


def test_parity_of_records_exits_by_its_verdict(tiny: Tiny, tmp_path: Path) -> None:
    cli.main(bench(tiny, tmp_path / "out", "fake-work", "fake-off"))
    arguments = ["parity", "--results", str(tmp_path / "out"), "--reference"]
    assert cli.main([*arguments, "fake-work"]) == 1
    assert cli.main([*arguments, "fake-nobody"]) == 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["bench", "--data", "here"], "bench --data needs a MODEL"),
        (["bench", "here"], "bench MODEL needs --data DIR"),
        (
            ["bench", "here", "m.onnx", "--data", "d"],
            "bench takes one .onnx file, alone: run bench once for it",
        ),
        (["bench", "here", "--data", "d", "--set", "range=unit"], "--set describe an .onnx MODEL"),
        (
            ["bench", "nowhere", "--data", "here", "--backend", "fake-work"],
            "nowhere: no artifact",
        ),
        (["tables", "--results", "nowhere"], "nowhere: no records here; make some with"),
        (["parity", "--reference", "any", "--results", "nowhere"], "nowhere: no records here"),
        (["data", "check", "nowhere"], "nowhere"),
        pytest.param(
            ["fit", "--weights", "random", "--data", "nowhere"],
            "nowhere: no such folder",
            marks=pytest.mark.mindspore,
        ),
        (["export", "nowhere", "--format", "onnx"], "nowhere: no artifact here"),
        (["weights", "convert", "nowhere.pth", "out.safetensors"], "nowhere.pth"),
    ],
)
def test_wrong_use_exits_2_with_the_next_step_on_standard_error(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(arguments) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["bench", "--threads", "0"],
        ["bench", "--batch-size", "two"],
        ["fit"],
        ["tables", "--format", "pdf"],
    ],
)
def test_arguments_that_cannot_be_read_exit_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(arguments)
    assert end.value.code == 2


def test_an_unknown_backend_is_wrong_use_and_the_nearest_one_is_named(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(bench(tiny, tmp_path / "out", "onnxruntime_cpu", more=("--json",))) == 2
    shown = capsys.readouterr()
    message = (
        "unknown backend 'onnxruntime_cpu'; "
        "did you mean 'onnxruntime-cpu', 'onnxruntime-gpu' or 'onnxruntime-cann'?"
    )
    assert message in shown.err
    assert message in json.loads(shown.out)["error"]


def test_a_missing_gpu_is_skipped_and_never_replaced_by_a_cpu(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has the CUDA provider")
    assert cli.main(bench(tiny, tmp_path / "out", "onnxruntime-gpu", more=("--json",))) == 3
    shown = capsys.readouterr()
    (measured,) = json.loads(shown.out)["records"]
    assert measured["status"] == "skipped"
    assert "has no CUDAExecutionProvider" in measured["reason"]
    assert "has no CUDAExecutionProvider" in shown.err
    assert (measured["metrics"], measured["images"], measured["latency_ms"]) == ({}, [], {})


def test_all_runnable_backends_are_benched_if_none_is_named_and_the_others_are_listed(
    tiny: Tiny,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    names = ("fake-work", "fake-absent")
    monkeypatch.setattr(registry, "backend_names", lambda: names)
    assert cli.main(bench(tiny, tmp_path / "out", more=("--json",))) == 0
    shown = capsys.readouterr()
    assert statuses(json.loads(shown.out)) == {"fake-work": "measured"}
    assert "not run here: fake-absent; python -m harness backends says what each needs" in shown.err


@pytest.mark.parametrize(
    "category", [["--category", "all"], ["--category", "widget", "--category", "widget"]]
)
def test_a_category_counts_once_however_often_it_is_named(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str], category: list[str]
) -> None:
    assert cli.main(bench(tiny, tmp_path / "out", "fake-work", more=("--json", *category))) == 0
    assert len(printed(capsys)["records"]) == 1


def test_a_folder_of_artifacts_with_unicode_and_spaces_is_benched(tiny: Tiny, tmp_path: Path) -> None:
    home = tmp_path / "größe 1"
    shutil.copytree(tiny.artifact.parent, home / "meine artefakte")
    shutil.copytree(tiny.data, home / "bilder é")
    moved = Tiny(data=home / "bilder é", artifact=home / "meine artefakte")
    assert cli.main(bench(moved, home / "out put", "fake-work")) == 0
    (measured,) = record.read_all(home / "out put")
    assert measured.case.dataset == "bilder é"


def test_data_check_exits_2_when_something_is_wrong(tiny: Tiny, tmp_path: Path) -> None:
    assert cli.main(["data", "check", str(tiny.data)]) == 0
    broken = Path(shutil.copytree(tiny.data, tmp_path / "data"))
    write_image(broken / "widget/ground_truth/scratch/000_mask.png", np.zeros((40, 40), np.uint8))
    assert cli.main(["data", "check", str(broken)]) == 2


def test_output_into_a_closed_pipe_is_no_traceback(tiny: Tiny, tmp_path: Path) -> None:
    cli.main(bench(tiny, tmp_path / "out", "fake-work"))
    tables = f"{sys.executable} -m harness tables --json --results '{tmp_path / 'out'}' | true"
    done = subprocess.run(["bash", "-c", tables], capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr


def test_ctrl_c_ends_the_worker_keeps_finished_cases_and_says_how_to_continue(
    tiny: Tiny, fakes: Path, tmp_path: Path
) -> None:
    arguments = bench(tiny, tmp_path / "out", "fake-work", "fake-hang", more=("--json",))
    script = f"{BENCH} sys.exit(cli.main({arguments}))"
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as parent:
        hanging = wait_for(fakes / "hanging")
        parent.send_signal(signal.SIGINT)
        out, err = parent.communicate(timeout=60)
    assert (parent.returncode, out) == (130, "")
    assert "interrupted: 1 of 2 cases are measured and kept; the same command continues" in err
    assert "Traceback" not in err
    assert [measured.case.backend for measured in record.read_all(tmp_path / "out")] == ["fake-work"]
    for process in map(int, hanging.split()):
        assert not runs(process)


def wait_for(path: Path) -> str:
    """The contents of a file that a worker is about to write."""
    for _ in range(600):
        if path.is_file() and (text := path.read_text()):
            return text
        time.sleep(0.1)
    raise AssertionError(f"{path} did not appear in a minute")


def runs(process: int) -> bool:
    """Whether a process still runs after a few seconds; a zombie does not."""
    for _ in range(50):
        with contextlib.suppress(OSError):
            os.kill(process, 0)
            if Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
                time.sleep(0.1)
                continue
        return False
    return True


def test_the_names_in_the_parsers_are_those_in_the_registry() -> None:
    assert (
        set(registry.detector_names())
        == set(registry.LEARNERS)
        == set(registry.NETS)
        == set(registry.HEADS) - {"given", "graph"}
    )
    assert set(export.FORMATS) == set(registry.EXPORTERS)
    assert fit.BACKBONES == BACKBONES


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--mask-threshold", "255"),
        ("--mask-threshold", "-1"),
        ("--timeout", "0.5"),
        ("--timeout", "nan"),
        ("--threads", "0"),
        ("--batch-size", "two"),
    ],
)
def test_a_setting_out_of_its_range_is_wrong_use(
    option: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        cli.main(["bench", f"{option}={value}"])
    assert f"argument {option}: {value!r} is not a" in capsys.readouterr().err
