"""The `tune` command: what the settings of a lower precision cost and give, from records of every one of them.

Every trial is a variant of its own in a copy of the artifact, named by its settings, and a case of its own in a worker of
its own; what is there already is not made or measured again.
"""

from __future__ import annotations

import importlib.metadata
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from harness import __version__, build, datasets, registry, storage
from harness.build import OmRequest, PrecisionRequest
from harness.detector import artifact
from harness.detector.artifact import Artifact, Variant
from harness.errors import ArtifactError, DatasetError, HarnessError, Unavailable, UsageError
from harness.records.record import Record
from harness.records.tuning import Trial, Tuned
from harness.run import plan as plan_module
from harness.types import Category

CALIBRATIONS: tuple[build.Calibration, ...] = ("minmax", "percentile")
OM_MODES = (
    *("force_fp32", "cube_fp16in_fp32out", "must_keep_origin_dtype"),
    *("allow_fp32_to_fp16", "allow_mix_precision", "force_fp16"),
)
"""Precision modes of `atc`, from the most to the least exact by their names."""
_REQUEST = "tuning.sha256"
"""Of what must not change between two runs into one folder."""
_ENDS = "ends"
"""First and last node with weights, and what makes the outputs."""
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class TuneRequest:
    """What is to be tried, and where everything goes."""

    artifact: Path
    data: Path
    """The folder that holds the categories."""
    to: Path
    """Folder of the copy of the artifact with all variants, and of the records."""
    backends: tuple[str, ...] = ("onnxruntime-cpu",)
    rounds: int = 2
    """Every case is measured so many times, one round of all after the other."""
    images: int = build.IMAGES
    om: OmRequest | None = None
    """The precision modes of `atc` are tried too, with all else as asked here."""
    threads: int = 1
    warmup: int = 3
    timeout: float = 600.0


def tune(request: TuneRequest, *, say: Say, report: Callable[[Record], None]) -> Tuned:
    """Make every variant, then measure all of them round by round.

    Raises:
        ArtifactError: several artifacts, or none with a float32 ONNX variant.
        Interrupted: on Ctrl-C; see `harness.run.plan.run`.
        Unavailable: something needed to make a variant is not on this machine.
        UsageError: the folder holds another tuning, no backend opens a format, or `atc` cannot be asked for this.
    """
    plan_module.require_cores(request.threads)
    opened = {name: registry.backend(name).formats for name in request.backends}
    for format_ in ("onnx",) if request.om is None else ("onnx", "om"):
        if not any(format_ in formats for formats in opened.values()):
            raise UsageError(
                f"tune makes {format_} variants, and --backend {', '.join(opened)} opens none: name one that does too"
            )
    found = artifact.find(request.artifact, ())
    if len(found) != 1:
        raise ArtifactError(
            f"{request.artifact}: {len(found)} artifacts: tune one of them, {found[0].path} say"
        )
    category = datasets.load_category(request.data, found[0].manifest.category)
    if request.om is not None:  # before anything is made
        registry.resolve("stage", "om_dry_run", registry.STAGES)(found[0], request.om, head_in_graph=False)
    groups = registry.resolve("stage", "precision_groups", registry.STAGES)(found[0])
    copy = _copy(found[0], category, request)
    trials = _distinct(copy, (_unchanged(copy), *_make(copy, category, groups, request, say)))
    for trial in trials:
        if trial.same_as is not None:
            say(f"{trial.settings}: the same file as {trial.same_as}, not measured again")
    ids = [trial.variant for trial in trials if trial.refused is None and trial.same_as is None]
    made = {item.id: item.format for item in artifact.read(copy.path).manifest.variants}
    folders = [request.to / "records" / f"round-{index + 1}" for index in range(request.rounds)]
    rounds = []
    for index, folder in enumerate(folders):
        say(f"round {index + 1} of {request.rounds}")
        records: list[Record] = []
        for backend, formats in opened.items():
            variants = tuple(id_ for id_ in ids if made[id_] in formats)
            if not variants:
                continue  # atc compiled none of them
            plan = plan_module.plan(
                plan_module.BenchRequest(
                    artifacts=(copy.path,),
                    data=request.data,
                    categories=(),
                    backends=(backend,),
                    variants=variants,
                    out=folder,
                    threads=request.threads,
                    warmup=request.warmup,
                )
            )
            records += plan_module.run(plan, timeout=request.timeout, report=report)
        rounds.append(tuple(records))
    return Tuned(trials=trials, rounds=tuple(rounds), records=tuple(folders))


def _copy(found: Artifact, category: Category, request: TuneRequest) -> Artifact:
    """The artifact in the folder of the tuning, with its float32 ONNX variant alone; the one there if it is of one request."""
    source = found.variant(("onnx",))
    asked = {
        "detector_sha256": found.manifest.detector_sha256,
        "model": source.files,
        "train": datasets.fingerprint(category, "train"),
        "images": request.images,
        "harness": __version__,
        "software": _software(),
    }
    path, note = request.to / category.name, request.to / _REQUEST
    if note.is_file():
        if note.read_text(encoding="utf-8") != _text(asked):
            raise UsageError(
                f"{request.to}: holds a tuning of another detector, model, data, --images or version of onnx or onnxruntime: "
                "choose another folder"
            )
        return artifact.read(path)
    with storage.new_folder(request.to) as folder:
        copied = folder / category.name
        copied.mkdir()
        for name in (artifact.STATE, artifact.NET, *source.files):
            shutil.copyfile(found.path / name, copied / name)
        artifact.write_manifest(copied, msgspec.structs.replace(found.manifest, variants=(source,)))
        (folder / _REQUEST).write_text(_text(asked), encoding="utf-8")
    return artifact.read(path)


def _software() -> dict[str, str]:
    """Versions of what makes and measures ONNX variants: `onnxruntime` comes in several distributions."""
    found = {str(item.metadata["Name"]): item.version for item in importlib.metadata.distributions()}
    return {name: version for name, version in sorted(found.items()) if name.lower().startswith("onnx")}


def _text(document: Mapping[str, Any]) -> str:
    return storage.sha256_of_json(document) + "\n"


def _unchanged(copy: Artifact) -> Trial:
    return Trial(variant=copy.variant(("onnx",)).id, settings="float32, unchanged")


def _make(
    copy: Artifact, category: Category, groups: Mapping[str, Sequence[str]], request: TuneRequest, say: Say
) -> list[Trial]:
    compiled, trials = [], []
    if request.om is not None:  # first: where there is no `atc`, nothing else is made
        for mode in OM_MODES:
            om = replace(request.om, precision_mode=mode)
            compiled.append(_trial(copy, f"atc {mode}", om, partial(build.export, copy, "om", om=om)))
            say(_told(compiled[-1]))
    for settings, asked in lowerings(groups, request.images).items():
        trials.append(_trial(copy, settings, asked, partial(build.lower, copy, category, asked)))
        say(_told(trials[-1]))
    return [*trials, *compiled]


def _distinct(copy: Artifact, trials: Sequence[Trial]) -> tuple[Trial, ...]:
    """The trials, each variant whose files an earlier one has too marked: two measurements of one file are no settings."""
    made = {item.id: item for item in artifact.read(copy.path).manifest.variants}
    first: dict[tuple[str, ...], str] = {}
    found = []
    for trial in trials:
        if trial.refused is None:
            variant = made[trial.variant]
            earlier = first.setdefault((variant.format, *variant.files.values()), trial.variant)
            found.append(replace(trial, same_as=None if earlier == trial.variant else earlier))
        else:
            found.append(trial)
    return tuple(found)


def lowerings(groups: Mapping[str, Sequence[str]], images: int) -> dict[str, PrecisionRequest]:
    """The lower precisions that are tried, by their settings in words.

    float16; int8 by each calibration, with nothing kept in float32 and with both ends kept; and, by the first of them, with
    one group kept.
    """
    ends = tuple(dict.fromkeys(node for name in ("first", "last", "tail") for node in groups.get(name, ())))
    found = {"float16": PrecisionRequest(precision="fp16", images=images)}
    for calibration in CALIBRATIONS:
        kept: dict[str, Sequence[str]] = {"": (), _ENDS: ends}
        if calibration == CALIBRATIONS[0]:
            kept |= groups
        tried: set[tuple[str, ...]] = set()
        for name, nodes in kept.items():
            if tuple(nodes) in tried:  # a network with one layer: its first is its last
                continue
            tried.add(tuple(nodes))
            words = f"int8 {calibration}" + (f", {name} kept" if name else "")
            safe = re.sub(r"[^\w.-]+", "-", name)  # it becomes part of a file's name
            found[words] = PrecisionRequest(
                precision="int8",
                calibration=calibration,
                keep_float=tuple(nodes),
                images=images,
                label=f"{calibration}-{safe}-kept" if name else calibration,
            )
    return found


def _trial(
    copy: Artifact, settings: str, asked: PrecisionRequest | OmRequest, make: Callable[[], Variant]
) -> Trial:
    """Have the variant made, or find it made before."""
    for variant in artifact.read(copy.path).manifest.variants:
        if _is_made_by(variant, asked):
            return Trial(variant=variant.id, settings=settings)
    try:
        return Trial(variant=make().id, settings=settings)
    except (ArtifactError, DatasetError, Unavailable, UsageError):
        raise
    except HarnessError as error:  # float16 overflows, a compiler fails: that is an answer
        return Trial(variant=settings, settings=settings, refused=str(error))


def _is_made_by(variant: Variant, asked: PrecisionRequest | OmRequest) -> bool:
    if isinstance(asked, OmRequest):
        target = variant.target
        return (
            target is not None
            and target.simulated == (asked.atc == "simulated")
            and (target.soc, variant.gears) == (asked.soc, asked.batches)
            and asked.cann in (None, target.cann)
            and target.options == {"precision_mode": asked.precision_mode, "output_type": asked.output_type}
        )
    lowered = variant.lowered
    calibration = asked.calibration if asked.precision == "int8" else None
    return (
        lowered is not None
        and variant.precision == asked.precision
        and (lowered.calibration, lowered.keep_float) == (calibration, asked.keep_float)
    )


def _told(trial: Trial) -> str:
    return f"{trial.settings}: {trial.refused or trial.variant}"
