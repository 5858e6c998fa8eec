"""The blocks of a MindSpore model-zoo README from records: performance of training, evaluation and inference.

Evaluation is on a backend of the framework that trained, inference on any other. What a record does not say is absent,
with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from harness.errors import HarnessError
from harness.machine import Host
from harness.records.record import Record
from harness.tables.grouping import groups, hidden, newest
from harness.tables.summary import unusual
from harness.tables.table import ABSENT, Format, Grid, View
from harness.tables.table import render as render_view

Kind = Literal["training", "evaluation", "inference"]
_TRAINS = ("mindspore", "ascend910")
_AUCS = {"image_auroc": "img_auc", "pixel_auroc": "pixel_auc"}
_DECISIONS = {"pixel_ok": "ok", "pixel_nok": "nok", "pixel_acc": "acc"}
"""Of pixels, as in the SSIM-AE README; shown where the records have them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A value as shown, or why there is none."""

    text: str | None
    why_absent: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One block: its columns and what stands in them, row by row."""

    kind: Kind
    subject: str
    """What was trained or measured."""
    columns: tuple[str, ...]
    rows: dict[str, tuple[Cell, ...]]
    notes: tuple[str, ...] = ()
    """Which older records are not shown, and which detectors are where there are several."""

    @property
    def title(self) -> str:
        """Which block of what."""
        return f"{self.kind.capitalize()} performance: {self.subject}"


def blocks(records: Iterable[Record]) -> tuple[Block, ...]:
    """Three blocks for every detector, backbone, data set and suite.

    Raises:
        HarnessError: there are no records.
    """
    subjects: dict[str, list[Record]] = {}
    for item in records:
        suite = f" (suite {item.case.suite})" if item.case.suite else ""
        name = f"{item.case.detector} {item.case.backbone} on {item.case.dataset}{suite}"
        subjects.setdefault(name, []).append(item)
    if not subjects:
        raise HarnessError("no records to show: bench something first")
    return tuple(block for name, members in subjects.items() for block in _three(name, members))


def _three(name: str, members: Sequence[Record]) -> Iterable[Block]:
    trained = {category: found[0] for category, found in newest(members).items()}
    by_category = [newest(group) for group in groups(members)]
    measured = [{category: found[0] for category, found in of.items()} for of in by_category]
    refitted = _refitted([trained, *measured])
    older = [
        (_kind(group), f"{_column(group)}: {category}: {line}")
        for group, of in zip(measured, by_category, strict=True)
        for category, found in of.items()
        for line in hidden(found)
    ]
    rows = _training_rows(name, trained)
    notes = (*(line for _, line in older), *refitted)
    yield Block(kind="training", subject=name, columns=("fit",), rows=rows, notes=notes)
    kinds: tuple[Kind, ...] = ("evaluation", "inference")
    for kind in kinds:
        columns = [group for group in measured if _kind(group) == kind]
        absent: dict[str, tuple[Cell, ...]] = {"Records": (_none_of(kind),)}
        rows = _measured_rows(name, columns, kind) if columns else absent
        yield Block(
            kind=kind,
            subject=name,
            columns=tuple(map(_column, columns)) or ("–",),
            rows=rows,
            notes=(*(line for of, line in older if of == kind), *(refitted if columns else ())),
        )


Group = Mapping[str, Record]


def _refitted(shown: Sequence[Group]) -> tuple[str, ...]:
    """One line for each category whose numbers are of several detectors: which column is of which."""
    detectors: dict[str, dict[str, list[str]]] = {}
    for name, group in zip(["the training", *map(_column, shown[1:])], shown, strict=True):
        for category, item in group.items():
            detectors.setdefault(category, {}).setdefault(item.detector_sha256[:12], []).append(name)
    return tuple(
        f"{category} is of several detectors: "
        + "; ".join(f"{detector} in {' and '.join(names)}" for detector, names in of.items())
        for category, of in sorted(detectors.items())
        if len(of) > 1
    )


def _kind(group: Group) -> Kind:
    backend = next(iter(group.values())).case.backend
    return "evaluation" if backend.startswith(_TRAINS) else "inference"


def _none_of(kind: Kind) -> Cell:
    which = "MindSpore" if kind == "evaluation" else "another runtime than MindSpore"
    return Cell(text=None, why_absent=f"there is no record of a backend of {which}")


def _column(group: Group) -> str:
    case = next(iter(group.values())).case
    batch = f"batch {case.batch_size}, {case.threads} threads"
    return ", ".join([f"{case.runner} {case.variant}", batch, *unusual(case)])


def _training_rows(name: str, ours: Group) -> dict[str, tuple[Cell, ...]]:
    no_fit = "the record does not say how the detector was fitted"
    no_training = "fitted without a training by gradient"
    fits: dict[str, Any] = {category: item.fit for category, item in ours.items()}
    trainings = {category: item.training for category, item in ours.items()}
    cells = {
        "Model version": Cell(text=name),
        "Resource": _over(fits, lambda fit: _resource(fit.host), no_fit),
        "Date": _over(fits, lambda fit: fit.finished and fit.finished[:10], no_fit),
        "MindSpore version": _over(fits, lambda fit: fit.software.get("mindspore"), no_fit),
        "Dataset": _over(fits, lambda fit: fit.dataset, no_fit),
        "Training images": _over(fits, lambda fit: fit.images, no_fit),
        "Training parameters": _over(fits, _parameters, no_fit),
        "Epochs": _over(trainings, lambda found: found.get("epochs"), no_training),
        "Steps": _over(trainings, lambda found: found.get("steps"), no_training),
        "First loss": _over(trainings, lambda found: found.get("first_loss"), no_training),
        "Loss": _over(trainings, lambda found: found.get("last_loss"), no_training),
        "Speed (ms/step)": _over(trainings, lambda found: found.get("step_ms"), no_training),
        "Training time (s)": _over(trainings, lambda found: found.get("seconds"), no_training),
        "Total time of the fit (s)": _over(fits, lambda fit: fit.seconds, no_fit),
        "Parameters (M)": _over(trainings, lambda found: _scaled(found.get("parameters")), no_training),
        "Checkpoint (MB)": _over(
            trainings, lambda found: _scaled(found.get("checkpoint_bytes")), no_training
        ),
    }
    return {label: (cell,) for label, cell in cells.items()}


def _over(items: Mapping[str, Any], read: Callable[[Any], Any], why: str) -> Cell:
    """One cell for all categories: the value where it is the same, else from the least to the largest.

    `why` there is none when there is no item at all.
    """
    there = [item for item in items.values() if item is not None]
    values = [value for item in there if (value := read(item)) is not None]
    if not values:
        return Cell(text=None, why_absent="the record does not say" if there else why)
    few = f" ({len(values)} of {len(items)} categories)" if len(values) < len(items) else ""
    if len({str(value) for value in values}) == 1:
        return Cell(text=f"{_text(values[0])}{few}")
    if all(isinstance(value, int | float) for value in values):
        return Cell(text=f"{_text(min(values))} to {_text(max(values))}, by category{few}")
    return Cell(text=f"{'; '.join(dict.fromkeys(map(_text, values)))}{few}")


def _parameters(fit: Any) -> str | None:
    """The settings of a fit that are not on or as they come."""
    given = {name: value for name, value in fit.settings.items() if value not in (None, False)}
    return ", ".join(f"{name}={_text(value)}" for name, value in given.items()) or None


def _scaled(count: int | None) -> float | None:
    return None if count is None else count / 1e6


def _resource(host: Host | None) -> str | None:
    if host is None:
        return None
    return f"{host.processor}, {host.cores} cores; memory {host.memory_bytes / 2**30:.0f} GiB; {host.system}"


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return " ".join(map(str, value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _measured_rows(name: str, columns: Sequence[Group], kind: Kind) -> dict[str, tuple[Cell, ...]]:
    unmeasured = "nothing was measured"
    measured = [
        {category: item if item.status == "measured" else None for category, item in group.items()}
        for group in columns
    ]

    def row(read: Callable[[Any], Any]) -> tuple[Cell, ...]:
        return tuple(_over(group, read, unmeasured) for group in measured)

    rows = {
        "Model version": tuple(Cell(text=name) for _ in columns),
        "Resource": row(_where),
        "Date": row(lambda item: item.finished[:10]),
        "Runtime": row(_runtime),
        "Dataset": row(lambda item: item.case.dataset),
        "batch_size": row(lambda item: item.case.batch_size),
    }
    for category in sorted({category for group in columns for category in group}):
        rows[f"{category}_auc"] = tuple(_accuracy(group.get(category)) for group in columns)
    rows["Average"] = tuple(_average(group) for group in columns)
    if kind == "inference":
        rows["Speed (ms per image, infer + head)"] = row(lambda item: _median(item, "infer_head"))
        rows["Images per second, all stages"] = row(lambda item: item.images_per_second)
    return rows


def _where(item: Record) -> str | None:
    if item.device is None:
        return None
    mark = " (SIMULATED, not hardware)" if item.device.simulated else ""
    return f"{item.device.device}{mark}; {_resource(item.host)}"


def _runtime(item: Record) -> str | None:
    runtime = item.device.runtime.items() if item.device else ()
    return ", ".join(f"{name} {version}" for name, version in runtime) or None


def _median(item: Record, stage: str) -> float | None:
    return item.latency_ms[stage].p50 if stage in item.latency_ms else None


def _accuracy(item: Record | None) -> Cell:
    if item is None:
        return Cell(text=None, why_absent="no record of this category")
    if item.status != "measured":
        return Cell(text=None, why_absent=f"{item.status}: {item.reason}")
    shown = _shown(item.metrics)
    reasons = [f"{_AUCS[name]} {item.undefined[name]}" for name in _AUCS if name in item.undefined]
    return Cell(text=shown, why_absent="; ".join(reasons) or None)


def _shown(metrics: Mapping[str, float]) -> str | None:
    names = _AUCS | _DECISIONS
    return ", ".join(f"{names[name]}: {metrics[name]:.4f}" for name in names if name in metrics) or None


def _average(group: Group) -> Cell:
    """Means over the categories that have a value, each saying over how many when not over all."""
    parts = []
    for name, label in (_AUCS | _DECISIONS).items():
        values = [item.metrics[name] for item in group.values() if name in item.metrics]
        if values:
            few = f" (of {len(values)})" if len(values) < len(group) else ""
            parts.append(f"{label}: {sum(values) / len(values):.4f}{few}")
    return Cell(text=", ".join(parts)) if parts else Cell(text=None, why_absent="nothing was measured")


def render(shown: Sequence[Block], kind: Format) -> str:
    """Render all blocks; CSV has a line for each value, with the reason if it is missing."""
    view = View(
        grids=tuple(map(_grid, shown)),
        csv_header=["block", "subject", "column", "parameter", "value", "why_absent"],
        csv_rows=[
            [block.kind, block.subject, column, label, cell.text or "", cell.why_absent or ""]
            for block in shown
            for label, cells in block.rows.items()
            for column, cell in zip(block.columns, cells, strict=True)
        ],
        document={
            "blocks": [
                {
                    "kind": block.kind,
                    "subject": block.subject,
                    "columns": list(block.columns),
                    "rows": {
                        label: [{"value": cell.text, "why_absent": cell.why_absent} for cell in cells]
                        for label, cells in block.rows.items()
                    },
                    "notes": list(block.notes),
                }
                for block in shown
            ]
        },
        ascii_json=False,
    )
    return render_view(view, kind)


def _grid(block: Block) -> Grid:
    notes: dict[str, int] = {}
    for cell in (cell for cells in block.rows.values() for cell in cells):
        if cell.why_absent is not None:
            notes.setdefault(cell.why_absent, len(notes) + 1)
    return Grid(
        title=block.title,
        header=("Parameters", *block.columns),
        rows=tuple(
            (label, *(_numbered(cell, notes) for cell in cells)) for label, cells in block.rows.items()
        ),
        notes=(*(f"[{number}] {why}" for why, number in notes.items()), *block.notes),
        numbers_from=len(block.columns) + 1,
    )


def _numbered(cell: Cell, notes: dict[str, int]) -> str:
    value = ABSENT if cell.text is None else cell.text
    return value if cell.why_absent is None else f"{value} [{notes[cell.why_absent]}]"
