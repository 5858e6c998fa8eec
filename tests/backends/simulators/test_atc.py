from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backends.simulators import om

onnx = pytest.importorskip("onnx", reason="onnx, which the simulator parses with, is not installed")

from backends.simulators import atc  # noqa: E402

START, SUCCESS, FAILURE = (
    "ATC start working now, please wait for a moment.",
    "ATC run success, welcome to the next use.",
    "ATC run failed, Please check the detail log, Try 'atc --help' for more information",
)
GOOD = {
    "framework": "5",
    "model": "m.onnx",
    "output": "out",
    "soc_version": "Ascend310",
    "input_shape": "x:2,3,4,6",
}
AIPP = """aipp_op { # comment
  aipp_mode: static
  input_format: RGB888_U8
  rbuv_swap_switch: true
  mean_chn_0: 7
  min_chn_0: 123.675
  min_chn_2: 1e1
  var_reci_chn_1: 0.0175070028
}"""


def model(
    *, opset: int = 11, operators: tuple[str, ...] = ("Relu", "Sigmoid"), batch: Any = "n", domain: str = ""
) -> Any:
    """x (N, 3, 4, 6) through `operators` to y, whose last node is called `last`."""
    from onnx import TensorProto, helper

    names = ["x", *(f"t{index}" for index in range(len(operators) - 1)), "y"]
    nodes = [
        helper.make_node(operator, [a], [b], name="last" if b == "y" else "")
        for operator, a, b in zip(operators, names, names[1:], strict=False)
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, 3, 4, 6]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:])
    domains = [helper.make_opsetid("", opset), *([helper.make_opsetid(domain, 1)] if domain else [])]
    return helper.make_model(graph, opset_imports=domains, ir_version=8)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    onnx.save(model(), "m.onnx")
    return tmp_path


class Ran:
    """One run of the program."""

    def __init__(
        self, capsys: pytest.CaptureFixture[str], options: Mapping[str, str | None], cann: str = "7.0"
    ) -> None:
        arguments = [f"--{name}={value}" for name, value in {**GOOD, **options}.items() if value is not None]
        self.status = atc.main(arguments, {"SIMULATED_CANN": cann})
        mark, *self.lines = capsys.readouterr().out.splitlines()
        assert "simulated" in mark

    @property
    def code(self) -> str:
        """Of the failure, after the whole frame was checked."""
        assert self.status == 255
        assert self.lines[0] == START
        assert FAILURE in self.lines
        text = "\n".join(self.lines[self.lines.index(FAILURE) + 1 :])
        return str(re.findall(r"\b[EW][0-9A-Z]\d{4}\b", text)[0])


def compiled(capsys: pytest.CaptureFixture[str], cann: str = "7.0", **options: str | None) -> om.Header:
    ran = Ran(capsys, options, cann)
    assert ran.lines == [START, "...", SUCCESS], ran.lines
    assert ran.status == 0
    return om.parse(Path("out.om").read_bytes()).header


# --- what it writes --------------------------------------------------------------------------------------------------


def test_a_static_batch(capsys: pytest.CaptureFixture[str]) -> None:
    header = compiled(capsys, output_type="FP32", cann="8.0.RC2")
    assert header == om.Header(
        soc="Ascend310",
        cann="8.0.RC2",
        precision_mode="force_fp16",
        inputs=(om.Tensor(name="x", dtype="float32", shape=(2, 3, 4, 6)),),
        outputs=(om.Tensor(name="last:0:y", dtype="float32", shape=(2, 3, 4, 6)),),
    )
    assert om.parse(Path("out.om").read_bytes()).onnx == Path("m.onnx").read_bytes()


def test_gears_leave_the_batch_open_on_both_sides(capsys: pytest.CaptureFixture[str]) -> None:
    header = compiled(capsys, input_shape="x:-1,3,4,6", dynamic_batch_size="8,1")
    assert header.gears == (1, 8)
    assert [tensor.shape for tensor in (*header.inputs, *header.outputs)] == [(-1, 3, 4, 6)] * 2


def test_aipp_takes_pixels(capsys: pytest.CaptureFixture[str]) -> None:
    Path("a.cfg").write_text(AIPP)
    header = compiled(capsys, insert_op_conf="a.cfg")
    assert header.inputs == (om.Tensor(name="x", dtype="uint8", shape=(2, 4, 6, 3)),)
    assert header.aipp == om.Aipp(
        rbuv_swap=True, mean=(7, 0, 0), min=(123.675, 0.0, 10.0), var_reci=(1.0, 0.0175070028, 1.0)
    )


@pytest.mark.parametrize(
    ("options", "dtype"),
    [
        ({}, "float16"),
        ({"precision_mode": "force_fp32"}, "float32"),
        ({"precision_mode_v2": "origin"}, "float32"),
        ({"precision_mode_v2": "fp16"}, "float16"),
        ({"output_type": "FP16", "precision_mode": "force_fp32"}, "float16"),
        ({"output_type": "UINT8"}, "uint8"),
    ],
)
def test_without_output_type_the_last_operator_decides(
    capsys: pytest.CaptureFixture[str], options: dict[str, str], dtype: str
) -> None:
    assert compiled(capsys, **options).outputs[0].dtype == dtype


def test_om_is_always_appended(capsys: pytest.CaptureFixture[str]) -> None:
    assert Ran(capsys, {"output": "x.om"}).status == 0
    assert Path("x.om.om").is_file()
    assert not Path("x.om").exists()


def test_an_unnamed_node_is_named_by_its_operator(capsys: pytest.CaptureFixture[str]) -> None:
    made = model()
    made.graph.node[1].name = ""
    onnx.save(made, "m.onnx")
    assert compiled(capsys).outputs[0].name == "Sigmoid_1:0:y"


def test_both_ways_to_give_a_value(capsys: pytest.CaptureFixture[str]) -> None:
    words = [word for name, value in GOOD.items() for word in (f"--{name}", value)]
    assert atc.main(words, {}) == 0
    assert atc.main([*words, '--input_shape="x:3,3,4,6"'], {}) == 0
    capsys.readouterr()
    assert om.parse(Path("out.om").read_bytes()).header.inputs[0].shape[0] == 3


@pytest.mark.parametrize(("cann", "left"), [("7.0", True), ("8.0", False)])
def test_older_releases_leave_files_where_they_ran(
    capsys: pytest.CaptureFixture[str], cann: str, *, left: bool
) -> None:
    compiled(capsys, cann)
    assert (Path("kernel_meta").is_dir(), Path("fusion_result.json").is_file()) == (left, left)


def test_help_ends_well(capsys: pytest.CaptureFixture[str]) -> None:
    assert atc.main(["--help"], {}) == 0
    assert START in capsys.readouterr().out


# --- what it refuses, in the order it looks --------------------------------------------------------------------------

# Each entry also holds every later fault of the list, so that a check moved behind another one shows.
ORDERED: list[tuple[str, dict[str, str | None], str]] = [
    ("mode", {"mode": "2"}, "E10001"),
    ("log", {"log": "loud"}, "E10010"),
    ("switch", {"deterministic": "2"}, "E10006"),
    ("output type", {"output_type": "FP8"}, "E10001"),
    ("weight", {"weight": "none.w"}, "E10001"),
    ("no framework", {"framework": None}, "E10007"),
    ("format", {"input_format": "NCWH"}, "E10001"),
    ("no soc", {"soc_version": None}, "E10054"),
    ("no output", {"output": None}, "E10054"),
    ("no model", {"model": None}, "E10054"),
    ("output name", {"output": "folder/"}, "E10022"),
    ("implmode", {"op_select_implmode": "best"}, "E10001"),
    ("precision", {"precision_mode": "fp8"}, "E10001"),
    ("shapes", {"input_shape": "x:0,3,4,6"}, "E10011"),
    ("aipp file", {"insert_op_conf": "none.cfg"}, "E10001"),
]
SAYS = {
    "mode": "[--mode]", "output type": "[--output_type]", "weight": "[--weight] is invalid. Reason: No such file",
    "format": "[--input_format]", "no soc": "[--soc_version]", "no output": "[--output]", "no model": "[--model]",
    "implmode": "op_select_implmode", "precision": "[--precision_mode]", "aipp file": "[--insert_op_conf]",
}  # fmt: skip


@pytest.mark.parametrize("index", range(len(ORDERED)))
def test_faults_are_found_in_the_programs_order(capsys: pytest.CaptureFixture[str], index: int) -> None:
    name, _, code = ORDERED[index]
    faults: dict[str, str | None] = {}
    for _, later, _ in reversed(ORDERED[index:]):
        faults |= later
    ran = Ran(capsys, faults)
    assert ran.code == code
    assert SAYS.get(name, "") in "\n".join(ran.lines)
    assert ("..." in ran.lines) == (index >= 4)  # the first four are found while flags are parsed
    assert not list(Path().glob("*.om"))


ONE: dict[str, tuple[dict[str, str | None], str]] = {
    "unknown option": ({"colour": "red"}, "E10001"),
    "caffe": ({"framework": "0"}, "E10008"),
    "framework range": ({"framework": "4"}, "E10001"),
    "soc": ({"soc_version": "Ascend311"}, "E10001"),
    "model missing": ({"model": "none.onnx"}, "E10001"),
    "model blank": ({"model": "my m.onnx"}, "E10001"),
    "output blank": ({"output": "my out"}, "E10001"),
    "output folder": ({"output": "none/out"}, "E10001"),
    "output long": ({"output": "o" * 4097}, "E10021"),
    "precision twice": ({"precision_mode": "force_fp16", "precision_mode_v2": "fp16"}, "E10056"),
    "precision unsimulated": ({"precision_mode": "allow_mix_precision"}, "E19999"),
    "shape form": ({"input_shape": "x=1,3,4,6"}, "E10002"),
    "shape free": ({"input_shape": "x:-1,3,4,6"}, "E10011"),
    "shape below": ({"input_shape": "x:-2,3,4,6", "dynamic_batch_size": "1,2"}, "E10011"),
    "range": ({"input_shape": "x:1~4,3,4,6"}, "E10001"),
    "range with gears": ({"input_shape": "x:1~4,3,4,6", "dynamic_batch_size": "1,2"}, "E10040"),
    "name": ({"input_shape": "z:1,3,4,6"}, "E10016"),
    "rank": ({"input_shape": "x:1,3,4"}, "E10049"),
    "size": ({"input_shape": "x:1,3,4,7"}, "E10001"),
    "no shape": ({"input_shape": None}, "E11005"),
    "two dynamics": ({"dynamic_batch_size": "1,2", "dynamic_dims": "1;2"}, "E10009"),
    "gears without free batch": ({"dynamic_batch_size": "1,2"}, "E10031"),
    "gears elsewhere": ({"input_shape": "x:-1,3,-1,6", "dynamic_batch_size": "1,2"}, "E10018"),
    "one gear": ({"input_shape": "x:-1,3,4,6", "dynamic_batch_size": "4"}, "E10035"),
    "many gears": ({"input_shape": "x:-1,3,4,6", "dynamic_batch_size": ",".join(map(str, range(1, 102)))}, "E10036"),
    "gear 0": ({"input_shape": "x:-1,3,4,6", "dynamic_batch_size": "0,2"}, "E10038"),
    "same gears": ({"input_shape": "x:-1,3,4,6", "dynamic_batch_size": "2,2"}, "E10039"),
    "gear form": ({"input_shape": "x:-1,3,4,6", "dynamic_batch_size": "1;2"}, "E10014"),
    "image gears": ({"dynamic_image_size": "4,6;8,8"}, "E19999"),
}  # fmt: skip


@pytest.mark.parametrize("name", ONE)
def test_each_fault_has_its_code(capsys: pytest.CaptureFixture[str], name: str) -> None:
    options, code = ONE[name]
    assert Ran(capsys, options).code == code
    assert not list(Path().glob("*.om"))


def test_an_option_without_a_value_is_empty(capsys: pytest.CaptureFixture[str]) -> None:
    assert atc.main(["--model", "--output=x"], {}) == 255
    assert "E10004" in capsys.readouterr().out


def test_a_hundred_gears_are_not_too_many(capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ",".join(map(str, range(1, 101)))
    assert len(compiled(capsys, input_shape="x:-1,3,4,6", dynamic_batch_size=sizes).gears) == 100


@pytest.mark.parametrize(("cann", "code"), [("8.3", None), ("8.5", "E10001"), ("9.0", "E10001")])
def test_later_releases_know_the_310_no_more(
    capsys: pytest.CaptureFixture[str], cann: str, code: str | None
) -> None:
    ran = Ran(capsys, {}, cann)
    assert (ran.code if ran.status else None) == code
    assert Ran(capsys, {"soc_version": "Ascend310P3"}, cann).status == 0


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "E10052"),
        ("aipp_op { aipp_mode: static }", "E10052"),
        ("aipp_op { aipp_mode: static input_format: RGB888_U8 colour: red }", "E10052"),
        ("aipp_op { aipp_mode: static input_format: RGB888_U8 min_chn_0: 256 }", "E10052"),
        ("aipp_op { aipp_mode: static input_format: RGB888_U8 mean_chn_0: 1.5 }", "E10052"),
        ("aipp_op { aipp_mode: static input_format: RGB888_U8 var_reci_chn_0: 65505 }", "E10052"),
        ("aipp_op { aipp_mode: static input_format: RGB888_U8 src_image_size_w: 4 }", "E10052"),
        ("aipp_op { aipp_mode: static input_format: RGB888_U8 src_image_size_h: 6 }", "E10052"),
        ("aipp_op { aipp_mode: static input_format: RGB888_U8 crop }", "E10052"),
        ("aipp_op { aipp_mode: static input_format: RGB888_U8 crop: true }", "E19999"),
        ("aipp_op { aipp_mode: dynamic input_format: RGB888_U8 }", "E19999"),
        ("aipp_op { aipp_mode: static input_format: YUV420SP_U8 }", "E19999"),
    ],
)
def test_a_wrong_aipp_file(capsys: pytest.CaptureFixture[str], text: str, code: str) -> None:
    Path("a.cfg").write_text(text)
    assert Ran(capsys, {"insert_op_conf": "a.cfg"}).code == code


# --- parsing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cann", "opset", "code"),
    [
        *(
            ("5.0", 9, None),
            ("5.0", 13, None),
            ("5.0", 14, "E19010"),
            ("6.3", 14, "E19010"),
            ("5.0", 8, "E19010"),
        ),
        *(("7.0", 9, None), ("7.0", 18, None), ("7.0", 19, "E16002")),
        *(("8.0", 11, None), ("8.0", 10, "E16002"), ("8.0", 18, None), ("8.0", 19, "E16002")),
    ],
)
def test_opsets_by_release(
    capsys: pytest.CaptureFixture[str], cann: str, opset: int, code: str | None
) -> None:
    onnx.save(model(opset=opset), "m.onnx")
    ran = Ran(capsys, {}, cann)
    assert (ran.code if ran.status else None) == code
    assert Path("check_result.json").exists() == (code is not None)
    if code is not None:
        assert json.loads(Path("check_result.json").read_text())["code"] == code
        assert f"[ai.onnx::{opset}::Relu]" in "\n".join(ran.lines)


def test_an_operator_without_a_parser(capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(model(operators=("Relu", "Unique")), "m.onnx")
    ran = Ran(capsys, {})
    assert ran.code == "E16002"
    assert "[ai.onnx::11::Unique]" in "\n".join(ran.lines)


def test_error_text_of_older_and_current_releases(capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(model(opset=19), "m.onnx")
    old = Ran(capsys, {}, "5.0").lines
    assert old[3] == "E19010: No parser is registered for Op [, optype [ai.onnx::19::Relu]]."
    assert old[4].startswith("        TraceBack")
    new = Ran(capsys, {}, "7.0").lines
    stamp = r"\[PID: \d+\] \d{4}-\d\d-\d\d-\d\d:\d\d:\d\d\.\d{3}\.\d{3} Unsupported_Operator\(E16002\): No ONNX parser .*"
    assert re.fullmatch(stamp, new[3])
    assert new[4].startswith("        Solution: ")
    assert new[5] == "TraceBack (most recent call last):"


def test_a_damaged_model_several_domains_and_two_inputs(capsys: pytest.CaptureFixture[str]) -> None:
    Path("m.onnx").write_bytes(b"not onnx")
    assert Ran(capsys, {}).code == "E13005"
    onnx.save(model(domain="com.example"), "m.onnx")
    assert Ran(capsys, {}).code == "E16005"


def test_a_mindir_is_no_air_and_air_is_not_simulated(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("m.mindir", "m.air"):
        Path(name).write_bytes(b"x")
    assert Ran(capsys, {"framework": "1", "model": "m.mindir"}).code == "E10041"
    assert Ran(capsys, {"framework": "1", "model": "m.air"}).code == "E19999"


def test_a_constant_that_fixes_the_batch_cannot_follow_gears(capsys: pytest.CaptureFixture[str]) -> None:
    from onnx import helper, numpy_helper

    made = model(operators=("Relu", "Reshape"))
    made.graph.initializer.append(numpy_helper.from_array(np.array([1, -1, 4, 6]), "shape"))
    made.graph.node[1].input.append("shape")
    made.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", 1, [1, "c", 4, 6]))
    onnx.save(made, "m.onnx")
    assert compiled(capsys).outputs[0].shape == (1, 6, 4, 6)
    Path("out.om").unlink()
    ran = Ran(capsys, {"input_shape": "x:-1,3,4,6", "dynamic_batch_size": "1,2"})
    assert ran.code == "E19999"
    assert "does not follow the gears" in "\n".join(ran.lines)


def test_mode_3_checks_and_compiles_nothing(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    (folder / "work").mkdir()
    arguments = [f"--{name}={value}" for name, value in GOOD.items()]
    assert atc.main([*arguments, "--mode=3"], {"ASCEND_WORK_PATH": str(folder / "work")}) == 0
    assert json.loads((folder / "work" / "check_result.json").read_text()) == {"result": "success"}
    assert not Path("out.om").exists()
    assert SUCCESS in capsys.readouterr().out


def test_every_code_it_prints_means_something_to_the_exporter() -> None:
    from exporters.ascend.atc import CODES

    source = "".join(path.read_text() for path in Path(atc.__file__).parent.glob("atc*.py"))
    assert set(re.findall(r'"(E\d{5})"', source)) <= set(CODES)


def test_the_installed_program_is_the_simulator(tmp_path: Path) -> None:
    folder = tmp_path / "a bin"
    subprocess.run(
        [sys.executable, "-m", "backends.simulators.atc", "--install", str(folder)],
        check=True,
        cwd=Path(atc.__file__).parents[2],
    )
    arguments = [f"--{name}={value}" for name, value in GOOD.items()]
    ran = subprocess.run([str(folder / "atc"), *arguments], capture_output=True, text=True, check=False)
    assert ran.returncode == 0
    assert ran.stdout.splitlines()[1:] == [START, "...", SUCCESS]
    failed = subprocess.run([str(folder / "atc"), "--mode=9"], capture_output=True, text=True, check=False)
    assert failed.returncode == 255
