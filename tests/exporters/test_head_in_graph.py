from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from harness import build, datasets, registry
from harness.build import FitRequest
from harness.detector import artifact
from harness.detector.artifact import Artifact
from harness.errors import UsageError
from harness.heads.padim import PadimHead
from harness.run import pipeline
from harness.run.job import Job
from harness.types import Case, Category

pytestmark = pytest.mark.mindspore

FORMATS = ("onnx", "mindir")


@pytest.fixture(scope="module")
def with_head(exported: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A copy of `exported` with its head in two more graphs."""
    path = Path(shutil.copytree(exported.path, tmp_path_factory.mktemp("head") / "widget"))
    for kind in FORMATS:
        build.export(artifact.read(path), kind, head_in_graph=True)
    return artifact.read(path)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_variant_with_its_head_says_so_and_gives_map_and_score(with_head: Artifact, kind: str) -> None:
    variants = {variant.id: variant for variant in with_head.manifest.variants}
    variant = variants[f"{kind}-fp32-head"]
    assert variant.contains == ("head",)
    assert [(output.name, output.shape) for output in variant.outputs] == [
        ("map", (None, 64, 64)),
        ("score", (None,)),
    ]
    assert set(variant.agreement) == {"1", "3", "head 1", "head 3"}
    assert max(variant.agreement.values()) <= 1e-4
    assert variants[f"{kind}-fp32"].contains == ()
    assert with_head.variant((kind,)).id == f"{kind}-fp32"  # what a backend takes when none is named


@pytest.mark.parametrize(
    ("backend", "variant"), [("onnxruntime-cpu", "onnx-fp32"), ("mindspore-cpu", "mindir-fp32")]
)
def test_the_graph_scores_images_as_the_numpy_head_does(
    with_head: Artifact, request_to_fit: FitRequest, tmp_path: Path, backend: str, variant: str
) -> None:
    category = datasets.load_category(request_to_fit.category.root.parent, "widget")
    numpy_head = measured(with_head, category, tmp_path, backend, variant)
    in_graph = measured(with_head, category, tmp_path, backend, f"{variant}-head")
    largest = max(numpy_head.values())
    assert in_graph == {name: pytest.approx(score, abs=1e-4 * largest) for name, score in numpy_head.items()}
    assert len(set(numpy_head.values())) == len(category.test)


def measured(found: Artifact, category: Category, out: Path, backend: str, variant: str) -> dict[str, float]:
    case = Case(
        detector="padim",
        backbone="resnet18",
        category=category.name,
        backend=backend,
        variant=variant,
        dataset="data",
        batch_size=3,
    )
    chosen = next(item for item in found.manifest.variants if item.id == variant)
    job = Job(
        case=case,
        artifact=found,
        variant=chosen,
        category=category,
        fingerprint=datasets.fingerprint(category, "test"),
        out=out,
    )
    session = registry.backend(backend).open(found, chosen, threads=1)
    record = pipeline.run(job, session, load_ms=0.0, advance=lambda _: None)
    return {image.name: image.score for image in record.images}


@pytest.mark.parametrize("form", ["complement", "inverse"])
def test_a_dense_factor_gives_the_distances_of_the_trapezoidal_ones(form: str) -> None:
    from exporters.nets.padim import dense_factors

    rng = np.random.default_rng(3)
    scale = 0.15 if form == "complement" else 1.0  # a complement's factor has singular values below one
    first = scale * np.triu(rng.normal(size=(5, 2, 4))).astype(np.float32)
    second = scale * np.triu(rng.normal(size=(3, 2, 2))).astype(np.float32)
    state = {
        "mean": rng.normal(size=(5, 4)).astype(np.float32),
        "order": np.array([4, 2, 0, 1, 3], np.int32),
        "factor.0000": first,
        "factor.0001": second,
    }
    parameters = {"epsilon": 0.01, "form": form, "grid": [1, 5], "map_size": [2, 10], "sigma": 0.0}
    embedding = rng.normal(size=(2, 4, 1, 5)).astype(np.float32)
    delta = embedding[:, :, 0].transpose(2, 0, 1) - state["mean"][:, None]
    factors = dense_factors(parameters, state)
    got = np.linalg.norm(delta @ factors.transpose(0, 2, 1), axis=2).T
    expected = PadimHead(parameters, state, threads=1).distances(embedding)[:, 0]
    np.testing.assert_allclose(got, expected, rtol=2e-5)


def test_a_head_too_large_for_a_graph_is_refused_with_what_to_do(
    exported: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    from exporters.nets import padim

    monkeypatch.setattr(padim, "LARGEST_GRAPH", 16 * 16 * 100 * 100 * 4 - 1)
    with pytest.raises(UsageError, match="export without --head-in-graph, or fit with fewer channels"):
        padim.with_head(exported)
