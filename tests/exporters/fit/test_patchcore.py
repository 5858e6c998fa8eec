from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from harness import build
from harness.build import FitRequest
from harness.detector import artifact
from harness.detector.artifact import Artifact
from harness.detector.preprocess import Preprocessor
from harness.detector.settings import Patchcore
from harness.errors import ArtifactError, UsageError
from harness.heads.patchcore import OUTPUT, PatchcoreHead
from harness.types import AnyArray, Float32, Scores

pytestmark = pytest.mark.mindspore

faiss = pytest.importorskip("faiss", reason="faiss-cpu, which searches the bank, is not installed")

# --- the network ------------------------------------------------------------------------------------------------------


def patches_of(features: AnyArray) -> AnyArray:
    """(N, C, h, w) → (N, C, 3, 3, h, w): the 3 × 3 around each position, zeros beyond the border."""
    padded = np.pad(features, ((0, 0), (0, 0), (1, 1), (1, 1)))
    height, width = features.shape[2:]
    rows = [[padded[:, :, i : i + height, j : j + width] for j in range(3)] for i in range(3)]
    return np.array(rows, np.float64).transpose(2, 3, 0, 1, 4, 5)


def bilinear(image: AnyArray, axis: int, target: int) -> AnyArray:
    """Half-pixel bilinear interpolation along one axis; numpy holds the border's value beyond it."""
    source = image.shape[axis]
    centres = (np.arange(target) + 0.5) * source / target - 0.5
    return np.apply_along_axis(lambda line: np.interp(centres, np.arange(source), line), axis, image)


def adaptive_pool(values: AnyArray, target: int) -> AnyArray:
    """Adaptive average pooling over axis 1, one bin at a time."""
    source = values.shape[1]
    bins = [
        values[:, int(np.floor(i * source / target)) : int(np.ceil((i + 1) * source / target))].mean(axis=1)
        for i in range(target)
    ]
    return np.stack(bins, axis=1)


def paper_embedding(first: AnyArray, second: AnyArray) -> AnyArray:
    """The paper's patch features step by step: unfold, interpolate, pool each layer, pool both."""
    grid = first.shape[2:]
    pooled = []
    for features in (first, second):
        patches = patches_of(features)
        patches = bilinear(bilinear(patches, 4, grid[0]), 5, grid[1])
        pooled.append(adaptive_pool(patches.reshape(len(patches), -1, *grid), 1024))
    return adaptive_pool(np.concatenate(pooled, axis=1), 1024)


def assert_near(got: AnyArray, expected: AnyArray) -> None:
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, rtol=0, atol=2e-6 * float(np.abs(expected).max()))


@pytest.mark.parametrize(
    ("backbone", "layers"),
    [
        ("resnet18", ("layer2", "layer3")),
        ("resnet18", ("layer1", "layer3")),
        ("wide_resnet50_2", ("layer2", "layer3")),
        ("wide_resnet101_2", ("layer2", "layer3")),
    ],
)
def test_two_layers_give_the_papers_patch_features(backbone: str, layers: tuple[str, str]) -> None:
    from exporters.nets.patchcore import PatchcoreNet
    from exporters.runtime import mindspore as ms

    net = PatchcoreNet(backbone, layers, (24, 40))  # grids 3 × 5 and 2 × 3: no whole ratio
    image = ms.Tensor(np.random.default_rng(0).normal(size=(2, 3, 24, 40)).astype(np.float32))
    features = [net.backbone(image)[int(layer[-1]) - 1].asnumpy() for layer in layers]
    got = net(image).asnumpy()
    assert_near(got, paper_embedding(*features))
    assert got.shape == (2, net.dimensions, *net.grid)


@pytest.mark.parametrize(("layer", "channels"), [(2, 128), (3, 256)])
def test_one_layer_gives_the_means_of_its_channels_with_a_border_of_zeros(layer: int, channels: int) -> None:
    from exporters.nets.patchcore import PatchcoreNet
    from exporters.runtime import mindspore as ms

    net = PatchcoreNet("resnet18", (f"layer{layer}",), (40, 24))
    image = ms.Tensor(np.random.default_rng(0).normal(size=(2, 3, 40, 24)).astype(np.float32))
    got = net(image).asnumpy()
    assert_near(got, patches_of(net.backbone(image)[layer - 1].asnumpy()).mean(axis=(2, 3)))
    assert got.shape[1:] == (net.dimensions, *net.grid) == (channels, *net.grid)


@pytest.mark.parametrize("channels", [64, 96, 128, 256, 512, 1024])
def test_both_pools_of_a_patch_fold_into_one_grouped_convolution(channels: int) -> None:
    from exporters.nets.patchcore import patch_kernel

    kernel = patch_kernel(channels)
    patch = np.random.default_rng(0).normal(size=(1, 9 * channels))
    groups = channels // kernel.shape[1]
    folded = np.einsum("gik,gok->go", patch.reshape(groups, 1, -1), kernel.reshape(groups, 512 // groups, -1))
    assert_near(folded.reshape(1, 512), adaptive_pool(adaptive_pool(patch, 1024), 512))


def test_wide_networks_have_the_closed_form() -> None:
    from exporters.nets.patchcore import patch_kernel

    np.testing.assert_allclose(
        patch_kernel(512), np.tile([[[[0.1, 0.1, 0.1], [0.1, 0.2, 0.1], [0.1, 0.1, 0.1]]]], (512, 1, 1, 1))
    )
    np.testing.assert_allclose(patch_kernel(1024), np.full((512, 2, 3, 3), 1 / 18))


def test_the_kernels_are_no_parameters() -> None:
    from exporters.nets.patchcore import PatchcoreNet

    net = PatchcoreNet("resnet18", ("layer2", "layer3"), (32, 32))
    assert all(parameter.name.startswith("backbone.") for parameter in net.get_parameters())


@pytest.mark.parametrize(
    "layers", [(), ("layer3", "layer2"), ("layer2", "layer2"), ("layer1", "layer2", "layer3")]
)
def test_other_layers_are_wrong_use(layers: tuple[str, ...]) -> None:
    from exporters.nets.patchcore import PatchcoreNet

    with pytest.raises(UsageError, match="PatchCore takes one layer, or two of them, the shallower first"):
        PatchcoreNet("resnet18", layers, (32, 32))


# --- the fit ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fit(request_to_fit: FitRequest, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Artifact]:
    """Fit PatchCore on the small category; settings by name."""
    from exporters.fit.job import fit

    def fitted(**settings: Any) -> Artifact:
        settings_ = dataclasses.replace(
            request_to_fit,
            detector="patchcore",
            settings=Patchcore(**{"resize": 72, "crop": 64, "coreset": 0.05, "projection": 32, **settings}),
            out=tmp_path_factory.mktemp("fit") / "widget",
        )
        return fit(settings_)[0]

    return fitted


@pytest.fixture(scope="module")
def paper(fit: Callable[..., Artifact]) -> Artifact:
    return fit()


@pytest.fixture(scope="module")
def seed(fit: Callable[..., Artifact]) -> Artifact:
    return fit(layers=("layer2",), protocol="seed", score="top10")


def patches(found: Artifact, request: FitRequest, names: list[str]) -> Float32:
    """Patches (P, D) of training images."""
    from exporters.nets.patchcore import from_artifact
    from exporters.runtime import mindspore as ms

    net, _, (output,) = from_artifact(found)
    assert output == OUTPUT
    ready = Preprocessor(found.manifest.preprocessing)
    batch = [ready.tensor(ready.frame(ready.decode(request.category.root / name))) for name in names]
    embedding = net(ms.Tensor(np.stack(batch))).asnumpy()
    rows: Float32 = embedding.transpose(0, 2, 3, 1).reshape(-1, embedding.shape[1])
    return rows


def kept(found: Artifact, request: FitRequest) -> list[str]:
    return [
        sample.name
        for sample in request.category.train
        if sample.name not in found.manifest.training.held_out
    ]


@pytest.mark.parametrize("name", ["paper", "seed"])
def test_the_bank_is_the_coreset_of_the_images_kept(
    request_to_fit: FitRequest, name: str, request: pytest.FixtureRequest
) -> None:
    from exporters.fit import coreset

    found: Artifact = request.getfixturevalue(name)
    rows = patches(found, request_to_fit, kept(found, request_to_fit))
    bank = found.state()["bank"]
    assert len(bank) == int(0.05 * len(rows)) == int(0.05 * 11 * 64)
    apart = np.linalg.norm(bank[:, None] - rows[None], axis=2)
    assert apart.min(axis=1).max() < 1e-4 * apart.max()  # each of the bank's rows is a patch, as it was
    chosen = coreset.select(
        rows, len(bank), dimensions=32, seed=0, start="mean" if name == "seed" else "point"
    )
    matching = np.linalg.norm(bank - rows[chosen], axis=1) < 1e-4 * apart.max()
    assert matching.mean() > 0.9  # the last bits of another batch may change the order of near ties


def test_the_manifest_says_how_to_score(paper: Artifact, seed: Artifact) -> None:
    assert paper.manifest.head.parameters == {
        "layers": ["layer2", "layer3"],
        "grid": [8, 8],
        "map_size": [64, 64],
        "sigma": 4.0,
        "half_pixel": True,
        "score": "reweighted",
        "squared": False,
    }
    assert paper.state()["bank"].shape[1] == 1024
    assert seed.manifest.head.parameters["squared"] is True
    assert seed.manifest.head.parameters["half_pixel"] is False
    assert sorted(seed.state()) == ["bank"]
    assert seed.state()["bank"].shape[1] == 128
    assert paper.manifest.fit_report["patches"] == 11 * 64
    assert paper.manifest.fit_report["bank_rows"] == 35


def test_each_patch_of_the_bank_knows_its_nearest_in_it(paper: Artifact) -> None:
    bank, supports = paper.state()["bank"].astype(np.float64), paper.state()["neighbours"]
    apart = np.linalg.norm(bank[:, None] - bank[None], axis=2)
    np.testing.assert_array_equal(supports, np.argsort(apart, axis=1)[:, :9])
    np.testing.assert_array_equal(supports[:, 0], np.arange(len(bank)))


def test_equal_requests_give_equal_bits(fit: Callable[..., Artifact], paper: Artifact) -> None:
    assert fit().manifest.detector_sha256 == paper.manifest.detector_sha256


def test_all_patches_stay_where_all_are_asked_for(
    fit: Callable[..., Artifact], request_to_fit: FitRequest
) -> None:
    found = fit(coreset=1.0, score="max", layers=("layer3",))
    rows = patches(found, request_to_fit, kept(found, request_to_fit))
    assert found.state()["bank"].shape == rows.shape == (11 * 16, 256)


def test_equal_rows_are_kept_once() -> None:
    from exporters.fit.patchcore import _without_repeats

    rows = np.array([[1, 2], [3, 4], [1, 2], [5, 6], [3, 4]], np.float32)
    np.testing.assert_array_equal(_without_repeats(rows), [[1, 2], [3, 4], [5, 6]])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"protocol": "seed"},
            "protocol=seed has squared distances and no re-weighted score: give score=top10",
        ),
        ({"coreset": 1e-6}, "the memory bank of widget holds a single patch: ask for a larger coreset"),
        ({"crop": 32, "layers": ("layer3",), "score": "top10"}, "32 pixels has only 4 patches"),
        ({"layers": ("layer3", "layer2")}, "the shallower first"),
    ],
)
def test_settings_without_meaning_together_are_wrong_use(
    fit: Callable[..., Artifact], settings: dict[str, Any], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        fit(**settings)


@pytest.mark.parametrize(
    ("value", "error", "words"),
    [(1e30, "WeightsError", "features reach .*e[+]"), (np.nan, "UsageError", "same features everywhere")],
)
def test_a_network_that_overflows_or_is_dead_is_refused(
    fit: Callable[..., Artifact], monkeypatch: pytest.MonkeyPatch, value: float, error: str, words: str
) -> None:
    from exporters.errors import WeightsError
    from exporters.weights import convert

    arrays = convert.random_backbone("resnet18", 0)
    arrays["bn1.weight"][:] = value  # MindSpore's ReLU turns NaN into zero
    monkeypatch.setattr(convert, "random_backbone", lambda *_: arrays)
    with pytest.raises({"WeightsError": WeightsError, "UsageError": UsageError}[error], match=words):
        fit(score="max")


# --- a faiss index taken over -----------------------------------------------------------------------------------------


def index_file(path: Path, rows: Float32) -> str:
    index = faiss.IndexFlatL2(rows.shape[1])
    index.add(np.ascontiguousarray(rows))
    faiss.write_index(index, str(path))
    return str(path)


def test_an_index_taken_over_is_the_bank(fit: Callable[..., Artifact], tmp_path: Path) -> None:
    rows = np.random.default_rng(0).random((40, 128)).astype(np.float32)
    file = index_file(tmp_path / "index.faiss", np.concatenate([rows, rows[:3]]))
    found = fit(bank=file, layers=("layer2",), score="max")
    np.testing.assert_array_equal(found.state()["bank"], rows)
    assert found.manifest.fit_report["bank_file"] == "index.faiss"
    assert found.manifest.thresholds.image is not None
    assert found.manifest.thresholds.image > 0


def test_an_index_of_other_features_is_refused(fit: Callable[..., Artifact], tmp_path: Path) -> None:
    file = index_file(tmp_path / "index.faiss", np.ones((4, 512), np.float32))
    with pytest.raises(
        ArtifactError, match="rows of 512 dimensions, the network's patches have 1024; choose"
    ):
        fit(bank=file)


def test_another_index_at_the_same_place_is_another_request(
    request_to_fit: FitRequest, tmp_path: Path
) -> None:
    from exporters.fit.job import fit

    rows = np.random.default_rng(0).random((40, 128)).astype(np.float32)
    file = index_file(tmp_path / "index.faiss", rows)
    settings = Patchcore(resize=72, crop=64, bank=file, layers=("layer2",), score="max")
    asked = dataclasses.replace(
        request_to_fit, detector="patchcore", settings=settings, out=tmp_path / "widget"
    )
    assert fit(asked)[1]
    assert not fit(asked)[1]
    index_file(tmp_path / "index.faiss", rows + 1)
    with pytest.raises(ArtifactError, match="fitted from another request"):
        fit(asked)


# --- the head in the graph --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["paper", "seed"])
def test_both_forms_export_with_and_without_their_head(
    request: pytest.FixtureRequest, name: str, tmp_path: Path
) -> None:
    source: Artifact = request.getfixturevalue(name)
    path = Path(shutil.copytree(source.path, tmp_path / "widget"))
    for kind in ("onnx", "mindir"):
        for head_in_graph in (False, True):
            build.export(artifact.read(path), kind, head_in_graph=head_in_graph)
    variants = {variant.id: variant for variant in artifact.read(path).manifest.variants}
    assert sorted(variants) == ["mindir-fp32", "mindir-fp32-head", "onnx-fp32", "onnx-fp32-head"]
    assert max(max(variant.agreement.values()) for variant in variants.values()) <= 1e-4
    assert set(variants["onnx-fp32-head"].agreement) == {"1", "3", "head 1", "head 3"}
    alone, whole = ((path / variants[id_].model).stat().st_size for id_ in ("onnx-fp32", "onnx-fp32-head"))
    bank = source.state()["bank"].nbytes
    assert bank < whole - alone < 2 * bank  # it is in the graph once
    weights = sum(array.nbytes for array in source.net().values())
    assert (alone < weights / 3) == (
        name == "seed"
    )  # layer 3, most of the weights, is left out where it is not read


def embedded(
    parameters: dict[str, Any], state: dict[str, AnyArray], embedding: Float32
) -> tuple[Scores, Scores]:
    """Scores by the graph's head and by numpy's, for a network that passes its input on."""
    from exporters.nets.patchcore import PatchcoreWithHead
    from exporters.runtime import mindspore as ms
    from exporters.runtime import nn

    net = nn.Identity()
    net.dimensions, net.grid = embedding.shape[1], embedding.shape[2:]
    manifest = SimpleNamespace(head=SimpleNamespace(parameters=parameters))
    given: Any = SimpleNamespace(state=lambda: state, manifest=manifest)
    maps, images = (tensor.asnumpy() for tensor in PatchcoreWithHead(net, given)(ms.Tensor(embedding)))
    expected = PatchcoreHead(parameters, state, threads=1)(embedding, {OUTPUT: embedding})
    return Scores(maps=maps, images=images), expected


@pytest.mark.parametrize("score", ["reweighted", "max", "top10"])
@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("offset", [0, 300])
def test_the_graphs_head_agrees_with_numpys(score: str, *, squared: bool, offset: int) -> None:
    random = np.random.default_rng(0)
    bank = (random.normal(size=(50, 8)) + offset).astype(np.float32)
    apart = np.linalg.norm(bank[:, None] - bank[None], axis=2)
    state = {"bank": bank, "neighbours": np.argsort(apart, axis=1)[:, :5].astype(np.int32)}
    parameters = {"grid": [4, 6], "map_size": [8, 18], "sigma": 1.0, "score": score, "squared": squared}
    parameters["half_pixel"] = not squared
    embedding = (random.normal(size=(3, 8, 4, 6)) + offset).astype(np.float32)
    got, expected = embedded(parameters, state, embedding)
    assert got.maps.shape == (3, 8, 18)
    np.testing.assert_allclose(got.maps, expected.maps, rtol=3e-5)
    np.testing.assert_allclose(got.images, expected.images, rtol=3e-5)


def test_a_bank_too_large_for_a_graph_is_refused_with_what_to_do(
    paper: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    from exporters.nets import patchcore

    needed = sum(array.nbytes for array in (*paper.net().values(), *paper.state().values()))
    monkeypatch.setattr(patchcore, "LARGEST_GRAPH", needed - 1)
    with pytest.raises(UsageError, match="export without --head-in-graph, or fit with a smaller coreset"):
        patchcore.with_head(paper)
    monkeypatch.setattr(patchcore, "LARGEST_GRAPH", needed)
    assert patchcore.with_head(paper)[1:] == ((3, 64, 64), ("map", "score"))
