"""The page to sign: what was compared, what came of it, and what was not measured, in one file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from harness import __version__, storage
from harness.errors import DISTRIBUTION, UsageError
from harness.parity import pictures
from harness.parity.html import Block, Heading, Items, Picture, Table, Text, html_page, markdown_page
from harness.parity.levels.metrics import interval_in_words
from harness.parity.pair import read_again, side_names
from harness.parity.report import COMPARED_METRICS, LevelReport, PairReport, ParityReport, Verdict
from harness.parity.tolerances import precision_of
from harness.records.record import Record

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


def require_new(path: Path) -> None:
    """Raise `UsageError` unless a page can be written under this name, where nothing is yet."""
    if path.suffix.lower() not in _WRITERS:
        raise UsageError(f"--sign {path}: name a file that ends in .html or .md")
    if path.exists():
        raise UsageError(
            f"--sign {path}: is there already, and may be signed: name another file, or move it away"
        )


def write(folder: Path, report: ParityReport, path: Path) -> None:
    """Write the page, as HTML or Markdown by the suffix of `path`, whole or not at all.

    Args:
        folder: Results folder `report` was made from.
        report: What to sign.
        path: The page.

    Raises:
        RecordError: a record or its evidence was edited or removed since it was written.
        UsageError: the suffix is neither `.html` nor `.md`, or the file is there.
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
            f"{passed} of {len(report.pairs)} comparisons with {report.reference} passed. Made by {DISTRIBUTION} "
            f"{__version__} from records and their evidence; no model was run for this page."
        ),
    ]
    if simulated:
        blocks.append(Text(f"SIMULATED, not hardware: {', '.join(simulated)}."))
    blocks += [
        Heading(2, "Not measured"),
        Items(_not_measured(report, [both for _, both in pairs], simulated)),
    ]
    budget = PICTURES
    for pair, both in pairs:
        shown = _pictures(folder, pair, budget)
        budget -= len(shown)
        blocks += [*_pair_blocks(folder, pair, both), *_flip_blocks(pair, shown)]
    return [
        *blocks,
        Heading(2, "Signature"),
        Table(("", ""), [(what, " ") for what in ("name", "function", "place and date", "signature")]),
    ]


def _not_measured(
    report: ParityReport, records: Sequence[tuple[Record, Record]], simulated: Sequence[str]
) -> list[str]:
    found = [f"not compared: {reason}" for reason in report.reasons]
    for pair in report.pairs:
        title = _title(pair)
        found += [] if pair.reason is None else [f"{title}: not compared: {pair.reason}"]
        found += [
            f"{title}: {level.name}: {'; '.join(level.messages) or 'no reason given'}"
            for level in pair.levels
            if level.verdict == "not measured"
        ]
        found += [f"{title}: {name}: {why}" for name, why in pair.left_out.items()]
    if any(change.non_inferior is None for pair in report.pairs for change in pair.metrics):
        found.append(
            "no margin was stated (parity --margin): whether other images of the same kind would show a loss of AUROC or "
            "AUPRO is not judged"
        )
    if simulated:
        found.append(f"hardware in the place of {', '.join(simulated)}")
    scored = {item.case.runner for both in records for item in both if _is_scored(item)}
    found += [
        f"which model file gave the outputs of {runner}: they came as files" for runner in sorted(scored)
    ]
    return [
        *found,
        "latency, memory and throughput, which are no part of parity",
        "any image but the test images below",
    ]


def _is_scored(item: Record) -> bool:
    source = item.source
    return source is not None and source.outputs_sha256 is not None and source.record_sha256 is None


def _title(pair: PairReport) -> str:
    other = f"{pair.other.runner} ({pair.other.variant})"
    return f"{pair.other.category}: {other} against {side_names(pair.reference, pair.other)[0]}"


def _pair_blocks(folder: Path, pair: PairReport, both: tuple[Record, Record]) -> Iterator[Block]:
    yield Heading(2, f"{_title(pair)}: {pair.verdict}")
    if pair.reason is not None:
        yield Text(f"Not compared: {pair.reason}.")
    if pair.notes:
        yield Items(pair.notes)
    yield Table(("", "both sides"), _common_rows(pair, both))
    sides = [_side_rows(folder / name, item) for name, item in zip(pair.record_files, both, strict=True)]
    rows = [(what, sides[0][what], sides[1][what]) for what in sides[0]]
    names = side_names(pair.reference, pair.other)
    yield Table(("", f"reference: {names[0]}", f"other: {names[1]}"), rows)
    if not pair.levels:
        return
    yield Heading(3, "Levels")
    yield Text(f"Tolerances of {pair.profile.name} ({pair.profile.why}).")
    yield Table(
        ("level", "verdict", "by float32", "tolerance needed", "tolerance asked for", "found"),
        [_level_row(level, pair.float32 or {level.name: level.verdict}) for level in pair.levels],
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


def _common_rows(pair: PairReport, both: tuple[Record, Record]) -> list[tuple[str, str]]:
    """What both sides should have in common; where they have not, what either has."""
    reference, other = map(_shared, both)
    rows = [
        (what, mine if mine == other[what] else f"reference: {mine}; other: {other[what]}")
        for what, mine in reference.items()
    ]
    return [*rows, ("compared", f"{pair.good + pair.defective} images")]


def _shared(item: Record) -> dict[str, str]:
    case, data, thresholds = item.case, item.data, item.thresholds
    return {
        "detector": f"{case.detector} {case.backbone}, detector_sha256 {item.detector_sha256}",
        "weights": f"{item.weights.source}, {item.weights.sha256}",
        "data set": f"{case.dataset}, {case.category}{f', suite {case.suite}' if case.suite else ''}",
        "thresholds": f"image {_threshold(thresholds.image)}, pixel {_threshold(thresholds.pixel)}",
        "test images": "unknown"
        if data is None
        else f"{data.good} good, {data.defective} defective, fingerprint {data.fingerprint}",
        "ground truth": f"grey values above {case.mask_threshold}, {case.mask_resize}"
        + ("" if data is None else f"; the crop cuts {data.masks_cut}, empties {data.masks_emptied}"),
    }


def _threshold(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.7g}"


def _side_rows(path: Path, item: Record) -> dict[str, str]:
    device, host, case = item.device, item.host, item.case
    commit = host.git_commit or "no checkout"
    return {
        "record": f"{path.name}, {storage.sha256_of_file(path)}",
        "finished": item.finished,
        "variant": f"{case.variant}, taken for {precision_of(item)[0]}",
        "batch, threads": f"{case.batch_size}, {case.threads}",
        "device": "unknown"
        if device is None
        else f"{device.described}{', SIMULATED, not hardware' if device.simulated else ''}",
        "software": "unknown" if device is None else _pairs_of(device.runtime),
        "options": "unknown" if device is None else _pairs_of(device.options),
        "host": f"{host.name}, {host.processor}, {host.machine}, {host.system}, Python {host.python}",
        "harness": f"{host.harness}, {commit}{' with changes' if host.git_dirty else ''}",
        "model": item.model_sha256,
        "artifact": item.artifact_sha256,
        "evidence": "none" if item.evidence is None else item.evidence.sha256,
        "outputs": "not saved" if item.outputs is None else item.outputs.sha256,
    }


def _pairs_of(values: dict[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items()) or "none"


def _level_row(level: LevelReport, by_float32: dict[str, Verdict]) -> tuple[str, ...]:
    needed = level.numbers.get("tolerance_needed")
    asked = {name: value for name, value in level.tolerance.items() if name != "absolute"}
    found = [
        f"{text} {value:.6g}{f' ({level.images[name]})' if name in level.images else ''}"
        for name, text in _SHOWN.items()
        if (value := level.numbers.get(name)) is not None
    ]
    return (
        level.name,
        level.verdict,
        by_float32[level.name],
        "" if needed is None else f"{needed:.2g}",
        ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in asked.items()) or "equal",
        ", ".join(found),
    )


def _tensor_table(pair: PairReport) -> Table:
    header = (
        *(
            "output",
            "needed",
            "asked",
            "largest",
            "mean",
            "largest relative",
            "mean relative",
            "relative L2",
            "cosine",
        ),
        *("NaN or infinite", "image"),
    )
    rows = []
    for found in pair.tensors:
        numbers = (
            *(found.tolerance_needed, pair.profile.tolerances.of_output(found.output)),
            *(found.largest, found.mean, found.largest_relative, found.mean_relative, found.relative_l2),
        )
        cosine = "undefined" if found.cosine is None else f"{found.cosine:.8f}"
        broken = " and ".join(map(str, found.not_finite))
        rows.append((found.output, *map(_short, numbers), cosine, broken, found.image or ""))
    return Table(header, rows)


def _metric_table(pair: PairReport) -> Table:
    rows = [
        (
            COMPARED_METRICS[change.name],
            f"{change.reference:.7f}",
            f"{change.other:.7f}",
            f"{change.other - change.reference:+.2g}",
            "not taken" if change.interval is None else interval_in_words(change.interval),
            change.non_inferior or "no margin",
        )
        for change in pair.metrics
    ]
    return Table(
        ("metric", "reference", "other", "change", "interval of the change", "loss below margin"), rows
    )


def _short(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.2g}"


def _flip_blocks(pair: PairReport, shown: Sequence[pictures.Picture]) -> Iterator[Block]:
    if not pair.levels:
        return
    yield Heading(3, f"Flips: {len(pair.flips)}")
    if pair.flips:
        yield Table(
            ("image", "label", "reference", "other", "threshold", "margin", ""),
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
            f"{missing} flips have no picture here: parity --report DIR draws every one that has evidence."
        )


def _pictures(folder: Path, pair: PairReport, most: int) -> list[pictures.Picture]:
    """The flips, as many as fit, and the image of the largest difference."""
    found = list(pictures.of_pair(folder, pair))
    first = [picture for picture in found if not picture.flipped][:1]
    return [*(picture for picture in found if picture.flipped), *first][: max(0, most)]
