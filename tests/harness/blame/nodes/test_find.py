from __future__ import annotations

import dataclasses
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from harness.blame.nodes import blame, open_side, rerun
from harness.errors import ArtifactError, UsageError
from harness.types import AnyArray
from tests.harness.blame.nodes.graphs import Bench, chain, rows, save, weights

TOLERANCE = 1e-4


def perturbed(name: str, factor: float = 1.5) -> dict[str, AnyArray]:
    return {name: weights()[name] * np.float32(factor)}


def test_nothing_is_blamed_if_nothing_differs(bench: Bench, tmp_path: Path) -> None:
    node_blame = blame(bench.side(), bench.side(), rows(), tolerance=0.0, to=tmp_path / "out")
    assert (node_blame.verdict, node_blame.outputs, node_blame.tensor) == (
        "passed",
        {"left": 0.0, "right": 0.0},
        None,
    )
    assert (node_blame.files, node_blame.reproducer, (tmp_path / "out").exists()) == ((), None, False)
    assert node_blame.lines()[-1] == "blame: nothing differs"


@pytest.mark.parametrize(
    ("weight", "node", "tensor"),
    [("w0", "first", "m0"), ("w1", "middle", "m1"), ("w2", "to_left", "left"), ("w3", "to_right", "right")],
)
def test_a_changed_weight_is_found_at_its_node_and_later_nodes_are_not_blamed(
    bench: Bench, weight: str, node: str, tensor: str
) -> None:
    node_blame = blame(bench.side(), bench.side(constants=perturbed(weight)), rows(), tolerance=TOLERANCE)
    assert (node_blame.verdict, node_blame.node, node_blame.tensor, node_blame.operator) == (
        "isolated",
        node,
        tensor,
        "MatMul",
    )
    assert node_blame.nodes == (f"MatMul {node}",)
    assert node_blame.alone == pytest.approx(0.5, rel=1e-4)
    assert node_blame.files == (f"constant {weight} differs by 0.5 of its largest value",)


def test_a_node_with_two_computed_inputs_runs_alone_on_both_of_the_reference(bench: Bench) -> None:
    nodes = chain()
    nodes[3] = helper.make_node("Sub", ["m1", "m0"], ["sum"], name="skip")
    node_blame = blame(bench.side(), bench.side(nodes), rows(), tolerance=TOLERANCE)
    assert (node_blame.verdict, node_blame.node, node_blame.nodes) == ("isolated", "skip", ("Sub skip",))
    assert node_blame.files == ("the node that computes sum: Add became Sub",)


def test_a_node_that_reads_only_constants_belongs_to_its_reader(bench: Bench) -> None:
    nodes = chain()
    nodes[2].input[1] = "w1.positive"
    nodes.insert(0, helper.make_node("Abs", ["w1"], ["w1.positive"], name="constant"))
    node_blame = blame(bench.side(nodes), bench.side(nodes, perturbed("w1")), rows(), tolerance=TOLERANCE)
    assert (node_blame.verdict, node_blame.tensor, node_blame.compared) == ("isolated", "m1", 6)
    assert node_blame.nodes == ("Abs constant", "MatMul middle")


def test_two_bugs_are_blamed_on_the_first(bench: Bench) -> None:
    other = bench.side(constants=perturbed("w1") | perturbed("w3", 3.0))
    node_blame = blame(bench.side(), other, rows(), tolerance=TOLERANCE)
    assert node_blame.node == "middle"


def test_the_input_that_differs_most_is_searched(bench: Bench) -> None:
    """A bias counts the more the smaller the values are."""
    nodes = chain()
    nodes[1] = helper.make_node("LeakyRelu", ["m0"], ["r0"], name="relu", alpha=1.0)
    zero, positive = rows(2)
    positive = dataclasses.replace(
        positive, values=np.linalg.inv(weights()["w0"]).sum(0)[None].astype(np.float32)
    )
    node_blame = blame(bench.side(), bench.side(nodes), (positive, zero), tolerance=TOLERANCE)
    assert (node_blame.image, node_blame.node) == (zero.image, "relu")


def test_a_float16_overflow_is_found_at_the_cast_that_overflows(bench: Bench) -> None:
    big = {"w0": weights()["w0"] * np.float32(1e6)}
    half = chain()
    half[1:2] = [
        helper.make_node("Relu", ["m0"], ["r0.whole"], name="relu"),
        helper.make_node("Cast", ["r0.whole"], ["r0.half"], to=onnx.TensorProto.FLOAT16, name="to_half"),
        helper.make_node("Cast", ["r0.half"], ["r0"], to=onnx.TensorProto.FLOAT, name="back"),
    ]
    node_blame = blame(bench.side(constants=big), bench.side(half, big), rows(), tolerance=1e-2)
    assert (node_blame.verdict, node_blame.tensor, node_blame.alone) == ("isolated", "r0", None)
    assert node_blame.nodes == ("Relu relu", "Cast to_half", "Cast back")
    assert any("overflow" in note and "65504" in note for note in node_blame.notes)
    assert node_blame.outputs == {"left": None, "right": None}


def test_swapped_outputs_are_recognised(bench: Bench) -> None:
    nodes = chain()
    nodes[4].output[:], nodes[5].output[:] = ["right"], ["left"]
    node_blame = blame(bench.side(), bench.side(nodes), rows(), tolerance=TOLERANCE)
    assert (node_blame.verdict, node_blame.tensor) == ("isolated", "right")
    assert "right is what the reference calls left: tensors have changed places" in node_blame.notes


def test_a_backend_with_a_wrong_node_is_blamed_for_that_node(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    node_blame = blame(
        bench.side(), bench.side(backend="leaky"), rows(), tolerance=TOLERANCE, to=tmp_path / "out"
    )
    assert (node_blame.verdict, node_blame.operator, node_blame.node, node_blame.files) == (
        "isolated",
        "Relu",
        "relu",
        (),
    )
    assert rerun(tmp_path / "out", "onnxruntime-cpu") == 0.0
    assert rerun(tmp_path / "out", "leaky") > TOLERANCE
    monkeypatch.chdir(tmp_path / "out")
    runpy.run_path("reproduce.py")
    assert float(capsys.readouterr().out) > TOLERANCE


def test_small_errors_of_nodes_add_up_over_the_fewest_nodes(bench: Bench) -> None:
    steps = [("image", "m0"), ("m0", "m1"), ("m1", "left"), ("left", "right")]
    nodes = [
        helper.make_node("MatMul", [source, f"w{step}"], [target], name=f"n{step}")
        for step, (source, target) in enumerate(steps)
    ]
    node_blame = blame(bench.side(nodes), bench.side(nodes, backend="drifting"), rows(), tolerance=TOLERANCE)
    assert (node_blame.verdict, node_blame.tensor) == ("accumulated", "m1")
    assert node_blame.nodes == ("MatMul n0", "MatMul n1")
    assert node_blame.alone == pytest.approx(1.2e-4, rel=0.05)


def test_a_difference_that_exposing_the_tensors_hides_is_found(bench: Bench) -> None:
    node_blame = blame(bench.side(), bench.side(backend="fused"), rows(), tolerance=TOLERANCE)
    assert (node_blame.tensor, node_blame.verdict) == ("m1", "accumulated")
    assert node_blame.nodes == ("Relu relu", "MatMul middle")
    assert "fused" in node_blame.notes[0]


def test_outputs_that_only_change_places_together_are_not_blamed_on_a_node(
    bench: Bench, tmp_path: Path
) -> None:
    node_blame = blame(
        bench.side(), bench.side(backend="gathered"), rows(), tolerance=TOLERANCE, to=tmp_path / "out"
    )
    assert (node_blame.verdict, node_blame.reproducer) == ("not isolated", None)
    assert "left is what the reference calls right: tensors have changed places" in node_blame.notes
    assert node_blame.lines()[-1].endswith("agrees in every smaller model")


def test_the_script_for_onnxruntime_has_three_lines_and_needs_nothing_else(
    bench: Bench, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    reference, other = bench.side(), bench.side(constants=perturbed("w1"))
    node_blame = blame(reference, other, rows(), tolerance=TOLERANCE, to=folder)
    assert node_blame.reproducer == str(folder)
    assert {path.name for path in folder.iterdir()} == {
        "model.onnx",
        "input.npz",
        "expected.npz",
        "reproduce.py",
    }
    assert len((folder / "reproduce.py").read_text().splitlines()) == 3
    with np.load(folder / "expected.npz") as expected:
        assert expected.files == ["m1"]
        largest = float(np.abs(expected["m1"]).max())
    shown = subprocess.run(
        [sys.executable, "reproduce.py"], cwd=folder, capture_output=True, text=True, check=True
    ).stdout
    assert float(shown) == pytest.approx(0.5 * largest, rel=1e-4)


def test_equal_blame_gives_equal_bytes_and_never_replaces_a_folder(bench: Bench, tmp_path: Path) -> None:
    sides = bench.side(), bench.side(constants=perturbed("w1"))
    for name in ("one", "two"):
        blame(*sides, rows(), tolerance=TOLERANCE, to=tmp_path / name)
    for file in ("input.npz", "expected.npz", "model.onnx"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    with pytest.raises(UsageError, match="not empty"):
        blame(*sides, rows(), tolerance=TOLERANCE, to=tmp_path / "one")


def test_networks_with_other_outputs_are_not_compared(bench: Bench) -> None:
    with pytest.raises(UsageError, match="different inputs or outputs"):
        blame(bench.side(), bench.side(chain()[:5], outputs=("left",)), rows(), tolerance=TOLERANCE)
    with pytest.raises(UsageError, match="at least one image"):
        blame(bench.side(), bench.side(), (), tolerance=TOLERANCE)


def test_a_side_without_an_onnx_graph_is_refused(bench: Bench, tmp_path: Path) -> None:
    reference = bench.side()
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"not a model")
    with pytest.raises(ArtifactError, match="not a valid ONNX model"):
        open_side(reference.artifact, reference.variant, "onnxruntime-cpu", model=broken)
    with pytest.raises(UsageError, match="blame prepare"):
        open_side(reference.artifact, reference.variant, "ascend310-simulated")


def test_nodes_with_other_names_are_equal(bench: Bench) -> None:
    nodes = chain()
    for node in nodes:
        node.name += ".renamed"
    assert blame(bench.side(), bench.side(nodes), rows(), tolerance=0.0).files == ()


def test_a_file_may_replace_the_variants_own(bench: Bench, tmp_path: Path) -> None:
    reference = bench.side()
    path = save(tmp_path / "other.onnx", chain(), {**weights(), **perturbed("w2")}, outputs=("left", "right"))
    node_blame = blame(
        reference,
        open_side(reference.artifact, reference.variant, "onnxruntime-cpu", model=path),
        rows(),
        tolerance=TOLERANCE,
    )
    assert node_blame.node == "to_left"
