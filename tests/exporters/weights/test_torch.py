"""PyTorch's files, written here opcode by opcode, so that no test needs PyTorch."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from exporters.errors import WeightsError
from exporters.weights.convert import load_backbone, random_backbone, read_weights
from exporters.weights.safe_pickle import Call, Name, PersistentId
from exporters.weights.torch import LEGACY_MAGIC, LEGACY_PROTOCOL
from harness.types import AnyArray

REBUILD = "torch._utils._rebuild_tensor_v2"
KINDS = {"<f4": "Float", "<f8": "Double", "<f2": "Half", "<i8": "Long", "<u2": "BFloat16"}


def opcodes(value: Any) -> bytes:  # noqa: C901, PLR0911 - one line per kind of value
    match value:
        case None:
            return b"N"
        case bool():
            return b"\x88" if value else b"\x89"
        case int():
            raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
            return b"\x8a" + bytes([len(raw)]) + raw
        case str():
            return b"X" + len(value.encode()).to_bytes(4, "little") + value.encode()
        case tuple():
            return b"(" + b"".join(map(opcodes, value)) + b"t"
        case list():
            return b"](" + b"".join(map(opcodes, value)) + b"e"
        case dict():
            return b"}(" + b"".join(opcodes(key) + opcodes(value[key]) for key in value) + b"u"
        case Name(name):
            module, _, attribute = name.rpartition(".")
            return f"c{module}\n{attribute}\n".encode()
        case Call(name, arguments):
            return opcodes(Name(name)) + opcodes(arguments) + b"R"
        case PersistentId(inner):
            return opcodes(inner) + b"Q"
    raise AssertionError(value)


def pickled(value: Any) -> bytes:
    return b"\x80\x02" + opcodes(value) + b"."


def tensor(  # the writer's parameters are the format's
    storage: AnyArray,
    key: str,
    shape: Any = None,
    strides: Any = None,
    offset: Any = 0,
    *,
    count: int | None = None,
) -> Call:
    kind = Name(f"torch.{KINDS[storage.dtype.str]}Storage")
    reference = PersistentId(("storage", kind, key, "cpu", storage.size if count is None else count))
    contiguous = tuple(step // storage.itemsize for step in storage.strides)
    sizes = (storage.shape if shape is None else shape, contiguous if strides is None else strides)
    return Call(REBUILD, (reference, offset, *sizes, False, Call("collections.OrderedDict", ())))


def zip_bytes(root: bytes, storages: dict[str, bytes], **extra: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", root)
        for name, content in {**{f"data/{key}": raw for key, raw in storages.items()}, **extra}.items():
            archive.writestr(f"archive/{name}", content)
    return buffer.getvalue()


def legacy_bytes(
    root: bytes, storages: dict[str, bytes], itemsize: int = 4, *, little_endian: bool = True
) -> bytes:
    system = {"protocol_version": LEGACY_PROTOCOL, "little_endian": little_endian, "type_sizes": {"int": 4}}
    heads = pickled(LEGACY_MAGIC) + pickled(LEGACY_PROTOCOL) + pickled(system)
    blocks = [(len(raw) // itemsize).to_bytes(8, "little") + raw for raw in storages.values()]
    return heads + root + pickled(list(storages)) + b"".join(blocks)


WRITERS = pytest.mark.parametrize("write", [zip_bytes, legacy_bytes], ids=["zip", "legacy"])
Writer = Callable[[bytes, dict[str, bytes]], bytes]


def read(tmp_path: Path, data: bytes) -> dict[str, AnyArray]:
    path = tmp_path / "weights.pth"
    path.write_bytes(data)
    return read_weights(path)


NUMBERS = np.arange(12, dtype="<f4")


@WRITERS
def test_transposed_sliced_and_scalar_views_of_one_storage_are_read(tmp_path: Path, write: Writer) -> None:
    state = {
        "transposed": tensor(NUMBERS, "0", (4, 3), (1, 4)),
        "sliced": tensor(NUMBERS[:0], "0", (2,), (3,), 5, count=12),
        "scalar": tensor(NUMBERS, "0", (), (), 7),
    }
    # Two views and a scalar of 12 + 2 + 1 numbers: the padding keeps them below the size of the file.
    arrays = read(tmp_path, write(pickled(state), {"0": NUMBERS.tobytes()}))
    np.testing.assert_array_equal(arrays["transposed"], NUMBERS.reshape(3, 4).T)
    np.testing.assert_array_equal(arrays["sliced"], [5, 8])
    assert arrays["scalar"] == 7
    assert arrays["scalar"].shape == ()


@pytest.mark.parametrize("dtype", ["<f4", "<f8", "<f2", "<i8"])
@WRITERS
def test_every_stored_dtype_keeps_its_values(tmp_path: Path, write: Callable[..., bytes], dtype: str) -> None:
    values = np.array([[1.5, -2.0], [0.0, 3.0]]).astype(dtype)
    extra = {"itemsize": values.itemsize} if write is legacy_bytes else {}
    data = write(pickled({"a": tensor(values, "0")}), {"0": values.tobytes()}, **extra)
    array = read(tmp_path, data)["a"]
    assert array.dtype.str == dtype
    np.testing.assert_array_equal(array, values)


def test_bfloat16_is_widened_exactly(tmp_path: Path) -> None:
    bits = np.array([0x3F80, 0xC020, 0x0001, 0x7F7F], "<u2")
    array = read(tmp_path, zip_bytes(pickled({"a": tensor(bits, "0")}), {"0": bits.tobytes()}))["a"]
    assert array.dtype == np.float32
    assert array.tolist() == [1.0, -2.5, 2.0**-133, float(np.float32((2 - 2**-7) * 2.0**127))]


@pytest.mark.parametrize("wrapper", [(), ("state_dict",), ("model",), ("model", "state_dict")], ids=str)
@WRITERS
def test_a_state_dict_is_found_in_its_usual_wrappers(
    tmp_path: Path, write: Writer, wrapper: tuple[str, ...]
) -> None:
    root: dict[str, Any] = {"a": tensor(NUMBERS, "0")}
    for key in wrapper:
        root = {"epoch": 3, key: root, "arch": "resnet18"}
    arrays = read(tmp_path, write(pickled(root), {"0": NUMBERS.tobytes()}))
    assert list(arrays) == ["a"]


@pytest.mark.parametrize("name", ["torch._utils._rebuild_parameter", "torch.nn.parameter.Parameter"])
def test_parameters_and_module_versions_are_read_as_their_tensors(tmp_path: Path, name: str) -> None:
    parameter = opcodes(Call(name, (tensor(NUMBERS, "0"), True))) + opcodes((True, False)) + b"b"
    versions = opcodes({"_metadata": {"": {"version": 1}}}) + b"b"
    root = (
        b"\x80\x02"
        + opcodes(Call("collections.OrderedDict", ()))
        + opcodes("a")
        + parameter
        + b"s"
        + versions
        + b"."
    )
    np.testing.assert_array_equal(read(tmp_path, legacy_bytes(root, {"0": NUMBERS.tobytes()}))["a"], NUMBERS)


@WRITERS
def test_a_whole_resnet18_with_head_loads_under_a_data_parallel_prefix(tmp_path: Path, write: Writer) -> None:
    parameters = random_backbone("resnet18", seed=3)
    extra = {"fc.weight": np.zeros((7, 5), "<f4"), "layer4.0.conv1.weight": np.zeros((1, 2), "<f4")}
    stored = {f"module.{name}": array for name, array in {**parameters, **extra}.items()}
    state = {name: tensor(array, str(key)) for key, (name, array) in enumerate(stored.items())}
    data = write(
        pickled({"state_dict": state}), {str(key): a.tobytes() for key, a in enumerate(stored.values())}
    )
    path = tmp_path / "resnet18.pth"
    path.write_bytes(data)
    loaded = load_backbone(path, "resnet18")
    assert list(loaded) == list(parameters)
    assert all(np.array_equal(loaded[name], parameters[name]) for name in parameters)


class _Payload:
    """Creates a file when unpickled, through the callable given."""

    def __init__(self, function: Any, argument: str) -> None:
        self.reduced = (function, (argument,))

    def __reduce__(self) -> Any:
        return self.reduced


def _touch(marker: Path) -> str:
    return f"__import__('pathlib').Path({str(marker)!r}).touch()"


HOSTILE: dict[str, Callable[[Path], object]] = {
    "system": lambda marker: _Payload(os.system, f"touch '{marker}'"),
    "eval": lambda marker: _Payload(eval, _touch(marker)),
    "exec, nested": lambda marker: {"state_dict": {"a": [(_Payload(exec, _touch(marker)),)]}},
}


@WRITERS
@pytest.mark.parametrize("protocol", [2, 4])  # GLOBAL, STACK_GLOBAL
@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_pickle_is_refused_by_name_and_runs_nothing(
    tmp_path: Path, write: Writer, protocol: int, kind: str
) -> None:
    marker = tmp_path / "ran"
    payload = pickle.dumps(HOSTILE[kind](marker), protocol)
    pickle.loads(payload)  # noqa: S301 - the control: the payload does run where it may
    assert marker.exists()
    marker.unlink()
    with pytest.raises(WeightsError, match=r"weights\.pth.*names '\w+\.(system|eval|exec)'.*refused"):
        read(tmp_path, write(payload, {}))
    assert not marker.exists()


@pytest.mark.parametrize("position", range(3))
def test_every_pickle_of_a_legacy_file_is_restricted(tmp_path: Path, position: int) -> None:
    marker = tmp_path / "ran"
    parts = [pickled(LEGACY_MAGIC), pickled(LEGACY_PROTOCOL), pickled({"little_endian": True})]
    parts[position] = pickle.dumps(_Payload(os.system, f"touch '{marker}'"), 2)
    with pytest.raises(WeightsError, match="refused"):
        read(tmp_path, b"".join(parts))
    assert not marker.exists()


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (b"(X\x04\x00\x00\x00trueios\nsystem\n.", r"names 'os\.system'"),
        (b"(cos\nsystem\nX\x04\x00\x00\x00trueo.", r"names 'os\.system'"),
        (b"ccollections\nOrderedDict\n)\x81}\x92.", "opcode NEWOBJ_EX"),
        (b"\x82\x01.", "opcode EXT1"),
        (opcodes("torch.FloatStorage") + b")R.", "calls something unnamed"),
        (opcodes(Name("torch.FloatStorage")) + b"}b.", "gives state"),
        (
            opcodes(Call(REBUILD, (1, 2, 3, 4))) + opcodes({"a": 1}) + b"s.",
            "closes a group|fills a dictionary|takes more",
        ),
        (b"}(((tttu.", "takes more|fills a dictionary|closes a group"),
        (b"R.", "takes more"),
        (b"NN.", "leaves something on its stack"),
        (
            b"}" + opcodes(("a", "b")) + opcodes(1) + b"s.",
            "fills a dictionary",
        ),  # a tuple of tuples hashes for ever
        (b"h\x05.", "never remembered"),
    ],
)
def test_an_opcode_that_could_run_or_confuse_anything_is_refused(
    tmp_path: Path, code: bytes, reason: str
) -> None:
    with pytest.raises(WeightsError, match=reason):
        read(tmp_path, zip_bytes(b"\x80\x02" + code, {}))


@pytest.mark.parametrize(
    ("shape", "strides", "offset"),
    [
        ((13,), (1,), 0),
        ((12,), (1,), 1),
        ((2,), (12,), 0),
        ((3, 4), (4, 2), 0),  # its last element is 2·4 + 3·2 = 14, of 12
        ((2,), (-1,), 3),
        ((2**61, 8), (1, 1), 0),
    ],
    ids=str,
)
@WRITERS
def test_a_view_beyond_its_storage_is_refused(
    tmp_path: Path, write: Writer, shape: tuple[int, ...], strides: tuple[int, ...], offset: int
) -> None:
    state = {"a": tensor(NUMBERS, "0", shape, strides, offset), "b": tensor(NUMBERS, "1")}
    with pytest.raises(WeightsError, match=r"beyond its storage|sensible whole number"):
        read(tmp_path, write(pickled(state), {"0": NUMBERS.tobytes(), "1": NUMBERS.tobytes()}))


@WRITERS
def test_a_small_file_cannot_unfold_to_a_large_memory(tmp_path: Path, write: Writer) -> None:
    state = {str(name): tensor(np.zeros(4096, "<f4"), "0") for name in range(200)}
    with pytest.raises(WeightsError, match="unfold to more bytes"):
        read(tmp_path, write(pickled(state), {"0": bytes(4 * 4096)}))
    with pytest.raises(WeightsError, match="beyond its storage"):
        read(
            tmp_path, write(pickled({"a": tensor(NUMBERS, "0", (1 << 40,), (0,))}), {"0": NUMBERS.tobytes()})
        )


@WRITERS
def test_storages_of_another_size_than_declared_are_refused(tmp_path: Path, write: Writer) -> None:
    for count in (11, 13):
        state = {"a": tensor(NUMBERS[:5], "0", count=count)}
        with pytest.raises(WeightsError, match=r"not of the|truncated or damaged"):
            read(tmp_path, write(pickled(state), {"0": NUMBERS.tobytes()}))


@WRITERS
def test_a_file_cut_anywhere_is_refused_by_name(tmp_path: Path, write: Writer) -> None:
    data = write(pickled({"a": tensor(NUMBERS, "0")}), {"0": NUMBERS.tobytes()})
    for length in range(len(data)):
        with pytest.raises(WeightsError, match=r"weights\.pth"):
            read(tmp_path, data[:length])


@WRITERS
def test_one_storage_declared_twice_must_agree(tmp_path: Path, write: Writer) -> None:
    halves = tensor(np.zeros(24, "<f2"), "0")
    state = {"whole": tensor(NUMBERS, "0", (1,)), "same bytes": halves, "part": tensor(NUMBERS[:6], "0")}
    with pytest.raises(WeightsError, match=r"does not fit its storage|truncated or damaged"):
        read(tmp_path, write(pickled(state), {"0": NUMBERS.tobytes()}))


@WRITERS
def test_a_damaged_byte_is_read_or_refused_and_never_anything_else(tmp_path: Path, write: Writer) -> None:
    data = write(pickled({"state_dict": {"a": tensor(NUMBERS, "0")}}), {"0": NUMBERS.tobytes()})
    refused = 0
    for position in range(len(data)):
        for value in (0x00, 0x7F, data[position] ^ 1):
            damaged = data[:position] + bytes([value]) + data[position + 1 :]
            try:
                read(tmp_path, damaged)
            except WeightsError:
                refused += 1
    assert refused > len(data)


def test_what_follows_the_last_legacy_storage_or_is_missing_from_it_is_refused(tmp_path: Path) -> None:
    data = legacy_bytes(pickled({"a": tensor(NUMBERS, "0")}), {"0": NUMBERS.tobytes()})
    with pytest.raises(WeightsError, match="1 bytes follow the last storage"):
        read(tmp_path, data + b"x")
    with pytest.raises(WeightsError, match="truncated or damaged at storage '0'"):
        read(tmp_path, data[:-1])


def test_a_damaged_zip_storage_is_noticed(tmp_path: Path) -> None:
    data = zip_bytes(pickled({"a": tensor(NUMBERS, "0")}), {"0": NUMBERS.tobytes()})
    with pytest.raises(WeightsError, match="CRC"):
        read(tmp_path, data.replace(NUMBERS.tobytes(), NUMBERS[::-1].tobytes()))


def test_a_zip_entry_placed_beyond_every_file_is_refused(tmp_path: Path) -> None:
    buffer = io.BytesIO(zip_bytes(pickled({"a": tensor(NUMBERS, "0")}), {"0": NUMBERS.tobytes()}))
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.infolist()[0].header_offset = 1 << 63
        archive.writestr("archive/version", b"3")
    with pytest.raises(WeightsError, match="a damaged zip file"):
        read(tmp_path, buffer.getvalue())


def test_big_endian_files_are_refused_not_misread(tmp_path: Path) -> None:
    root, storages = pickled({"a": tensor(NUMBERS, "0")}), {"0": NUMBERS.tobytes()}
    with pytest.raises(WeightsError, match="byte order b'big'"):
        read(tmp_path, zip_bytes(root, storages, byteorder=b"big"))
    with pytest.raises(WeightsError, match="little-endian"):
        read(tmp_path, legacy_bytes(root, storages, little_endian=False))
    assert read(tmp_path, zip_bytes(root, storages, byteorder=b"little"))["a"][11] == 11


def test_compressed_and_doubled_zip_entries_are_refused(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", pickled({}))
        archive.writestr("archive/data/0", bytes(10_000_000))
    with pytest.raises(WeightsError, match=r"data\.pkl' is compressed"):
        read(tmp_path, buffer.getvalue())
    buffer = io.BytesIO(zip_bytes(pickled({"a": tensor(NUMBERS, "0")}), {"0": NUMBERS.tobytes()}))
    with zipfile.ZipFile(buffer, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("archive/data/0", bytes(48))
    with pytest.raises(WeightsError, match="data/0' is compressed, encrypted or doubled"):
        read(tmp_path, buffer.getvalue())


def test_a_pickled_module_or_a_file_without_tensors_says_what_to_save(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"names 'torchvision\.models\.resnet\.ResNet'"):
        read(tmp_path, zip_bytes(pickled(Call("torchvision.models.resnet.ResNet", ())), {}))
    with pytest.raises(WeightsError, match=r"save model\.state_dict\(\)"):
        read(tmp_path, zip_bytes(pickled({"epoch": 3}), {}))
    with pytest.raises(WeightsError, match="not one written by torch"):
        read(tmp_path, pickled({"a": 1}))
