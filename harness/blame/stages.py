"""At which stage two records of one detector part, told from records and evidence alone.

The stages in the order of the pipeline: decode, frame (colour order, resize, crop), input (scale, normalise, layout),
outputs of the network, head (maps and scores), decisions, metrics (and ground truth). The first that differs is blamed:
what comes after it inherits. What the evidence does not hold is said, and the stage stays open.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from harness import storage
from harness.blame import frames, outputs
from harness.errors import RecordError
from harness.parity import read_again
from harness.parity.levels.inputs import stages_in_common
from harness.records import batches, record
from harness.records.outputs import Reader
from harness.records.record import Record
from harness.types import AnyArray

if TYPE_CHECKING:
    from harness.parity import PairReport, ParityReport, Verdict

Stage = Literal["decode", "frame", "input", "outputs", "head", "decisions", "metrics"]
_BEFORE_NET: tuple[Stage, ...] = ("decode", "frame", "input")
_KEEP = "bench both with --save-outputs"
_UNLIKE = (
    "the pictures are not alike, and neither normalisation nor layout makes one of the other: "
    "another crop, resize or decoder"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StageBlame:
    """Where one pair of records parts."""

    category: str
    reference: str
    """Backend, as `Case.runner`; so is `other`."""
    other: str
    stage: Stage | None
    """The first that differs; `None` where it cannot be told, or the pair was not compared."""
    image: str | None = None
    """The one that shows it most, or first."""
    found: tuple[str, ...] = ()
    """What differs and by how much, and what cannot be told and why."""

    def lines(self) -> list[str]:
        """For a terminal."""
        where = "cannot be told" if self.stage is None else self.stage
        return [
            f"blame · {self.category}: {self.other} parts from {self.reference} at: {where}",
            *(f"  {line}" for line in self.found),
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    stage: Stage | None
    image: str | None
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pair:
    folder: Path
    report: PairReport
    records: tuple[Record, Record]
    inputs: Path | None

    def levels(self, verdict: Verdict) -> set[str]:
        """Names of the levels of parity that came to this verdict."""
        return {level.name for level in self.report.levels if level.verdict == verdict}

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(image.name for image in self.records[0].images)


def blame(folder: Path, report: ParityReport, *, inputs: Path | None = None) -> tuple[StageBlame, ...]:
    """The stage of every pair of `report` that did not pass.

    Args:
        folder: Results folder that `report` was made from.
        report: What did not pass, and the records' names.
        inputs: Batches that `bench --inputs` or `score` took, to see what another program's preprocessing did.

    Raises:
        DatasetError: `inputs` were altered.
        RecordError: a record or its evidence was altered or removed.
    """
    return tuple(_blame(folder, pair, inputs) for pair in report.pairs if pair.verdict != "passed")


def _blame(folder: Path, report: PairReport, inputs: Path | None) -> StageBlame:
    reference, other = report.reference.runner, report.other.runner
    if reference == other:
        reference, other = (f"{case.runner}:{case.variant}" for case in (report.reference, report.other))
    made = StageBlame(
        category=report.other.category,
        reference=reference,
        other=other,
        stage=None,
        found=(f"not compared: {report.reason}",),
    )
    if report.reason is not None:
        return made
    one, two = read_again(folder, report)
    pair = _Pair(folder=folder, report=report, records=(one, two), inputs=inputs)
    found = _before_net(pair) or _after_net(pair)
    return StageBlame(
        category=made.category,
        reference=made.reference,
        other=made.other,
        stage=found.stage,
        image=found.image,
        found=found.lines,
    )


# What goes into the network.


def _before_net(pair: _Pair) -> _Found | None:
    """The first stage of the images whose input differs; `None` where all are equal, up to where a network takes over.

    A stage whose arrays differ while the input is equal all the same caused nothing.
    """
    first: dict[Stage, list[int]] = {}
    unknown = []
    stages = _BEFORE_NET[: len(stages_in_common(*pair.records))]
    last = stages[-1]
    for index, (one, two) in enumerate(zip(*(item.images for item in pair.records), strict=True)):
        known = [stage for stage in stages if stage in one.stages and stage in two.stages]
        if last not in known:
            unknown.append(index)
        elif one.stages[last] != two.stages[last]:
            stage = next(stage for stage in known if one.stages[stage] != two.stages[stage])
            first.setdefault(stage, []).append(index)
    if not first:
        if not unknown:
            return None
        why = f"the digest of the {last} is unknown for {len(unknown)} images: bench both again"
        return _Found(stage=None, image=pair.names[unknown[0]], lines=(why,))
    stage = min(first, key=_BEFORE_NET.index)
    index = first[stage][0]
    lines = [
        f"{name} differs first for {len(members)} of {len(pair.names)} images, {pair.names[members[0]]} say"
        for name, members in sorted(first.items(), key=lambda item: _BEFORE_NET.index(item[0]))
    ]
    told = _explained(pair, index, stage)
    lines.append(told if isinstance(told, str) else told.text)
    if isinstance(told, frames.Explanation) and not _knows_frame(pair, index):
        stage = told.stage  # the digests know the input alone
    return _Found(stage=stage, image=pair.names[index], lines=tuple(lines))


def _knows_frame(pair: _Pair, index: int) -> bool:
    return all("frame" in item.images[index].stages for item in pair.records)


def _explained(pair: _Pair, index: int, stage: Stage) -> frames.Explanation | str:
    """What was done to the image, from frames and inputs in the evidence; else a sentence why that cannot be told."""
    shown = [_frame(pair, item, index) for item in pair.records]
    if shown[0] is None:
        return "how it differs cannot be told: the evidence of the reference is missing"
    if stage != "input" and shown[1] is not None:
        told = frames.explain(shown[0], shown[1].transpose(2, 0, 1))
        return told or "how the frames differ cannot be told: they are not alike"
    rows = _rows(pair, pair.records[1], index)
    if rows is None:
        unsure = "" if _knows_frame(pair, index) else "whether the frame or the normalisation differs, and "
        return (
            f"{unsure}how cannot be told: the inputs of {pair.records[1].case.runner} are not stored; if they came from "
            "files, name those: parity --blame --inputs DIR"
        )
    row = rows[0] if rows.ndim == 4 else rows
    if row.shape[-1] in (1, 3) and row.shape[0] not in (1, 3):
        row = row.transpose(2, 0, 1)
    frame = shown[0]
    if len(rows) > 1:  # windows, of which the first lies at the top left
        frame = frame[: row.shape[1], : row.shape[2]]
    told = frames.explain(frame, row)
    if len(rows) == 1 and not _knows_frame(pair, index) and (told is None or told.stage == "frame"):
        told = _other_image(pair, index, row) or told
        if told is None and np.isfinite(row).all():
            return frames.Explanation(stage="frame", text=_UNLIKE)
    return told or "how the inputs differ cannot be told: they are not alike"


def _other_image(pair: _Pair, index: int, row: AnyArray) -> frames.Explanation | None:
    """Whether the row was made of another test image than that at `index`."""
    arrays = record.read_evidence(pair.folder, pair.records[0])
    shown = () if arrays is None else arrays.frames
    twin = next((place for place, frame in enumerate(shown) if frames.shows(frame, row)), index)
    if twin == index:
        return None
    text = f"{pair.names[index]} shows {pair.names[twin]}: the images are in another order, or one was read twice"
    return frames.Explanation(stage="decode", text=text)


def _frame(pair: _Pair, item: Record, index: int) -> AnyArray | None:
    """The frame in the record's evidence, if it is what the digest says the network saw."""
    arrays = record.read_evidence(pair.folder, item)
    if arrays is None:
        return None
    frame: AnyArray = arrays.frames[index]
    digest = item.images[index].stages.get("frame")
    return frame if digest == storage.sha256_of_array(frame) else None


def _rows(pair: _Pair, item: Record, index: int) -> AnyArray | None:
    """The rows that went into the network: stored beside the outputs, or in the batches that the record names."""
    stored = _stored(pair.folder, item)
    if stored is not None and stored.has_inputs:
        return stored.inputs(*outputs.spans(stored.rows)[index])
    if pair.inputs is None or item.source is None or item.source.inputs_sha256 is None:
        return None
    folder = batches.read(batches.below(pair.inputs, item.case.category))
    if folder.sha256 != item.source.inputs_sha256:
        raise RecordError(
            f"{folder.path}: not the inputs of {item.case.runner} (its record names the digest "
            f"{item.source.inputs_sha256[:12]}, these have {folder.sha256[:12]})"
        )
    number, first = divmod(index, folder.index.batch_size)
    begin, end = outputs.spans(tuple(image.rows for image in folder.index.images[index - first :]))[first]
    return folder.read(folder.index.batches[number])[begin:end]


def _stored(folder: Path, item: Record) -> Reader | None:
    if item.outputs is None:
        return None
    path = storage.inside(folder, item.outputs.file, RecordError)
    return Reader(path, item.outputs.sha256) if path.is_file() else None


# What comes out.


def _after_net(pair: _Pair) -> _Found:
    """With equal inputs: outputs, then head, decisions, metrics."""
    worst = pair.report.largest[0].image if pair.report.largest else None
    failed = pair.levels("failed")
    parts: Stage | None = None
    lines = [_inputs_are_equal(pair)]
    if failed & {"tensors", "maps", "scores"}:
        stored = [_stored(pair.folder, item) for item in pair.records]
        if stored[0] is None or stored[1] is None:
            lacking = [
                item.case.runner for item, has in zip(pair.records, stored, strict=True) if has is None
            ]
            lines.append(
                f"whether the network or the head differs cannot be told: the outputs of {' and '.join(lacking)} are not "
                f"stored; {_KEEP}"
            )
            return _Found(stage=None, image=worst, lines=tuple(lines))
        left_out = pair.report.left_out.get("tensors")
        if left_out is not None:
            lines.append(
                f"whether the network or the head differs cannot be told: {left_out}; bench both with it, or both without"
            )
            return _Found(stage=None, image=worst, lines=tuple(lines))
        tolerances = pair.report.profile.tolerances
        found = outputs.compare(stored[0], stored[1], pair.names, tolerances)
        if found.differ:
            return _Found(stage="outputs", image=found.image or worst, lines=(*lines, *found.lines))
        parts = "head"
        lines += [*found.lines, _head(failed)]
    elif "decisions" in failed:
        parts = "decisions"
        lines.append("maps and scores are near enough, and decisions flip: see the level of decisions")
    elif failed:
        parts = "metrics"
        truth = "ground truth" if "inputs" in failed else "metrics or ground truth"
        lines.append(f"maps, scores and decisions are near enough: {truth} differ; see that level")
    else:
        lines.append(
            f"nothing that was measured differs; not measured: {', '.join(sorted(pair.levels('not measured')))}"
        )
    return _Found(stage=parts, image=worst, lines=tuple(lines))


def _inputs_are_equal(pair: _Pair) -> str:
    if stages_in_common(*pair.records)[-1] == "input":
        return "the inputs of the network are equal"
    steps = " and ".join(f"{item.case.runner} preprocesses up to {item.input_stage}" for item in pair.records)
    return f"the frames are equal; after them {steps}: the rest is the model's"


def _head(failed: set[str]) -> str:
    what = "scores" if "maps" not in failed else "maps"
    alone = "; the maps are near enough" if what == "scores" else ""
    return f"the {what} made of these outputs differ{alone}: head, its parameters or the fitted state"
