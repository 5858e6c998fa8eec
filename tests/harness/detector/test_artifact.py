from __future__ import annotations

import json
import multiprocessing
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from harness import storage
from harness.detector import artifact
from harness.detector.artifact import (
    Artifact,
    HeadSpec,
    Manifest,
    TensorSpec,
    Thresholds,
    Training,
    Variant,
    Weights,
)
from harness.detector.preprocess import standard_steps
from harness.errors import ArtifactError

STATE = {"mean": np.arange(6, dtype=np.float32).reshape(2, 3), "order": np.array([1, 0], np.int32)}
NET = {"conv.weight": np.ones((2, 3, 1, 1), np.float32)}


def variant(path: Path, kind: str, *, files: tuple[str, ...] = ()) -> Variant:
    """A variant whose files are in the artifact folder `path` and hold their own names."""
    names = files or (f"{kind}-fp32.{kind}",)
    for name in names:
        (path / name).write_text(name)
    return Variant(
        id=f"{kind}-fp32",
        format=kind,
        precision="fp32",
        input=TensorSpec(name="image", dtype="float32", shape=(None, 3, 224, 224)),
        input_stage="layout",
        outputs=(TensorSpec(name="embedding", dtype="float32", shape=(None, 100, 56, 56)),),
        files={name: storage.sha256_of_file(path / name) for name in names},
        agreement={"1": 1e-6},
    )


def make(path: Path, category: str = "bottle", *kinds: str) -> Artifact:
    """Write an artifact of `category` with variants of `kinds`."""
    manifest = Manifest(
        schema=artifact.SCHEMA,
        detector="padim",
        backbone="resnet18",
        category=category,
        preprocessing=standard_steps(256, 224),
        head=HeadSpec(name="padim", parameters={"epsilon": 0.01, "grid": [56, 56]}),
        thresholds=Thresholds(
            image=2.5, pixel=1.5, image_quantile=0.95, pixel_quantile=0.995, held_out_images=4
        ),
        training=Training(dataset="mvtec", fingerprint="f" * 64, images=9, held_out=("train/good/007.png",)),
        weights=Weights(source="random", sha256="0" * 64, seed=3),
        seed=3,
        request_sha256="1" * 64,
        net_sha256=storage.sha256_of_arrays(NET),
        state_sha256=storage.sha256_of_arrays(STATE),
        detector_sha256="",
        fit_report={"seconds": 1.5, "covariance_rows": {"min": 1}},
    )
    manifest = msgspec.structs.replace(manifest, detector_sha256=artifact.detector_digest(manifest))
    path.mkdir(parents=True)
    artifact.write_arrays(path / artifact.STATE, STATE)
    artifact.write_arrays(path / artifact.NET, NET)
    artifact.write_manifest(path, manifest)
    for kind in kinds:
        artifact.add_variant(path, variant(path, kind))
    return artifact.read(path)


@pytest.fixture
def made(tmp_path: Path) -> Artifact:
    return make(tmp_path / "bottle", "bottle", "mindir", "onnx")


def edit(found: Artifact, change: Callable[[Any], object]) -> Path:
    """Change the manifest on disk as an editor would."""
    path = found.path / artifact.MANIFEST
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))
    return found.path


def damage(path: Path) -> None:
    """Turn over one bit of the last byte."""
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))


def test_a_manifest_survives_the_disk(made: Artifact) -> None:
    assert made.manifest.preprocessing == standard_steps(256, 224)
    assert made.manifest.variants[1].input.shape == (None, 3, 224, 224)
    artifact.write_manifest(made.path, made.manifest)
    assert artifact.read(made.path) == made
    assert json.loads((made.path / "manifest.json").read_text())["thresholds"]["image"] == 2.5


def test_arrays_survive_the_disk(made: Artifact) -> None:
    for given, read in ((STATE, made.state()), (NET, made.net())):
        assert given.keys() == read.keys()
        for name, array in given.items():
            np.testing.assert_array_equal(read[name], array)
            assert read[name].dtype == array.dtype


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(colour="blue"), "unknown field `colour`"),
        (lambda m: m["variants"][1].update(cogs=[1]), r"unknown field `cogs` - at `\$\.variants\[1\]`"),
        (lambda m: m.pop("seed"), "missing required field `seed`"),
        (lambda m: m["head"].pop("name"), r"missing required field `name` - at `\$\.head`"),
        (lambda m: m.update(seed="3"), r"Expected `int`, got `str` - at `\$\.seed`"),
        (lambda m: m.update(schema=2, colour="blue"), "schema 2, this harness reads 1"),
        (lambda m: m["preprocessing"][0].update(step="sharpen"), r"sharpen.*preprocessing\[0\]\.step"),
        (lambda m: m["variants"][0].update(files={}), r"length >= 1 - at `\$\.variants\[0\]\.files`"),
    ],
)
def test_a_manifest_of_another_form_is_refused_with_its_place(
    made: Artifact, change: Callable[[Any], object], message: str
) -> None:
    with pytest.raises(ArtifactError, match=rf"manifest\.json: .*{message}.*; fit the detector again"):
        artifact.read(edit(made, change))


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m["thresholds"].update(image=2.4),
        lambda m: m["thresholds"].update(pixel=1.4),
        lambda m: m["head"]["parameters"].update(epsilon=0.02),
        lambda m: m["preprocessing"][2].update(interpolation="linear"),
        lambda m: m.update(category="cable"),
        lambda m: m.update(backbone="resnet50"),
        lambda m: m.update(state_sha256="0" * 64),
        lambda m: m.update(net_sha256="0" * 64),
    ],
)
def test_what_decides_the_numbers_cannot_be_edited(made: Artifact, change: Callable[[Any], object]) -> None:
    with pytest.raises(ArtifactError, match="detector_sha256 does not match its contents"):
        artifact.read(edit(made, change))


def test_the_detector_is_the_same_whatever_was_exported_and_when(tmp_path: Path) -> None:
    plain, exported = make(tmp_path / "a"), make(tmp_path / "b", "bottle", "onnx")
    edit(exported, lambda m: m.update(software={"mindspore": "2.8.0"}, fit_report={"seconds": 2}))
    assert artifact.read(exported.path).manifest.detector_sha256 == plain.manifest.detector_sha256


@pytest.mark.parametrize("name", ["state", "net"])
def test_altered_arrays_are_refused(made: Artifact, name: str) -> None:
    file = made.path / f"{name}.safetensors"
    damage(file)
    with pytest.raises(ArtifactError, match=rf"{file}: does not match the digest in manifest\.json"):
        getattr(made, name)()


@pytest.mark.parametrize("data", [None, b"", b"\x80\x04K\x01.", b"\xff" * 100])
def test_arrays_that_cannot_be_read_are_refused(made: Artifact, data: bytes | None) -> None:
    file = made.path / artifact.STATE
    file.unlink()
    if data is not None:
        file.write_bytes(data)
    with pytest.raises(ArtifactError, match=rf"{file}: cannot be read .*fit the detector again"):
        made.state()


def test_every_file_of_a_variant_is_checked(tmp_path: Path) -> None:
    path = make(tmp_path / "bottle").path
    big = variant(path, "onnx", files=("model.onnx", "model.onnx.data"))
    artifact.add_variant(path, big)
    found = artifact.read(path)
    assert found.model_file(found.variant(("onnx",))) == path / "model.onnx"
    damage(path / "model.onnx.data")
    with pytest.raises(ArtifactError, match=r"model\.onnx\.data: does not match .*; export onnx again"):
        found.model_file(big)
    (path / "model.onnx").unlink()
    with pytest.raises(ArtifactError, match=r"model\.onnx: missing; export onnx again"):
        found.model_file(big)


@pytest.mark.parametrize("name", ["../secret", "/etc/hostname", "link/secret"])
def test_no_model_lies_outside_its_folder(made: Artifact, name: str) -> None:
    secret = made.path.parent / "secret"
    secret.write_text("secret")
    (made.path / "link").symlink_to(made.path.parent)
    digest = storage.sha256_of_file(secret)
    found = artifact.read(edit(made, lambda m: m["variants"][0].update(files={name: digest})))
    with pytest.raises(ArtifactError, match="leaves its folder"):
        found.model_file(found.manifest.variants[0])


def test_the_first_format_that_is_there_is_chosen(made: Artifact) -> None:
    assert made.variant(("air", "onnx", "mindir")).id == "onnx-fp32"
    assert made.variant(("mindir", "onnx")).id == "mindir-fp32"


def test_of_one_format_the_variant_without_the_head_is_chosen(made: Artifact) -> None:
    (plain,) = (variant for variant in made.manifest.variants if variant.id == "onnx-fp32")
    headed = msgspec.structs.replace(plain, id="onnx-a-head", contains=("head",))
    artifact.add_variant(made.path, headed)
    assert artifact.read(made.path).variant(("onnx",)).id == "onnx-fp32"


def test_several_that_fit_are_asked_about_and_never_chosen_by_name(made: Artifact) -> None:
    (plain,) = (variant for variant in made.manifest.variants if variant.id == "onnx-fp32")
    artifact.add_variant(made.path, msgspec.structs.replace(plain, id="onnx-other"))
    with pytest.raises(
        ArtifactError, match=r"2 variants fit: name one with --variant: onnx-fp32, onnx-other"
    ):
        artifact.read(made.path).variant(("onnx",))


def test_a_missing_variant_says_the_command_that_makes_it(made: Artifact, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError) as caught:
        made.variant(("air", "om"))
    assert str(caught.value) == (
        f"{made.path}: no variant in format air or om (variants: mindir-fp32, onnx-fp32); "
        f"run: python -m harness export {made.path} --format air"
    )
    with pytest.raises(ArtifactError, match=r"\(variants: none\)"):
        make(tmp_path / "other").variant(("onnx",))


def test_an_added_variant_replaces_the_one_of_its_id_and_they_stay_sorted(made: Artifact) -> None:
    newer = msgspec.structs.replace(variant(made.path, "onnx"), software={"onnx": "2"})
    for added in (newer, variant(made.path, "air")):
        artifact.add_variant(made.path, added)
    variants = artifact.read(made.path).manifest.variants
    assert [item.id for item in variants] == ["air-fp32", "mindir-fp32", "onnx-fp32"]
    assert variants[2] == newer
    assert variants[1] == made.manifest.variants[0]


# --- finding ----------------------------------------------------------------------------------------------------------


def test_one_artifact_or_a_folder_of_them_is_found(tmp_path: Path) -> None:
    bottle, cable = make(tmp_path / "bottle"), make(tmp_path / "cable", "cable")
    make(tmp_path / ".half-made.part", "hazelnut")
    assert artifact.find(tmp_path / "bottle", ()) == (bottle,)
    assert artifact.find(tmp_path / "bottle", ("bottle", "cable")) == (bottle,)
    assert artifact.find(tmp_path, ()) == (bottle, cable)
    assert artifact.find(tmp_path, ("cable",)) == (cable,)
    assert artifact.find(tmp_path, ("cable", "bottle")) == (cable, bottle)


def test_what_is_not_found_is_named_with_what_is_there(made: Artifact, tmp_path: Path) -> None:
    make(tmp_path / "cable", "cable")
    with pytest.raises(ArtifactError, match=r"no artifact for screw, \.\. \(there are: bottle, cable\)"):
        artifact.find(tmp_path, ("cable", "screw", ".."))
    with pytest.raises(ArtifactError, match="fitted on 'bottle', asked for screw, cable"):
        artifact.find(made.path, ("screw", "cable"))
    for path in (tmp_path / "nowhere", made.path / "manifest.json"):
        with pytest.raises(ArtifactError, match="no artifact here; make one with: python -m harness fit"):
            artifact.find(path, ())


def test_a_renamed_artifact_does_not_pass_for_another_category(made: Artifact, tmp_path: Path) -> None:
    shutil.move(made.path, tmp_path / "cable")
    with pytest.raises(ArtifactError, match="cable: fitted on 'bottle', not on 'cable'"):
        artifact.find(tmp_path, ("cable",))


def test_a_folder_without_a_manifest_is_not_an_artifact(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"not an artifact \(no manifest\.json\)"):
        artifact.read(tmp_path)


# --- locking ----------------------------------------------------------------------------------------------------------


def _export(path: Path, kind: str, start: Any) -> None:
    start.wait()
    for _ in range(10):
        with artifact.locked(path):
            artifact.add_variant(path, variant(path, kind))


@pytest.mark.parametrize("way", ["threads", "processes"])
def test_exports_at_once_lose_no_variant(tmp_path: Path, way: str) -> None:
    path = make(tmp_path / "bottle").path
    kinds = ("air", "mindir", "onnx")
    context = multiprocessing.get_context("spawn")
    start: Any = context.Barrier(3) if way == "processes" else threading.Barrier(3)
    kind: Any = context.Process if way == "processes" else threading.Thread
    workers = [kind(target=_export, args=(path, name, start)) for name in kinds]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [item.format for item in artifact.read(path).manifest.variants] == list(kinds)


def test_a_lock_is_held_until_its_block_ends(made: Artifact) -> None:
    entered = threading.Event()

    def wait() -> None:
        with artifact.locked(made.path):
            entered.set()

    with artifact.locked(made.path):
        waiting = threading.Thread(target=wait)
        waiting.start()
        assert not entered.wait(0.2)
    waiting.join()
    assert entered.is_set()
