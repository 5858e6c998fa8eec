from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from exporters.ascend import om
from exporters.errors import ExportError
from harness import build, cli, machine, storage
from harness.build import OmRequest
from harness.detector import artifact
from harness.detector.artifact import Artifact, TensorSpec
from harness.detector.preprocess import Windows
from harness.errors import ArtifactError, Unavailable, UsageError
from tests.conftest import Tiny

REQUEST = OmRequest(soc="Ascend310", cann="7.0", atc="simulated")
REAL = b"IMOD, say"


@pytest.fixture
def widget(tiny: Tiny, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny.artifact, tmp_path / "art" / "widget"))


@pytest.fixture
def fake(tmp_path: Path) -> Callable[[str], str]:
    """Give the path of an `atc` that does what a shell script says."""

    def write(script: str) -> str:
        path = tmp_path / "bin" / "atc"
        path.parent.mkdir()
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return str(path)

    return write


def changed(request: OmRequest = REQUEST, **changes: Any) -> OmRequest:
    fields = {name: getattr(request, name) for name in OmRequest.__dataclass_fields__}
    return OmRequest(**fields | changes)


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def export(path: Path, request: OmRequest) -> artifact.Variant:
    return build.export(artifact.read(path), "om", om=request)


def test_a_static_batch_becomes_a_variant_with_all_that_made_it(widget: Path) -> None:
    made = export(widget, changed(batches=(2,)))
    (listed,) = (item for item in artifact.read(widget).manifest.variants if item.format == "om")
    assert listed == made
    assert made.id == "om-force_fp16-ascend310-cann7.0-b2-simulated"
    assert made.input == TensorSpec(name="image", dtype="float32", shape=(2, 3, 32, 32))
    assert made.outputs == (TensorSpec(name="embedding", dtype="float32", shape=(2, 6, 8, 8)),)
    assert (made.gears, made.input_stage, made.contains, made.agreement) == ((2,), "layout", (), {})
    assert made.target == artifact.Target(
        soc="Ascend310",
        cann="7.0",
        options={"precision_mode": "force_fp16", "output_type": "FP32"},
        simulated=True,
    )
    assert (made.software["source"], made.software["opset"]) == ("onnx-fp32", "13")
    assert made.files == {made.model: storage.sha256_of_file(widget / made.model)}
    assert (widget / made.model).read_bytes().startswith(artifact.SIMULATED_OM)
    assert "ATC run success" in (widget / f"{made.id}.atc.log").read_text()


def test_gears_and_aipp(widget: Path) -> None:
    made = export(widget, changed(batches=(1, 4), aipp=True, output_type="FP16", cann="5.0"))
    assert made.id == "om-force_fp16-ascend310-cann5.0-gears1-4-out16-aipp-simulated"
    assert made.input == TensorSpec(name="image", dtype="uint8", shape=(None, 32, 32, 3))
    assert made.outputs == (TensorSpec(name="embedding", dtype="float16", shape=(None, 6, 8, 8)),)
    assert (made.gears, made.input_stage) == ((1, 4), "crop")
    assert made.contains == ("scale", "normalise", "layout")
    configuration = widget / f"{made.id}.aipp.cfg"
    assert list(made.files) == [made.model, configuration.name]
    assert "min_chn_0: 123.675" in configuration.read_text()


def test_other_options_never_overwrite_an_earlier_file(widget: Path) -> None:
    requests = [
        REQUEST,
        changed(cann="8.0"),
        changed(soc="Ascend310P3"),
        changed(precision_mode="force_fp32"),
        changed(output_type="FP16"),
        changed(batches=(2,)),
        changed(batches=(1, 2)),
        changed(aipp=True),
    ]
    plans = [om._plan(artifact.read(widget), request, head_in_graph=False).id for request in requests]
    assert len(set(plans)) == len(requests)


def test_the_command_of_a_static_batch_and_of_gears(widget: Path) -> None:
    found = artifact.read(widget)
    static = om.dry_run(found, changed(batches=(8,), atc="/opt/atc"), head_in_graph=False)
    assert static.splitlines()[1] == (
        "/opt/atc --framework=5 --model=model.onnx --output=model --input_format=NCHW --input_shape=image:8,3,32,32 "
        "--soc_version=Ascend310 --output_type=FP32 --precision_mode=force_fp16 --log=error"
    )
    gears = om.dry_run(found, changed(batches=(1, 4, 8)), head_in_graph=False)
    assert " --input_shape=image:-1,3,32,32 --dynamic_batch_size=1,4,8 " in gears


def test_a_dry_run_prints_command_and_aipp_file_and_writes_nothing(
    widget: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in widget.parent.rglob("*")}
    code = cli.main(
        [
            "export",
            str(widget),
            "--format",
            "om",
            "--soc",
            "Ascend310",
            "--cann",
            "7.0",
            "--aipp",
            "--dry-run",
        ]
    )
    out = capsys.readouterr().out
    assert code == 0
    assert "\natc --framework=5 " in out
    assert "--insert_op_conf=aipp.cfg" in out
    assert "  var_reci_chn_2: 0.0174291939\n}" in out
    assert {path: path.stat().st_mtime_ns for path in widget.parent.rglob("*")} == before


def test_the_command_line_exports_and_claims_no_agreement(
    widget: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [
        "export",
        str(widget),
        "--format",
        "om",
        "--soc",
        "Ascend310",
        "--cann",
        "7.0",
        "--gears",
        "8,1",
        "--atc",
        "simulated",
    ]
    assert cli.main(command) == 0
    out = capsys.readouterr().out
    assert (
        "gears1-8-simulated.om: compiled by the SIMULATED atc, which no hardware runs, for Ascend310, CANN 7.0"
        in out
    )
    assert "agrees" not in out.replace("whether it agrees", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--format", "om"], "needs --soc"),
        (["--format", "onnx", "--soc", "Ascend310"], "belong to --format om"),
        (["--format", "onnx", "--dry-run"], "belong to --format om"),
        (
            ["--format", "om", "--format", "onnx", "--soc", "Ascend310", "--dry-run"],
            "leave out the other formats",
        ),
        ([], "--format .* or --fp16-report"),
        (["--format", "onnx", "--images", "3"], "belong to --fp16-report"),
        (["--fp16-report"], "needs --data"),
        (["--fp16-report", "--data", ".", "--format", "onnx"], "leave out --format"),
        (["--fp16-report", "--data", ".", "--aipp"], "belong to --format om"),
        (["--format", "om", "--soc", "310", "--cann", "7.0"], "Ascend310, Ascend310P3"),
        (["--format", "om", "--soc", "Ascend310", "--cann", "4.1", "--atc", "simulated"], "older than 5.0"),
        (["--format", "om", "--soc", "Ascend310", "--gears", "1"], "two or more"),
        (["--format", "om", "--soc", "Ascend310", "--gears", "2,2"], "two or more"),
        (["--format", "om", "--soc", "Ascend310", "--gears", "1,2", "--batch", "3"], "not allowed with"),
    ],
)
def test_options_that_do_not_fit_are_wrong_use(
    widget: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    try:
        code: Any = cli.main(["export", str(widget), *arguments])
    except SystemExit as stop:
        code = stop.code
    assert code == 2
    assert re.search(message, capsys.readouterr().err)


def test_an_om_needs_a_request(widget: Path) -> None:
    with pytest.raises(UsageError, match="--format om --soc Ascend310"):
        build.export(artifact.read(widget), "om")


def test_a_missing_source_is_named_with_its_command(widget: Path) -> None:
    found = artifact.read(widget)
    with pytest.raises(ArtifactError, match=r"no ONNX variant with its head.*--format onnx --head-in-graph"):
        om.export(found, om=REQUEST, head_in_graph=True)
    mindir = msgspec.structs.replace(found.manifest.variants[0], id="mindir-fp32", format="mindir")
    artifact.write_manifest(widget, msgspec.structs.replace(found.manifest, variants=(mindir,)))
    with pytest.raises(
        ArtifactError, match=r"no ONNX variant without its head .*variants: mindir-fp32.*--format onnx$"
    ):
        export(widget, REQUEST)


def with_air(widget: Path, *, onnx_too: bool) -> Artifact:
    found = artifact.read(widget)
    onnx = found.manifest.variants[0]
    (widget / "air-fp32.air").write_bytes(b"air")
    air = msgspec.structs.replace(
        onnx,
        id="air-fp32",
        format="air",
        gears=(1,),
        files={"air-fp32.air": storage.sha256_of_file(widget / "air-fp32.air")},
    )
    variants = (air, onnx) if onnx_too else (air,)
    artifact.write_manifest(widget, msgspec.structs.replace(found.manifest, variants=variants))
    return artifact.read(widget)


def test_onnx_goes_before_air(widget: Path) -> None:
    assert om._plan(with_air(widget, onnx_too=True), REQUEST, head_in_graph=False).source.format == "onnx"


def test_an_air_is_compiled_as_it_is_at_its_own_batch(widget: Path, fake: Callable[[str], str]) -> None:
    found = with_air(widget, onnx_too=False)
    program = fake(
        f'echo "$@"; cmp model.air {widget}/air-fp32.air && echo OM > model.om; echo ATC run success, welcome'
    )
    made = om.export(found, om=changed(atc=program))
    assert made.id == "om-force_fp16-ascend310-cann7.0-b1-air"
    said = (widget / f"{made.id}.atc.log").read_text().splitlines()[1]
    assert said.startswith(
        "--framework=1 --model=model.air --output=model --input_format=NCHW --soc_version="
    )
    with pytest.raises(UsageError, match="of batch 1 alone"):
        om.export(found, om=changed(batches=(1, 2)))


def test_windows_whose_head_needs_the_float_input_take_no_aipp(widget: Path) -> None:
    found = artifact.read(widget)
    manifest = found.manifest
    onnx = msgspec.structs.replace(manifest.variants[0], input_stage="windows")
    steps = (*manifest.preprocessing, Windows(size=16, stride=16))
    changed_manifest = msgspec.structs.replace(manifest, variants=(onnx,), preprocessing=steps)
    found = Artifact(path=widget, manifest=changed_manifest, sha256="")
    with pytest.raises(UsageError, match=r"float input, which AIPP leaves on the chip; .*--head-in-graph"):
        om.export(found, om=changed(aipp=True))


# --- a program that is not the simulator -----------------------------------------------------------------------------

OK = "printf '%s' 'IMOD, say' > model.om; echo '...'; echo 'ATC run success, welcome to the next use.'"


def test_the_mark_comes_from_the_file_alone(widget: Path, fake: Callable[[str], str]) -> None:
    made = export(widget, changed(atc=fake(OK)))
    assert made.target is not None
    assert not made.target.simulated
    assert made.id == "om-force_fp16-ascend310-cann7.0-b1"
    assert (widget / made.model).read_bytes() == REAL


def test_a_simulator_that_is_called_atc_is_found_out(
    widget: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subprocess.run(
        [sys.executable, "-m", "backends.simulators.atc", "--install", str(tmp_path / "bin")], check=True
    )
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    made = export(widget, changed(atc="atc"))
    assert made.target is not None
    assert made.target.simulated
    assert made.id.endswith("-simulated")


def test_a_file_with_host_parts_in_its_name_is_taken(widget: Path, fake: Callable[[str], str]) -> None:
    made = export(widget, changed(atc=fake(OK.replace("model.om", "model_linux_x86_64.om"))))
    assert (widget / made.model).read_bytes() == REAL


FAILURES = {
    "old form": (
        "echo 'ATC run failed, Please check'; echo 'E19010: No parser is registered for Op [a, optype [ai.onnx::17::Conv]].'; exit 255",
        r"exit status 255: E19010, no ONNX parser .*\(No parser .*ai.onnx::17::Conv.*\): compile with a newer CANN",
    ),
    "current form": (
        "echo '[PID: 9] 2026-01-01-10:00:00.000.000 Unsupported_Operator(E16002): No ONNX parser is registered for optype [ai.onnx::18::Mish].'; exit 255",
        r"E16002, no ONNX parser .*\(No ONNX parser is registered for optype \[ai.onnx::18::Mish\]\)",
    ),
    "errors before warnings": (
        "echo 'W11001: slow op'; echo 'E10001: bad'; exit 255",
        r"255: E10001, .*\(bad\)[^W]*$",
    ),
    "a warning alone": (
        "echo 'W11001: slow op'; exit 1",
        r"exit status 1: W11001, a code .* not know \(slow op\)",
    ),
    "kernel": ("echo 'EZ9999: Inner Error'; exit 255", "EZ9999, a kernel could not be compiled"),
    "nothing known": ("echo what; exit 3", "exit status 3: no error code in its output"),
    "no success line": ("echo OM > model.om", "exit status 0 without the line 'ATC run success'"),
    "killed": ("kill -9 $$", "killed by signal 9"),
    "no file": ("echo ATC run success", "reports success and wrote 0 .om files"),
    "an empty file": (": > model.om; echo ATC run success", "wrote 0 .om files"),
    "two files": ("echo 1 > a.om; echo 2 > b.om; echo ATC run success", "wrote 2 .om files"),
    "failed with success line": (f"{OK}; exit 255", "exit status 255"),
    "time": ("echo begun; sleep 60", r"stopped after 0.5 s \(--timeout\)"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_each_failure_is_one_message_with_the_log_kept_and_no_variant(
    widget: Path, fake: Callable[[str], str], name: str
) -> None:
    script, message = FAILURES[name]
    before = files(widget)
    request = changed(atc=fake(script), timeout_s=0.5 if name == "time" else 60.0)
    with pytest.raises(ExportError, match=message) as failure:
        export(widget, request)
    log = "om-force_fp16-ascend310-cann7.0-b1.atc-failed.log"
    assert str(failure.value).endswith(f"; its whole output: {widget / log}")
    assert (widget / log).read_text().startswith("$ ")
    assert files(widget) == before | {log}
    assert [item.id for item in artifact.read(widget).manifest.variants] == ["onnx-fp32"]
    Path(request.atc).write_text(f"#!/bin/sh\n{OK}\n")
    assert export(widget, request).model in files(widget)
    assert log not in files(widget)  # it is of a failure that is over


def test_ctrl_c_ends_the_compiler_and_leaves_nothing(
    widget: Path, tmp_path: Path, fake: Callable[[str], str]
) -> None:
    note = tmp_path / "pids"
    program = fake(f"sleep 60 & echo half > model.om; echo $$ $! > {note}.part; mv {note}.part {note}; wait")
    before = files(widget)
    asked = ["export", str(widget), "--format", "om", "--soc", "Ascend310", "--cann", "7.0", "--atc", program]
    script = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
        f"from harness import cli; sys.exit(cli.main({asked}))"
    )
    with subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE, text=True) as process:
        while not note.exists():
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert files(widget) == before
    for pid in note.read_text().split():
        assert not alive(int(pid))


def alive(pid: int) -> bool:
    """Not counting one that has ended and waits to be collected."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_missing_atc_is_unavailable(widget: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Unavailable, match=r"no-such-atc: not found; source set_env.sh .*--atc simulated"):
        export(widget, changed(atc="no-such-atc --x"))
    code = cli.main(
        [
            "export",
            str(widget),
            "--format",
            "om",
            "--soc",
            "Ascend310",
            "--cann",
            "7.0",
            "--atc",
            "no-such-atc",
        ]
    )
    assert code == 3
    assert capsys.readouterr().err.count("\n") == 1


def test_a_folder_that_cannot_be_written_is_said_before_atc_runs(
    widget: Path, fake: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(folder: Path) -> None:
        raise UsageError(f"{folder}: cannot write here")

    monkeypatch.setattr(storage, "require_writable", refuse)
    ran = widget.parent / "ran"
    with pytest.raises(UsageError, match="cannot write here"):
        export(widget, changed(atc=fake(f"touch {ran}; {OK}")))
    assert not ran.exists()


def test_a_temporary_folder_that_atc_would_refuse_is_named(
    widget: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my files").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "my files"))
    with pytest.raises(UsageError, match=r"my files.*set TMPDIR"):
        export(widget, REQUEST)


# --- the toolkit's version -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text", "version"),
    [
        ("version.info", "Version=7.0.0.1.231\n", "7.0.0.1.231"),
        ("compiler/version.info", "# x\nversion = 8.0.RC2\nversion_dir=8.0\n", "8.0.RC2"),
        ("version.cfg", "version=[5.0.4:x]", "5.0.4"),
    ],
)
@pytest.mark.parametrize("variable", ["ASCEND_TOOLKIT_HOME", "ASCEND_HOME_PATH"])
def test_the_version_is_read_from_the_toolkit(
    tmp_path: Path, variable: str, name: str, text: str, version: str
) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(text)
    assert machine.require_cann_version({variable: str(tmp_path)}) == version


def test_a_folder_without_a_version_leaves_it_to_the_other_variable(tmp_path: Path) -> None:
    (tmp_path / "version.info").write_text("Version=8.0.0\n")
    homes = {"ASCEND_TOOLKIT_HOME": str(tmp_path / "empty"), "ASCEND_HOME_PATH": str(tmp_path)}
    assert machine.require_cann_version(homes) == "8.0.0"


@pytest.mark.parametrize("text", [None, "", "timestamp=1", "Version=latest"])
def test_a_toolkit_of_unknown_version_is_asked_for(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "version.info").write_text(text)
    with pytest.raises(UsageError, match="give --cann"):
        machine.require_cann_version({"ASCEND_TOOLKIT_HOME": str(tmp_path)})


def test_the_toolkit_gives_the_version_but_not_to_the_simulator(
    widget: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "version.info").write_text("Version=6.3\n")
    monkeypatch.setenv("ASCEND_TOOLKIT_HOME", str(tmp_path))
    found = artifact.read(widget)
    assert "-cann6.3-" in om._plan(found, changed(cann=None, atc="atc"), head_in_graph=False).id
    with pytest.raises(UsageError, match="give --cann"):
        om._plan(found, changed(cann=None), head_in_graph=False)


@pytest.mark.mindspore
def test_a_graph_that_mindspore_exported_is_compiled_as_it_is(exported: Artifact, tmp_path: Path) -> None:
    path = Path(shutil.copytree(exported.path, tmp_path / "real"))
    for cann, batches in (("5.0", (1,)), ("8.0", (1, 4))):
        made = export(path, changed(cann=cann, batches=batches))
        assert made.software["opset"] == exported.variant(("onnx",)).software["opset"]
        assert made.outputs[0].shape[1:] == (100, 16, 16)
