from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from exporters.errors import WeightsError
from exporters.weights import backbones, convert
from harness import build
from harness.build import FitRequest
from harness.detector import artifact
from harness.detector.artifact import Artifact
from harness.detector.preprocess import Preprocessor
from harness.detector.settings import Stpm
from harness.errors import UsageError
from harness.heads.stpm import STUDENT, TEACHER, StpmHead
from harness.types import AnyArray, Float32

pytestmark = pytest.mark.mindspore

OUTPUTS = (*STUDENT, *TEACHER)
SETTINGS = Stpm(resize=40, crop=37, epochs=3, batch_size=4)
"""No stride divides the crop."""


@pytest.fixture(scope="module")
def small(request_to_fit: FitRequest) -> FitRequest:
    """STPM for 12 images squashed to 40 and cropped to 37 pixels: three epochs of batches of 4, 4 and 3."""
    out = request_to_fit.out.parents[1] / "stpm-resnet18" / "widget"
    return dataclasses.replace(request_to_fit, detector="stpm", settings=SETTINGS, out=out)


@pytest.fixture(scope="module")
def trained(small: FitRequest) -> Artifact:
    from exporters.fit.job import fit

    return fit(small)[0]


@pytest.fixture(scope="module")
def trained_as_seed(small: FitRequest) -> Artifact:
    """By the original scripts' protocol, in a single step."""
    from exporters.fit.job import fit

    settings = msgspec.structs.replace(SETTINGS, protocol="seed", epochs=1, batch_size=32)
    out = small.out.parents[1] / "stpm-seed" / "widget"
    return fit(dataclasses.replace(small, settings=settings, out=out))[0]


@pytest.fixture(scope="module")
def images() -> Float32:
    return np.random.default_rng(4).normal(size=(3, 3, 32, 32)).astype(np.float32)


def learn(request: FitRequest, out: Path) -> Any:
    """What the learner makes of it, with its checkpoints in a folder of their own."""
    from exporters.fit.job import learn

    return learn(dataclasses.replace(request, out=out))


def lively_net(protocol: str, seed: int = 0, **changes: float) -> Any:
    """An STPM network whose batch norms all do something; `changes` are added to arrays by their last name."""
    from exporters.nets.resnet import load
    from exporters.nets.stpm import StpmNet

    net = StpmNet("resnet18", protocol)
    load(net, lively(seed, **changes), prefix="")
    return net


def lively(seed: int, **changes: float) -> dict[str, AnyArray]:
    random = np.random.default_rng(seed)
    made: dict[str, AnyArray] = {}
    for network in ("student", "teacher"):
        for name, shape in backbones.expected_parameters("resnet18").items():
            values = (
                random.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape)
                if len(shape) == 4
                else random.uniform(0.2, 0.4, shape)
            )
            change = changes.get(name.rpartition(".")[2], 0.0) if _in_block(name) else 0.0
            made[f"{network}.{name}"] = (values + change).astype(np.float32)
    return made


def _in_block(name: str) -> bool:
    return name.startswith("layer") and "downsample" not in name


def run(net: Any, images: Float32) -> dict[str, AnyArray]:
    from exporters.runtime import mindspore as ms

    return dict(zip(OUTPUTS, (tensor.asnumpy() for tensor in net(ms.Tensor(images))), strict=True))


def half_squared(student: AnyArray, teacher: AnyArray, smallest: float) -> AnyArray:
    def unit(features: AnyArray) -> AnyArray:
        exact = features.astype(np.float64)
        return np.asarray(exact / np.sqrt(np.maximum((exact**2).sum(axis=1, keepdims=True), smallest)))

    return np.asarray(0.5 * ((unit(student) - unit(teacher)) ** 2).sum(axis=1))


# --- network ----------------------------------------------------------------------------------------------------------


def test_the_outputs_are_both_networks_features(images: Float32) -> None:
    from exporters.nets.resnet import ResNetFeatures, load
    from exporters.runtime import mindspore as ms

    found = run(lively_net("standard"), images)
    for network in ("student", "teacher"):
        alone = ResNetFeatures("resnet18")
        own = {
            name.removeprefix(f"{network}."): array
            for name, array in lively(0).items()
            if name.startswith(network)
        }
        load(alone, own)
        for layer, expected in enumerate(alone(ms.Tensor(images)), start=1):
            np.testing.assert_array_equal(found[f"{network}{layer}"], expected.asnumpy())
    assert [found[name].shape for name in STUDENT] == [(3, 64, 8, 8), (3, 128, 4, 4), (3, 256, 2, 2)]
    assert not np.allclose(found["student1"], found["teacher1"])


def test_in_training_the_student_uses_the_batchs_statistics_and_the_teacher_its_own(images: Float32) -> None:
    from exporters.nets.resnet import arrays_of

    net = lively_net("standard")
    before = run(net, images)
    net.set_train(mode=True)
    training = run(net, images)
    for student, teacher in zip(STUDENT, TEACHER, strict=True):
        np.testing.assert_array_equal(training[teacher], before[teacher])
        assert np.abs(training[student] - before[student]).max() > 0.1
    given, after = lively(0), arrays_of(net)
    changed = {name for name, array in after.items() if not np.array_equal(array, given[name])}
    assert changed == {name for name in given if name.startswith("student.") and "running" in name}


def test_running_statistics_move_by_a_tenth_of_the_way(images: Float32) -> None:
    from exporters.nets.resnet import arrays_of
    from exporters.runtime import mindspore as ms
    from exporters.runtime import ops

    net = lively_net("standard").set_train(mode=True)
    run(net, images)
    given, after = lively(0), arrays_of(net)
    kernels = ms.Tensor(given["student.conv1.weight"])
    stem = ops.conv2d(ms.Tensor(images), kernels, stride=2, pad_mode="pad", padding=3).asnumpy()
    for name, statistic in (
        ("running_mean", stem.mean(axis=(0, 2, 3))),
        ("running_var", stem.var(axis=(0, 2, 3), ddof=1)),
    ):
        expected = 0.9 * given[f"student.bn1.{name}"] + 0.1 * statistic
        np.testing.assert_allclose(after[f"student.bn1.{name}"], expected, rtol=2e-4, atol=1e-5)


def test_the_seeds_outer_norms_keep_a_tenth_and_its_blocks_nine_tenths(images: Float32) -> None:
    from exporters.nets.resnet import arrays_of

    moved = {}
    given = lively(0)
    for protocol in ("standard", "seed"):
        net = lively_net(protocol).set_train(mode=True)
        run(net, images)
        moved[protocol] = {
            name: float(np.linalg.norm(array - given[name]))
            for name, array in arrays_of(net).items()
            if name.startswith("student.") and name.endswith("running_mean")
        }
    for name, distance in moved["standard"].items():
        times = 1 if _in_block(name.removeprefix("student.")) else 9
        assert moved["seed"][name] == pytest.approx(times * distance, rel=0.01), name


def test_the_seeds_block_norms_have_an_epsilon_of_1e_4(images: Float32) -> None:
    seed = run(lively_net("seed", running_var=-0.19), images)
    standard = run(lively_net("standard", running_var=-0.19 + 9e-5), images)
    other = run(lively_net("standard", running_var=-0.19), images)
    for name in OUTPUTS:
        largest = float(np.abs(seed[name]).max())
        np.testing.assert_allclose(seed[name], standard[name], rtol=0, atol=1e-5 * largest)
        assert np.abs(seed[name] - other[name]).max() > 1e-4 * largest


@pytest.mark.parametrize("backbone", ["resnet18", "wide_resnet50_2"])
def test_an_untrained_student_is_kaiming_normal_by_fan_out(backbone: str) -> None:
    from exporters.nets.resnet import arrays_of, load
    from exporters.nets.stpm import StpmNet, initial_student

    arrays = initial_student(backbone, 0)
    for name, array in arrays.items():
        if array.ndim == 4:
            outputs, _, height, width = array.shape
            assert array.std() == pytest.approx(np.sqrt(2 / (outputs * height * width)), rel=0.05), name
            assert abs(array.mean()) < 4 * array.std() / np.sqrt(array.size)
        else:
            assert set(array.tolist()) == {1.0 if name.endswith(("weight", "var")) else 0.0}
    net = StpmNet(backbone, "standard")
    load(net.student, arrays, prefix="student.")
    loaded = arrays_of(net.student)
    assert sorted(loaded) == sorted(f"student.{name}" for name in arrays)
    np.testing.assert_array_equal(loaded["student.conv1.weight"], arrays["conv1.weight"])


def test_an_untrained_student_is_not_the_untrained_teacher_of_its_seed() -> None:
    from exporters.nets.stpm import initial_student

    student, teacher = (make("resnet18", 5) for make in (initial_student, convert.random_backbone))
    for name, array in student.items():
        if array.ndim == 4:
            correlation = np.corrcoef(array.ravel(), teacher[name].ravel())[0, 1]
            assert abs(correlation) < 5 / np.sqrt(array.size), name
    again, other = initial_student("resnet18", 5), initial_student("resnet18", 6)
    np.testing.assert_array_equal(again["conv1.weight"], student["conv1.weight"])
    assert not np.array_equal(other["conv1.weight"], student["conv1.weight"])


# --- loss and optimiser -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("protocol", "smallest"), [("standard", 1e-12), ("seed", 1e-4)])
def test_the_loss_is_half_the_squared_distance_summed_over_layers(
    images: Float32, protocol: str, smallest: float
) -> None:
    from exporters.nets.stpm import StpmLoss
    from exporters.runtime import mindspore as ms

    net = lively_net(protocol)
    names = [parameter.name for parameter in net.get_parameters()]
    loss = StpmLoss(net, protocol)
    assert [parameter.name for parameter in net.get_parameters()] == names
    in_inference = float(loss(ms.Tensor(images)).asnumpy())
    loss.set_train(mode=True)
    found = run(net, images)
    distances = [half_squared(found[s], found[t], smallest) for s, t in zip(STUDENT, TEACHER, strict=True)]
    rows = [sum(layer[row].mean() for layer in distances) for row in range(3)]  # 1 / (H W) of each layer
    got = float(loss(ms.Tensor(images)).asnumpy())
    assert got == pytest.approx(np.mean(rows), rel=1e-5)
    assert len({round(row, 3) for row in rows}) == 3
    assert abs(in_inference - got) > 0.01


@pytest.mark.parametrize(("protocol", "smallest"), [("standard", 1e-12), ("seed", 1e-4)])
def test_the_distance_of_short_vectors_follows_the_protocol(protocol: str, smallest: float) -> None:
    from exporters.nets.stpm import HalfSquaredDistance
    from exporters.runtime import mindspore as ms

    random = np.random.default_rng(0)
    scales = np.array([1e-3, 1e-2, 1, 100])
    student, teacher = (
        (np.abs(random.normal(size=(2, 5, 2, 2))) * scales.reshape(2, 2)).astype(np.float32) for _ in range(2)
    )
    student[0, :, 0, 0] = 0
    got = HalfSquaredDistance(protocol)(ms.Tensor(student), ms.Tensor(teacher)).asnumpy()
    np.testing.assert_allclose(got, half_squared(student, teacher, smallest), rtol=2e-5)


def test_no_gradient_reaches_the_teacher(images: Float32) -> None:
    from exporters.fit.stpm import optimiser
    from exporters.nets.stpm import StpmLoss
    from exporters.runtime import mindspore as ms

    net = lively_net("standard")
    assert [parameter.name for parameter in net.trainable_params()] == [
        parameter.name for parameter in net.student.trainable_params()
    ]
    step = optimiser(net.student, SETTINGS)
    assert {parameter.name.partition(".")[0] for parameter in step.parameters} == {"student"}
    loss = StpmLoss(net, "standard").set_train(mode=True)

    def forward(image: Any) -> Any:
        return loss(image)

    kernels = net.teacher.conv1.weight, net.student.conv1.weight
    _, (teacher, student) = ms.value_and_grad(forward, None, ms.ParameterTuple(kernels))(ms.Tensor(images))
    assert (teacher.asnumpy() == 0).all()
    assert np.abs(student.asnumpy()).max() > 0


@pytest.mark.parametrize("momentum", [0.9, 0.0])
def test_the_optimiser_is_nesterovs_with_weight_decay_on_every_parameter(momentum: float) -> None:
    from exporters.fit.stpm import optimiser
    from exporters.runtime import mindspore as ms
    from exporters.runtime import nn

    student = nn.SequentialCell(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3))
    values = {parameter.name: parameter.asnumpy().copy() for parameter in student.trainable_params()}
    assert sorted(values) == ["0.weight", "1.beta", "1.gamma"]
    random = np.random.default_rng(0)
    velocity = dict.fromkeys(values, np.float64(0))
    settings = Stpm(learning_rate=0.4, weight_decay=0.1, momentum=momentum)
    step = optimiser(student, settings)
    for _ in range(3):
        gradients = {
            parameter.name: random.normal(size=parameter.shape).astype(np.float32)
            for parameter in step.parameters
        }
        step(tuple(ms.Tensor(gradients[parameter.name]) for parameter in step.parameters))
        for name, gradient in gradients.items():
            decayed = gradient + 0.1 * values[name]
            velocity[name] = momentum * velocity[name] + decayed
            values[name] = values[name] - 0.4 * (decayed + momentum * velocity[name])
    for parameter in student.trainable_params():
        np.testing.assert_allclose(parameter.asnumpy(), values[parameter.name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("batch_size", "rows"), [(4, (4, 4, 3)), (10, (10, 1)), (11, (11,)), (32, (11,))])
def test_every_epoch_shows_every_image_once(batch_size: int, rows: tuple[int, ...]) -> None:
    from exporters.fit.stpm import _task

    tensors = np.arange(11, dtype=np.float32).reshape(11, 1, 1, 1) * np.ones((1, 3, 32, 32), np.float32)
    net, settings = lively_net("standard"), Stpm(batch_size=batch_size)
    tasks = [_task(net, settings, tensors, tensors[:1], seed=seed) for seed in (2, 3)]
    shown = [
        [task.batch(epoch, step) for step in range(task.steps)]
        for task, epoch in ((tasks[0], 0), (tasks[0], 1), (tasks[1], 0))
    ]
    for batches in shown:
        assert tuple(len(batch) for batch in batches) == rows
        assert all(batch.dtype == np.float32 and batch.flags.c_contiguous for batch in batches)
        assert sorted(np.concatenate(batches)[:, 0, 0, 0].tolist()) == list(range(11))
    assert len({np.concatenate(batches).tobytes() for batches in shown}) == 3


def test_only_the_seeds_protocol_sums_over_the_batch() -> None:
    from exporters.fit.stpm import _task

    tensors = np.zeros((2, 3, 32, 32), np.float32)
    for protocol, summed in (("standard", False), ("seed", True)):
        settings = msgspec.structs.replace(SETTINGS, protocol=protocol)
        task = _task(lively_net(protocol), settings, tensors, tensors, seed=0)
        assert task.summed is summed


# --- fit and export ---------------------------------------------------------------------------------------------------


def test_training_moves_the_student_alone_and_lowers_the_loss(trained: Artifact, small: FitRequest) -> None:
    from exporters.nets.stpm import initial_student

    found = trained.net()
    for name, array in convert.random_backbone("resnet18", small.seed).items():
        np.testing.assert_array_equal(found[f"teacher.{name}"], array)
    for name, array in initial_student("resnet18", small.seed).items():
        assert not np.array_equal(found[f"student.{name}"], array), name
        assert np.isfinite(found[f"student.{name}"]).all()
    assert len(found) == 2 * len(backbones.expected_parameters("resnet18"))


def test_the_loss_falls_and_an_equal_request_gives_equal_bits(
    trained: Artifact, small: FitRequest, tmp_path: Path
) -> None:
    again = learn(small, tmp_path / "again")
    losses = again.training.losses
    assert len(losses) == 9
    assert np.mean(losses[-3:]) < 0.8 * np.mean(losses[:3])
    assert again.report["steps_per_epoch"] == 3
    equal(again.net, trained.net())


def equal(got: Mapping[str, AnyArray], expected: Mapping[str, AnyArray]) -> None:
    assert got.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(got[name], array)


def test_the_artifact_gives_back_what_was_learnt(trained: Artifact, images: Float32) -> None:
    from exporters.nets.resnet import arrays_of
    from exporters.nets.stpm import from_artifact

    net, shape, names = from_artifact(trained)
    assert (shape, names) == ((3, 37, 37), OUTPUTS)
    equal(arrays_of(net), trained.net())
    assert trained.manifest.head.parameters == {
        "protocol": "standard",
        "grids": [[10, 10], [5, 5], [3, 3]],
        "map_size": [37, 37],
    }
    found = run(net, np.pad(images, ((0, 0), (0, 0), (0, 5), (0, 5))))
    assert [[*found[name].shape[2:]] for name in STUDENT] == trained.manifest.head.parameters["grids"]
    image, pixel = trained.manifest.thresholds.image, trained.manifest.thresholds.pixel
    assert image is not None
    assert pixel is not None
    assert 0 < pixel <= image < 1


def test_a_rebuilt_detector_scores_as_the_fitted_one_did(
    trained: Artifact, trained_as_seed: Artifact, small: FitRequest
) -> None:
    from exporters.nets.stpm import from_artifact

    for found in (trained, trained_as_seed):
        ready = Preprocessor(found.manifest.preprocessing)
        (held_out,) = found.manifest.training.held_out
        batch = ready.tensor(ready.frame(ready.decode(small.category.root / held_out)))[None]
        head = StpmHead(found.manifest.head.parameters, {}, threads=1)
        score = head(batch, run(from_artifact(found)[0], batch)).images[0]
        assert found.manifest.thresholds.image == pytest.approx(float(score), rel=1e-6)


def test_the_seeds_protocol_holds_from_training_to_head(
    trained_as_seed: Artifact, small: FitRequest, tmp_path: Path
) -> None:
    """One step on the sum over eleven images is one on their mean with eleven times the learning rate."""
    assert trained_as_seed.manifest.head.parameters["protocol"] == "seed"
    by_sum = trained_as_seed.net()
    moving = by_sum["student.bn1.running_var"], by_sum["student.layer1.0.bn1.running_var"]
    settings = msgspec.structs.replace(SETTINGS, epochs=1, batch_size=32, learning_rate=11 * 0.4)
    by_mean = learn(dataclasses.replace(small, settings=settings), tmp_path / "mean").net
    standard = by_mean["student.bn1.running_var"], by_mean["student.layer1.0.bn1.running_var"]
    np.testing.assert_allclose(moving[0] - 1, 9 * (standard[0] - 1), rtol=1e-4)
    np.testing.assert_allclose(moving[1], standard[1], rtol=1e-4)
    start = initial("conv1.weight")
    step, expected = (net["student.conv1.weight"] - start for net in (by_sum, by_mean))
    assert np.linalg.norm(step - expected) < 0.05 * np.linalg.norm(expected)


def initial(name: str) -> AnyArray:
    from exporters.nets.stpm import initial_student

    return initial_student("resnet18", 0)[name]


def test_a_crop_without_a_second_position_in_layer_3_is_wrong_use(small: FitRequest, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--crop 31: STPM needs at least 32 pixels"):
        learn(dataclasses.replace(small, settings=Stpm(resize=36, crop=31, epochs=1)), tmp_path / "small")


def test_weights_of_another_backbone_are_refused(small: FitRequest) -> None:
    from exporters.nets.resnet import load
    from exporters.nets.stpm import StpmNet

    arrays = convert.random_backbone(small.backbone, 0)
    with pytest.raises(WeightsError, match="is of shape"):
        load(StpmNet("wide_resnet50_2", "standard").teacher, arrays, prefix="teacher.")


@pytest.mark.parametrize("kind", ["onnx", "mindir"])
def test_exports_agree_with_the_cell_and_with_the_numpy_head(trained: Artifact, kind: str) -> None:
    plain = build.export(trained, kind)
    assert [output.name for output in plain.outputs] == list(OUTPUTS)
    assert plain.outputs[5].shape == (None, 256, 3, 3)
    assert set(plain.agreement) == {"1", "3"}
    whole = build.export(artifact.read(trained.path), kind, head_in_graph=True)
    assert [(output.name, output.shape) for output in whole.outputs] == [
        ("map", (None, 37, 37)),
        ("score", (None,)),
    ]
    assert set(whole.agreement) == {"1", "3", "head 1", "head 3"}
    assert max(*plain.agreement.values(), *whole.agreement.values()) < 2e-5
