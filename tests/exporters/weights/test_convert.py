"""Names, shapes, conversion and the untrained backbone; the file formats have their own tests beside this one."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.numpy

from exporters.errors import WeightsError
from exporters.weights.convert import (
    BACKBONES,
    convert,
    expected_parameters,
    load_backbone,
    random_backbone,
    read_weights,
)
from harness.errors import UsageError
from harness.types import AnyArray, Float32


@pytest.fixture(scope="module")
def resnet18() -> dict[str, Float32]:
    parameters = random_backbone("resnet18", seed=1)
    for array in parameters.values():
        array.flags.writeable = False
    return parameters


def save(path: Path, arrays: dict[str, AnyArray] | dict[str, Float32]) -> Path:
    path.write_bytes(safetensors.numpy.save(dict(arrays)))
    return path


@pytest.mark.parametrize(
    ("backbone", "count", "elements"),
    # Elements of torchvision's state dicts without layer4, fc and num_batches_tracked.
    [
        ("resnet18", 75, 2_787_264),
        ("wide_resnet50_2", 215, 24_902_080),
        ("wide_resnet101_2", 470, 82_975_168),
    ],
)
def test_expected_parameters_are_torchvisions(backbone: str, count: int, elements: int) -> None:
    shapes = expected_parameters(backbone)
    assert len(shapes) == count
    assert sum(map(math.prod, shapes.values())) == elements
    assert list(shapes)[:3] == ["conv1.weight", "bn1.weight", "bn1.bias"]
    assert list(shapes)[-1].startswith("layer3.")
    assert not any(name.endswith("num_batches_tracked") for name in shapes)


def test_the_wide_bottleneck_doubles_its_middle_convolution() -> None:
    shapes = expected_parameters("wide_resnet50_2")
    assert shapes["layer1.0.conv1.weight"] == (128, 64, 1, 1)
    assert shapes["layer1.0.downsample.0.weight"] == (256, 64, 1, 1)
    assert shapes["layer3.5.conv2.weight"] == (512, 512, 3, 3)
    assert shapes["layer3.5.bn3.running_var"] == (1024,)
    assert "layer1.0.downsample.0.weight" not in expected_parameters("resnet18")


def test_an_unknown_backbone_is_a_usage_error_that_lists_the_known() -> None:
    for call in (
        expected_parameters,
        lambda name: random_backbone(name, 0),
        lambda name: load_backbone(Path("x"), name),
    ):
        with pytest.raises(UsageError, match=r"'vgg16'.*resnet18, wide_resnet50_2, wide_resnet101_2"):
            call("vgg16")
    assert BACKBONES == ("resnet18", "wide_resnet50_2", "wide_resnet101_2")


def test_the_untrained_backbone_is_he_normal_with_zero_mean_kernels(resnet18: dict[str, Float32]) -> None:
    assert {name: array.shape for name, array in resnet18.items()} == expected_parameters("resnet18")
    for name, array in resnet18.items():
        assert array.dtype == np.float32
        if array.ndim == 4:
            assert np.abs(array.mean(axis=(1, 2, 3))).max() < 1e-7
            fan_in = math.prod(array.shape[1:])
            deviation = math.sqrt(2 / fan_in * (1 - 1 / fan_in))
            assert array.std() == pytest.approx(deviation, rel=4 / math.sqrt(array.size))
        else:
            assert set(array.tolist()) == {1.0 if name.endswith(("weight", "running_var")) else 0.0}


def test_the_untrained_backbone_depends_on_its_seed_alone(resnet18: dict[str, Float32]) -> None:
    again, other = random_backbone("resnet18", seed=1), random_backbone("resnet18", seed=2)
    assert all(np.array_equal(resnet18[name], again[name]) for name in resnet18)
    assert not np.array_equal(resnet18["conv1.weight"], other["conv1.weight"])


def test_layer4_head_and_counters_may_be_absent_or_of_any_shape(
    tmp_path: Path, resnet18: dict[str, Float32]
) -> None:
    extra: dict[str, AnyArray] = {
        "layer4.1.conv2.weight": np.zeros((1,), np.float32),
        "fc.weight": np.full((3, 2), np.nan, np.float32),
        "bn1.num_batches_tracked": np.zeros((5,), np.int64),
    }
    loaded = load_backbone(save(tmp_path / "w.safetensors", {**resnet18, **extra}), "resnet18")
    assert list(loaded) == list(resnet18)
    assert all(np.array_equal(loaded[name], resnet18[name]) for name in resnet18)


def test_missing_unexpected_and_misshapen_parameters_are_all_listed(
    tmp_path: Path, resnet18: dict[str, Float32]
) -> None:
    arrays: dict[str, AnyArray] = dict(resnet18)
    del arrays["layer2.0.downsample.1.bias"], arrays["bn1.running_var"]
    arrays["layer5.0.conv1.weight"] = np.zeros(1, np.float32)
    arrays["layer1.0.conv1.weight"] = np.zeros((64, 64, 3), np.float32)
    arrays["bn1.weight"] = np.ones(64, np.int64)
    with pytest.raises(WeightsError) as error:
        load_backbone(save(tmp_path / "w.safetensors", arrays), "resnet18")
    for part in (
        "w.safetensors is not resnet18: 2 missing (bn1.running_var, layer2.0.downsample.1.bias)",
        "1 unexpected (layer5.0.conv1.weight)",
        "2 misshapen (bn1.weight is int64 (64,), not float32 (64,), layer1.0.conv1.weight is float32 (64, 64, 3)",
    ):
        assert part in str(error.value)


def test_a_long_list_of_differences_is_cut_and_counted(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"75 missing \((\S+ ){10}…\)") as error:
        load_backbone(save(tmp_path / "w.safetensors", {"a": np.zeros(1, np.float32)}), "resnet18")
    assert len(str(error.value)) < 1000


def test_weights_of_another_known_backbone_are_named(tmp_path: Path, resnet18: dict[str, Float32]) -> None:
    with pytest.raises(WeightsError, match=r"is not wide_resnet50_2: .*ask for resnet18, which it is"):
        load_backbone(save(tmp_path / "w.safetensors", resnet18), "wide_resnet50_2")


@pytest.mark.parametrize(
    ("name", "value"), [("conv1.weight", np.nan), ("bn1.bias", -np.inf), ("layer1.0.bn1.running_var", -1e-3)]
)
def test_values_no_network_has_are_refused(
    tmp_path: Path, resnet18: dict[str, Float32], name: str, value: float
) -> None:
    arrays: dict[str, AnyArray] = {**resnet18, name: resnet18[name].copy()}
    arrays[name].flat[-1] = value
    with pytest.raises(
        WeightsError, match=rf"w\.safetensors: 1 with NaN, infinite or negative-variance.*\({name}\)"
    ):
        load_backbone(save(tmp_path / "w.safetensors", arrays), "resnet18")


def test_other_precisions_become_float32_and_the_report_says_so(
    tmp_path: Path, resnet18: dict[str, Float32]
) -> None:
    arrays: dict[str, AnyArray] = {name: array.astype(np.float16) for name, array in resnet18.items()}
    arrays["bn1.bias"] = resnet18["bn1.bias"].astype(np.float64)
    source, target = save(tmp_path / "half.safetensors", arrays), tmp_path / "out.safetensors"
    assert convert(source, target).dtypes == {"float16": 74, "float64": 1}
    loaded = load_backbone(target, "resnet18")
    assert all(np.array_equal(loaded[name], arrays[name].astype(np.float32)) for name in arrays)
    arrays["bn1.bias"] = np.full(64, 1e300)
    with pytest.raises(WeightsError, match=r"infinite.*\(bn1\.bias\)"):
        load_backbone(save(source, arrays), "resnet18")


def test_converting_writes_the_known_parameters_with_their_provenance(
    tmp_path: Path, resnet18: dict[str, Float32]
) -> None:
    extra: dict[str, AnyArray] = {"fc.bias": np.zeros(7, np.float32), "bn1.num_batches_tracked": np.array(3)}
    stored = {f"module.{name}": array for name, array in {**resnet18, **extra}.items()}
    source, target = save(tmp_path / "a.safetensors", stored), tmp_path / "new folder" / "ours.safetensors"
    report = convert(source, target)
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    assert (report.backbone, report.source_sha256, report.parameters, report.notes) == (
        "resnet18",
        digest,
        75,
        (),
    )
    assert set(report.dropped) == {"module.fc.bias", "module.bn1.num_batches_tracked"}
    with safetensors.safe_open(target, "numpy") as file:
        assert json.loads(file.metadata()["provenance"]) == {"backbone": "resnet18", "source_sha256": digest}
        assert set(file.keys()) == set(resnet18)
    first = target.read_bytes()
    convert(source, target)
    assert target.read_bytes() == first


def test_converting_writes_nothing_when_the_source_is_wrong(
    tmp_path: Path, resnet18: dict[str, Float32]
) -> None:
    arrays = {name: array for name, array in resnet18.items() if name != "bn1.bias"}
    source, target = save(tmp_path / "a.safetensors", arrays), tmp_path / "ours.safetensors"
    with pytest.raises(WeightsError, match=r"is not resnet18: 1 missing \(bn1\.bias\)"):
        convert(source, target)
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]
    with pytest.raises(UsageError, match=r"\.safetensors"):
        convert(source, tmp_path / "ours.pth")
    with pytest.raises(UsageError, match="is the source itself"):
        convert(source, source)


def test_two_spellings_of_one_parameter_are_refused(tmp_path: Path, resnet18: dict[str, Float32]) -> None:
    arrays = {**resnet18, "bn1.gamma": resnet18["bn1.weight"]}
    with pytest.raises(WeightsError, match=r"bn1\.weight and bn1\.gamma|bn1\.gamma and bn1\.weight"):
        load_backbone(save(tmp_path / "w.safetensors", arrays), "resnet18")


def test_the_format_is_told_by_content_and_bfloat16_is_widened(tmp_path: Path) -> None:
    header = json.dumps({"a": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}).encode()
    data = len(header).to_bytes(8, "little") + header + bytes([0x80, 0x3F, 0x20, 0xC0])
    path = tmp_path / "no suffix"
    path.write_bytes(data)
    assert read_weights(path)["a"].tolist() == [1.0, -2.5]
    for length in range(len(data)):
        path.write_bytes(data[:length])
        with pytest.raises(WeightsError, match="no suffix: "):
            read_weights(path)


@pytest.mark.parametrize(
    "data", [b"", b"<html>not found</html>", b"version https://git-lfs.github.com/spec/v1\n"]
)
def test_a_file_of_no_known_format_is_refused_by_name(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "w.pth"
    path.write_bytes(data)
    with pytest.raises(
        WeightsError, match=r"w\.pth: not a \.safetensors, PyTorch or unencrypted MindSpore file"
    ):
        read_weights(path)


def test_a_file_without_tensors_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="holds no tensors"):
        read_weights(save(tmp_path / "w.safetensors", {}))


def test_an_absent_file_and_a_folder_are_weights_errors(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.pth", tmp_path):
        with pytest.raises(WeightsError, match="cannot be read"):
            read_weights(path)


@pytest.mark.real
def test_the_shared_resnet18_loads_equal_to_its_file(shared: Path, tmp_path: Path) -> None:
    path = shared / "weights" / "resnet18_layers123.safetensors"
    stored = safetensors.numpy.load_file(path)
    loaded = load_backbone(path, "resnet18")
    assert len(loaded) == len(stored) == 75
    assert all(np.array_equal(loaded[name], stored[name]) for name in stored)
    convert(path, tmp_path / "w.safetensors")
    again = load_backbone(tmp_path / "w.safetensors", "resnet18")
    assert all(np.array_equal(again[name], stored[name]) for name in stored)
