from __future__ import annotations

import dataclasses
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness import datasets, registry
from harness.build import FitRequest
from harness.detector import artifact
from harness.detector.artifact import Artifact
from harness.detector.preprocess import Preprocessor
from harness.detector.settings import Padim
from harness.errors import ArtifactError, DatasetError, UsageError
from harness.types import Category, Sample
from tests.conftest import write_category

pytestmark = pytest.mark.mindspore

Fit = Callable[[FitRequest], tuple[Artifact, bool]]


@pytest.fixture(scope="module")
def fit() -> Fit:
    from exporters.fit.job import fit

    return fit


def changed(request: FitRequest, **fields: Any) -> FitRequest:
    return dataclasses.replace(request, **fields)


def images(count: int) -> Category:
    samples = tuple(
        Sample(name=f"train/good/{n:03}.png", path=Path(f"{n}.png"), label=0, defect="good", mask_path=None)
        for n in range(count)
    )
    return Category(name="widget", root=Path("data/widget"), train=samples, test=())


@pytest.mark.parametrize(("count", "held"), [(3, 1), (12, 1), (100, 10), (209, 21)])
def test_a_seeded_tenth_is_held_out_of_the_fit(count: int, held: int) -> None:
    from exporters.fit.job import hold_out

    kept, held_out = hold_out(images(count), 7)
    assert len(held_out) == held
    assert sorted([*kept, *held_out], key=lambda sample: sample.name) == list(images(count).train)
    assert hold_out(images(count), 7) == (kept, held_out)


def test_another_seed_holds_out_others() -> None:
    from exporters.fit.job import hold_out

    assert hold_out(images(100), 0)[1] != hold_out(images(100), 1)[1]


def test_fewer_than_three_images_are_refused(fit: Fit, request_to_fit: FitRequest, tmp_path: Path) -> None:
    few = dataclasses.replace(request_to_fit.category, train=request_to_fit.category.train[:2])
    with pytest.raises(DatasetError, match=r"widget/train/good: 2 images; a fit needs three"):
        fit(changed(request_to_fit, category=few, out=tmp_path / "widget"))
    assert not (tmp_path / "widget").exists()


def test_a_crop_where_the_grids_do_not_nest_is_wrong_use(
    fit: Fit, request_to_fit: FitRequest, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="--crop 56: PaDiM needs a multiple of 16"):
        fit(changed(request_to_fit, settings=Padim(resize=72, crop=56), out=tmp_path / "widget"))


def test_the_artifact_says_what_it_was_made_from(fitted: Artifact, request_to_fit: FitRequest) -> None:
    manifest = fitted.manifest
    assert (manifest.detector, manifest.backbone, manifest.category) == ("padim", "resnet18", "widget")
    assert (manifest.weights.source, manifest.weights.seed) == ("random", 0)
    assert manifest.training.images == 11
    assert len(manifest.training.held_out) == manifest.thresholds.held_out_images == 1
    assert manifest.training.fingerprint == datasets.fingerprint(request_to_fit.category, "train")
    assert len(fitted.state()["channels"]) == 100
    assert sorted(file.name for file in fitted.path.iterdir() if file.name[0] != ".") == [
        *("manifest.json", "net.safetensors", "state.safetensors")
    ]


def test_thresholds_are_quantiles_of_the_held_out_images_alone(
    fitted: Artifact, request_to_fit: FitRequest
) -> None:
    from exporters.nets.padim import from_artifact
    from exporters.runtime import mindspore as ms

    net, _, (output,) = from_artifact(fitted)
    ready = Preprocessor(fitted.manifest.preprocessing)
    path = request_to_fit.category.root / fitted.manifest.training.held_out[0]
    batch = np.stack([ready.tensor(ready.frame(ready.decode(path)))])
    spec = fitted.manifest.head
    head = registry.head(spec.name)(spec.parameters, fitted.state(), threads=1)
    scores = head(batch, {output: net(ms.Tensor(batch)).asnumpy()})
    assert fitted.manifest.thresholds.image == pytest.approx(float(scores.images[0]), rel=1e-5)
    ordered = np.sort(scores.maps.ravel())
    expected = ordered[int(np.ceil(0.995 * (len(ordered) - 1)))]
    assert fitted.manifest.thresholds.pixel == pytest.approx(float(expected), rel=1e-5)


def test_the_mean_is_that_of_the_images_kept(fitted: Artifact, request_to_fit: FitRequest) -> None:
    from exporters.nets.padim import from_artifact
    from exporters.runtime import mindspore as ms

    net, _, _ = from_artifact(fitted)
    ready = Preprocessor(fitted.manifest.preprocessing)
    held_out = fitted.manifest.training.held_out
    kept = [sample.path for sample in request_to_fit.category.train if sample.name not in held_out]
    batch = np.stack([ready.tensor(ready.frame(ready.decode(path))) for path in kept])
    expected = net(ms.Tensor(batch)).asnumpy().mean(axis=0).reshape(100, -1).T
    np.testing.assert_allclose(fitted.state()["mean"], expected, atol=1e-5 * float(np.abs(expected).max()))


def test_an_equal_request_is_answered_by_the_artifact_that_is_there(
    fit: Fit, fitted: Artifact, request_to_fit: FitRequest
) -> None:
    before = (fitted.path / artifact.MANIFEST).stat().st_mtime_ns
    again, fresh = fit(request_to_fit)
    assert not fresh
    assert again == fitted
    assert (fitted.path / artifact.MANIFEST).stat().st_mtime_ns == before


@pytest.mark.parametrize(
    "other",
    [
        {"seed": 1},
        {"settings": Padim(resize=80, crop=64)},
        {"settings": Padim(resize=72, crop=64, channels=50)},
        {"settings": Padim(resize=72, crop=64, draw="modelzoo")},
    ],
)
def test_another_request_is_refused_where_an_artifact_is(
    fit: Fit, fitted: Artifact, request_to_fit: FitRequest, other: dict[str, Any]
) -> None:
    with pytest.raises(ArtifactError, match=r"fitted from another request .*--force replaces it"):
        fit(changed(request_to_fit, **other))
    assert artifact.read(fitted.path) == fitted


def test_other_images_are_another_request(
    fit: Fit, fitted: Artifact, request_to_fit: FitRequest, tmp_path: Path
) -> None:
    write_category(tmp_path / "widget", side=80, train=13)
    other = datasets.load_category(tmp_path, "widget")
    with pytest.raises(ArtifactError, match="fitted from another request"):
        fit(changed(request_to_fit, category=other, out=fitted.path))


def test_a_folder_that_is_no_artifact_is_never_replaced_unasked(
    fit: Fit, request_to_fit: FitRequest, tmp_path: Path
) -> None:
    (tmp_path / "thesis.txt").write_text("five years of work")
    with pytest.raises(ArtifactError, match="exists and is not an artifact"):
        fit(changed(request_to_fit, out=tmp_path))
    assert (tmp_path / "thesis.txt").is_file()


def test_force_replaces_an_artifact_and_equal_requests_give_equal_bits(
    fit: Fit, fitted: Artifact, request_to_fit: FitRequest, tmp_path: Path
) -> None:
    out = Path(shutil.copytree(fitted.path, tmp_path / "widget"))
    other, fresh = fit(changed(request_to_fit, seed=1, out=out, force=True))
    assert fresh
    assert other.manifest.detector_sha256 != fitted.manifest.detector_sha256
    again, fresh = fit(changed(request_to_fit, out=out, force=True))
    assert fresh
    assert again.manifest.state_sha256 == fitted.manifest.state_sha256
    assert again.manifest.detector_sha256 == fitted.manifest.detector_sha256
    assert sorted(path.name for path in tmp_path.iterdir()) == [".widget.lock", "widget"]


KILLED = """
import os, signal
from pathlib import Path
from exporters.fit import job
from harness import datasets
from harness.build import FitRequest
from harness.detector import artifact
from harness.detector.settings import Padim
artifact.write_manifest = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # the arrays are written by then
job.fit(FitRequest(detector="padim", backbone="resnet18", weights=None, dataset="data", settings=Padim(resize=72, crop=64, channels=50), force=True,
    category=datasets.load_category(Path({data!r}), "widget"), out=Path({out!r})))
"""


@pytest.mark.parametrize("earlier", [False, True])
def test_a_fit_killed_half_way_leaves_what_was_there(
    fit: Fit, fitted: Artifact, request_to_fit: FitRequest, tmp_path: Path, *, earlier: bool
) -> None:
    out = tmp_path / "widget"
    if earlier:
        shutil.copytree(fitted.path, out)
    script = KILLED.format(data=str(request_to_fit.category.root.parent), out=str(out))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL
    if earlier:
        assert artifact.find(tmp_path, ())[0].manifest == fitted.manifest
        return
    assert not out.exists()
    with pytest.raises(ArtifactError, match="no artifact here"):
        artifact.find(tmp_path, ())
    assert fit(changed(request_to_fit, out=out))[1]
