"""The preprocessing inside a graph: the range of values it expects, and whether its map shows the whole picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx", reason="onnx, which builds the models, is not installed")

from harness import onnx_models
from harness.onnx_models.built_in_steps import cuts, takes_unit
from harness.types import AnyArray
from tests.harness.onnx_models.models import DEVIATION, FLOAT, LARGEST, MAP, Toy, node

SUBTRACT, DIVIDE = node("Sub", "input a", "x"), node("Div", "x b", "y")
IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


def first(nodes: Sequence[Any], constants: Mapping[str, AnyArray], tmp_path: Path) -> onnx_models.Graph:
    """A model that first applies `nodes` to the picture; the last one outputs `y`."""
    rest = [node("ReduceMean", "y", "grey", axes=[1], keepdims=1), *DEVIATION[1:], *LARGEST]
    return onnx_models.read_graph(
        Toy(nodes=[*nodes, *rest], constants=constants).write(tmp_path / "model.onnx")
    )


def numbers(**values: Any) -> dict[str, AnyArray]:
    arrays = {name: np.array(value, np.float32) for name, value in values.items()}
    return {name: array.reshape(3, 1, 1) if array.size == 3 else array for name, array in arrays.items()}


@pytest.mark.parametrize(
    ("nodes", "constants"),
    [
        ([SUBTRACT, DIVIDE], numbers(a=IMAGENET[0], b=IMAGENET[1])),
        ([SUBTRACT, DIVIDE], numbers(a=0, b=0.5)),
        ([SUBTRACT, DIVIDE], numbers(a=1, b=1)),
        ([node("Add", "a input", "x"), node("Mul", "b x", "y")], numbers(a=-0.5, b=2)),
        ([node("Mul", "input a", "x"), node("Add", "x b", "y")], numbers(a=2, b=-1)),
        (  # back to 0 … 255, and then as for these
            [node("Mul", "input c", "w"), node("Sub", "w a", "x"), DIVIDE],
            numbers(a=127.5, b=127.5, c=255),
        ),
    ],
)
def test_a_mean_and_a_deviation_of_values_in_0_to_1_determine_the_range(
    nodes: Sequence[Any], constants: Mapping[str, AnyArray], tmp_path: Path
) -> None:
    assert takes_unit(first(nodes, constants, tmp_path))


@pytest.mark.parametrize(
    ("nodes", "constants"),
    [
        ([SUBTRACT, DIVIDE], numbers(a=127.5, b=127.5)),
        ([SUBTRACT, DIVIDE], numbers(a=0.5, b=255)),
        ([SUBTRACT, DIVIDE], numbers(a=127.5, b=0.5)),
        ([SUBTRACT, DIVIDE], numbers(a=[0.5, 0.5, 1.5], b=0.5)),
        ([SUBTRACT, DIVIDE], numbers(a=[0.5, -0.5, 0.5], b=0.5)),
        ([SUBTRACT, DIVIDE], numbers(a=0.5, b=[0.5, 0.5, 2])),
        ([SUBTRACT, DIVIDE], numbers(a=0.5, b=-0.5)),
        ([SUBTRACT, DIVIDE], numbers(a=0.5, b=0)),
        ([SUBTRACT, DIVIDE], numbers(a=np.nan, b=0.5)),
        ([SUBTRACT, DIVIDE], numbers(a=0, b=1)),  # changes nothing
        (
            [node("Div", "input c", "w"), node("Sub", "w a", "x"), DIVIDE],
            numbers(a=IMAGENET[0], b=IMAGENET[1], c=255),
        ),
        ([node("Mul", "input a", "x"), node("Sub", "x b", "y")], numbers(a=2 / 255, b=1)),
        ([node("Sub", "a input", "x"), DIVIDE], numbers(a=0.5, b=0.5)),
        ([SUBTRACT, node("Div", "b x", "y")], numbers(a=0.5, b=0.5)),
        ([SUBTRACT, DIVIDE], numbers(a=[0.1, 0.2], b=0.5)),
        ([node("Relu", "a", "c"), node("Sub", "input c", "x"), DIVIDE], numbers(a=0.5, b=0.5)),
    ],
)
def test_any_other_shift_and_scale_leaves_the_range_open(
    nodes: Sequence[Any], constants: Mapping[str, AnyArray], tmp_path: Path
) -> None:
    assert not takes_unit(first(nodes, constants, tmp_path))


PADDED = ["Pad"]


def padded(pads: Sequence[int], kernel: Sequence[int] = (3, 3), *before: Any, **constants: AnyArray) -> Toy:
    """A Pad with `pads`, then a convolution."""
    nodes = [*before, node("Pad", "input pads", "margin", mode="reflect"), node("Conv", "margin w", "y")]
    toy: dict[str, AnyArray] = {
        "pads": np.array(pads, np.int64),
        "w": np.ones((1, 3, *kernel), np.float32),
        **constants,
    }
    return Toy(nodes=[*nodes, node("Abs", "y", "anomaly_map")], outputs=[MAP], constants=toy)


def cut(toy: Toy, tmp_path: Path) -> list[str]:
    return list(cuts(onnx_models.read_graph(toy.write(tmp_path / "model.onnx"))))


@pytest.mark.parametrize(
    ("pads", "kernel", "expected"),
    [
        ([0, 0, 1, 1, 0, 0, 1, 1], (3, 3), []),
        ([0, 0, 3, 1, 0, 0, 3, 1], (7, 3), []),
        ([0, 0, 0, 0, 0, 0, 1, 1], (3, 3), []),  # as TensorFlow pads for strides
        ([0, 0, 1, 3, 0, 0, 1, 3], (7, 3), PADDED),
        ([0, 0, 2, 2, 0, 0, 2, 2], (3, 3), PADDED),
        ([0, 0, 16, 16, 0, 0, 16, 16], (3, 3), PADDED),
        ([0, 0, 0, 0, 0, 0, 3, 3], (7, 7), PADDED),
        ([0, 0, 0, 3, 0, 0, 0, 0], (7, 7), PADDED),
        ([0, 0, -1, -1, 0, 0, -1, -1], (3, 3), PADDED),
        ([0, 1, 1, 1, 0, 0, 1, 1], (3, 3), PADDED),
        ([0, 0, 1, 1, 0, 1, 1, 1], (3, 3), PADDED),
        ([1, 1], (3, 3), PADDED),
    ],
)
def test_a_margin_belongs_to_its_convolution_and_a_larger_pad_is_a_border(
    pads: list[int], kernel: tuple[int, int], expected: list[str], tmp_path: Path
) -> None:
    assert cut(padded(pads, kernel), tmp_path) == expected


@pytest.mark.parametrize(("values", "expected"), [([1, 1, 3, 3], []), ([3, 3, 1, 1], PADDED)])
def test_a_margin_is_read_as_torchs_older_exporter_writes_it(
    values: list[int], expected: list[str], tmp_path: Path
) -> None:
    chain = [  # (left, right, top, bottom), zeros; in pairs, backwards; ends beside beginnings
        node("Concat", "written zeros", "all", axis=0),
        node("Reshape", "all pairs", "paired"),
        node("Slice", "paired start stop axis step", "turned"),
        node("Transpose", "turned", "sides", perm=[1, 0]),
        node("Reshape", "sides flat", "line"),
        node("Cast", "line", "pads", to=7),
    ]
    lists = {"written": values, "zeros": [0] * 4, "pairs": [-1, 2], "flat": [-1]}
    lists |= {"start": [-1], "stop": [-(2**62)], "axis": [0], "step": [-1]}
    constants = {name: np.array(value, np.int64) for name, value in lists.items()}
    toy = padded([], (7, 3), *chain, **constants)
    toy = Toy(
        nodes=toy.nodes,
        outputs=toy.outputs,
        constants={name: value for name, value in toy.constants.items() if name != "pads"},
    )
    assert cut(toy, tmp_path) == expected


@pytest.mark.parametrize(
    "more",
    [
        [node("ReduceMean", "margin", "aside", axes=[1], keepdims=1)],
        [node("MaxPool", "margin", "aside", kernel_shape=[3, 3])],
        [node("ConvTranspose", "margin w", "aside")],
        [node("Conv", "margin narrow", "aside")],
    ],
)
def test_a_margin_with_another_reader_is_a_border(more: list[Any], tmp_path: Path) -> None:
    narrow = np.ones((1, 3, 1, 1), np.float32)
    toy = padded([0, 0, 1, 1, 0, 0, 1, 1], narrow=narrow)
    toy = Toy(nodes=[*toy.nodes, *more], outputs=toy.outputs, constants=toy.constants)
    assert cut(toy, tmp_path) == PADDED


def test_an_unknown_margin_is_a_border(tmp_path: Path) -> None:
    axes = np.array([2, 3], np.int64)
    pad = node("Pad", "input pads value axes", "margin")
    toy = padded([0, 0, 1, 1, 0, 0, 1, 1], axes=axes, value=np.zeros((), np.float32))
    nodes = [pad, *toy.nodes[1:]]
    assert cut(Toy(nodes=nodes, outputs=toy.outputs, constants=toy.constants), tmp_path) == PADDED
    cast = padded([], (3, 3), node("Cast", "four", "pads", to=7), four=np.ones(4, np.int64))
    constants = {name: value for name, value in cast.constants.items() if name != "pads"}
    assert cut(Toy(nodes=cast.nodes, outputs=cast.outputs, constants=constants), tmp_path) == PADDED
    computed = [node("Relu", "w", "made"), toy.nodes[0], node("Conv", "margin made", "y"), *toy.nodes[2:]]
    assert cut(Toy(nodes=computed, outputs=toy.outputs, constants=toy.constants), tmp_path) == PADDED
    bare = Toy(nodes=[node("Pad", "input", "y"), *DEVIATION[1:]], outputs=[("y", FLOAT, MAP[2])])
    assert cut(bare, tmp_path) == PADDED


def test_a_crop_before_a_margin_is_still_a_crop(tmp_path: Path) -> None:
    toy = padded([0, 0, 1, 1, 0, 0, 1, 1])
    slice_, pad = node("Slice", "input one two", "part"), node("Pad", "part pads", "margin")
    constants = {**toy.constants, "one": np.array([1], np.int64), "two": np.array([2], np.int64)}
    cutting = Toy(nodes=[slice_, pad, *toy.nodes[1:]], outputs=toy.outputs, constants=constants)
    assert cut(cutting, tmp_path) == ["Slice"]
