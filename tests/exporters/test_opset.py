from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from exporters.errors import ExportError, ExportMismatch
from harness.errors import UsageError
from harness.onnx_models.graph import opset_of

onnx = pytest.importorskip("onnx", reason="onnx is not installed")


def model(opset: int, operator: str = "Sigmoid") -> Any:
    from onnx import TensorProto, helper

    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node(operator, ["x"], ["y"])], "g", [value[0]], [value[1]])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


@pytest.mark.parametrize(
    ("cann", "opsets"),
    [
        *(
            ("5.0.4", (9, 13)),
            ("5.1", (9, 13)),
            ("6.3.RC1", (9, 13)),
            ("7.0", (9, 18)),
            ("7.0.0.1.231", (9, 18)),
        ),
        *(("8.0.RC2", (11, 18)), ("8.5", (11, 18)), ("9.0", (11, 18)), ("10.0", (11, 18))),
    ],
)
def test_each_release_takes_its_opsets(cann: str, opsets: tuple[int, int]) -> None:
    from exporters import opset

    assert opset.accepted(cann) == opsets


@pytest.mark.parametrize(
    ("cann", "message"),
    [
        ("4.9", "older than 5.0"),
        ("seven", "not a version"),
        ("7", "not a version"),
        ("7.0 x", "not a version"),
    ],
)
def test_other_releases_are_refused(cann: str, message: str) -> None:
    from exporters import opset

    with pytest.raises(UsageError, match=message):
        opset.accepted(cann)


@pytest.mark.parametrize(
    ("has", "cann", "gets"),
    [(17, "5.0", 13), (17, "7.0", 17), (19, "8.0", 18), (9, "8.0", 11), (9, "7.0", 9)],
)
def test_the_nearest_opset_is_taken(has: int, cann: str, gets: int) -> None:
    from exporters import opset

    given = model(has)
    found = opset.converted(given, cann)
    assert opset_of(found) == gets
    assert (found is given) == (has == gets)


def test_what_onnx_cannot_bring_down_is_refused() -> None:
    from exporters import opset

    with pytest.raises(
        ExportError, match=r"opset 18, the atc of CANN 5.0 takes 9 to 13, and ONNX cannot convert it"
    ):
        opset.converted(model(18, "Mish"), "5.0")


def off(array: Any) -> Any:
    return array * np.float32(1 + 3e-5)


@pytest.mark.parametrize("lie", [off, lambda array: array * np.nan, lambda array: array[:1]])
def test_a_converted_model_that_computes_something_else_is_refused(
    monkeypatch: pytest.MonkeyPatch, lie: Callable[[Any], Any]
) -> None:
    from exporters import opset

    run = opset._run
    monkeypatch.setattr(
        opset,
        "_run",
        lambda item, noise: [lie(a) if opset_of(item) == 13 else a for a in run(item, noise)],
    )
    with pytest.raises(ExportMismatch, match=r"opset 13 differs by .* from opset 17.*nothing was compiled"):
        opset.converted(model(17), "5.0")
