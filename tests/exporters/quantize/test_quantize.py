from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, get_args

import msgspec
import numpy as np
import pytest

from exporters.errors import ExportError
from exporters.source_variant import source
from harness import build, cli, datasets, storage
from harness.build import PrecisionRequest
from harness.detector import artifact
from harness.detector.artifact import HEAD, Artifact, Variant
from harness.detector.preprocess import Preprocessor
from harness.errors import ArtifactError, DatasetError, UsageError
from tests.conftest import Tiny

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
ort = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

FP16, INT8 = PrecisionRequest(precision="fp16"), PrecisionRequest(precision="int8")


def graph(*, gain: float = 1.0, prefix: str = "", weight: float = 0.2) -> Any:
    """conv1 → norm → relu → conv2 → scale → end, 1 / gain after gain: (N, 3, 32, 32) → embedding (N, 6, 8, 8)."""
    from onnx import helper, numpy_helper

    draw = np.random.default_rng(3).normal
    arrays = {
        f"{prefix}layer1.a": draw(0, weight, (4, 3, 4, 4)) * gain,
        f"{prefix}layer1.b": draw(0, weight, (6, 4, 1, 1)),
        "gamma": np.array([1.0, -0.5, 2.0, 0.7]),
        "beta": np.array([0.1, 0.2, -0.3, 0.0]) * gain,
        "mean": np.array([0.5, -0.5, 0.0, 0.2]) * gain,
        "variance": np.array([1.0, 0.5, 2.0, 0.1]),
        "inverse": np.array([1 / gain]),
    }
    nodes = [
        helper.make_node("Conv", ["image", f"{prefix}layer1.a"], ["one"], name="conv1", strides=[4, 4]),
        helper.make_node(
            "BatchNormalization",
            ["one", "gamma", "beta", "mean", "variance"],
            ["two"],
            name="norm",
            epsilon=0.01,
        ),
        helper.make_node("Relu", ["two"], ["three"], name="relu"),
        helper.make_node("Conv", ["three", f"{prefix}layer1.b"], ["four"], name="conv2"),
        helper.make_node("Mul", ["four", "inverse"], ["five"], name="scale"),
        helper.make_node("Neg", ["five"], ["embedding"], name="end"),
    ]
    ports = [
        helper.make_tensor_value_info(name, 1, ["batch", *shape])
        for name, shape in (("image", (3, 32, 32)), ("embedding", (6, 8, 8)))
    ]
    constants = [numpy_helper.from_array(array.astype(np.float32), name) for name, array in arrays.items()]
    made = helper.make_graph(nodes, "g", ports[:1], ports[1:], constants)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 11)], ir_version=6)
    onnx.checker.check_model(model, full_check=True)
    return model


@pytest.fixture
def widget(tiny: Tiny, tmp_path: Path) -> Path:
    path = Path(shutil.copytree(tiny.artifact, tmp_path / "art" / "widget"))
    return replaced(path, graph())


def replaced(path: Path, model: Any, **changes: Any) -> Path:
    """The artifact with another graph in its float32 variant."""
    found = artifact.read(path)
    onnx.save(model, str(path / "onnx-fp32.onnx"))
    files = {"onnx-fp32.onnx": storage.sha256_of_file(path / "onnx-fp32.onnx")}
    variant = msgspec.structs.replace(found.manifest.variants[0], files=files, **changes)
    artifact.write_manifest(path, msgspec.structs.replace(found.manifest, variants=(variant,)))
    return path


def lower(path: Path, tiny: Tiny, request: PrecisionRequest, **options: bool) -> Variant:
    category = datasets.load_category(tiny.data, "widget")
    return build.quantize(artifact.read(path), category, request, **options)


def changed(request: PrecisionRequest, **changes: Any) -> PrecisionRequest:
    return PrecisionRequest(**{name: getattr(request, name) for name in request.__slots__} | changes)


def run(model: Any, batch: Any) -> Any:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"image": batch})[0]


def inputs(found: Artifact, tiny: Tiny) -> Any:
    ready = Preprocessor(found.manifest.preprocessing)
    train = datasets.load_category(tiny.data, "widget").train
    return np.stack([ready.tensor(ready.frame(ready.decode(item.path))) for item in train])


@pytest.mark.parametrize(("asked", "low", "high"), [(FP16, 1e-6, 5e-3), (INT8, 1e-4, 0.1)])
def test_a_lowered_variant_differs_a_little_and_says_by_how_much(
    widget: Path, tiny: Tiny, asked: PrecisionRequest, low: float, high: float
) -> None:
    made = lower(widget, tiny, asked)
    found = artifact.read(widget)
    batch = inputs(found, tiny)
    usual, lowered = (run(onnx.load(widget / name), batch) for name in ("onnx-fp32.onnx", made.model))
    assert lowered.dtype == np.float32
    assert made.agreement == {
        "embedding": pytest.approx(np.abs(lowered - usual).max() / np.abs(usual).max(), rel=1e-4)
    }
    assert low < made.agreement["embedding"] < high
    assert (made.id, made.precision) == (f"onnx-{asked.precision}", asked.precision)
    float32 = found.variant(("onnx",))
    assert (made.input, made.outputs, made.input_stage) == (
        float32.input,
        float32.outputs,
        float32.input_stage,
    )
    assert made in found.manifest.variants
    assert found.model_file(made) == widget / f"{made.id}.onnx"


def test_what_it_was_made_of_is_recorded(widget: Path, tiny: Tiny) -> None:
    found = artifact.read(widget)
    lowered = lower(widget, tiny, changed(INT8, keep_float=("conv2",), images=3)).lowered
    assert lowered is not None
    assert lowered.source_sha256 == storage.sha256_of_file(widget / "onnx-fp32.onnx")
    assert (lowered.source, lowered.calibration) == ("onnx-fp32", "minmax")
    assert (lowered.keep_float, lowered.float_nodes) == (("conv2",), ("conv2",))
    train = datasets.load_category(tiny.data, "widget").train
    assert lowered.images == tuple(train[index].name for index in (0, 4, 7))
    rows = [storage.sha256_of_array(image[None]) for image in inputs(found, tiny)[[0, 4, 7]]]
    assert lowered.images_sha256 == storage.sha256_of_json(rows)
    half = lower(widget, tiny, FP16).lowered
    assert half is not None
    assert half.calibration is None


def test_what_describes_the_graph_and_made_it_is_carried_over(widget: Path, tiny: Tiny) -> None:
    model = graph()
    onnx.helper.set_model_props(model, {"trained": "here"})
    replaced(widget, model, software={"mindspore": "2.7"})
    for asked, opset in ((FP16, "11"), (INT8, "13")):  # the first that has a scale per channel
        made = lower(widget, tiny, asked)
        written = onnx.load(widget / made.model)
        assert {item.key: item.value for item in written.metadata_props} == {"trained": "here"}
        assert made.software == {
            "mindspore": "2.7",
            "onnx": onnx.__version__,
            "onnxruntime": ort.__version__,
            "opset": opset,
        }
        assert str(written.opset_import[0].version) == opset


@pytest.mark.parametrize("asked", [FP16, INT8, changed(INT8, calibration="percentile")])
def test_the_same_request_gives_the_same_bytes(widget: Path, tiny: Tiny, asked: PrecisionRequest) -> None:
    assert lower(widget, tiny, asked) == lower(widget, tiny, asked)


def test_images_held_out_for_the_thresholds_stay_unseen(widget: Path, tiny: Tiny) -> None:
    names = [sample.name for sample in datasets.load_category(tiny.data, "widget").train]
    hold_out(widget, names[2:])
    lowered = lower(widget, tiny, INT8).lowered
    assert lowered is not None
    assert lowered.images == tuple(names[:2])
    hold_out(widget, names)
    with pytest.raises(DatasetError, match="but those held out"):
        lower(widget, tiny, INT8)


@pytest.mark.parametrize("asked", [FP16, INT8])
def test_other_training_images_than_the_fit_saw_are_refused(
    widget: Path, tiny: Tiny, tmp_path: Path, asked: PrecisionRequest
) -> None:
    shutil.copytree(tiny.data, tmp_path / "other")
    other = datasets.load_category(tmp_path / "other", "widget")
    shutil.copy(other.test[0].path, other.train[0].path)
    with pytest.raises(DatasetError, match=r"other training images than .* was fitted on"):
        build.quantize(artifact.read(widget), other, asked)
    assert [path.name for path in widget.glob("*.onnx")] == ["onnx-fp32.onnx"]


def hold_out(path: Path, names: list[str]) -> None:
    manifest = artifact.read(path).manifest
    training = msgspec.structs.replace(manifest.training, held_out=tuple(names))
    artifact.write_manifest(path, msgspec.structs.replace(manifest, training=training))


def test_a_model_that_was_not_exported_here_is_not_lowered(widget: Path, tiny: Tiny, tmp_path: Path) -> None:
    manifest = msgspec.structs.replace(artifact.read(widget).manifest, detector="onnx")
    digest = artifact.detector_digest(manifest)
    artifact.write_manifest(widget, msgspec.structs.replace(manifest, detector_sha256=digest))
    with pytest.raises(ArtifactError, match=r"not exported here.*measure both files with bench FILE\.onnx"):
        lower(widget, tiny, FP16)
    asked = ["tune", str(widget), "--data", str(tiny.data), "--to", str(tmp_path / "tuned")]
    assert cli.main(asked) == 2
    assert not (tmp_path / "tuned").exists()


def test_nobody_gets_a_lowered_variant_unasked(widget: Path, tiny: Tiny) -> None:
    lower(widget, tiny, FP16)
    lower(widget, tiny, INT8)
    found = artifact.read(widget)
    assert [item.id for item in found.manifest.variants] == ["onnx-fp32", "onnx-fp16", "onnx-int8"]
    backwards = msgspec.structs.replace(found.manifest, variants=found.manifest.variants[::-1])
    artifact.write_manifest(widget, backwards)
    found = artifact.read(widget)
    assert found.variant(("onnx",)).id == "onnx-fp32"
    assert source(found, ("onnx",), head_in_graph=False).id == "onnx-fp32"


def test_other_settings_never_overwrite_an_earlier_file(tiny: Tiny) -> None:
    from exporters.quantize.export import identifier

    made_from = artifact.read(tiny.artifact).manifest.variants[0]
    requests = [
        *(FP16, INT8, changed(INT8, calibration="percentile"), changed(INT8, images=5)),
        *(changed(INT8, keep_float=kept) for kept in (("a",), ("b",), ("a", "b"))),
        changed(INT8, label="minmax"),
    ]
    names = {identifier(made_from, request) for request in requests}
    headed = msgspec.structs.replace(made_from, contains=(HEAD,))
    names |= {identifier(headed, INT8), identifier(headed, changed(INT8, reduce_head=True))}
    assert len(names) == len(requests) + 2


@pytest.mark.parametrize("bias_is", ["there", "not there"])
@pytest.mark.parametrize("epsilon_is", ["there", "not there"])
def test_a_batch_normalisation_is_folded_into_the_convolution_it_alone_reads(
    bias_is: str, epsilon_is: str
) -> None:
    from exporters.quantize import graph as graph_module

    model, batch = graph(), np.random.default_rng(0).normal(size=(2, 3, 32, 32)).astype(np.float32)
    if bias_is == "there":
        bias = np.array([0.5, -1.0, 2.0, 0.3], np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(bias, "bias"))
        model.graph.node[0].input.append("bias")
    if epsilon_is == "not there":
        del model.graph.node[1].attribute[:]
    folded = onnx.ModelProto()
    folded.CopyFrom(model)
    graph_module.fold_batch_norms(folded)
    assert [node.name for node in folded.graph.node] == ["conv1", "relu", "conv2", "scale", "end"]
    assert "gamma" not in {item.name for item in folded.graph.initializer}
    np.testing.assert_allclose(run(folded, batch), run(model, batch), rtol=1e-4, atol=1e-5)


def test_a_convolution_that_others_read_too_keeps_its_batch_normalisation() -> None:
    from exporters.quantize import graph as graph_module

    model = graph()
    model.graph.output.append(onnx.helper.make_tensor_value_info("one", 1, ["batch", 4, 8, 8]))
    graph_module.fold_batch_norms(model)
    assert "norm" in {node.name for node in model.graph.node}


def test_int8_has_a_scale_per_channel_of_each_weight_but_of_those_kept(widget: Path, tiny: Tiny) -> None:
    made = onnx.load(widget / lower(widget, tiny, changed(INT8, keep_float=("conv2",))).model)
    arrays = {item.name: onnx.numpy_helper.to_array(item) for item in made.graph.initializer}
    weights = [
        (arrays[node.input[0]], arrays[node.input[1]])
        for node in made.graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in arrays
    ]
    (weight,) = [item for item in weights if item[0].ndim == 4]
    assert (weight[0].dtype, weight[0].shape, weight[1].shape) == (np.int8, (4, 3, 4, 4), (4,))
    assert np.abs(weight[0]).reshape(4, -1).max(axis=1).tolist() == [127] * 4
    zeros = [arrays[node.input[2]] for node in made.graph.node if node.op_type == "QuantizeLinear"]
    assert {zero.dtype.name for zero in zeros} == {"uint8"}  # activations
    assert arrays["layer1.b"].dtype == np.float32


def test_extrema_follow_an_outlier_and_a_percentile_does_not(widget: Path, tmp_path: Path) -> None:
    from exporters.quantize import graph as graph_module
    from exporters.quantize import int8 as int8_module

    model = onnx.load(str(widget / "onnx-fp32.onnx"))
    graph_module.name_nodes(model)
    steps = {}
    for calibration in get_args(build.Calibration):
        batches = [np.full((1, 3, 32, 32), value, np.float32) for value in np.linspace(-1, 1, 100)]
        batches[50][0, 0, 0, 0] = 1000.0  # one of 307200
        made = int8_module.int8_from_float32(
            model, iter(batches), calibration=calibration, keep=(), folder=tmp_path
        )
        arrays = {item.name: onnx.numpy_helper.to_array(item) for item in made.graph.initializer}
        (first,) = [node for node in made.graph.node if node.input[0] == model.graph.input[0].name]
        steps[calibration] = float(arrays[first.input[1]])
    assert steps["minmax"] == pytest.approx(1001 / 255)
    assert 1.5 / 255 < steps["percentile"] < 2.5 / 255


@pytest.mark.parametrize(
    ("wrong", "why"), [("output", "other inputs or outputs"), ("values", "'embedding' is infinite or NaN")]
)
def test_what_a_converter_spoils_is_not_kept(
    widget: Path, tiny: Tiny, wrong: str, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from exporters.quantize import int8 as int8_module

    def spoilt(model: Any, *_: Any, **__: Any) -> Any:
        made = onnx.ModelProto()
        made.CopyFrom(model)
        if wrong == "output":
            made.graph.node[-1].output[0] = made.graph.output[0].name = "other"
        else:
            made.graph.node[-1].op_type = "Log"  # of some negative numbers
        return made

    monkeypatch.setattr(int8_module, "int8_from_float32", spoilt)
    with pytest.raises(ExportError, match=why):
        lower(widget, tiny, INT8)
    assert not list(widget.glob("onnx-int8*"))


@pytest.mark.parametrize(("named", "unnamed"), [("conv1", "conv2"), ("conv2", "conv1")])
def test_a_node_without_a_name_takes_no_other_nodes(
    widget: Path, tiny: Tiny, named: str, unnamed: str
) -> None:
    model = graph()
    nodes = {node.name: node for node in model.graph.node}
    index = list(model.graph.node).index(nodes[unnamed])
    nodes[named].name, nodes[unnamed].name = f"Conv_{index}", ""
    replaced(widget, model)
    made = lower(widget, tiny, changed(FP16, keep_float=(f"Conv_{index}",)))
    halves = {item.name for item in onnx.load(widget / made.model).graph.initializer if item.data_type == 10}
    weights = {"conv1": "layer1.a.folded.two", "conv2": "layer1.b"}
    assert weights[unnamed] in halves
    assert weights[named] not in halves


def test_an_operator_type_stays_float_wholly(widget: Path, tiny: Tiny) -> None:
    lowered = lower(widget, tiny, changed(FP16, keep_float=("Conv", "scale"))).lowered
    assert lowered is not None
    assert lowered.float_nodes == ("conv1", "conv2", "scale")


def test_all_kept_in_float_is_no_lower_precision(widget: Path, tiny: Tiny) -> None:
    with pytest.raises(ExportError, match="nothing is in float16"):
        lower(widget, tiny, changed(FP16, keep_float=("Conv", "Relu", "Mul", "Neg")))
    with pytest.raises(ExportError, match="nothing was quantised"):
        lower(widget, tiny, changed(INT8, keep_float=("Conv", "Relu", "Mul")))
    assert not (widget / "onnx-int8.onnx").exists()


def test_an_unknown_node_is_refused_with_the_nearest(widget: Path, tiny: Tiny) -> None:
    with pytest.raises(UsageError, match=r"--keep-float conv3: .*did you mean 'conv\d'"):
        lower(widget, tiny, changed(INT8, keep_float=("conv3",)))
    with pytest.raises(UsageError, match=r"--keep-float norm: .*folded into the convolutions"):
        lower(widget, tiny, changed(INT8, keep_float=("norm",)))


def test_what_float16_cannot_hold_is_refused_until_its_nodes_stay_float(widget: Path, tiny: Tiny) -> None:
    replaced(widget, graph(gain=5e4))
    with pytest.raises(ExportError, match=r"'two' is infinite.*--keep-float conv1 --keep-float relu"):
        lower(widget, tiny, FP16)
    with pytest.raises(ExportError, match="infinite"):  # what reads it would still round it
        lower(widget, tiny, changed(FP16, keep_float=("conv1", "relu")))
    assert [item.id for item in artifact.read(widget).manifest.variants] == ["onnx-fp32"]
    made = lower(widget, tiny, changed(FP16, keep_float=("conv1", "relu", "conv2", "scale")))
    assert made.agreement["embedding"] < 1e-3


def test_one_image_of_many_that_float16_cannot_hold_is_enough(widget: Path, tiny: Tiny) -> None:
    replaced(widget, graph(gain=15840))  # the first image goes up to 64 800, the third to 66 200
    assert lower(widget, tiny, changed(FP16, images=1)).id == "onnx-fp16-images1"
    with pytest.raises(ExportError, match="'two' is infinite"):
        lower(widget, tiny, FP16)


@pytest.mark.parametrize("stored", ["initializer", "node"])
def test_a_weight_beyond_float16_is_refused_and_not_clipped(widget: Path, tiny: Tiny, stored: str) -> None:
    model = graph()
    model.graph.node.remove(model.graph.node[1])  # the norm, into which it would be folded
    model.graph.node[1].input[0] = "one"
    weight = model.graph.initializer[0]
    array = onnx.numpy_helper.to_array(weight).copy()
    array[1, 2, 3, 0] = -66000.0
    large = onnx.numpy_helper.from_array(array, weight.name)
    weight.CopyFrom(large)
    if stored == "node":
        model.graph.node.insert(0, onnx.helper.make_node("Constant", [], [large.name], value=large))
        model.graph.initializer.remove(weight)
    replaced(widget, model)
    with pytest.raises(ExportError, match=r"weight 'layer1\.a.*beyond 65504.*--keep-float conv1"):
        lower(widget, tiny, FP16)


def test_nodes_that_stay_float_hand_on_float32(widget: Path, tiny: Tiny) -> None:
    made = onnx.load(
        widget / lower(widget, tiny, changed(FP16, keep_float=("relu", "conv2", "scale", "end"))).model
    )
    casts = [node for node in made.graph.node if node.op_type == "Cast" and node.attribute[0].i == 10]
    assert [node.input[0] for node in casts] == ["image"]


@pytest.mark.parametrize("spoil", ["quantised", "float16", "double", "cast"])
def test_a_graph_that_is_not_in_float32_is_refused(widget: Path, tiny: Tiny, spoil: str) -> None:
    model = graph()
    if spoil == "quantised":
        lowered = lower(widget, tiny, INT8)
        model = onnx.load(widget / lowered.model)
    elif spoil == "float16":
        weights = model.graph.initializer[1]
        half = onnx.numpy_helper.to_array(weights).astype(np.float16)
        weights.CopyFrom(onnx.numpy_helper.from_array(half, weights.name))
    elif spoil == "cast":
        for source, target, kind in (("half", "again", 1), ("three", "half", 10)):
            model.graph.node.insert(3, onnx.helper.make_node("Cast", [source], [target], to=kind))
        model.graph.node[5].input[0] = "again"
    else:
        model.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
    replaced(widget, model)
    with pytest.raises(
        ArtifactError, match="already quantised" if spoil == "quantised" else "not in float32"
    ):
        lower(widget, tiny, INT8)


def test_the_head_in_a_graph_keeps_its_precision_unless_asked(widget: Path, tiny: Tiny) -> None:
    replaced(widget, graph(prefix="net."), contains=(HEAD,))
    kept = lower(widget, tiny, FP16, head_in_graph=True)
    lowered = lower(widget, tiny, changed(FP16, reduce_head=True), head_in_graph=True)
    assert (kept.id, lowered.id) == ("onnx-fp16-head", "onnx-fp16-head-fp16")
    assert kept.lowered is not None
    assert lowered.lowered is not None
    assert (kept.lowered.float_nodes, lowered.lowered.float_nodes) == (("scale", "end"), ())
    replaced(widget, graph(), contains=(HEAD,))
    with pytest.raises(ArtifactError, match="no parameter of its network begins with 'net\\.'"):
        lower(widget, tiny, FP16, head_in_graph=True)


def test_groups_are_the_ends_and_the_layers(widget: Path) -> None:
    from exporters.quantize import export as exporter

    assert exporter.groups(artifact.read(widget)) == {
        "first": ("conv1",),
        "last": ("conv2",),
        "tail": ("scale", "end"),
    }


def test_the_command_line_lowers_and_says_what_it_cost(
    widget: Path, tiny: Tiny, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["export", str(widget), "--precision", "fp16", "--precision", "int8", "--data", str(tiny.data)]
    assert cli.main(command) == 0
    half, int8 = capsys.readouterr().out.splitlines()
    assert "onnx-fp16.onnx: " in half
    assert "compared on 8 good images: differs from onnx-fp32" in half
    assert "calibrated (minmax) and compared on 8 good images" in int8


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--precision", "int8"], "needs --data DIR.*int8 is calibrated on good images"),
        (["--precision", "fp16"], "needs --data DIR.*checked for overflow"),
        (["--precision", "fp16", "--calibration", "percentile"], "--calibration belongs to --precision int8"),
        (["--format", "onnx", "--keep-float", "Conv"], "belong to --precision"),
        (["--format", "onnx", "--data", "here"], "belong to --fp16-report and --precision"),
        (["--precision", "fp16", "--data", "here", "--lower-head"], "needs --head-in-graph"),
        (["--precision", "fp16", "--data", "here", "--json"], "--json belongs to --fp16-report"),
        ([], "needs --format .*--precision or --fp16-report"),
    ],
)
def test_options_that_do_not_fit_are_wrong_use(
    widget: Path, given: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    import re

    assert cli.main(["export", str(widget), *given]) == 2
    assert re.search(message, capsys.readouterr().err)
