from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from exporters.errors import WeightsError
from exporters.weights import convert
from harness import build
from harness.build import FitRequest
from harness.detector import artifact
from harness.detector.artifact import Artifact
from harness.detector.preprocess import Preprocessor
from harness.detector.settings import Fastflow
from harness.errors import UsageError
from harness.heads.fastflow import OUTPUTS
from harness.types import AnyArray, Float32

pytestmark = pytest.mark.mindspore

SETTINGS = Fastflow(resize=40, crop=32, epochs=3, batch_size=4, flow_steps=2, hidden_ratio=0.25)
GRIDS = ((64, 8), (128, 4), (256, 2))
"""Channels and side of ResNet-18's layers at 32 pixels."""


@pytest.fixture(scope="module")
def small(request_to_fit: FitRequest) -> FitRequest:
    """FastFlow for 11 images, squashed to 40 and cropped to 32 pixels: three epochs of two batches of 4."""
    out = request_to_fit.out.parents[1] / "fastflow-resnet18" / "widget"
    return dataclasses.replace(request_to_fit, detector="fastflow", settings=SETTINGS, seed=3, out=out)


@pytest.fixture(scope="module")
def trained(small: FitRequest) -> Artifact:
    from exporters.fit.job import fit

    return fit(small)[0]


def learn(request: FitRequest, out: Path) -> Any:
    """What the learner makes of it, with its checkpoints in a folder of their own."""
    from exporters.fit.job import learn

    return learn(dataclasses.replace(request, out=out))


def untrained(settings: Fastflow = SETTINGS, seed: int = 0) -> dict[str, AnyArray]:
    from exporters.nets.fastflow import initial

    return initial(
        (64, 128, 256),
        settings.crop,
        steps=settings.flow_steps,
        hidden_ratio=settings.hidden_ratio,
        only_3x3=settings.conv3x3_only,
        seed=seed,
    )


def lively(channels: tuple[int, int, int], size: int, *, steps: int, seed: int = 0) -> dict[str, AnyArray]:
    """Flows in which every parameter does something, and the couplings a lot."""
    from exporters.nets.fastflow import initial

    random = np.random.default_rng(seed)
    arrays = initial(channels, size, steps=steps, hidden_ratio=1.5, only_3x3=False, seed=seed)
    wide = {"gain": 3.0, "weight": 0.5}
    return {
        name: array
        if name.endswith("permutation")
        else np.asarray(
            array * (8 if "conv" in name else 1)
            + random.uniform(-1, 1, array.shape) * wide.get(name.rpartition(".")[2], 1.0),
            np.float32,
        )
        for name, array in arrays.items()
    }


def part(arrays: Mapping[str, AnyArray], prefix: str) -> dict[str, AnyArray]:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


# --- slow references, in float64 --------------------------------------------------------------------------------------


def convolved(image: AnyArray, arrays: Mapping[str, AnyArray], name: str) -> AnyArray:
    kernels = arrays[f"{name}.weight"].astype(np.float64)
    size = kernels.shape[2]
    padded = np.pad(image, ((0, 0), (0, 0), (size // 2,) * 2, (size // 2,) * 2))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (1, 1, size, size))[..., 0, 0, :, :]
    found = np.einsum("nchwkl,dckl->ndhw", windows, kernels, optimize=True)
    return np.asarray(found + arrays[f"{name}.bias"][:, None, None])


def subnet(kept: AnyArray, arrays: Mapping[str, AnyArray]) -> tuple[AnyArray, AnyArray]:
    """Logarithm of the factor, and shift."""
    found = 0.1 * convolved(np.maximum(convolved(kept, arrays, "conv1"), 0), arrays, "conv2")
    half = kept.shape[1]
    return 2 * np.tanh(found[:, :half]), found[:, half:]


def global_gain(arrays: Mapping[str, AnyArray]) -> AnyArray:
    """0.1 · softplus with β = 0.5."""
    return np.asarray(0.1 * np.logaddexp(0, 0.5 * arrays["gain"].astype(np.float64)) / 0.5)


def coupled(x: AnyArray, arrays: Mapping[str, AnyArray]) -> tuple[AnyArray, AnyArray]:
    kept, moved = np.split(x, 2, axis=1)
    log_factor, shift = subnet(kept, arrays)
    gain = global_gain(arrays)
    y = np.concatenate([kept, moved * np.exp(log_factor) + shift], axis=1) * gain[:, None, None]
    logdet = log_factor.sum(axis=(1, 2, 3)) + x.shape[2] * x.shape[3] * np.log(gain).sum()
    return (y + arrays["offset"][:, None, None])[:, arrays["permutation"]], logdet


def uncoupled(y: AnyArray, arrays: Mapping[str, AnyArray]) -> AnyArray:
    """The way back: the half that was kept says how the other was moved."""
    x = np.empty_like(y)
    x[:, arrays["permutation"]] = y
    x = (x - arrays["offset"][:, None, None]) / global_gain(arrays)[:, None, None]
    kept, moved = np.split(x, 2, axis=1)
    log_factor, shift = subnet(kept, arrays)
    return np.concatenate([kept, (moved - shift) / np.exp(log_factor)], axis=1)


def flowed(x: AnyArray, arrays: Mapping[str, AnyArray]) -> tuple[AnyArray, AnyArray]:
    rows = x.reshape(len(x), -1).astype(np.float64)
    normed = (rows - rows.mean(axis=1)[:, None]) / np.sqrt(rows.var(axis=1)[:, None] + 1e-5)
    z, total = normed.reshape(x.shape) * arrays["weight"] + arrays["bias"], np.zeros(len(x))
    steps = {name.split(".")[1] for name in arrays if name.startswith("couplings")}
    for step in range(len(steps)):
        z, logdet = coupled(z, part(arrays, f"couplings.{step}."))
        total += logdet
    return z, total


# --- couplings --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=[0, 1], ids=["3x3", "1x1"])
def coupling(request: pytest.FixtureRequest) -> tuple[Any, dict[str, AnyArray]]:
    """A coupling of 4 channels with 3 hidden ones, and its parameters."""
    from exporters.nets.fastflow import Coupling

    arrays = part(lively((4, 4, 4), 16, steps=2), f"flow1.couplings.{request.param}.")
    assert arrays["conv1.weight"].shape == (3, 2, *[3 - 2 * request.param] * 2)
    return Coupling(arrays), arrays


def inputs(count: int, side: int = 3) -> Float32:
    return np.random.default_rng(1).normal(size=(count, 4, side, side)).astype(np.float32)


def run(cell: Any, *arrays: Float32) -> Any:
    from exporters.runtime import mindspore as ms

    def numpy(found: Any) -> Any:
        return tuple(map(numpy, found)) if isinstance(found, tuple) else found.asnumpy()

    return numpy(cell(*map(ms.Tensor, arrays)))


def test_a_coupling_computes_what_the_slow_reference_does(coupling: tuple[Any, Any]) -> None:
    cell, arrays = coupling
    y, logdet = run(cell, inputs(5))
    expected_y, expected_logdet = coupled(inputs(5).astype(np.float64), arrays)
    np.testing.assert_allclose(y, expected_y, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(logdet, expected_logdet, rtol=1e-5, atol=1e-4)
    assert logdet.shape == (5,)
    assert expected_logdet.std() > 0.1  # the coupling does move


def test_a_couplings_logdet_is_that_of_its_jacobian(coupling: tuple[Any, Any]) -> None:
    from exporters.runtime import mindspore as ms
    from exporters.runtime import ops

    cell, _ = coupling
    rows = np.repeat(inputs(1), 36, axis=0)
    directions = np.eye(36, dtype=np.float32).reshape(rows.shape)

    def projected(x: ms.Tensor, direction: ms.Tensor) -> ms.Tensor:
        return (cell(x)[0] * direction).sum()

    jacobian = ops.grad(projected)(ms.Tensor(rows), ms.Tensor(directions)).asnumpy().reshape(36, 36)
    _, expected = np.linalg.slogdet(jacobian.astype(np.float64))
    assert run(cell, inputs(1))[1][0] == pytest.approx(expected, abs=1e-4)
    assert abs(expected) > 0.5


def test_a_coupling_can_be_undone(coupling: tuple[Any, Any]) -> None:
    cell, arrays = coupling
    y, _ = run(cell, inputs(5))
    np.testing.assert_allclose(uncoupled(y.astype(np.float64), arrays), inputs(5), atol=1e-4)


@pytest.mark.parametrize("reach", [1e3, -1e3])
def test_a_coupling_scales_by_e_squared_at_most(reach: float) -> None:
    from exporters.nets.fastflow import Coupling

    arrays = {name: 0 * array for name, array in part(untrained(), "flow1.couplings.0.").items()}
    arrays |= {
        name: array for name, array in part(untrained(), "flow1.couplings.0.").items() if name == "gain"
    }
    arrays["permutation"] = np.arange(64, dtype=np.int32)
    arrays["conv2.bias"] = np.array([reach] * 32 + [0] * 32, np.float32)
    y, logdet = run(Coupling(arrays), np.ones((1, 64, 3, 3), np.float32))
    np.testing.assert_allclose(y[:, :32], 1, rtol=1e-5)
    np.testing.assert_allclose(y[:, 32:], np.exp(2 * np.sign(reach)), rtol=1e-5)
    assert logdet[0] == pytest.approx(32 * 9 * 2 * np.sign(reach), rel=1e-5)


# --- flows ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def flows() -> tuple[Any, dict[str, AnyArray]]:
    """Flows of three couplings over layers of 4, 6 and 8 channels for 16 pixels a side."""
    from exporters.nets.fastflow import Flows

    arrays = lively((4, 6, 8), 16, steps=3)
    return Flows(arrays), arrays


def features(scale: float = 1.0) -> list[Float32]:
    """Of three images, positive as after a ReLU."""
    random = np.random.default_rng(2)
    shapes = ((3, 4, 4, 4), (3, 6, 2, 2), (3, 8, 1, 1))
    return [(scale * random.exponential(1, shape)).astype(np.float32) for shape in shapes]


@pytest.mark.parametrize("scale", [1.0, 3e-3])
def test_flows_normalise_each_layer_and_couple(flows: tuple[Any, Any], scale: float) -> None:
    cell, arrays = flows
    latent, logdet = run(cell, *features(scale))
    expected = [
        flowed(layer, part(arrays, f"flow{number}.")) for number, layer in enumerate(features(scale), start=1)
    ]
    for z, (wanted, _) in zip(latent, expected, strict=True):
        np.testing.assert_allclose(z, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())
    np.testing.assert_allclose(logdet, sum(item for _, item in expected), rtol=1e-5)


def test_the_loss_is_the_mean_negative_log_likelihood(flows: tuple[Any, Any]) -> None:
    from exporters.fit.fastflow import FlowLoss

    cell, arrays = flows
    rows = np.concatenate([layer.reshape(3, -1) for layer in features()], axis=1)
    expected = 0.0
    for number, layer in enumerate(features(), start=1):
        z, logdet = flowed(layer, part(arrays, f"flow{number}."))
        expected += np.mean(0.5 * (z**2).sum(axis=(1, 2, 3)) - logdet)
    assert run(FlowLoss(cell), rows) == pytest.approx(expected, rel=1e-5)
    assert {item.name for item in cell.get_parameters()} == arrays.keys()  # the loss renames none


def test_a_large_layer_is_normalised_as_exactly_by_onnxruntime(tmp_path: Path) -> None:
    import onnxruntime

    from exporters.nets.fastflow import Flow, initial
    from exporters.runtime import mindspore as ms

    arrays = part(initial((64,) * 3, 256, steps=1, hidden_ratio=0.1, only_3x3=True, seed=0), "flow1.")
    random = np.random.default_rng(0)
    layer = random.exponential(1, (1, 64, 64, 64)) * (random.random((1, 64, 64, 64)) < 0.2)
    layer = layer.astype(np.float32)  # many equal numbers, whose rounding errors do not cancel
    path = tmp_path / "flow.onnx"
    ms.export(Flow(arrays), ms.Tensor(layer), file_name=str(path), file_format="ONNX")
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    z = session.run(None, {session.get_inputs()[0].name: layer})[0]
    expected, _ = flowed(layer, arrays)
    assert np.abs(z - expected).max() < 5e-6 * np.abs(expected).max()


# --- untrained --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("channels", "settings", "count"),
    [
        ((64, 128, 256), Fastflow(conv3x3_only=True), 5_570_000),
        ((256, 512, 1024), Fastflow(), 45_010_000),
    ],
)
def test_flows_have_as_many_parameters_as_the_originals(
    channels: tuple[int, int, int], settings: Fastflow, count: int
) -> None:
    from exporters.nets.fastflow import initial

    arrays = initial(channels, 256, steps=8, hidden_ratio=1.0, only_3x3=settings.conv3x3_only, seed=0)
    found = sum(array.size for name, array in arrays.items() if not name.endswith("permutation"))
    assert found == pytest.approx(count, abs=5000)


def test_untrained_convolutions_are_uniform_within_one_over_the_root_of_fan_in() -> None:
    for name, array in untrained(Fastflow(crop=32)).items():
        if array.ndim == 4:
            bound = 1 / np.sqrt(np.prod(array.shape[1:]))
            assert bound * 0.99 < np.abs(array).max() <= bound, name
            assert array.std() == pytest.approx(bound / np.sqrt(3), rel=0.03), name
            assert abs(array.mean()) < 4 * array.std() / np.sqrt(array.size)
        elif name.endswith(("conv1.bias", "conv2.bias", "offset")):
            assert not array.any()


@pytest.mark.parametrize("only_3x3", [False, True])
def test_kernels_take_turns_unless_all_are_3x3(*, only_3x3: bool) -> None:
    arrays = untrained(Fastflow(crop=32, flow_steps=5, conv3x3_only=only_3x3))
    for layer, (channels, side) in enumerate(GRIDS, start=1):
        assert arrays[f"flow{layer}.weight"].shape == (channels, side, side)
        for step in range(5):
            kernel = 3 if only_3x3 or step in {0, 2, 4} else 1
            name, half = f"flow{layer}.couplings.{step}", channels // 2
            assert arrays[f"{name}.conv1.weight"].shape == (half, half, kernel, kernel)
            assert arrays[f"{name}.conv2.weight"].shape == (channels, half, kernel, kernel)
        assert f"flow{layer}.couplings.5.gain" not in arrays


def test_an_untrained_flow_without_its_convolutions_only_normalises_and_permutes() -> None:
    from exporters.nets.fastflow import Flow

    arrays = {
        name: 0 * array if "conv" in name else array for name, array in part(untrained(), "flow3.").items()
    }
    layer = np.random.default_rng(0).exponential(1, (2, 256, 2, 2)).astype(np.float32)
    z, logdet = run(Flow(arrays), layer)
    expected = (layer - layer.mean(axis=(1, 2, 3), keepdims=True)) / layer.std(axis=(1, 2, 3), keepdims=True)
    for step in range(2):
        expected = expected[:, arrays[f"couplings.{step}.permutation"]]
    np.testing.assert_allclose(z, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(logdet, 0, atol=0.01)  # of 2048 factors


def test_every_coupling_has_a_permutation_of_its_own_drawn_from_the_seed() -> None:
    drawn = {name: array for name, array in untrained().items() if name.endswith("permutation")}
    for name, array in drawn.items():
        assert array.dtype == np.int32
        assert sorted(array) == list(range(len(array)))
        assert np.array_equal(array, untrained()[name])
        assert not np.array_equal(array, untrained(seed=1)[name])
    for layer in (1, 2, 3):
        first, second = (drawn[f"flow{layer}.couplings.{step}.permutation"] for step in (0, 1))
        assert not np.array_equal(first, second)


# --- training ---------------------------------------------------------------------------------------------------------


def test_adam_decays_every_parameter_in_the_gradient() -> None:
    from exporters.fit.fastflow import optimiser
    from exporters.nets.fastflow import Flows
    from exporters.runtime import mindspore as ms

    random = np.random.default_rng(4)
    flows = Flows(lively((4, 4, 4), 16, steps=1))
    stepper = optimiser(flows, Fastflow(learning_rate=0.02, weight_decay=0.7))
    trainable = flows.trainable_params()
    values = [item.asnumpy().astype(np.float64) for item in trainable]
    first, second = ([np.zeros_like(value) for value in values] for _ in range(2))
    for step in (1, 2, 3):
        gradients = [random.normal(size=value.shape).astype(np.float32) for value in values]
        stepper(tuple(ms.Tensor(gradient) for gradient in gradients))
        for index, gradient in enumerate(gradients):
            decayed = gradient + 0.7 * values[index]
            first[index] = 0.9 * first[index] + 0.1 * decayed
            second[index] = 0.999 * second[index] + 0.001 * decayed**2
            rate = 0.02 * np.sqrt(1 - 0.999**step) / (1 - 0.9**step)
            values[index] = values[index] - rate * first[index] / (np.sqrt(second[index]) + 1e-8)
    for item, value in zip(trainable, values, strict=True):
        np.testing.assert_allclose(item.asnumpy(), value, rtol=1e-4, atol=1e-5, err_msg=item.name)
    assert len(trainable) == 3 * (2 + 6)


def test_training_moves_the_flows_and_leaves_backbone_and_permutations(
    trained: Artifact, small: FitRequest
) -> None:
    found = trained.net()
    backbone = convert.random_backbone("resnet18", small.seed)
    equal(part(found, "backbone."), backbone)
    start = untrained(seed=small.seed)
    assert part(found, "flow").keys() == part(start, "flow").keys()
    assert len(found) == len(backbone) + len(start)
    for name, array in start.items():
        assert np.array_equal(found[name], array) is name.endswith("permutation"), name
        assert np.isfinite(found[name]).all()


def test_the_loss_falls_and_an_equal_request_gives_equal_bits(
    trained: Artifact, small: FitRequest, tmp_path: Path
) -> None:
    again = learn(small, tmp_path / "again")
    losses, unseen = again.training.losses, again.training.unseen_losses
    assert len(losses) == 6  # 11 images: two batches of 4 an epoch, three images left out
    assert np.mean(losses[-2:]) < 0.98 * np.mean(losses[:2])
    assert unseen[2] < unseen[1] < unseen[0]
    equal(again.net, trained.net())


def equal(got: Mapping[str, AnyArray], expected: Mapping[str, AnyArray]) -> None:
    assert got.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(got[name], array)


@pytest.mark.parametrize(("batch_size", "rows"), [(4, (4, 4)), (10, (10,)), (11, (11,)), (32, (11,))])
def test_every_epoch_shows_whole_batches_of_different_images(batch_size: int, rows: tuple[int, ...]) -> None:
    from exporters.fit.fastflow import _task
    from exporters.nets.fastflow import Flows

    features, unseen = np.arange(22, dtype=np.float32).reshape(11, 2), np.zeros((1, 2), np.float32)
    flows = Flows(lively((4, 4, 4), 16, steps=1))
    task = _task(flows, Fastflow(batch_size=batch_size), features, unseen, seed=2)
    shown = [[task.batch(epoch, step) for step in range(task.steps)] for epoch in (0, 1)]
    for batches in shown:
        assert tuple(len(batch) for batch in batches) == rows
        images = np.concatenate(batches)[:, 0]
        assert len(set(images.tolist())) == len(images)
    assert not np.array_equal(np.concatenate(shown[0]), np.concatenate(shown[1]))
    assert task.unseen is unseen
    assert not task.summed


def test_rows_are_the_backbones_features_layer_after_layer(small: FitRequest) -> None:
    from exporters.fit.fastflow import _features
    from exporters.fit.job import preprocessing
    from exporters.nets.fastflow import frozen
    from harness.contracts import Images

    images = Images(samples=small.category.train[:10], preprocessor=Preprocessor(preprocessing(SETTINGS)))
    backbone = frozen("resnet18", convert.random_backbone("resnet18", 0))
    rows = _features(backbone, images)
    assert rows.dtype == np.float32
    assert rows.shape == (10, 64 * 64 + 128 * 16 + 256 * 4)
    expected = [layer.reshape(10, -1) for layer in run(backbone, images.tensors())]
    np.testing.assert_allclose(rows, np.concatenate(expected, axis=1), rtol=1e-4, atol=1e-5)


def test_another_seeds_training_can_start_from_an_artifact(trained: Artifact) -> None:
    from exporters.fit.fastflow import optimiser
    from exporters.nets.fastflow import Flows
    from exporters.nets.resnet import arrays_of
    from exporters.train.initialisation import take_over

    flows = Flows(untrained(seed=5))
    take_over(trained.path / artifact.NET, flows, optimiser(flows, SETTINGS))
    equal(part(arrays_of(flows), "flow"), part(trained.net(), "flow"))


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"crop": 40}, "--crop 40: FastFlow needs a multiple of 16"),
        ({"hidden_ratio": 0.0312}, r"hidden_ratio 0.0312 leaves .* no hidden channel: give at least 0.03125"),
    ],
)
def test_settings_no_flow_can_have_are_wrong_use(
    small: FitRequest, tmp_path: Path, changes: dict[str, Any], what: str
) -> None:
    settings = msgspec.structs.replace(SETTINGS, **changes)
    with pytest.raises(UsageError, match=what):
        learn(dataclasses.replace(small, settings=settings), tmp_path / "none")


def test_a_single_hidden_channel_is_enough() -> None:
    from exporters.fit.fastflow import _start

    arrays = _start(msgspec.structs.replace(SETTINGS, hidden_ratio=1 / 32), (64, 128, 256), 0)
    hidden = [len(arrays[f"flow{layer}.couplings.0.conv1.weight"]) for layer in (1, 2, 3)]
    assert hidden == [1, 2, 4]


# --- network and export -----------------------------------------------------------------------------------------------


def test_the_artifact_gives_back_what_was_learnt(trained: Artifact) -> None:
    from exporters.nets.fastflow import Flows, from_artifact, frozen

    net, shape, names = from_artifact(trained)
    assert (shape, names) == ((3, 32, 32), OUTPUTS)
    images = np.random.default_rng(4).normal(size=(3, *shape)).astype(np.float32)
    backbone = frozen("resnet18", part(trained.net(), "backbone."))
    expected, _ = run(Flows(trained.net()), *run(backbone, images))
    for z, wanted, (channels, side) in zip(run(net, images), expected, GRIDS, strict=True):
        assert z.shape == (3, channels, side, side)
        np.testing.assert_allclose(z, wanted, rtol=1e-4, atol=1e-5)
    assert trained.manifest.head.parameters == {"map_size": [32, 32]}
    image, pixel = trained.manifest.thresholds.image, trained.manifest.thresholds.pixel
    assert image is not None
    assert pixel is not None
    assert -1 < pixel <= image < 0


def test_the_backbone_stays_in_inference_mode(trained: Artifact) -> None:
    from exporters.nets.fastflow import from_artifact
    from exporters.nets.resnet import arrays_of

    net, shape, _ = from_artifact(trained)
    training = from_artifact(trained)[0].set_train(mode=True)  # before its first call: a graph is kept
    images = np.random.default_rng(4).normal(size=(3, *shape)).astype(np.float32)
    for z, expected in zip(run(training, images), run(net, images), strict=True):
        np.testing.assert_array_equal(z, expected)
    equal(arrays_of(training), arrays_of(net))


def test_a_wide_backbone_has_flows_too() -> None:
    from exporters.nets.fastflow import FastflowNet, Flows, frozen, initial

    net = frozen("wide_resnet50_2", convert.random_backbone("wide_resnet50_2", 0))
    flows = Flows(initial(net.channels, 32, steps=1, hidden_ratio=0.01, only_3x3=False, seed=0))
    images = np.random.default_rng(4).normal(size=(1, 3, 32, 32)).astype(np.float32)
    found = run(FastflowNet(net, flows), images)
    assert [z.shape for z in found] == [(1, 256, 8, 8), (1, 512, 4, 4), (1, 1024, 2, 2)]
    for z in found:
        assert z.std() == pytest.approx(1, rel=0.1)


def test_weights_of_another_backbone_are_refused() -> None:
    from exporters.nets.fastflow import frozen

    with pytest.raises(WeightsError, match="is of shape"):
        frozen("wide_resnet50_2", convert.random_backbone("resnet18", 0))


@pytest.mark.parametrize("kind", ["onnx", "mindir"])
def test_exports_agree_with_the_cell_and_with_the_numpy_head(trained: Artifact, kind: str) -> None:
    plain = build.export(trained, kind)
    assert [(output.name, output.shape) for output in plain.outputs] == [
        (name, (None, channels, side, side)) for name, (channels, side) in zip(OUTPUTS, GRIDS, strict=True)
    ]
    assert set(plain.agreement) == {"1", "3"}
    whole = build.export(artifact.read(trained.path), kind, head_in_graph=True)
    assert [(output.name, output.shape) for output in whole.outputs] == [
        ("map", (None, 32, 32)),
        ("score", (None,)),
    ]
    assert set(whole.agreement) == {"1", "3", "head 1", "head 3"}
    assert max(*plain.agreement.values(), *whole.agreement.values()) < 2e-5
