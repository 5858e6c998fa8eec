"""Bugs in outputs that return as files, in test data on the board, and in a results folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from benchmarks.bugs.change import Change, Place
from benchmarks.bugs.deployment import Deployment
from harness import storage


def by_name(stem: str, number: int, name: str) -> str:
    """A file of `--from npy`."""
    del number
    return f"{stem}_{name}.npy"


def by_number(stem: str, number: int, name: str) -> str:
    """A file of `--from cpp` and `--from ais_bench`."""
    del name
    return f"{stem}_{number}.bin"


def _truncated(deployment: Deployment) -> None:
    deployment.write_inputs()
    outputs = deployment.run_elsewhere(by_number)
    last = max(outputs.iterdir())
    last.write_bytes(last.read_bytes()[:-1024])
    deployment.score(outputs, "cpp")


def _swapped(deployment: Deployment) -> None:
    """The runtime numbers the outputs in its own order: the teacher's first."""
    deployment.write_inputs()
    half = len(deployment.variant().outputs) // 2
    outputs = deployment.run_elsewhere(lambda stem, number, _: f"{stem}_{(number + half) % (2 * half)}.bin")
    deployment.score(outputs, "cpp")


def _shuffled(deployment: Deployment) -> None:
    """Threads finish in another order than they started, and the results are named in that order."""
    deployment.write_inputs()
    outputs = deployment.run_elsewhere(by_name)
    files = sorted(outputs.iterdir())
    contents = [file.read_bytes() for file in files]
    for file, content in zip(files, contents[1:] + contents[:1], strict=True):
        file.write_bytes(content)
    deployment.score(outputs)


def _written_twice(deployment: Deployment) -> None:
    deployment.write_inputs()
    outputs = deployment.run_elsewhere(by_name)
    files = sorted(outputs.iterdir())
    files[5].write_bytes(files[4].read_bytes())
    deployment.score(outputs)


def _half_as_single(deployment: Deployment) -> None:
    """float16 bytes are read as float32: the file is half as long."""
    deployment.write_inputs()
    outputs = deployment.run_elsewhere(by_number)
    for file in outputs.iterdir():
        file.write_bytes(np.frombuffer(file.read_bytes(), np.float32).astype(np.float16).tobytes())
    deployment.score(outputs, "cpp")


def _inputs_of_another_export(deployment: Deployment) -> None:
    """Batches of other test images: the data set was updated after `inputs` wrote them."""
    deployment.write_inputs()
    _swap(deployment.own_data(), "test/good/000.png", "test/good/003.png")
    deployment.bench()


def _swap(root: Path, one: str, two: str) -> None:
    first, second = (root / one).read_bytes(), (root / two).read_bytes()
    (root / one).write_bytes(second)
    (root / two).write_bytes(first)


def _labels_flipped(deployment: Deployment) -> None:
    """Two good images and two defective ones lie in each other's folders."""
    root = deployment.own_data()
    defect = next(sample.defect for sample in deployment.category().test if sample.label)
    for number in (0, 3):
        _swap(root, f"test/good/{number:03}.png", f"test/{defect}/{number:03}.png")
    deployment.bench()


def _duplicate(deployment: Deployment) -> None:
    """One image was copied over another."""
    root = deployment.own_data()
    (root / "test/good/003.png").write_bytes((root / "test/good/000.png").read_bytes())
    deployment.bench()


def _one_more(deployment: Deployment) -> None:
    root = deployment.own_data()
    (root / "test/good/900.png").write_bytes((root / "test/good/000.png").read_bytes())
    deployment.bench()


def _jpeg(deployment: Deployment) -> None:
    """The test images were compressed as JPEG for transport, and stored as PNG again."""
    deployment.own_data()
    for sample in deployment.category().test:
        image = cv2.imread(str(sample.path), cv2.IMREAD_UNCHANGED)
        assert image is not None
        again = cv2.imdecode(cv2.imencode(".jpg", image)[1], cv2.IMREAD_UNCHANGED)
        assert again is not None
        cv2.imwrite(str(sample.path), again)
    deployment.bench()


def _masks_shifted(deployment: Deployment) -> None:
    deployment.own_data()
    for sample in deployment.category().test:
        if sample.mask_path is not None:
            mask = cv2.imread(str(sample.mask_path), cv2.IMREAD_UNCHANGED)
            assert mask is not None
            cv2.imwrite(str(sample.mask_path), np.roll(mask, 8, axis=1))
    deployment.bench()


def _edit_record(deployment: Deployment, edit: Callable[[dict[str, object]], None]) -> None:
    """Change the new record and its digest."""
    before = set(deployment.results.glob("*.json"))
    deployment.bench()
    (path,) = set(deployment.results.glob("*.json")) - before
    document = json.loads(path.read_bytes())
    del document["record_sha256"]
    edit(document)
    storage.write_json(path, document | {"record_sha256": storage.sha256_of_json(document)})


def _label_edited(deployment: Deployment) -> None:
    def edit(document: dict[str, object]) -> None:
        images = document["images"]
        assert isinstance(images, list)
        images[0]["label"] = 1 - images[0]["label"]

    _edit_record(deployment, edit)


def _labels_exchanged(deployment: Deployment) -> None:
    """Exchange two labels: their numbers stay right."""

    def edit(document: dict[str, object]) -> None:
        images = document["images"]
        assert isinstance(images, list)
        first = [next(image for image in images if image["label"] == label) for label in (0, 1)]
        for image in first:
            image["label"] = 1 - image["label"]

    _edit_record(deployment, edit)


def _threshold_edited(deployment: Deployment) -> None:
    def edit(document: dict[str, object]) -> None:
        thresholds = document["thresholds"]
        assert isinstance(thresholds, dict)
        thresholds["image"] *= 1.1

    _edit_record(deployment, edit)


def _other_evidence(deployment: Deployment) -> None:
    """Another run's saved outputs lie under the record's name."""
    before = set(deployment.results.glob("evidence/*.outputs.safetensors"))
    deployment.bench()
    (candidate,) = set(deployment.results.glob("evidence/*.outputs.safetensors")) - before
    (reference,) = before
    candidate.write_bytes(reference.read_bytes())


def _bug(name: str, where: str, inject: Callable[[Deployment], None], place: Place) -> Change:
    return Change(name=name, where=where, inject=inject, place=place)


BUGS = (
    _bug("truncated outputs", "files", _truncated, "outputs"),
    _bug("float16 bytes read as float32", "files", _half_as_single, "outputs"),
    Change(
        name="outputs in another order",
        where="files",
        inject=_swapped,
        place="outputs",
        subject="stpm",
        reference="onnxruntime-cpu",
    ),
    _bug("outputs of the images in another order", "files", _shuffled, "outputs"),
    _bug("one output written twice", "files", _written_twice, "outputs"),
    _bug("inputs older than the test images", "files", _inputs_of_another_export, "data"),
    _bug("labels flipped: images in each other's folders", "data", _labels_flipped, "data"),
    _bug("duplicate image in another's place", "data", _duplicate, "data"),
    _bug("duplicate image, one more", "data", _one_more, "data"),
    _bug("test images through JPEG", "data", _jpeg, "data"),
    _bug("masks shifted", "data", _masks_shifted, "metrics"),
    _bug("label flipped in the record", "results", _label_edited, "results"),
    _bug("two labels exchanged in the record", "results", _labels_exchanged, "data"),
    _bug("threshold changed in the record", "results", _threshold_edited, "results"),
    _bug("outputs of another run under the record's name", "results", _other_evidence, "results"),
)
