from collections.abc import Sequence
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from backends.simulators import half
from backends.simulators.half import DamagedModelError, Graph
from harness.types import AnyArray, Float32


def model(
    nodes: Sequence[Any], weights: dict[str, AnyArray], shape: Sequence[int] = (4,), out: int = 1
) -> bytes:
    """From `x` to `y`, both of one shape."""
    x, y = (helper.make_tensor_value_info(name, kind, shape) for name, kind in (("x", 1), ("y", out)))
    stored = [numpy_helper.from_array(np.asarray(values), name) for name, values in weights.items()]
    graph = helper.make_graph(nodes, "graph", [x], [y], stored)
    opsets = [
        helper.make_opsetid("", 13),
        *(helper.make_opsetid(node.domain, 1) for node in nodes if node.domain),
    ]
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString())


def scalar(value: float) -> Float32:
    return np.array([value], np.float32)


def run(data: bytes, x: Sequence[float], *, half: bool = True) -> list[float]:
    (y,) = Graph(data, half=half).run({"x": np.array(x, np.float32)})
    return [float(value) for value in y]


THERE_AND_BACK = model(
    [helper.make_node("Mul", ["x", "up"], ["z"]), helper.make_node("Mul", ["z", "down"], ["y"])],
    {"up": scalar(2.0), "down": scalar(0.5)},
)


def test_what_exceeds_float16_between_two_operators_is_infinite_behind_them() -> None:
    assert run(THERE_AND_BACK, [35000, 32752, -35000, 1]) == [np.inf, 32752, -np.inf, 1]
    assert run(THERE_AND_BACK, [35000, 32752, -35000, 1], half=False) == [35000, 32752, -35000, 1]


def test_a_tensor_of_70000_inside_becomes_infinite() -> None:
    nodes = [
        helper.make_node("Mul", ["x", "up"], ["z"]),
        helper.make_node("Relu", ["z"], ["r"]),
        helper.make_node("Div", ["r", "up"], ["y"]),
    ]
    data = model(nodes, {"up": scalar(7000.0)})
    assert run(data, [10, 1, 0, 9]) == [np.inf, 1, 0, 9]


def test_1_and_a_ten_thousandth_cancel_to_nothing() -> None:
    nodes = [helper.make_node("Add", ["x", "small"], ["z"]), helper.make_node("Sub", ["z", "x"], ["y"])]
    data = model(nodes, {"small": scalar(1e-4)})
    assert run(data, [1, 1, 1, 1]) == [0, 0, 0, 0]
    assert run(data, [1, 1, 1, 1], half=False)[0] > 9e-5


def test_inputs_and_weights_are_rounded_too() -> None:
    data = model([helper.make_node("Sub", ["x", "weight"], ["y"])], {"weight": scalar(1 + 2**-12)})
    assert run(data, [1 + 2**-12, 1, 1e5, 1e-9]) == [0, 0, np.inf, -1]


def test_a_sum_inside_one_operator_is_rounded_once() -> None:
    """2048 + 1 + 1 is 2050 in float32; added one by one in float16 it would stay 2048."""
    nodes = [
        helper.make_node("ReduceSum", ["x", "axes"], ["s"]),
        helper.make_node("Expand", ["s", "to"], ["y"]),
    ]
    data = model(nodes, {"axes": np.array([0]), "to": np.array([4])})
    assert run(data, [2048, 1, 1, 0]) == [2050] * 4


def test_a_network_equals_numpy_rounded_after_every_operator() -> None:
    rng = np.random.default_rng(0)
    kernels, shift = rng.normal(0, 5, (3, 3, 1, 1)), rng.normal(0, 5, 3)
    scale = rng.normal(0, 30, (1, 3, 1, 1))
    nodes = [
        helper.make_node("Conv", ["x", "kernels", "shift"], ["c"], kernel_shape=[1, 1]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Mul", ["r", "scale"], ["m"]),
        helper.make_node("Transpose", ["m"], ["t"], perm=[0, 1, 3, 2]),
        helper.make_node("Sub", ["t", "x"], ["y"]),
    ]
    weights = {"kernels": kernels, "shift": shift, "scale": scale}
    weights = {name: values.astype(np.float32) for name, values in weights.items()}
    x = rng.normal(0, 20, (2, 3, 4, 4)).astype(np.float32)
    (found,) = Graph(model(nodes, weights, x.shape), half=True).run({"x": x})

    def r(values: AnyArray) -> AnyArray:
        with np.errstate(over="ignore"):
            return values.astype(np.float16).astype(np.float64)

    conv = r(np.einsum("nchw,dc->ndhw", r(x), r(kernels)[:, :, 0, 0]) + r(shift)[:, None, None])
    scaled = r(np.maximum(conv, 0) * r(scale))
    expected = r(scaled.transpose(0, 1, 3, 2) - r(x))
    assert np.mean(found == expected) > 0.99  # float32 sums tip a few ties
    np.testing.assert_allclose(found, expected, rtol=2**-9, atol=2**-6)
    assert np.abs(found - x).max() > 100


def test_sizes_of_a_resize_are_no_tensors_of_the_network() -> None:
    """1.3334 rounds to 1.333 in float16, and 3 × 1.333 down to 3."""
    nodes = [helper.make_node("Resize", ["x", "", "scales"], ["y"], mode="nearest")]
    x, y = (
        helper.make_tensor_value_info("x", 1, [1, 1, 1, 3]),
        helper.make_tensor_value_info("y", 1, [1, 1, 1, "w"]),
    )
    scales = numpy_helper.from_array(np.array([1, 1, 1, 1.3334], np.float32), "scales")
    graph = helper.make_graph(nodes, "graph", [x], [y], [scales])
    data = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    (found,) = Graph(data.SerializeToString(), half=True).run({"x": np.ones((1, 1, 1, 3), np.float32)})
    assert found.shape == (1, 1, 1, 4)


def test_the_bits_are_the_same_every_time() -> None:
    graph = Graph(THERE_AND_BACK, half=True)
    x = {"x": np.random.default_rng(0).normal(size=4).astype(np.float32)}
    assert graph.run(x)[0].tobytes() == graph.run(x)[0].tobytes()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (model([helper.make_node("Cast", ["x"], ["y"], to=10)], {}, out=10), "float16 already"),
        (
            model([helper.make_node("Mul", ["x", "w"], ["y"])], {"w": np.ones(4, np.float16)}),
            "hold float16 themselves",
        ),
        (
            model(
                [
                    helper.make_node("Odd", ["x"], ["z"], domain="own"),
                    helper.make_node("Relu", ["z"], ["y"]),
                ],
                {},
            ),
            "type is unknown",
        ),
    ],
    ids=["cast", "weight", "unknown"],
)
def test_what_cannot_be_rounded_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Graph(data, half=True)


def test_an_operator_with_a_subgraph_is_refused() -> None:
    value = helper.make_tensor_value_info("v", 1, [4])
    branch = helper.make_graph([helper.make_node("Identity", ["x"], ["v"])], "branch", [], [value])
    nodes = [helper.make_node("If", ["flag"], ["y"], then_branch=branch, else_branch=branch)]
    with pytest.raises(ValueError, match="subgraphs"):
        Graph(model(nodes, {"flag": np.array([1], bool)}), half=True)


def test_an_onnxruntime_that_removes_the_rounding_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    half._require_rounding.cache_clear()
    monkeypatch.setattr(half, "_rounded", lambda data: data)
    with pytest.raises(ValueError, match=f"onnxruntime {onnxruntime.__version__} does not round"):
        Graph(THERE_AND_BACK, half=True)
    half._require_rounding.cache_clear()


def test_a_model_cut_anywhere_is_damaged() -> None:
    for end in range(len(THERE_AND_BACK)):
        with pytest.raises(DamagedModelError, match="damaged"):
            Graph(THERE_AND_BACK[:end], half=True)
