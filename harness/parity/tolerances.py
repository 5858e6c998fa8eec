"""The one table of tolerances by precision, and the choice of the precision that a pair of records is judged in.

`docs/explanation/parity.md` says where the numbers come from: float32's and float16's are measured, the others derived.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from harness.records.record import Record


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerances:
    """The largest differences between two records that still pass; the defaults are float32's."""

    tensor: float = 1e-4
    """For each network output, as a share of its largest |value|; also for the relative L2 error."""
    outputs: Mapping[str, float] = field(default_factory=dict)
    """Output name → its own tolerance, in place of `tensor`."""
    score: float = 1e-3
    """As a share of the range (max - min) of the reference's scores of good test images."""
    map: float = 1e-3
    """As a share of the same range."""
    auroc: float = 1e-4
    """Absolute, for image and pixel AUROC."""
    aupro: float = 1e-4
    """Absolute."""

    def of_output(self, name: str) -> float:
        """Return the tolerance of one network output."""
        return self.outputs.get(name, self.tensor)


FLOAT32 = Tolerances()
PROFILES = {
    "float32": FLOAT32,
    "float16": Tolerances(tensor=1e-2, score=2e-2, map=2e-2, auroc=1e-3, aupro=1e-3),
    "bfloat16": Tolerances(tensor=8e-2, score=0.16, map=0.16, auroc=8e-3, aupro=8e-3),
    "int8": Tolerances(tensor=0.1, score=0.2, map=0.2, auroc=1e-2, aupro=1e-2),
}
"""From the strictest to the loosest."""


def search_tolerance(precision: str) -> float:
    """Return the tolerance for the tensors inside a graph, with which blame searches the first node that differs.

    `fp32` has float32's tolerance, every other precision float16's. The tolerances of bfloat16 and int8 are for a
    network's outputs, in which the rounding of all layers has added up. The search judges every tensor, and runs single
    nodes on the reference's values: one int8 step is 1/255 = 4e-3 of a tensor's range, and with a tolerance of 0.1 no
    node alone would ever be over it.

    Args:
        precision: Of a variant, as in its manifest.
    """
    return PROFILES["float32" if precision == "fp32" else "float16"].tensor


_WORDS = {
    "float32": (
        *("fp32", "float32", "f32", "must_keep_origin_dtype", "origin", "enforce_origin", "enforce_fp32"),
    ),
    # `force_fp32` is another name of `cube_fp16in_fp32out`, which rounds to float16 before it multiplies.
    "float16": (
        *("fp16", "float16", "f16", "force_fp16", "enforce_fp16", "allow_fp32_to_fp16", "mixed_float16"),
        *("allow_mix_precision", "allow_mix_precision_fp16", "cube_fp16in_fp32out", "force_fp32"),
    ),
    "bfloat16": (*("bf16", "bfloat16", "allow_fp32_to_bf16", "mixed_bfloat16", "allow_mix_precision_bf16"),),
    "int8": ("int8", "qint8"),
}
"""Precision → the words that exporters, compilers and runtimes use for it."""
_OPTIONS = ("precision", "precision_mode", "precision_mode_v2", "output_type")
"""The options of a device that name the precision of its computation or of its outputs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """The tolerances that judge a pair, and the reason for the choice."""

    name: str
    """One of `PROFILES`."""
    why: str
    tolerances: Tolerances


def precision_of(record: Record) -> tuple[str, str]:
    """Return the loosest precision that a record names, one of `PROFILES`, and the word that names it.

    Read are the variant's id and precision, and what the device reports about itself. A record without a known word
    counts as float32, the strictest; the second value says so.
    """
    texts = record.case.variant.split("-")
    if record.outputs is not None:
        texts.append(record.outputs.variant.precision)
    if record.device is not None:
        texts += [record.device.options.get(name, "") for name in _OPTIONS]
    words = [word for text in texts for word in re.findall(r"[a-z0-9_]+", text.lower())]
    for name in reversed(PROFILES):
        known = [word for word in words if word in _WORDS[name]]
        if known:
            return name, known[0]
    return "float32", f"{record.case.variant} names no precision, so the strictest"


def profile_of(
    reference: Record, candidate: Record, *, name: str | None = None, outputs: Mapping[str, float]
) -> Profile:
    """Return the requested profile, or else that of the looser of the two records' precisions.

    Args:
        reference: The reference record of the pair.
        candidate: The candidate record.
        name: The requested profile, one of `PROFILES`.
        outputs: As `Tolerances.outputs`.

    Raises:
        KeyError: `name` is not one of `PROFILES`.
    """
    precisions = [(*precision_of(record), record.case.runner) for record in (reference, candidate)]
    looser, word, runner = max(precisions, key=lambda precision: list(PROFILES).index(precision[0]))
    why = f"{runner}: {word}"
    if name is not None:
        why = "as requested" if name == looser else f"as requested; the records name {looser} ({why})"
    profile = looser if name is None else name
    return Profile(
        name=profile, why=why, tolerances=dataclasses.replace(PROFILES[profile], outputs=dict(outputs))
    )
