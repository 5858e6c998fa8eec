"""The blamed stage of two records: the first stage at which they differ, from records and evidence alone.

The stages in the order of the pipeline: decode, frame (colour order, resize, crop), input (scale, normalise, layout),
outputs of the network, head (maps and scores), decisions, metrics (and ground truth). Later stages inherit the first
difference. If the evidence is not enough, no stage is blamed, and the report says what is missing.
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
from harness.records import batches
from harness.records.outputs import Reader
from harness.records.record import Record, read_evidence
from harness.types import AnyArray

if TYPE_CHECKING:
    from harness.parity import PairReport, ParityReport, Verdict

Stage = Literal["decode", "frame", "input", "outputs", "head", "decisions", "metrics"]
_BEFORE_NET: tuple[Stage, ...] = ("decode", "frame", "input")
_NET_OR_HEAD = "whether the network or the head differs is unknown"
_UNLIKE = (
    "the pictures are not alike, and neither normalisation nor layout makes one of the other: "
    "another crop, resize or decoder"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StageBlame:
    """The blamed stage of one pair of records."""

    category: str
    reference: str
    """Backend, as `Case.runner`."""
    other: str
    """The candidate's backend."""
    stage: Stage | None
    """The first stage that differs; `None` if it is unknown, or the pair was not compared."""
    image: str | None = None
    """The image that shows the difference most, or first."""
    found: tuple[str, ...] = ()
    """One line for each difference with its amount, and for each open question with its reason."""

    def lines(self) -> list[str]:
        """For a terminal."""
        where = "unknown" if self.stage is None else self.stage
        return [
            f"blame · {self.category}: {self.other} first differs from {self.reference} at: {where}",
            *(f"  {line}" for line in self.found),
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Blamed:
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
    """Find the blamed stage of every pair of `report` that did not pass, in the report's order.

    Args:
        folder: Results folder of `report`.
        report: The pairs, with their verdicts.
        inputs: Input batches that `bench --inputs` or `score` read; they show another program's preprocessing.

    Raises:
        DatasetError: `inputs` were altered.
        RecordError: a record or its evidence was altered or removed.
    """
    return tuple(_blame(folder, pair, inputs) for pair in report.pairs if pair.verdict != "passed")


def _blame(folder: Path, report: PairReport, inputs: Path | None) -> StageBlame:
    reference, other = report.reference.runner, report.other.runner
    if reference == other:
        reference, other = (f"{case.runner}:{case.variant}" for case in (report.reference, report.other))
    if report.reason is not None:
        blamed = _Blamed(stage=None, image=None, lines=(f"not compared: {report.reason}",))
    else:
        pair = _Pair(folder=folder, report=report, records=read_again(folder, report), inputs=inputs)
        blamed = _before_net(pair) or _after_net(pair)
    return StageBlame(
        category=report.other.category,
        reference=reference,
        other=other,
        stage=blamed.stage,
        image=blamed.image,
        found=blamed.lines,
    )


# The network's input.


def _before_net(pair: _Pair) -> _Blamed | None:
    """The first stage that differs, of the images whose input differs; `None` if all inputs are equal.

    If one network normalises in its graph, the frames count as inputs. A stage that differs although the input is equal
    is not blamed.
    """
    first: dict[Stage, list[int]] = {}
    unknown = []
    stages = _BEFORE_NET[: len(stages_in_common(*pair.records))]
    last = stages[-1]
    for index, (expected, actual) in enumerate(zip(*(record.images for record in pair.records), strict=True)):
        known = [stage for stage in stages if stage in expected.stages and stage in actual.stages]
        if last not in known:
            unknown.append(index)
        elif expected.stages[last] != actual.stages[last]:
            stage = next(stage for stage in known if expected.stages[stage] != actual.stages[stage])
            first.setdefault(stage, []).append(index)
    if not first:
        if not unknown:
            return None
        why = f"the digest of the {last} is unknown for {len(unknown)} images: bench both again"
        return _Blamed(stage=None, image=pair.names[unknown[0]], lines=(why,))
    stage = min(first, key=_BEFORE_NET.index)
    index = first[stage][0]
    lines = [
        f"{name} differs first for {len(first[name])} of {len(pair.names)} images, for example {pair.names[first[name][0]]}"
        for name in sorted(first, key=_BEFORE_NET.index)
    ]
    explanation = _explained(pair, index, stage)
    lines.append(explanation if isinstance(explanation, str) else explanation.text)
    if isinstance(explanation, frames.Explanation) and not _knows_frame(pair, index):
        stage = explanation.stage  # only the input has a digest
    return _Blamed(stage=stage, image=pair.names[index], lines=tuple(lines))


def _knows_frame(pair: _Pair, index: int) -> bool:
    return all("frame" in record.images[index].stages for record in pair.records)


def _explained(pair: _Pair, index: int, stage: Stage) -> frames.Explanation | str:
    """How the image's input differs, from the frames and inputs in the evidence; else a sentence why that is unknown."""
    frame, candidate_frame = (_frame(pair, record, index) for record in pair.records)
    if frame is None:
        return "how it differs is unknown: the evidence of the reference is missing"
    if stage != "input" and candidate_frame is not None:
        explanation = frames.explain(frame, candidate_frame.transpose(2, 0, 1))
        return explanation or "how the frames differ is unknown: they are not alike"
    rows = _rows(pair, pair.records[1], index)
    if rows is None:
        unknown = (
            "how it differs"
            if _knows_frame(pair, index)
            else "whether the frame or the normalisation differs"
        )
        return (
            f"{unknown} is unknown: the inputs of {pair.records[1].case.runner} are not saved; if they came from files, "
            "name those: parity --blame --inputs DIR"
        )
    row = rows[0] if rows.ndim == 4 else rows
    if row.shape[-1] in (1, 3) and row.shape[0] not in (1, 3):
        row = row.transpose(2, 0, 1)
    if len(rows) > 1:  # windows; the first lies at the top left
        frame = frame[: row.shape[1], : row.shape[2]]
    explanation = frames.explain(frame, row)
    if (
        len(rows) == 1
        and not _knows_frame(pair, index)
        and (explanation is None or explanation.stage == "frame")
    ):
        explanation = _other_image(pair, index, row) or explanation
        if explanation is None and np.isfinite(row).all():
            return frames.Explanation(stage="frame", text=_UNLIKE)
    return explanation or "how the inputs differ is unknown: they are not alike"


def _other_image(pair: _Pair, index: int, row: AnyArray) -> frames.Explanation | None:
    """An explanation if the row shows another test image than the one at `index`."""
    arrays = read_evidence(pair.folder, pair.records[0])
    pictures = () if arrays is None else arrays.frames
    twin = next((place for place, frame in enumerate(pictures) if frames.shows(frame, row)), index)
    if twin == index:
        return None
    text = f"{pair.names[index]} shows {pair.names[twin]}: the images are in another order, or one was read twice"
    return frames.Explanation(stage="decode", text=text)


def _frame(pair: _Pair, record: Record, index: int) -> AnyArray | None:
    """The frame in the record's evidence, if it has the digest of the frame that the network saw."""
    arrays = read_evidence(pair.folder, record)
    if arrays is None:
        return None
    frame: AnyArray = arrays.frames[index]
    digest = record.images[index].stages.get("frame")
    return frame if digest == storage.sha256_of_array(frame) else None


def _rows(pair: _Pair, record: Record, index: int) -> AnyArray | None:
    """The network's input rows for an image: saved beside the outputs, or in the input batches that the record names."""
    saved = _saved(pair.folder, record)
    if saved is not None and saved.has_inputs:
        return saved.inputs(*outputs.spans(saved.rows)[index])
    if pair.inputs is None or record.source is None or record.source.inputs_sha256 is None:
        return None
    folder = batches.read(batches.below(pair.inputs, record.case.category))
    if folder.sha256 != record.source.inputs_sha256:
        raise RecordError(
            f"{folder.path}: not the inputs of {record.case.runner} (its record names the digest "
            f"{record.source.inputs_sha256[:12]}, these have {folder.sha256[:12]}): name the folder that the record was "
            "made with"
        )
    number, first = divmod(index, folder.index.batch_size)
    begin, end = outputs.spans(tuple(image.rows for image in folder.index.images[index - first :]))[first]
    return folder.read(folder.index.batches[number])[begin:end]


def _saved(folder: Path, record: Record) -> Reader | None:
    if record.outputs is None:
        return None
    path = storage.inside(folder, record.outputs.file, RecordError)
    return Reader(path, record.outputs.sha256) if path.is_file() else None


# The network's outputs, and everything computed from them.


def _after_net(pair: _Pair) -> _Blamed:
    """If the inputs are equal: outputs, then head, decisions, metrics."""
    worst = pair.report.largest[0].image if pair.report.largest else None
    failed = pair.levels("failed")
    stage: Stage | None = None
    lines = [_inputs_are_equal(pair)]
    if failed & {"tensors", "maps", "scores"}:
        reference, candidate = (_saved(pair.folder, record) for record in pair.records)
        if reference is None or candidate is None:
            both = zip(pair.records, (reference, candidate), strict=True)
            lacking = " and ".join(record.case.runner for record, reader in both if reader is None)
            lines.append(
                f"{_NET_OR_HEAD}: the outputs of {lacking} are not saved; bench both with --save-outputs"
            )
            return _Blamed(stage=None, image=worst, lines=tuple(lines))
        left_out = pair.report.left_out.get("tensors")
        if left_out is not None:
            lines.append(f"{_NET_OR_HEAD}: {left_out}; bench both with it, or both without")
            return _Blamed(stage=None, image=worst, lines=tuple(lines))
        compared = outputs.compare(reference, candidate, pair.names, pair.report.profile.tolerances)
        if compared.differ:
            return _Blamed(stage="outputs", image=compared.image or worst, lines=(*lines, *compared.lines))
        stage = "head"
        lines += [*compared.lines, _head(failed)]
    elif "decisions" in failed:
        stage = "decisions"
        lines.append("maps and scores agree, and decisions flip: see the level of decisions")
    elif failed:
        stage = "metrics"
        differing = "ground truth" if "inputs" in failed else "metrics or ground truth"
        lines.append(f"maps, scores and decisions agree: {differing} differ; see that level")
    else:
        lines.append(
            f"nothing that was measured differs; not measured: {', '.join(sorted(pair.levels('not measured')))}"
        )
    return _Blamed(stage=stage, image=worst, lines=tuple(lines))


def _inputs_are_equal(pair: _Pair) -> str:
    if stages_in_common(*pair.records)[-1] == "input":
        return "the inputs of the network are equal"
    steps = " and ".join(
        f"{record.case.runner} preprocesses up to {record.input_stage}" for record in pair.records
    )
    return f"the frames are equal; after them {steps}: the model does the rest"


def _head(failed: set[str]) -> str:
    differing = (
        "scores of these outputs differ; the maps agree"
        if "maps" not in failed
        else "maps of these outputs differ"
    )
    return f"the {differing}: head, its parameters or the fitted state"
