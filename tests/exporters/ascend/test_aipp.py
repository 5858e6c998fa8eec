from __future__ import annotations

import numpy as np
import pytest

from exporters.ascend import aipp
from harness.detector.preprocess import (
    Colour,
    Decode,
    Layout,
    Normalise,
    Preprocessor,
    Scale,
    Windows,
    standard_steps,
)
from harness.errors import UsageError

IMAGENET = """\
aipp_op {
  aipp_mode: static
  related_input_rank: 0
  input_format: RGB888_U8
  src_image_size_w: 48
  src_image_size_h: 32
  crop: false
  csc_switch: false
  rbuv_swap_switch: false
  min_chn_0: 123.675
  min_chn_1: 116.28
  min_chn_2: 103.53
  var_reci_chn_0: 0.0171247538
  var_reci_chn_1: 0.0175070028
  var_reci_chn_2: 0.0174291939
}
"""


def fields(text: str) -> dict[str, str]:
    lines = [line.split(": ") for line in text.splitlines() if ": " in line and not line.startswith("#")]
    return {name.strip(): value for name, value in lines}


def test_imagenet_gives_the_vendors_own_values() -> None:
    note, _, rest = aipp.configuration(standard_steps(40, 32), height=32, width=48).partition("\n")
    assert rest == IMAGENET
    assert "as float16: 123.6875 116.25 103.5 0.0171203613 0.0175018311 0.0174255371" in note


def test_without_normalisation_pixels_are_divided_alone() -> None:
    found = fields(aipp.configuration((Decode(), Scale(divisor=128)), height=4, width=4))
    assert [found[f"min_chn_{channel}"] for channel in range(3)] == ["0"] * 3
    assert [found[f"var_reci_chn_{channel}"] for channel in range(3)] == ["0.0078125"] * 3


def test_the_formula_is_the_hosts_preprocessing() -> None:
    steps = standard_steps(8, 8)
    found = fields(aipp.configuration(steps, height=8, width=8))
    least, factor = (
        np.array([float(found[f"{name}_{channel}"]) for channel in range(3)])
        for name in ("min_chn", "var_reci_chn")
    )
    frame = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    expected = Preprocessor(steps).tensor(frame)
    np.testing.assert_allclose(((frame - least) * factor).transpose(2, 0, 1), expected, atol=1e-6)


def test_the_host_stops_before_scaling_and_the_graph_takes_the_rest() -> None:
    steps = (*standard_steps(8, 8), Windows(size=4, stride=4))
    assert aipp.taken_over(steps) == ("crop", ("scale", "normalise", "layout"))
    assert aipp.taken_over((Decode(), Scale(divisor=1), Layout(order="NCHW"))) == (
        "decode",
        ("scale", "layout"),
    )


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (Colour(order="GREY"), "three channels"),
        (Normalise(mean=(-0.1, 0, 0), std=(1, 1, 1)), "min_chn takes 0 to 255.*-25.5, 0, 0"),
        (Normalise(mean=(0, 0, 1.1), std=(1, 1, 1)), "min_chn takes 0 to 255"),
        (Normalise(mean=(0, 0, 0), std=(1, 1, 1e-9)), "var_reci_chn is a float16"),
        (Normalise(mean=(0, 0, 0), std=(1, 1e3, 1)), "var_reci_chn is a float16"),
    ],
)
def test_what_the_fields_cannot_hold_is_refused(step: Colour | Normalise, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        aipp.configuration((step, Scale(divisor=255)), height=4, width=4)


def test_means_are_in_the_units_of_the_pixels() -> None:
    steps = (Decode(), Scale(divisor=128), Normalise(mean=(0.5, 0.25, 0), std=(0.5, 0.25, 1)))
    found = fields(aipp.configuration(steps, height=4, width=4))
    assert [found[f"min_chn_{channel}"] for channel in range(3)] == ["64", "32", "0"]
    assert [found[f"var_reci_chn_{channel}"] for channel in range(3)] == ["0.015625", "0.03125", "0.0078125"]
