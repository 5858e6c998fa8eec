"""An artifact: the folder with all that any backend needs to run one detector on one category.

`manifest.json` says what it is; `state.safetensors` holds what was learnt from the good images, `net.safetensors`
the network's parameters; each variant is one runnable form of the same detector. Nothing in it is executed on reading.
"""

from __future__ import annotations

import contextlib
import fcntl
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
import safetensors
import safetensors.numpy

from harness import storage
from harness.detector.preprocess import Step
from harness.errors import ArtifactError, UsageError, unknown
from harness.types import AnyArray

SCHEMA = 1
MANIFEST = "manifest.json"
STATE = "state.safetensors"
NET = "net.safetensors"
SIMULATED_OM = b"SIMULATED OM, runs on no hardware\n"
"""First bytes of files that the simulated `atc` writes; real OM files start differently."""


class _Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass


class TensorSpec(_Strict, frozen=True, kw_only=True):
    """A named input or output of a variant's graph."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]
    """`None` where the batch is free."""


class Target(_Strict, frozen=True, kw_only=True):
    """What a variant was compiled for."""

    soc: str
    """As the compiler calls it: `Ascend310`, `Ascend310P3`."""
    cann: str
    """Version of the toolkit that compiled it; it runs on this version or a newer one."""
    options: dict[str, str]
    """The compiler's options that decide the numbers: `precision_mode`, `output_type`, …"""
    simulated: bool
    """Compiled by the simulator: no hardware can run it, only the simulated backend does."""


class Lowered(_Strict, frozen=True, kw_only=True):
    """How a variant of reduced precision was made from another variant."""

    source: str
    """Id of the other variant."""
    source_sha256: str
    """Of its model file."""
    calibration: str | None
    """How int8 found the range of each tensor; see `harness.build.Calibration`."""
    keep_float: tuple[str, ...]
    """Nodes and operator types requested to stay in float32."""
    float_nodes: tuple[str, ...]
    """Nodes that stayed because of that, or because they are the head's."""
    images: tuple[str, ...]
    """Calibration images, also used for the comparison with float32."""
    images_sha256: str
    """Of the network's inputs made from them."""


class Variant(_Strict, frozen=True, kw_only=True):
    """One runnable form of the detector."""

    id: str
    """`onnx-fp32`: format and precision."""
    format: str
    precision: str
    input: TensorSpec
    input_stage: str
    """Last preprocessing step before the graph takes over."""
    outputs: tuple[TensorSpec, ...]
    contains: tuple[str, ...] = ()
    """Parts of preprocessing and head that the graph contains."""
    files: Annotated[dict[str, str], msgspec.Meta(min_length=1)]
    """File name in the artifact folder → SHA-256; the first is the model."""
    agreement: dict[str, float]
    """Largest difference from the MindSpore cell at export, relative to the cell's largest value, per batch size; empty
    where the exporting machine cannot run it. For reduced precision: from float32 on calibration images, per output."""
    software: dict[str, str] = {}
    target: Target | None = None
    """Only of a compiled variant."""
    lowered: Lowered | None = None
    """Only of a variant made from one in a higher precision."""
    gears: tuple[int, ...] = ()
    """Batch sizes it was compiled for, ascending; empty where the batch is free."""

    @property
    def model(self) -> str:
        """Name of the model file in the artifact folder."""
        return next(iter(self.files))


class HeadSpec(_Strict, frozen=True, kw_only=True):
    """Which head scores the net's outputs, and with what."""

    name: str
    parameters: dict[str, Any]


class Thresholds(_Strict, frozen=True, kw_only=True):
    """Decision thresholds, frozen when the detector was fitted, from good images that the fit did not see.

    They may be unknown for an ONNX model from elsewhere: then there are no decisions.
    """

    image: float | None
    """An image is called defective when its score is greater."""
    pixel: float | None
    """A pixel is called defective when its map value is greater."""
    image_quantile: float | None
    pixel_quantile: float | None
    """`None`: the threshold was given, or is unknown."""
    held_out_images: int
    """How many images the quantiles rest on."""


class Training(_Strict, frozen=True, kw_only=True):
    """What the detector learnt from."""

    dataset: str
    fingerprint: str
    images: int
    """Images the fit saw; held-out ones are not among them."""
    held_out: tuple[str, ...]


class Weights(_Strict, frozen=True, kw_only=True):
    """Where the backbone's parameters came from."""

    source: str
    """File name, `random` for an untrained backbone, `none` for a detector without one."""
    sha256: str
    seed: int | None = None
    """Seed of the untrained backbone."""


class Manifest(_Strict, frozen=True, kw_only=True):
    """The contents of `manifest.json`; unknown keys are refused."""

    schema: int
    detector: str
    backbone: str
    category: str
    preprocessing: tuple[Step, ...]
    head: HeadSpec
    thresholds: Thresholds
    training: Training
    weights: Weights
    seed: int
    settings: dict[str, Any] = {}
    """What was set about the detector, its defaults written out (`harness.detector.settings`); empty where that was not kept."""
    request_sha256: str
    """Digest of everything asked of the fit, so that a finished fit is not repeated."""
    net_sha256: str
    state_sha256: str
    detector_sha256: str
    """What parity requires to be equal: see `detector_digest`."""
    fit_report: dict[str, Any] = {}
    software: dict[str, str] = {}
    variants: tuple[Variant, ...] = ()


def detector_digest(manifest: Manifest) -> str:
    """SHA-256 over what decides the numbers: parameters, fitted state, head, preprocessing, thresholds."""
    names = (
        "detector",
        "backbone",
        "category",
        "preprocessing",
        "head",
        "thresholds",
        "net_sha256",
        "state_sha256",
    )
    return storage.sha256_of_json({name: msgspec.to_builtins(getattr(manifest, name)) for name in names})


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """An opened artifact folder whose manifest has been read and checked."""

    path: Path
    manifest: Manifest
    sha256: str
    """Digest of the manifest file, which holds the digests of all the others."""

    def state(self) -> dict[str, AnyArray]:
        """Fitted arrays, checked against the manifest's digest."""
        return self._arrays(STATE, self.manifest.state_sha256)

    def net(self) -> dict[str, AnyArray]:
        """Network parameters, checked against the manifest's digest."""
        return self._arrays(NET, self.manifest.net_sha256)

    def _arrays(self, name: str, expected: str) -> dict[str, AnyArray]:
        path = self.path / name
        try:
            arrays: dict[str, AnyArray] = safetensors.numpy.load_file(path)
        except (OSError, safetensors.SafetensorError) as error:
            raise ArtifactError(f"{path}: cannot be read ({error}); fit the detector again") from error
        if storage.sha256_of_arrays(arrays) != expected:
            raise ArtifactError(f"{path}: does not match the digest in {MANIFEST}; fit the detector again")
        return arrays

    def variant(self, formats: tuple[str, ...], *, simulated: bool = False) -> Variant:
        """The full-precision variant in the first of `formats` that the artifact has, compiled for a simulator if `simulated`.

        Variants without the head come first.

        Raises:
            ArtifactError: there is none, or several that differ in more than the head.
        """
        for format_ in formats:
            fitting = [
                variant
                for variant in self.manifest.variants
                if variant.format == format_
                and variant.lowered is None
                and (variant.target is None or variant.target.simulated == simulated)
            ]
            plain = [variant for variant in fitting if HEAD not in variant.contains] or fitting
            if len(plain) > 1:
                names = ", ".join(variant.id for variant in plain)
                raise ArtifactError(
                    f"{self.path}: {len(plain)} variants fit: name one with --variant: {names}"
                )
            if plain:
                return plain[0]
        have = ", ".join(variant.id for variant in self.manifest.variants) or "none"
        compiler = ""
        if formats[0] == "om":
            compiler = " --soc Ascend310 --cann 7.0 --atc simulated" if simulated else " --soc Ascend310"
        raise ArtifactError(
            f"{self.path}: no {'simulated ' if compiler and simulated else ''}variant in format {' or '.join(formats)} "
            f"(variants: {have}); run: python -m harness export {shlex.quote(str(self.path))} --format {formats[0]}{compiler}"
        )

    def variant_named(self, id_: str) -> Variant:
        """The variant with this id.

        Raises:
            UsageError: there is none; names the nearest.
        """
        variants = {variant.id: variant for variant in self.manifest.variants}
        if id_ not in variants:
            raise UsageError(unknown(f"variant of {self.path}", id_, variants))
        return variants[id_]

    def model_file(self, variant: Variant) -> Path:
        """Path of the variant's model after every file of the variant matched its digest."""
        for name, expected in variant.files.items():
            path = storage.inside(self.path, name, ArtifactError)
            if not path.is_file():
                raise ArtifactError(f"{path}: missing; export {variant.format} again")
            if storage.sha256_of_file(path) != expected:
                raise ArtifactError(
                    f"{path}: does not match the digest in {MANIFEST}; export {variant.format} again"
                )
        return self.path / variant.model


def read(path: Path) -> Artifact:
    """Open an artifact folder.

    Raises:
        ArtifactError: no manifest, a manifest of another schema, unknown or missing keys, or one that was edited.
    """
    file = path / MANIFEST
    if not file.is_file():
        raise ArtifactError(f"{path}: not an artifact (no {MANIFEST}); make one with: python -m harness fit")
    manifest = storage.read_json(
        file, Manifest, schema=SCHEMA, error=ArtifactError, remedy="fit the detector again"
    )
    if detector_digest(manifest) != manifest.detector_sha256:
        raise ArtifactError(
            f"{file}: detector_sha256 does not match its contents (edited?); fit the detector again"
        )
    return Artifact(path=path, manifest=manifest, sha256=storage.sha256_of_file(file))


def find(path: Path, categories: tuple[str, ...]) -> tuple[Artifact, ...]:
    """Artifacts at `path`: the folder itself, or one folder per category below it.

    Args:
        path: An artifact, or a folder of artifacts named by category (`artifacts/padim-resnet18`).
        categories: Names wanted; empty means all that are there.
    """
    if (path / MANIFEST).is_file():
        artifact = read(path)
        if categories and artifact.manifest.category not in categories:
            raise ArtifactError(
                f"{path}: fitted on {artifact.manifest.category!r}, asked for {', '.join(categories)}"
            )
        return (artifact,)
    there = sorted(
        file.parent.name for file in path.glob(f"*/{MANIFEST}") if not file.parent.name.startswith(".")
    )
    if not there:
        below = sorted(file.parent.parent for file in path.glob(f"*/*/{MANIFEST}"))
        hint = f"did you mean {below[0]}?" if below else "make one with: python -m harness fit"
        hint += "" if path.is_dir() else " (there is no such folder)"
        raise ArtifactError(f"{path}: no artifact here; {hint}")
    missing = [name for name in categories if name not in there]
    if missing:
        raise ArtifactError(f"{path}: no artifact for {', '.join(missing)} (there are: {', '.join(there)})")
    artifacts = tuple(read(path / name) for name in categories or there)
    for name, artifact in zip(categories, artifacts, strict=False):
        if artifact.manifest.category != name:
            raise ArtifactError(f"{artifact.path}: fitted on {artifact.manifest.category!r}, not on {name!r}")
    return artifacts


def write_arrays(path: Path, arrays: Mapping[str, AnyArray]) -> None:
    """Write named arrays as safetensors, whole or not at all."""
    with storage.replacing(path) as temporary:
        storage.save_arrays(arrays, temporary)


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Write `manifest.json` into the artifact folder `path`."""
    storage.write_json(path / MANIFEST, msgspec.to_builtins(manifest))


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of the artifact folder `path`, which need not exist yet: two at once take turns.

    Removes unfinished files of a killed writer.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with (path.parent / f".{path.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        for unfinished in path.glob(".*.part"):
            unfinished.unlink()
        yield


def add_variant(path: Path, variant: Variant) -> None:
    """Add `variant` to the manifest, replacing the one of the same id; call under `locked`."""
    manifest = read(path).manifest
    others = tuple(other for other in manifest.variants if other.id != variant.id)
    # float32 first: nobody who takes the first of a format gets a lower precision unasked
    variants = tuple(sorted((*others, variant), key=lambda item: (item.lowered is not None, item.id)))
    write_manifest(path, msgspec.structs.replace(manifest, variants=variants))


HEAD = "head"
"""In `Variant.contains`: the graph holds the head."""
