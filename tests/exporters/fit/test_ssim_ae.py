from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import pytest

from harness import build, datasets, registry
from harness.build import FitRequest
from harness.detector import artifact
from harness.detector.artifact import Artifact
from harness.detector.preprocess import Colour, Preprocessor, Resize, Windows
from harness.detector.settings import SsimAe
from harness.errors import UsageError
from harness.heads.ssim_ae import OUTPUT, SEED_PROTOCOL, SsimAeHead
from harness.records.record import METRICS, Record
from harness.run import pipeline
from harness.run.job import Job
from harness.types import AnyArray, Case, Float32
from tests.conftest import write_category, write_image
from tests.exporters.nets.test_nets import conv
from tests.harness.heads.test_ssim_ae import ssim

pytestmark = pytest.mark.mindspore

SETTINGS = SsimAe(
    resize=168,
    crop=160,
    epochs=2,
    batch_size=4,
    channels=1,
    window=128,
    latent=10,
    images_per_epoch=16,
    rotate=10.0,
    flip_horizontal=0.5,
)
"""Four windows an image."""


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> FitRequest:
    """SSIM-AE for 12 images squashed to 168 and cropped to 160 pixels: two epochs of four batches of four windows."""
    folder = tmp_path_factory.mktemp("ssim")
    write_category(folder / "data" / "widget", side=80, train=12)
    return FitRequest(
        detector="ssim_ae",
        backbone="none",
        weights=None,
        dataset="data",
        category=datasets.load_category(folder / "data", "widget"),
        out=folder / "artifacts" / "ssim_ae" / "widget",
        settings=SETTINGS,
    )


@pytest.fixture(scope="module")
def trained(small: FitRequest) -> Artifact:
    """With both exports, alone and with the head."""
    from exporters.fit.job import fit

    made = fit(small)[0]
    for kind in ("onnx", "mindir"):
        build.export(made, kind)
        build.export(made, kind, head_in_graph=True)
    return artifact.read(made.path)


@pytest.fixture(scope="module")
def seeds(small: FitRequest) -> Artifact:
    """By the original scripts' protocol, after a single step."""
    from exporters.fit.job import fit

    changes: dict[str, Any] = {"epochs": 1, "images_per_epoch": 4, "threshold": 0.3, "weight_decay": 1.0}
    settings = msgspec.structs.replace(SETTINGS, protocol="seed", **changes)
    made = fit(dataclasses.replace(small, settings=settings, out=small.out.parents[1] / "seed" / "widget"))[0]
    build.export(made, "onnx", head_in_graph=True)
    return artifact.read(made.path)


def initial(channels: int, window: int, latent: int, seed: int = 0) -> dict[str, Float32]:
    from exporters.nets.ssim_ae import initial

    return initial(channels, window, latent, seed=seed)


def net(arrays: Any, window: int, *, exportable: bool) -> Any:
    from exporters.nets.ssim_ae import SsimAeNet

    return SsimAeNet(arrays, window, exportable=exportable)


def run(cell: Any, *arrays: Float32) -> Any:
    from exporters.runtime import mindspore as ms

    return cell(*(ms.Tensor(array) for array in arrays)).asnumpy()


def noise(*shape: int, seed: int = 0) -> Float32:
    return np.random.default_rng(seed).random(shape).astype(np.float32)


def lively(channels: int, window: int, latent: int) -> dict[str, Float32]:
    """Parameters whose biases do something too."""
    random = np.random.default_rng(7)
    arrays = initial(channels, window, latent)
    biases = {name: random.normal(0, 0.1, item.shape) for name, item in arrays.items() if item.ndim == 1}
    return arrays | {name: item.astype(np.float32) for name, item in biases.items()}


# --- network ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("channels", "window", "latent", "count"), [(1, 128, 100, 1_048_549), (3, 256, 500, 2_722_231)]
)
def test_it_has_as_many_parameters_as_the_original(
    channels: int, window: int, latent: int, count: int
) -> None:
    arrays = initial(channels, window, latent)
    assert sum(array.size for array in arrays.values()) == count
    trainable = net(arrays, window, exportable=False).trainable_params()
    assert sum(int(np.prod(item.shape)) for item in trainable) == count
    assert {item.name: item.shape for item in trainable} == {
        name: array.shape for name, array in arrays.items()
    }


def test_layers_follow_the_papers_table() -> None:
    from exporters.nets.ssim_ae import layers

    table = [(item.outputs, item.kernel, item.transposed) for item in layers(1, 128, 100)]
    down = [(32, 4), (32, 4), (32, 3), (64, 4), (64, 3), (128, 4), (64, 3), (32, 3), (100, 8)]
    up = [(32, 8), (64, 3), (128, 3), (64, 4), (64, 3), (32, 4), (32, 3), (32, 4), (1, 4)]
    assert table == [(*row, False) for row in down] + [(*row, row[1] != 3) for row in up]
    deeper = [(item.outputs, item.kernel) for item in layers(3, 256, 500)]
    assert deeper[:3] == [(32, 4)] * 3
    assert deeper[-3:] == [(32, 4), (32, 4), (3, 4)]


def leaky(image: AnyArray) -> AnyArray:
    return np.where(image > 0, image, 0.2 * image)


def transposed(image: AnyArray, kernels: AnyArray, stride: int, padding: int) -> AnyArray:
    """A transposed convolution by its definition: every input pixel adds its kernel to the output."""
    count, _, height, width = image.shape
    size = kernels.shape[2]
    out = np.zeros((count, kernels.shape[1], (height - 1) * stride + size, (width - 1) * stride + size))
    for y in range(height):
        for x in range(width):
            patch = np.einsum("ni,ioab->noab", image[:, :, y, x], kernels)
            out[:, :, y * stride : y * stride + size, x * stride : x * stride + size] += patch
    return out[:, :, padding : out.shape[2] - padding, padding : out.shape[3] - padding]


def reconstructed(image: AnyArray, arrays: dict[str, Float32]) -> AnyArray:
    """The network for windows of 128 pixels, layer by layer."""

    def add_bias(out: AnyArray, name: str) -> AnyArray:
        return np.asarray(out + arrays[f"{name}.bias"][:, None, None])

    for index, kernel in enumerate((4, 4, 3, 4, 3, 4, 3, 3), start=1):
        weight = arrays[f"encoder{index}.weight"].astype(np.float64)
        image = conv(image, weight)
        if kernel == 4:  # conv() pads by two pixels and goes by one
            image = image[:, :, 1:-1:2, 1:-1:2]
        image = leaky(add_bias(image, f"encoder{index}"))
    image = np.einsum("nchw,dchw->nd", image, arrays["encoder9.weight"])[:, :, None, None]
    image = add_bias(image, "encoder9")
    for index, kernel in enumerate((8, 3, 3, 4, 3, 4, 3, 4, 4), start=1):
        weight = arrays[f"decoder{index}.weight"].astype(np.float64)
        if kernel == 3:
            image = conv(image, weight)
        else:
            image = transposed(image, weight, *((2, 1) if kernel == 4 else (1, 0)))
        image = add_bias(image, f"decoder{index}")
        image = leaky(image) if index < 9 else 1 / (1 + np.exp(-image))
    return np.asarray(image)


@pytest.mark.parametrize("exportable", [False, True])
def test_it_computes_what_its_layers_do_one_by_one(exportable: bool) -> None:  # noqa: FBT001 - a parameter
    arrays = lively(1, 128, 12)
    image = noise(2, 1, 128, 128)
    found = run(net(arrays, 128, exportable=exportable), image)
    expected = reconstructed(image.astype(np.float64), arrays)
    assert found.shape == image.shape
    np.testing.assert_allclose(found, expected, atol=2e-5)
    assert expected.std() > 0.02


def test_both_forms_agree_for_colour_windows_of_256_pixels() -> None:
    arrays = lively(3, 256, 20)
    image = noise(1, 3, 256, 256)
    as_trained, as_exported = (run(net(arrays, 256, exportable=kind), image) for kind in (False, True))
    assert as_trained.shape == image.shape
    np.testing.assert_allclose(as_exported, as_trained, atol=1e-5)


def test_untrained_signals_neither_die_out_nor_grow() -> None:
    from exporters.nets.ssim_ae import layers

    arrays = initial(1, 128, 100)
    for layer in layers(1, 128, 100):
        weights = arrays[f"{layer.name}.weight"]
        fan_in = weights.size / layer.outputs
        if layer.transposed:  # each output sees a quarter of a 4 x 4 kernel, and one tap of an 8 x 8 one
            fan_in /= {4: 4, 8: 64}[layer.kernel]
        assert weights.std() == pytest.approx(np.sqrt(2 / 1.04 / fan_in), rel=0.1)
        assert not arrays[f"{layer.name}.bias"].any()


def test_untrained_parameters_follow_from_the_seed() -> None:
    first, again, other = (initial(1, 128, 10, seed) for seed in (0, 0, 1))
    for name, array in first.items():
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, again[name])
    assert (first["encoder1.weight"] != other["encoder1.weight"]).any()


# --- training ---------------------------------------------------------------------------------------------------------


def test_the_loss_is_what_the_mean_ssim_of_windows_within_the_image_lacks() -> None:
    from exporters.fit.ssim_ae import SsimLoss
    from exporters.runtime import nn

    class Dim(nn.Cell):
        def construct(self, image: Any) -> Any:
            return image * image * 0.8

    image = noise(2, 3, 24, 24)
    copy = image.astype(np.float64) ** 2 * 0.8
    inside = [
        ssim(x, y, 1.5, 1.0)[5:-5, 5:-5]
        for one, two in zip(image, copy, strict=True)
        for x, y in zip(one, two, strict=True)
    ]
    assert float(run(SsimLoss(Dim()), image)) == pytest.approx(1 - np.mean(inside), abs=1e-5)


def test_the_loss_falls(trained: Artifact, small: FitRequest) -> None:
    report = trained.manifest.fit_report["training"]
    assert report["last_loss"] < report["first_loss"] - 0.02
    assert report["parameters"] == sum(array.size for array in trained.net().values())
    assert report["epochs"] == SETTINGS.epochs
    assert small.settings == SETTINGS


def test_weights_move_as_by_adam_with_decoupled_decay_and_without_bias_correction(seeds: Artifact) -> None:
    # After one step the means are 0.1 g and 0.001 g²: their ratio is 3.16, whatever g.
    before, after, rate = initial(1, 128, 10), seeds.net(), SETTINGS.learning_rate
    moved = [before[name] - after[name] - rate * 1.0 * before[name] for name in before]
    largest = max(float(np.abs(each).max()) for each in moved)
    assert largest == pytest.approx(rate * 0.1 / np.sqrt(0.001), rel=0.01)


def test_the_artifact_says_how_images_become_windows_and_windows_a_map(trained: Artifact) -> None:
    steps = trained.manifest.preprocessing
    assert Colour(order="GREY") in steps
    assert Resize(height=168, width=168, interpolation="pyramid") in steps
    assert steps[-1] == Windows(size=128, stride=32)
    parameters = trained.manifest.head.parameters
    assert (parameters["map_size"], parameters["window"], parameters["stride"]) == ([160, 160], 128, 32)
    assert (parameters["sigma"], parameters["quantise"], parameters["border"]) == (1.5, False, 0)
    assert parameters["pixel_decisions"] == {"opening_radius": 0, "only_defective": False}
    assert trained.state() == {}
    assert trained.manifest.backbone == "none"


def test_thresholds_are_quantiles_of_the_good_residuals_held_out(
    trained: Artifact, small: FitRequest
) -> None:
    name = trained.manifest.training.held_out[0]
    ready = Preprocessor(trained.manifest.preprocessing)
    rows = ready.windows(ready.tensor(ready.frame(ready.decode(small.category.root / name))))
    assert rows.shape == (4, 1, 128, 128)
    copies = run(net(trained.net(), 128, exportable=True), rows)
    scores = SsimAeHead(trained.manifest.head.parameters, {}, threads=1)(rows, {OUTPUT: copies})
    thresholds = trained.manifest.thresholds
    assert thresholds.pixel_quantile == SETTINGS.percentile / 100
    expected = np.quantile(scores.maps, SETTINGS.percentile / 100, method="higher")
    assert thresholds.pixel == pytest.approx(float(expected), rel=1e-4)
    assert thresholds.image == pytest.approx(float(scores.images[0]), rel=1e-4)


def test_a_threshold_that_was_given_is_kept(seeds: Artifact) -> None:
    assert (seeds.manifest.thresholds.pixel, seeds.manifest.thresholds.pixel_quantile) == (0.3, None)


def test_the_seeds_protocol_is_written_into_the_head(seeds: Artifact) -> None:
    parameters = seeds.manifest.head.parameters
    wanted: dict[str, Any] = msgspec.to_builtins(SEED_PROTOCOL)
    assert {name: parameters[name] for name in wanted} == wanted


def test_training_crops_come_from_the_image_before_its_centre_is_cut_out(small: FitRequest) -> None:
    from exporters.fit.ssim_ae import resized_frames

    frames = resized_frames(small.category.train[:2], SETTINGS)
    assert frames.shape == (2, 168, 168, 1)
    pixels = cv2.imread(str(small.category.train[1].path))
    grey = cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY).astype(float)
    assert frames[1].mean() == pytest.approx(grey.mean(), abs=0.5)


def test_mixed_precision_is_refused_before_anything_is_trained(small: FitRequest) -> None:
    from exporters.fit.ssim_ae import learn

    images: Any = None
    with pytest.raises(UsageError, match="--precision mixed: SSIM-AE trains in fp32 alone"):
        learn(dataclasses.replace(small, precision="mixed"), {}, images, images)


# --- exports ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["onnx", "mindir"])
def test_exports_agree_with_the_cell_and_with_the_numpy_head(trained: Artifact, kind: str) -> None:
    variants = {variant.id: variant for variant in trained.manifest.variants}
    plain, whole = variants[f"{kind}-fp32"], variants[f"{kind}-fp32-head"]
    assert (plain.input.shape, plain.input_stage) == ((None, 1, 128, 128), "windows")
    assert [(output.name, output.shape) for output in plain.outputs] == [(OUTPUT, (None, 1, 128, 128))]
    assert (whole.input.shape, whole.input_stage) == ((None, 1, 160, 160), "layout")
    assert [(output.name, output.shape) for output in whole.outputs] == [
        ("map", (None, 160, 160)),
        ("score", (None,)),
    ]
    assert whole.agreement.keys() == {"1", "3", "head 1", "head 3"}
    assert max(*plain.agreement.values(), *whole.agreement.values()) < 2e-5


def test_the_seeds_head_fits_into_the_graph_too(seeds: Artifact) -> None:
    (variant,) = seeds.manifest.variants
    assert max(variant.agreement.values()) < 1e-4


# --- measured ---------------------------------------------------------------------------------------------------------


def measured(found: Artifact, request: FitRequest, out: Path, variant: str, *, batch: int = 3) -> Record:
    case = Case(
        detector="ssim_ae",
        backbone="none",
        category="widget",
        backend="onnxruntime-cpu",
        variant=variant,
        dataset="data",
        batch_size=batch,
    )
    chosen = next(item for item in found.manifest.variants if item.id == variant)
    job = Job(
        case=case,
        artifact=found,
        variant=chosen,
        category=request.category,
        fingerprint=datasets.fingerprint(request.category, "test"),
        out=out,
    )
    session = registry.backend("onnxruntime-cpu").open(found, chosen, threads=1)
    return pipeline.run(job, session, load_ms=0.0, advance=lambda _: None)


def test_whole_images_are_scored_alike_by_windows_and_by_the_graph_that_cuts_them(
    trained: Artifact, small: FitRequest, tmp_path: Path
) -> None:
    windows = measured(trained, small, tmp_path, "onnx-fp32")
    whole = measured(trained, small, tmp_path, "onnx-fp32-head", batch=1)
    assert [image.score for image in whole.images] == pytest.approx(
        [image.score for image in windows.images], rel=1e-4
    )
    assert whole.metrics == pytest.approx(windows.metrics, abs=1e-3)
    assert windows.images[0].stages["frame"] == whole.images[0].stages["frame"]


def test_a_record_has_decisions_beside_the_usual_metrics_and_grey_evidence(
    trained: Artifact, small: FitRequest, tmp_path: Path
) -> None:
    from harness import metrics
    from harness.records import record

    made = measured(trained, small, tmp_path, "onnx-fp32")
    assert made.metrics.keys() == {*METRICS, "pixel_ok", "pixel_nok", "pixel_acc", "pixel_auc_binary"}
    evidence = record.read_evidence(tmp_path, made)
    assert evidence is not None
    assert evidence.frames.shape == (8, 160, 160, 1)
    labels = np.array([image.label for image in made.images])
    again = metrics.decision_metrics(
        evidence.maps, evidence.masks, labels, made.thresholds.pixel, metrics.PixelDecisions()
    )
    assert again.values.items() <= made.metrics.items()


def test_a_texture_in_its_own_layout_goes_all_the_way(
    trained: Artifact, small: FitRequest, tmp_path: Path
) -> None:
    folder = tmp_path / "textures" / "widget"
    for sample in small.category.train:
        write_image(folder / "train" / sample.path.name, cv2.imread(str(sample.path)))
    for sample in small.category.test[4:]:
        write_image(folder / "test" / sample.path.name, cv2.imread(str(sample.path)))
        assert sample.mask_path is not None
        target = folder / "ground_truth" / "defective" / sample.path.name
        write_image(target, cv2.imread(str(sample.mask_path)))
    texture = dataclasses.replace(small, category=datasets.load_category(folder.parent, "widget"))
    made = measured(trained, texture, tmp_path, "onnx-fp32")
    assert [image.name for image in made.images] == [f"test/{index:03}.png" for index in range(4)]
    assert 0 < made.metrics["pixel_auroc"] < 1
    assert "image_auroc" in made.undefined
