"""The AIPP file: the chip itself scales and normalises uint8 pixels, (x − min) · var_reci per channel.

The fields are those of `atc --insert_op_conf`. The chip holds `min_chn` and `var_reci_chn` as float16 and gives float16,
so inputs differ from those of float32 preprocessing by up to about 1e-3 of their range.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from harness.detector.preprocess import Colour, Normalise, Scale, Step
from harness.errors import UsageError

_TEMPLATE = """\
# {note}
aipp_op {{
  aipp_mode: static
  related_input_rank: 0
  input_format: RGB888_U8
  src_image_size_w: {width}
  src_image_size_h: {height}
  crop: false
  csc_switch: false
  rbuv_swap_switch: false
{channels}
}}
"""
_NOTE = "the host gives the channels as the network takes them; as float16: "


def configuration(steps: Sequence[Step], *, height: int, width: int) -> str:
    """The AIPP file that does what `steps` do after the crop, for uint8 images (N, `height`, `width`, 3).

    With divisor d, mean m and deviation s, (x / d − m) / s is (x − m · d) · 1 / (s · d). Nothing is swapped: the host's
    colour step gives the channels in the network's order already.

    Raises:
        UsageError: a grey image, or a mean or a deviation that the file's fields cannot hold.
    """
    if any(isinstance(step, Colour) and step.order == "GREY" for step in steps):
        raise UsageError(
            "--aipp: written for images of three channels, this detector takes grey ones; leave it out"
        )
    divisor = next(step.divisor for step in steps if isinstance(step, Scale))
    normalise = next((step for step in steps if isinstance(step, Normalise)), None)
    mean, std = ((0.0,) * 3, (1.0,) * 3) if normalise is None else (normalise.mean, normalise.std)
    least = [value * divisor for value in mean]
    factor = [1 / (value * divisor) for value in std]
    if not all(0 <= value <= 255 for value in least):
        raise UsageError(
            f"--aipp: min_chn takes 0 to 255, this detector's means are {_listed(least)}; leave it out"
        )
    if not all(np.finfo(np.float16).tiny <= value <= np.finfo(np.float16).max for value in factor):
        raise UsageError(
            f"--aipp: var_reci_chn is a float16, this detector's factors are {_listed(factor)}; leave it out"
        )
    lines = [
        f"  {name}_{channel}: {value:.9g}"
        for name, values in (("min_chn", least), ("var_reci_chn", factor))
        for channel, value in enumerate(values)
    ]
    rounded = " ".join(f"{np.float16(value):.9g}" for value in (*least, *factor))
    return _TEMPLATE.format(note=_NOTE + rounded, width=width, height=height, channels="\n".join(lines))


def taken_over(steps: Sequence[Step]) -> tuple[str, tuple[str, ...]]:
    """The last step the host runs, and the steps that AIPP makes superfluous."""
    stages = [step.stage for step in steps]
    first = stages.index("scale")
    return stages[first - 1], tuple(stage for stage in stages[first:] if stage != "windows")


def _listed(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.6g}" for value in values)
