"""MindSpore's checkpoints, written here by their wire format, and by MindSpore itself where it is installed."""

from __future__ import annotations

import binascii
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from exporters.errors import WeightsError
from exporters.weights.convert import convert, load_backbone, random_backbone, read_weights
from harness.types import AnyArray

KINDS = {
    "<f4": "Float32",
    "<f2": "Float16",
    "<f8": "Float64",
    "<i8": "Int64",
    "<i4": "Int32",
    "<u2": "BFloat16",
}


def varint(number: int) -> bytes:
    low, high = number & 0x7F, number >> 7
    return bytes([low | 0x80]) + varint(high) if high else bytes([low])


def field(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def entry(tag: str, content: bytes, kind: str, dims: tuple[int, ...]) -> bytes:
    sizes = b"".join(varint(1 << 3) + varint(size) for size in dims)
    return field(1, field(1, tag.encode()) + field(2, sizes + field(2, kind.encode()) + field(3, content)))


def checkpoint(arrays: dict[str, AnyArray]) -> bytes:
    return b"".join(entry(tag, a.tobytes(), KINDS[a.dtype.str], a.shape) for tag, a in arrays.items())


def read(tmp_path: Path, data: bytes) -> dict[str, AnyArray]:
    path = tmp_path / "weights.ckpt"
    path.write_bytes(data)
    return read_weights(path)


def zoo_resnet18(parameters: dict[str, Any]) -> dict[str, AnyArray]:
    """Under the names of mindspore-ai/models official/cv/ResNet, with its 1001-class head and a momentum optimizer."""
    names = {"running_mean": "moving_mean", "running_var": "moving_variance"}
    stored: dict[str, AnyArray] = {}
    for name, array in parameters.items():
        zoo = name.replace("downsample", "down_sample_layer")
        zoo = re.sub(r"(layer.*\.bn\d)", r"\1d", zoo)
        module, _, last = zoo.rpartition(".")
        if array.ndim == 1:
            last = {**names, "weight": "gamma", "bias": "beta"}[last]
        stored[f"{module}.{last}"] = array
    head = {"end_point.weight": np.zeros((1001, 512), "<f4"), "layer4.0.bn1d.gamma": np.ones(512, "<f4")}
    momentum = {f"moments.{name}": array for name, array in stored.items()}
    state: dict[str, AnyArray] = {"global_step": np.zeros(1, "<i4"), "learning_rate": np.ones((), "<f4")}
    return {**state, **stored, **head, **momentum}


def test_tensors_of_every_kind_are_read_with_their_shapes(tmp_path: Path) -> None:
    arrays: dict[str, AnyArray] = {
        "a.weight": np.arange(24, dtype="<f4").reshape(2, 3, 4),
        "half": np.array([1.5, -2], "<f2"),
        "double": np.array([[1e300]], "<f8"),
        "step": np.array(7, "<i8"),
        "empty": np.zeros((0, 3), "<f4"),
        "none": np.zeros(0, "<f4"),
    }
    for name, array in read(tmp_path, checkpoint(arrays)).items():
        assert (array.dtype, array.shape) == (arrays[name].dtype, arrays[name].shape)
        np.testing.assert_array_equal(array, arrays[name])
    bits = np.array([0x3F80, 0xC020], "<u2")
    assert read(tmp_path, checkpoint({"a": bits}))["a"].tolist() == [1.0, -2.5]


def test_slices_scalars_and_texts_are_read_as_mindspore_writes_them(tmp_path: Path) -> None:
    values = np.arange(6, dtype="<f4").tobytes()
    data = entry("a", values[:8], "Float32", (2, 3)) + entry("a", values[8:], "Float32", (2, 3))
    data += entry("lr", np.float32(0.5).tobytes(), "Float32", (0,)) + entry(
        "note", "hé".encode("utf-32-le"), "str", (0,)
    )
    arrays = read(tmp_path, data)
    assert arrays["a"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert arrays["lr"].shape == ()
    assert arrays["lr"] == 0.5
    assert str(arrays["note"]) == "hé"


def test_the_model_zoos_resnet18_converts_to_torchvisions_names(tmp_path: Path) -> None:
    parameters = random_backbone("resnet18", seed=5)
    for number, name in enumerate(parameters):
        parameters[name] += np.float32(number / 100)  # no two arrays can be exchanged unnoticed
    source, target = tmp_path / "resnet18_ascend.ckpt", tmp_path / "ours.safetensors"
    source.write_bytes(checkpoint(zoo_resnet18(parameters)))
    report = convert(source, target)
    loaded = load_backbone(target, "resnet18")
    assert (report.backbone, report.parameters) == ("resnet18", 75)
    assert all(np.array_equal(loaded[name], array) for name, array in parameters.items())
    assert {"end_point.weight", "global_step", "moments.layer1.0.bn1d.gamma"} <= set(report.dropped)
    assert len(report.dropped) == 75 + 4
    assert "1e-4" in report.notes[0]


@pytest.mark.parametrize(
    "rename",
    [
        lambda name: name,  # research/cv/PaDiM and PatchCore: pthtockpt.py
        lambda name: name.replace("downsample", "down_sample_layer"),  # research/cv/stpm: pth2ckpt.py
        lambda name: "backbone." + name.replace("downsample", "down_sample"),  # mindcv, wrapped
    ],
    ids=["padim", "stpm", "mindcv"],
)
def test_other_mindspore_spellings_of_resnet18_load(tmp_path: Path, rename: Any) -> None:
    parameters = random_backbone("resnet18", seed=6)
    endings = {"running_mean": "moving_mean", "running_var": "moving_variance"}
    stored = {
        rename(re.sub("running_.*", lambda m: endings[m[0]], name)): a for name, a in parameters.items()
    }
    path = tmp_path / "resnet18.ckpt"
    path.write_bytes(checkpoint(stored))
    loaded = load_backbone(path, "resnet18")
    assert all(np.array_equal(loaded[name], array) for name, array in parameters.items())


def test_a_checksum_is_verified_and_a_wrong_one_refused(tmp_path: Path) -> None:
    data = checkpoint({"a": np.arange(3, dtype="<f4")})
    assert read(tmp_path, data + b"crc_num" + binascii.crc32(data).to_bytes(10, "big"))["a"].tolist() == [
        0,
        1,
        2,
    ]
    with pytest.raises(WeightsError, match=r"weights\.ckpt.*CRC-32"):
        read(tmp_path, data + b"crc_num" + (binascii.crc32(data) ^ 1).to_bytes(10, "big"))


def test_a_checkpoint_cut_anywhere_is_refused_by_name(tmp_path: Path) -> None:
    data = checkpoint({"a": np.arange(3, dtype="<f4")})
    for length in range(len(data)):
        with pytest.raises(WeightsError, match=r"weights\.ckpt"):
            read(tmp_path, data[:length])


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (entry("a", bytes(8), "Float32", (3,)), r"'a': shape \(3,\) of float32 needs 12 bytes, stored are 8"),
        (entry("a", bytes(4), "Int4", (8,)), "dtype 'int4' is not supported"),
        (entry("a", b"", "Float32", (1 << 62, 0)), "sensible whole number"),
        (
            entry("a", bytes(4), "Float32", (1,))
            + entry("b", bytes(4), "Float32", (1,))
            + entry("a", b"", "str", ()),
            "twice",
        ),
        (
            entry("a", bytes(4), "Float32", (2,)) + entry("a", bytes(4), "Float32", (1,)),
            "slices of 'a' disagree",
        ),
        (field(1, field(1, b"a") + field(3, b"")), "map parameters"),
        (field(1, field(1, b"a")), "named plain tensor"),
        (field(1, field(1, b"a") + field(2, b"") + field(9, b"")), "named plain tensor"),
        (entry("a", b"text", "str", ())[:-1], "truncated"),
        (field(1, field(1, b"a") + field(2, field(2, b"Float32"))), "without its type or its contents"),
        (field(1, b"") + field(2, b""), "named plain tensor"),
        (entry("a", bytes(4), "Float32", (1,)) + field(2, b""), "field 2"),
        (b"\x0a" + b"\xff" * 12, "truncated, or not a MindSpore checkpoint"),
        (b"\x0a\x03\x0d\x00\x00", "truncated, or not a MindSpore checkpoint"),
    ],
)
def test_a_malformed_checkpoint_is_refused_with_its_reason(tmp_path: Path, data: bytes, reason: str) -> None:
    with pytest.raises(WeightsError, match=reason):
        read(tmp_path, data)


@pytest.mark.mindspore
def test_checkpoints_written_by_mindspore_read_equal(tmp_path: Path) -> None:
    ms = pytest.importorskip("mindspore")
    net = ms.nn.SequentialCell(ms.nn.Conv2d(3, 4, 3), ms.nn.BatchNorm2d(4))
    optimizer = ms.nn.Momentum(net.trainable_params(), 0.1, 0.9)
    for crc_check in (False, True):
        path = str(tmp_path / f"crc_{crc_check}.ckpt")
        ms.save_checkpoint(optimizer, path, append_dict={"epoch_num": 3, "note": "hé"}, crc_check=crc_check)
        arrays = read_weights(Path(path))
        theirs = ms.load_checkpoint(path)
        assert set(arrays) == set(theirs)
        assert str(arrays["note"]) == theirs.pop("note")
        for name, parameter in theirs.items():
            expected = parameter.asnumpy() if hasattr(parameter, "asnumpy") else parameter
            np.testing.assert_array_equal(arrays[name], expected)


@pytest.mark.mindspore
def test_an_encrypted_checkpoint_is_refused(tmp_path: Path) -> None:
    ms = pytest.importorskip("mindspore")
    path = tmp_path / "secret.ckpt"
    ms.save_checkpoint([{"name": "a", "data": ms.Tensor([1.0])}], str(path), enc_key=b"0123456789ABCDEF")
    with pytest.raises(WeightsError, match="unencrypted"):
        read_weights(path)
