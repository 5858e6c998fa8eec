"""The search behind `tune`: make a variant for each setting of a reduced precision, and measure all of them.

Each setting gives a variant in a copy of the artifact, named by the setting, and a case in a worker of its own. Finished
variants and cases are not made or measured again.
"""

from __future__ import annotations

import importlib.metadata
import itertools
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
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
from harness.run import plan
from harness.run.options import RunOptions
from harness.types import Category

CALIBRATIONS: tuple[build.Calibration, ...] = ("minmax", "percentile")
OM_MODES = (
    *("force_fp32", "cube_fp16in_fp32out", "must_keep_origin_dtype"),
    *("allow_fp32_to_fp16", "allow_mix_precision", "force_fp16"),
)
"""Precision modes of `atc`, from the most to the least exact by their names."""
_REQUEST = "tuning.sha256"
"""File with the digest of everything that must not change between two runs into one folder."""
_ENDS = "ends"
"""Group of the first and the last node with weights, and of the nodes after them."""
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class TuneRequest:
    """What to try, and the folder for the results."""

    artifact: Path
    data: Path
    """The folder that holds the categories."""
    to: Path
    """Folder for the copy of the artifact with all variants, and for the records."""
    backends: tuple[str, ...] = ("onnxruntime-cpu",)
    rounds: int = 2
    """How often every case is measured, round by round."""
    images: int = build.IMAGES
    om: OmRequest | None = None
    """If given, the precision modes of `atc` are tried too, with the other values of this request."""
    options: RunOptions = field(default_factory=RunOptions)


def tune(
    request: TuneRequest,
    *,
    say: Say,
    report: Callable[[Record], None],
    progress: plan.Progress | None = None,
) -> Tuned:
    """Make every variant, then measure all of them round by round.

    Args:
        request: What to try.
        say: Called with each line about the work.
        report: Called with each record as it is written.
        progress: Shows the progress of each case.

    Raises:
        ArtifactError: several artifacts, or one without a float32 ONNX variant.
        Interrupted: on Ctrl-C.
        Unavailable: this machine lacks something that making a variant needs.
        UsageError: the folder holds another tuning, no backend opens a format, or `atc` cannot compile this.
    """
    plan.require_cores(request.options.threads)
    opened = {name: registry.backend(name).formats for name in request.backends}
    for format_ in ("onnx",) if request.om is None else ("onnx", "om"):
        if not any(format_ in formats for formats in opened.values()):
            raise UsageError(
                f"tune makes {format_} variants, and --backend {', '.join(opened)} opens none: name one that does too"
            )
    detectors = artifact.find(request.artifact, ())
    if len(detectors) != 1:
        raise ArtifactError(
            f"{request.artifact}: {len(detectors)} artifacts: tune one of them, for example {detectors[0].path}"
        )
    original = detectors[0]
    category = datasets.load_category(request.data, original.manifest.category)
    if request.om is not None:  # before anything is made
        build.om_dry_run(original, request.om)
    groups = build.quantizable_groups(original)
    copy = _copy(original, category, request)
    trials = _distinct(copy, (_unchanged(copy), *_make(copy, category, groups, request, say)))
    for trial in trials:
        if trial.same_as is not None:
            say(f"{trial.settings}: the same file as {trial.same_as}, not measured again")
    folders = tuple(request.to / "records" / f"round-{number + 1}" for number in range(request.rounds))
    rounds = []
    for number, folder in enumerate(folders):
        say(f"round {number + 1} of {request.rounds}")
        cases = _cases(copy, trials, request, folder)
        timeout = request.options.timeout
        records = [plan.run(part, timeout=timeout, report=report, progress=progress) for part in cases]
        rounds.append(tuple(itertools.chain.from_iterable(records)))
    return Tuned(trials=trials, rounds=tuple(rounds), records=folders)


def _cases(
    copy: Artifact, trials: Sequence[Trial], request: TuneRequest, folder: Path
) -> Iterator[plan.Plan]:
    """For each backend the cases of one round: all distinct variants that it opens."""
    distinct = [trial for trial in trials if trial.refused is None and trial.same_as is None]
    copy = artifact.read(copy.path)  # with the new variants
    variants = [copy.variant_named(trial.variant) for trial in distinct]
    for backend in request.backends:
        formats = registry.backend(backend).formats
        ids = tuple(variant.id for variant in variants if variant.format in formats)
        if ids:  # none if atc compiled nothing for it
            yield plan.plan(
                plan.BenchRequest(
                    artifacts=(copy.path,),
                    data=request.data,
                    categories=(),
                    backends=(backend,),
                    variants=ids,
                    out=folder,
                    options=request.options,
                )
            )


def _copy(original: Artifact, category: Category, request: TuneRequest) -> Artifact:
    """A copy of the artifact with only its float32 ONNX variant, or the copy of an earlier run of the same request."""
    source = original.variant(("onnx",))
    fixed = {
        "detector_sha256": original.manifest.detector_sha256,
        "model": source.files,
        "train": datasets.fingerprint(category, "train"),
        "images": request.images,
        "harness": __version__,
        "software": _software(),
    }
    path, note = request.to / category.name, request.to / _REQUEST
    if note.is_file():
        if note.read_text(encoding="utf-8") != _text(fixed):
            raise UsageError(
                f"{request.to}: holds a tuning of another detector, model, data, --images or version of onnx or onnxruntime: "
                "choose another folder"
            )
        return artifact.read(path)
    with storage.new_folder(request.to) as folder:
        copied = folder / category.name
        copied.mkdir()
        for name in (artifact.STATE, artifact.NET, *source.files):
            shutil.copyfile(original.path / name, copied / name)
        artifact.write_manifest(copied, msgspec.structs.replace(original.manifest, variants=(source,)))
        (folder / _REQUEST).write_text(_text(fixed), encoding="utf-8")
    return artifact.read(path)


def _software() -> dict[str, str]:
    """Versions of the packages that make and measure ONNX variants: `onnxruntime` has several distributions."""
    versions = {
        str(distribution.metadata["Name"]): distribution.version
        for distribution in importlib.metadata.distributions()
    }
    return {name: versions[name] for name in sorted(versions) if name.lower().startswith("onnx")}


def _text(document: Mapping[str, Any]) -> str:
    return storage.sha256_of_json(document) + "\n"


def _unchanged(copy: Artifact) -> Trial:
    return Trial(variant=copy.variant(("onnx",)).id, settings="float32, unchanged")


def _make(
    copy: Artifact, category: Category, groups: Mapping[str, Sequence[str]], request: TuneRequest, say: Say
) -> list[Trial]:
    compiled, trials = [], []
    if request.om is not None:  # first, so that nothing else is made without `atc`
        for mode in OM_MODES:
            om = replace(request.om, precision_mode=mode)
            compiled.append(_trial(copy, f"atc {mode}", om, partial(build.export, copy, "om", om=om)))
            say(_line(compiled[-1]))
    for settings, precision in reductions(groups, request.images).items():
        trials.append(_trial(copy, settings, precision, partial(build.quantize, copy, category, precision)))
        say(_line(trials[-1]))
    return [*trials, *compiled]


def _distinct(copy: Artifact, trials: Sequence[Trial]) -> tuple[Trial, ...]:
    """`trials` with `same_as` set for a variant whose file equals an earlier one's."""
    variants = {variant.id: variant for variant in artifact.read(copy.path).manifest.variants}
    first: dict[tuple[str, ...], str] = {}
    distinct = []
    for trial in trials:
        if trial.refused is None:
            variant = variants[trial.variant]
            earlier = first.setdefault((variant.format, *variant.files.values()), trial.variant)
            distinct.append(replace(trial, same_as=None if earlier == trial.variant else earlier))
        else:
            distinct.append(trial)
    return tuple(distinct)


def reductions(groups: Mapping[str, Sequence[str]], images: int) -> dict[str, PrecisionRequest]:
    """Settings in words → the reduced precision to try.

    float16; int8 with each calibration, with nothing kept in float32 and with both ends kept; int8 with the first
    calibration, with one group kept.
    """
    ends = tuple(dict.fromkeys(node for name in ("first", "last", "tail") for node in groups.get(name, ())))
    requests = {"float16": PrecisionRequest(precision="fp16", images=images)}
    for calibration in CALIBRATIONS:
        groups_kept: dict[str, Sequence[str]] = {"": (), _ENDS: ends}
        if calibration == CALIBRATIONS[0]:
            groups_kept |= groups
        tried: set[tuple[str, ...]] = set()
        for name, nodes in groups_kept.items():
            if tuple(nodes) in tried:  # in a network with one layer the first is the last
                continue
            tried.add(tuple(nodes))
            words = f"int8 {calibration}" + (f", {name} kept" if name else "")
            safe = re.sub(r"[^\w.-]+", "-", name)  # it becomes part of a file's name
            requests[words] = PrecisionRequest(
                precision="int8",
                calibration=calibration,
                keep_float=tuple(nodes),
                images=images,
                label=f"{calibration}-{safe}-kept" if name else calibration,
            )
    return requests


def _trial(
    copy: Artifact, settings: str, request: PrecisionRequest | OmRequest, make: Callable[[], Variant]
) -> Trial:
    """Make the variant, unless an earlier run has made it."""
    for variant in artifact.read(copy.path).manifest.variants:
        if _is_made_by(variant, request):
            return Trial(variant=variant.id, settings=settings)
    try:
        return Trial(variant=make().id, settings=settings)
    except (ArtifactError, DatasetError, Unavailable, UsageError):
        raise
    except HarnessError as error:  # an overflow of float16 or a failed compilation is a result
        return Trial(variant=settings, settings=settings, refused=str(error))


def _is_made_by(variant: Variant, request: PrecisionRequest | OmRequest) -> bool:
    if isinstance(request, OmRequest):
        target = variant.target
        return (
            target is not None
            and target.simulated == (request.atc == "simulated")
            and (target.soc, variant.gears) == (request.soc, request.batches)
            and request.cann in (None, target.cann)
            and target.options
            == {"precision_mode": request.precision_mode, "output_type": request.output_type}
        )
    lowered = variant.lowered
    calibration = request.calibration if request.precision == "int8" else None
    return (
        lowered is not None
        and variant.precision == request.precision
        and (lowered.calibration, lowered.keep_float) == (calibration, request.keep_float)
    )


def _line(trial: Trial) -> str:
    return f"{trial.settings}: {trial.refused or trial.variant}"
