"""The page to sign: what was compared, the verdicts, and what was not measured, in one file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from harness import __version__, storage
from harness.errors import DISTRIBUTION, UsageError
from harness.parity import pictures
from harness.parity.html import Block, Heading, Items, Picture, Table, Text, html_page, markdown_page
from harness.parity.levels.metrics import interval_in_words
from harness.parity.pair import pair_names, read_again
from harness.parity.report import COMPARED_METRICS, LevelReport, PairReport, ParityReport
from harness.parity.text import short
from harness.parity.tolerances import precision_of
from harness.records.record import Record
from harness.types import Verdict

PICTURES = 24
"""Most pictures on one page, about 10 MB; flips come first."""
_WRITERS = {".html": html_page, ".htm": html_page, ".md": markdown_page, ".markdown": markdown_page}
_SHOWN = {
    "different_inputs": "inputs that differ",
    "different_masks": "masks that differ",
    "largest_grey_difference": "largest difference of grey values",
    "largest_difference": "largest difference",
    "mean_difference": "on average",
    "rank_correlation": "rank correlation",
    "lowest_similarity": "lowest structural similarity",
    "flips": "flips",
    "tolerated_flips": "tolerated",
}
_TENSOR_HEADER = (
    *("output", "tolerance needed", "allowed", "largest", "mean", "largest relative", "mean relative"),
    *("relative L2", "cosine", "NaN or infinite", "image"),
)


def require_new(path: Path) -> None:
    """Raise `UsageError` unless `path` has a suffix of a page and does not exist."""
    if path.suffix.lower() not in _WRITERS:
        raise UsageError(f"--sign {path}: name a file that ends in .html or .md")
    if path.exists():
        raise UsageError(f"--sign {path}: exists, and may be signed: name another file, or move it away")


def write(folder: Path, report: ParityReport, path: Path) -> None:
    """Write the page, as HTML or Markdown by the suffix of `path`, completely or not at all.

    Args:
        folder: Results folder of `report`.
        report: The comparison to sign.
        path: The new page.

    Raises:
        RecordError: a record or its evidence was altered or removed since it was compared.
        UsageError: the suffix is neither `.html` nor `.md`, or the file exists.
    """
    require_new(path)
    storage.write_bytes(path, _WRITERS[path.suffix.lower()](_blocks(folder, report)).encode())


def _blocks(folder: Path, report: ParityReport) -> list[Block]:
    pairs = [(pair, read_again(folder, pair)) for pair in report.pairs]
    passed = sum(pair.verdict == "passed" for pair in report.pairs)
    simulated = sorted({name for pair in report.pairs for name in pair.simulated})
    blocks: list[Block] = [
        Heading(1, f"Parity {report.verdict}"),
        Text(
            f"{passed} of {len(report.pairs)} comparisons with {report.reference} passed. Written by {DISTRIBUTION} "
            f"{__version__} from records and their evidence; no model was run for this page."
        ),
    ]
    if simulated:
        blocks.append(Text(f"SIMULATED, not hardware: {', '.join(simulated)}."))
    blocks += [
        Heading(2, "Not measured"),
        Items(_not_measured(report, [records for _, records in pairs], simulated)),
    ]
    budget = PICTURES
    for pair, records in pairs:
        shown = _pictures(folder, pair, budget)
        budget -= len(shown)
        blocks += [*_pair_blocks(folder, pair, records), *_flip_blocks(pair, shown)]
    return [
        *blocks,
        Heading(2, "Signature"),
        Table(("", ""), [(label, " ") for label in ("name", "function", "place and date", "signature")]),
    ]


def _not_measured(
    report: ParityReport, records: Sequence[tuple[Record, Record]], simulated: Sequence[str]
) -> list[str]:
    texts = [f"not compared: {reason}" for reason in report.reasons]
    for pair in report.pairs:
        title = _title(pair)
        texts += [] if pair.reason is None else [f"{title}: not compared: {pair.reason}"]
        texts += [
            f"{title}: {level.name}: {'; '.join(level.messages) or 'no reason given'}"
            for level in pair.levels
            if level.verdict == "not measured"
        ]
        texts += [f"{title}: {name}: {why}" for name, why in pair.left_out.items()]
    if any(change.non_inferior is None for pair in report.pairs for change in pair.metrics):
        texts.append(
            "no margin was stated (parity --margin): whether other images of the same kind would show a loss of AUROC or "
            "AUPRO is not judged"
        )
    if simulated:
        texts.append(f"real hardware in place of {', '.join(simulated)}")
    scored = {record.case.runner for both in records for record in both if _is_scored(record)}
    texts += [
        f"which model file computed the outputs of {runner}: they came as files" for runner in sorted(scored)
    ]
    return [
        *texts,
        "latency, memory and throughput, which are not part of parity",
        "any image except the test images below",
    ]


def _is_scored(record: Record) -> bool:
    source = record.source
    return source is not None and source.outputs_sha256 is not None and source.record_sha256 is None


def _title(pair: PairReport) -> str:
    candidate = f"{pair.other.runner} ({pair.other.variant})"
    return f"{pair.other.category}: {candidate} against {pair_names(pair.reference, pair.other)[0]}"


def _pair_blocks(folder: Path, pair: PairReport, records: tuple[Record, Record]) -> Iterator[Block]:
    yield Heading(2, f"{_title(pair)}: {pair.verdict}")
    if pair.reason is not None:
        yield Text(f"Not compared: {pair.reason}.")
    if pair.notes:
        yield Items(pair.notes)
    yield Table(("", "both records"), _common_rows(pair, records))
    reference, candidate = (
        _own_rows(folder / name, record) for name, record in zip(pair.record_files, records, strict=True)
    )
    rows = [(label, text, candidate[label]) for label, text in reference.items()]
    names = pair_names(pair.reference, pair.other)
    yield Table(("", f"reference: {names[0]}", f"candidate: {names[1]}"), rows)
    if not pair.levels:
        return
    yield Heading(3, "Levels")
    yield Text(f"Tolerances of {pair.profile.name} ({pair.profile.why}).")
    yield Table(
        ("level", "verdict", "by float32", "tolerance needed", "tolerance", "measured"),
        [_level_row(level, pair.float32.get(level.name, level.verdict)) for level in pair.levels],
    )
    messages = [f"{level.name}: {line}" for level in pair.levels for line in level.messages]
    if messages:
        yield Items(messages)
    if pair.tensors:
        yield Heading(3, "Outputs of the networks")
        yield _tensor_table(pair)
    if pair.metrics:
        yield Heading(3, "Metrics")
        yield _metric_table(pair)


def _common_rows(pair: PairReport, records: tuple[Record, Record]) -> list[tuple[str, str]]:
    """Return what both records should have in common, and both values if they differ."""
    reference, candidate = map(_shared, records)
    rows = [
        (
            label,
            text if text == candidate[label] else f"reference: {text}; candidate: {candidate[label]}",
        )
        for label, text in reference.items()
    ]
    return [*rows, ("compared", f"{pair.good + pair.defective} images")]


def _shared(record: Record) -> dict[str, str]:
    case, data, thresholds = record.case, record.data, record.thresholds
    return {
        "detector": f"{case.detector} {case.backbone}, detector_sha256 {record.detector_sha256}",
        "weights": f"{record.weights.source}, {record.weights.sha256}",
        "data set": f"{case.dataset}, {case.category}{f', suite {case.suite}' if case.suite else ''}",
        "thresholds": f"image {_threshold(thresholds.image)}, pixel {_threshold(thresholds.pixel)}",
        "test images": "unknown"
        if data is None
        else f"{data.good} good, {data.defective} defective, fingerprint {data.fingerprint}",
        "ground truth": f"grey values above {case.mask_threshold}, {case.mask_resize}"
        + ("" if data is None else f"; the crop cuts {data.masks_cut} masks, empties {data.masks_emptied}"),
    }


def _threshold(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.7g}"


def _own_rows(path: Path, record: Record) -> dict[str, str]:
    device, host, case = record.device, record.host, record.case
    commit = host.git_commit or "no checkout"
    return {
        "record": f"{path.name}, {storage.sha256_of_file(path)}",
        "finished": record.finished,
        "variant": f"{case.variant}, counts as {precision_of(record)[0]}",
        "batch, threads": f"{case.batch_size}, {case.threads}",
        "device": "unknown"
        if device is None
        else f"{device.described}{', SIMULATED, not hardware' if device.simulated else ''}",
        "software": "unknown" if device is None else _listed(device.runtime),
        "options": "unknown" if device is None else _listed(device.options),
        "machine": f"{host.name}, {host.processor}, {host.machine}, {host.system}, Python {host.python}",
        "harness": f"{host.harness}, {commit}{' with changes' if host.git_dirty else ''}",
        "model": record.model_sha256,
        "artifact": record.artifact_sha256,
        "evidence": "none" if record.evidence is None else record.evidence.sha256,
        "outputs": "not saved" if record.outputs is None else record.outputs.sha256,
    }


def _listed(values: dict[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items()) or "none"


def _level_row(level: LevelReport, by_float32: Verdict) -> tuple[str, ...]:
    needed = level.numbers.get("tolerance_needed")
    tolerances = [
        f"{value:g} of the range of good scores"
        if name == "of_range"
        else f"{COMPARED_METRICS.get(name, name)} {value:g}"
        for name, value in level.tolerance.items()
        if name != "absolute"
    ]
    measured = [
        f"{text} {value:.6g}{f' ({level.images[name]})' if name in level.images else ''}"
        for name, text in _SHOWN.items()
        if (value := level.numbers.get(name)) is not None
    ]
    return (
        level.name,
        level.verdict,
        by_float32,
        "" if needed is None else f"{needed:.2g}",
        ", ".join(tolerances) or "equal",
        ", ".join(measured),
    )


def _tensor_table(pair: PairReport) -> Table:
    rows = []
    for tensor in pair.tensors:
        numbers = (
            *(tensor.tolerance_needed, pair.profile.tolerances.of_output(tensor.output)),
            *(tensor.largest, tensor.mean, tensor.largest_relative, tensor.mean_relative, tensor.relative_l2),
        )
        cosine = "undefined" if tensor.cosine is None else f"{tensor.cosine:.8f}"
        broken = " and ".join(map(str, tensor.not_finite))
        rows.append((tensor.output, *map(short, numbers), cosine, broken, tensor.image or ""))
    return Table(_TENSOR_HEADER, rows)


def _metric_table(pair: PairReport) -> Table:
    rows = [
        (
            COMPARED_METRICS[change.name],
            f"{change.reference:.7f}",
            f"{change.other:.7f}",
            f"{change.other - change.reference:+.2g}",
            "not computed" if change.interval is None else interval_in_words(change.interval),
            change.non_inferior or "no margin",
        )
        for change in pair.metrics
    ]
    return Table(
        ("metric", "reference", "candidate", "change", "interval of the change", "loss below margin"), rows
    )


def _flip_blocks(pair: PairReport, shown: Sequence[pictures.Picture]) -> Iterator[Block]:
    if not pair.levels:
        return
    yield Heading(3, f"Flips: {len(pair.flips)}")
    if pair.flips:
        yield Table(
            ("image", "label", "reference", "candidate", "threshold", "margin", ""),
            [
                (
                    flip.image,
                    "defective" if flip.label else "good",
                    *(
                        f"{value:.7g}"
                        for value in (flip.reference_score, flip.other_score, flip.threshold, flip.margin)
                    ),
                    "tolerated, so near the threshold" if flip.tolerated else "fails",
                )
                for flip in pair.flips
            ],
        )
    for picture in shown:
        kind = "flip" if picture.flipped else "largest difference"
        yield Picture(f"{pair.other.category}: {picture.image}, {kind}", picture.png())
    missing = len(pair.flips) - sum(picture.flipped for picture in shown)
    if missing:
        yield Text(
            f"{missing} flips have no picture here: parity --report DIR draws every flip that has evidence."
        )


def _pictures(folder: Path, pair: PairReport, most: int) -> list[pictures.Picture]:
    """Return at most `most` pictures: the flips, and then the image with the largest difference."""
    drawn = list(pictures.of_pair(folder, pair))
    largest = [picture for picture in drawn if not picture.flipped][:1]
    return [*(picture for picture in drawn if picture.flipped), *largest][: max(0, most)]
