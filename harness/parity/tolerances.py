"""Tolerances by precision, and which precision a pair of records is judged in.

Where the numbers come from is in `docs/explanation/parity.md`: float32's and float16's are measured, the others derived.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from harness.records.record import Record


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerances:
    """How far two records may lie apart; the defaults are for float32."""

    tensor: float = 1e-4
    """Of the largest |value| of a network's output, for the largest difference; and the relative L2 error."""
    outputs: Mapping[str, float] = field(default_factory=dict)
    """The same for single outputs, by name."""
    score: float = 1e-3
    """Of the range (max - min) of the reference's scores of good test images; also how near to the threshold the
    reference's score of a flipped image must lie."""
    map: float = 1e-3
    """Of the same range."""
    auroc: float = 1e-4
    """Absolute, for image and pixel AUROC."""
    aupro: float = 1e-4
    """Absolute."""

    def of_output(self, name: str) -> float:
        """The tolerance of one output of the network."""
        return self.outputs.get(name, self.tensor)


FLOAT32 = Tolerances()
PROFILES = {
    "float32": FLOAT32,
    "float16": Tolerances(tensor=1e-2, score=2e-2, map=2e-2, auroc=1e-3, aupro=1e-3),
    "bfloat16": Tolerances(tensor=8e-2, score=0.16, map=0.16, auroc=8e-3, aupro=8e-3),
    "int8": Tolerances(tensor=0.1, score=0.2, map=0.2, auroc=1e-2, aupro=1e-2),
}
"""From the strictest to the loosest."""

_WORDS = {
    "float32": (
        "fp32",
        "float32",
        "f32",
        "must_keep_origin_dtype",
        "origin",
        "enforce_origin",
        "enforce_fp32",
    ),
    # `force_fp32` is another name of `cube_fp16in_fp32out`, which rounds to float16 before it multiplies.
    "float16": (
        *("fp16", "float16", "f16", "force_fp16", "enforce_fp16", "allow_fp32_to_fp16", "mixed_float16"),
        *("allow_mix_precision", "allow_mix_precision_fp16", "cube_fp16in_fp32out", "force_fp32"),
    ),
    "bfloat16": (*("bf16", "bfloat16", "allow_fp32_to_bf16", "mixed_bfloat16", "allow_mix_precision_bf16"),),
    "int8": ("int8", "qint8"),
}
"""What exporters, compilers and runtimes call them."""
_OPTIONS = ("precision", "precision_mode", "precision_mode_v2", "output_type")
"""Where a device says which precision it computed in, and what it rounded its outputs to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """The tolerances a pair is judged by, and why these."""

    name: str
    """One of `PROFILES`."""
    why: str
    tolerances: Tolerances


def precision_of(record: Record) -> tuple[str, str]:
    """The loosest precision a record names, one of `PROFILES`, and the word it rests on.

    Its variant's id and precision count, and what the device reports of itself. Without a word that is known the
    strictest is taken, and the words say so.
    """
    said = [*record.case.variant.split("-")]
    if record.outputs is not None:
        said.append(record.outputs.variant.precision)
    if record.device is not None:
        said += [record.device.options.get(name, "") for name in _OPTIONS]
    words = [word for text in said for word in re.findall(r"[a-z0-9_]+", text.lower())]
    for name in reversed(PROFILES):
        found = [word for word in words if word in _WORDS[name]]
        if found:
            return name, found[0]
    return "float32", f"{record.case.variant} does not tell, so the strictest"


def profile_of(
    reference: Record, other: Record, *, asked: str | None = None, outputs: Mapping[str, float]
) -> Profile:
    """The profile that was asked for, else that of the looser of the two precisions.

    Args:
        reference: One side.
        other: The other.
        asked: One of `PROFILES`.
        outputs: As `Tolerances.outputs`.

    Raises:
        KeyError: `asked` is not one of `PROFILES`.
    """
    found = [(*precision_of(record), record.case.runner) for record in (reference, other)]
    name, word, runner = max(found, key=lambda item: list(PROFILES).index(item[0]))
    why = f"{runner}: {word}"
    if asked is not None:
        why = "as asked" if asked == name else f"as asked; by the records it would be {name} ({why})"
        name = asked
    tolerances = dataclasses.replace(PROFILES[name], outputs=dict(outputs))
    return Profile(name=name, why=why, tolerances=tolerances)
