"""One fit from request to artifact folder: hold out, learn, set thresholds, write whole."""

from __future__ import annotations

import dataclasses
import datetime as dt
import hashlib
import shutil
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from exporters.fit import plugin
from exporters.fit.base import Learner
from exporters.train import checkpoint
from exporters.weights import convert as weights_module
from harness import __version__, datasets, machine, registry, storage
from harness.build import FitRequest
from harness.contracts import Images, Learnt
from harness.detector import artifact, training_log
from harness.detector.artifact import Artifact, Manifest, Thresholds, Training, Weights
from harness.detector.preprocess import (
    Colour,
    Crop,
    Decode,
    Layout,
    Preprocessor,
    Resize,
    Scale,
    Step,
    Windows,
    standard_steps,
)
from harness.detector.settings import Settings, SsimAe, Trained
from harness.detector.training_log import TrainingLog
from harness.errors import ArtifactError, DatasetError, UsageError
from harness.types import Category, Float32, Sample

IMAGE_QUANTILE = 0.95
HELD_OUT_SHARE = 10
"""One image in this many is held out of the fit to set the thresholds."""


def fit(request: FitRequest) -> tuple[Artifact, bool]:
    """Fit a detector, or give back the artifact that an equal request made before.

    Returns:
        The artifact, and whether it was fitted now.

    Raises:
        ArtifactError: the folder holds an artifact of another request, and `force` is not set.
        CheckpointError: a training was cut short here, and neither `resume` nor `force` is set.
        DatasetError: fewer than three good training images.
        Unavailable: the device is not on this machine.
        WeightsError: the weights file is not the backbone's.
    """
    _require_possible(request)
    storage.require_writable(request.out.parent)
    with artifact.locked(request.out):
        return _fit(request)


def check(request: FitRequest) -> None:
    """Raise what would stop the fit of any category, whatever its images: before the first of many is begun."""
    _require_possible(request)
    _weights(request)


def learn(request: FitRequest) -> Learnt:
    """What a worker runs of a fit: the learning alone."""
    return _learn(request, _weights(request)[1])[0]


def _fit(request: FitRequest) -> tuple[Artifact, bool]:
    source, parameters = _weights(request)
    steps = _steps(request)
    fingerprint = datasets.fingerprint(request.category, "train")
    digest = _request_digest(request, source, steps, fingerprint)
    earlier = _earlier(request, digest)
    if earlier is not None:
        return earlier, False
    request = dataclasses.replace(request, digest=digest)
    checkpoint.make_way(request)
    started = time.perf_counter()
    learnt, images, unseen = _learn(request, parameters)
    thresholds = _thresholds(learnt, unseen)
    manifest = Manifest(
        schema=artifact.SCHEMA,
        detector=request.detector,
        backbone=request.backbone,
        category=request.category.name,
        preprocessing=steps,
        head=learnt.head,
        thresholds=thresholds,
        training=Training(
            dataset=request.dataset,
            fingerprint=fingerprint,
            images=len(images),
            held_out=tuple(sample.name for sample in unseen.samples),
        ),
        weights=source,
        seed=request.seed,
        settings=msgspec.to_builtins(request.settings),
        request_sha256=digest,
        net_sha256=storage.sha256_of_arrays(learnt.net),
        state_sha256=storage.sha256_of_arrays(learnt.state),
        detector_sha256="",
        fit_report={
            **learnt.report,
            **_training_report(learnt.training),
            "seconds": round(time.perf_counter() - started, 2),
            "finished": dt.datetime.now(dt.timezone.utc).isoformat(),
            "host": msgspec.to_builtins(machine.describe()),
            "peak_memory_bytes": machine.peak_memory_bytes(),
        },
        software={"harness": __version__, **_software(request), "numpy": np.__version__},
    )
    manifest = msgspec.structs.replace(manifest, detector_sha256=artifact.detector_digest(manifest))
    return _write(request.out, manifest, learnt, images), True


def _require_possible(request: FitRequest) -> None:
    if request.precision == "mixed" and request.device == "cpu":
        raise UsageError(
            "--precision mixed: MindSpore's CPU kernels train in float32 only (float16 is slower there, bfloat16 has no "
            "kernels); leave it out, or train on --device ascend"
        )
    if not isinstance(request.settings, Trained) and (
        request.init_from is not None or request.precision == "mixed"
    ):
        raise UsageError(
            f"{request.detector} is fitted without a training: leave --init-from and --precision out"
        )
    if request.init_from is not None and not request.init_from.is_file():
        raise UsageError(f"--init-from {request.init_from}: no such file")
    if isinstance(request.settings, Trained) and request.settings.batch_size % request.settings.workers:
        raise UsageError(
            f"--workers {request.settings.workers} share every batch evenly: give a --batch-size they divide, not "
            f"{request.settings.batch_size}"
        )
    if registry.detector_plugin(request.detector) is None:
        from exporters.runtime import use

        use(request.device)
    elif request.device != "cpu":
        raise UsageError(
            f"--device {request.device}: {request.detector} is a plug-in, which chooses its device itself"
        )


def _learn(request: FitRequest, parameters: Mapping[str, Float32]) -> tuple[Learnt, Images, Images]:
    """What the learner made, the images it saw, and those held out."""
    preprocessor = Preprocessor(_steps(request))
    images, unseen = (
        Images(samples=samples, preprocessor=preprocessor)
        for samples in hold_out(request.category, request.seed)
    )
    detector = registry.detector_plugin(request.detector)
    if detector is not None:
        return plugin.learn(detector, request, images, unseen), images, unseen
    learner: Learner = registry.resolve("detector", request.detector, registry.LEARNERS)
    return learner(request, parameters, images, unseen), images, unseen


def _training_report(log: TrainingLog | None) -> dict[str, Any]:
    if log is None:
        return {}
    start = {} if log.start is None else {"init_from": msgspec.to_builtins(log.start)}
    return {"training": log.summary()} | start


def _steps(request: FitRequest) -> tuple[Step, ...]:
    detector = registry.detector_plugin(request.detector)
    return preprocessing(request.settings) if detector is None else detector.preprocessing(request.settings)


def _software(request: FitRequest) -> dict[str, str]:
    """Name → version of what the fit ran on."""
    if registry.detector_plugin(request.detector) is not None:
        name, _, version = registry.DETECTOR_FAMILY.distribution(request.detector).partition(" ")
        return {name: version}
    from exporters.runtime import mindspore

    return {"mindspore": mindspore.__version__}


def preprocessing(settings: Settings) -> tuple[Step, ...]:
    """The steps from image file to network input; windows only where the network is smaller than the image.

    Raises:
        ArtifactError: the windows do not end at the image's border.
    """
    if not isinstance(settings, SsimAe):
        return standard_steps(settings.resize, settings.crop, settings.interpolation)
    windows = Windows(size=settings.window, stride=settings.stride)
    windows.origins(settings.crop, settings.crop)
    return (
        Decode(),
        Colour(order="GREY" if settings.channels == 1 else "RGB"),
        Resize(height=settings.resize, width=settings.resize, interpolation=settings.interpolation),
        Crop(height=settings.crop, width=settings.crop),
        Scale(divisor=255.0),
        Layout(order="NCHW"),
        windows,
    )


def hold_out(category: Category, seed: int) -> tuple[tuple[Sample, ...], tuple[Sample, ...]]:
    """Split the good training images into those to fit on and a seeded tenth, at least one, for the thresholds.

    Raises:
        DatasetError: fewer than three images.
    """
    count = len(category.train)
    if count < 3:
        raise DatasetError(
            f"{category.root}/train/good: {count} images; a fit needs three (two for a covariance, one for thresholds)"
        )
    held = max(1, round(count / HELD_OUT_SHARE))
    chosen = set(np.random.default_rng(seed).permutation(count)[:held].tolist())
    kept = tuple(sample for index, sample in enumerate(category.train) if index not in chosen)
    return kept, tuple(category.train[index] for index in sorted(chosen))


def _weights(request: FitRequest) -> tuple[Weights, dict[str, Float32]]:
    if request.backbone == "none":
        return Weights(source="none", sha256=storage.sha256_of_arrays({})), {}
    if request.weights is None:
        arrays = weights_module.random_backbone(request.backbone, request.seed)
        return Weights(source="random", sha256=storage.sha256_of_arrays(arrays), seed=request.seed), arrays
    arrays = weights_module.load_backbone(request.weights, request.backbone)
    return Weights(source=request.weights.name, sha256=storage.sha256_of_file(request.weights)), arrays


def _request_digest(request: FitRequest, source: Weights, steps: tuple[Step, ...], fingerprint: str) -> str:
    fields = {
        "detector": request.detector,
        "backbone": request.backbone,
        "category": request.category.name,
        "weights": source.sha256,
        "fingerprint": fingerprint,
        "steps": msgspec.to_builtins(steps),
        "seed": request.seed,
        "settings": msgspec.to_builtins(request.settings),
        "device": request.device,
        "precision": request.precision,
        "init_from": None if request.init_from is None else storage.sha256_of_file(request.init_from),
        "bank": storage.sha256_of_file(Path(bank))
        if (bank := getattr(request.settings, "bank", None))
        else None,
        "quantile": IMAGE_QUANTILE,
        "harness": __version__,
        "code": _code_digest(request),
    }
    return storage.sha256_of_json(fields)


def _code_digest(request: FitRequest) -> str:
    """SHA-256 over the learners' source: a changed fit is not mistaken for a finished one."""
    detector = registry.detector_plugin(request.detector)
    if detector is not None:
        return plugin.code_digest(detector, registry.DETECTOR_FAMILY.distribution(request.detector))
    folder = Path(__file__).parent
    files = sorted([*folder.glob("*.py"), *folder.parent.glob("nets/*.py")])
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def _earlier(request: FitRequest, digest: str) -> Artifact | None:
    """The artifact at the target when it answers the same request; none when there is nothing, or `force` is set."""
    if request.force or not request.out.exists():
        return None
    if not (request.out / artifact.MANIFEST).is_file():
        raise ArtifactError(f"{request.out} exists and is not an artifact; choose another --out")
    earlier = artifact.read(request.out)
    if earlier.manifest.request_sha256 != digest:
        raise ArtifactError(
            f"{request.out} was fitted from another request (images, weights, settings, seed or version differ); "
            "--force replaces it, another --out keeps both"
        )
    return earlier


def _thresholds(learnt: Learnt, images: Images) -> Thresholds:
    """Quantiles of the scores of good images the fit did not see; the next larger score, never one in between."""
    head = registry.head(learnt.head.name)(learnt.head.parameters, learnt.state, threads=1)
    maps, scores = [], []
    for batch, real in images.batches():
        scored = head(batch, plugin.copied(batch) if learnt.run is None else learnt.run(batch))
        maps.append(scored.maps[:real])
        scores.append(scored.images[:real])
    pixels = np.concatenate(maps)
    from_maps = pixels.size and not learnt.pixel_threshold  # a plug-in's head may give no maps
    return Thresholds(
        image=float(np.quantile(np.concatenate(scores), IMAGE_QUANTILE, method="higher")),
        pixel=float(np.quantile(pixels, learnt.pixel_quantile, method="higher"))
        if from_maps
        else learnt.pixel_threshold,
        image_quantile=IMAGE_QUANTILE,
        pixel_quantile=learnt.pixel_quantile if from_maps else None,
        held_out_images=len(images.samples),
    )


def _write(out: Path, manifest: Manifest, learnt: Learnt, images: Images) -> Artifact:
    """Build the folder beside its place, then move it there: a killed fit leaves no half an artifact."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as folder:
        new = Path(folder) / "made"
        new.mkdir()
        artifact.write_arrays(new / artifact.STATE, learnt.state)
        artifact.write_arrays(new / artifact.NET, learnt.net)
        if learnt.training is not None:
            training_log.write(new, learnt.training)
        if registry.detector_plugin(manifest.detector) is not None:
            manifest = plugin.with_variant(new, manifest, learnt, images)
        artifact.write_manifest(new, manifest)
        if out.exists():
            shutil.move(out, Path(folder) / "replaced")
        new.replace(out)
    return artifact.read(out)
