from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from harness import build, datasets, storage
from harness.blame import cuts
from harness.blame.nodes import PrepareRequest, open_side, prepare
from harness.build import OmRequest
from harness.cli import main
from harness.detector import artifact
from harness.detector.artifact import Artifact
from harness.errors import ArtifactError, RecordError, UsageError
from harness.records import record
from harness.run import plan
from tests.conftest import Tiny

BACKEND = "onnxruntime-cpu"


def deepened(tiny: Tiny, folder: Path) -> Artifact:
    """A copy of the tiny artifact whose network computes the same values in five nodes."""
    path = Path(shutil.copytree(tiny.artifact, folder / "widget"))
    file = path / "onnx-fp32.onnx"
    model = onnx.load(str(file))
    output = model.graph.output[0].name
    model.graph.node[0].output[0] = "conv"
    names = ["conv", "double", "relu", "negative", output]
    model.graph.initializer.append(numpy_helper.from_array(np.array(2.0, np.float32), "two"))
    model.graph.node.extend(
        [
            helper.make_node("Mul", ["conv", "two"], [names[1]], name="double"),
            helper.make_node("Abs", [names[1]], [names[2]], name="abs"),
            helper.make_node("Neg", [names[2]], [names[3]], name="neg"),
            helper.make_node("Div", [names[3], "two"], [output], name="half"),
        ]
    )
    onnx.checker.check_model(model)
    file.write_bytes(model.SerializeToString())
    return relisted(path)


def relisted(path: Path) -> Artifact:
    """Bring the digest of the model in the manifest up to date."""
    before = artifact.read(path)
    (variant,) = before.manifest.variants
    changed = {variant.model: storage.sha256_of_file(path / variant.model)}
    variant = msgspec.structs.replace(variant, files=changed)
    artifact.write_manifest(path, msgspec.structs.replace(before.manifest, variants=(variant,)))
    return artifact.read(path)


def prepared(tiny: Tiny, folder: Path, **changes: Any) -> cuts.Index:
    deep = deepened(tiny, folder)
    request = {
        "side": open_side(deep, deep.manifest.variants[0], BACKEND),
        "category": datasets.load_category(tiny.data, "widget"),
        "to": folder / "cuts",
        "cuts": 2,
        "images": 3,
        **changes,
    }
    return prepare(PrepareRequest(**request))


def benched(folder: Path, out: Path, backend: str = BACKEND) -> None:
    """Bench the cuts, as a board does."""
    request = plan.BenchRequest(
        artifacts=(folder / cuts.CUTS,),
        data=folder / cuts.DATA,
        categories=(),
        backends=(backend,),
        out=out,
        save_outputs=True,
    )
    records = plan.run(plan.plan(request), timeout=60, report=lambda _: None)
    assert [case_record.reason for case_record in records] == [None] * len(records)


@pytest.fixture(scope="module")
def folder(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cuts, and `board`, the records of a board that agrees; read only."""
    parent = tmp_path_factory.mktemp("blame")
    prepared(tiny, parent)
    benched(parent / "cuts", parent / "board")
    return parent


@pytest.fixture
def copied(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "blame"))


def test_cuts_are_evenly_spread_and_contain_every_output(folder: Path) -> None:
    index = cuts.read(folder / "cuts")
    assert [(cut.tensor, cut.operator) for cut in index.cuts] == [
        ("double", "Mul"),
        ("relu", "Abs"),
        ("embedding", "Div"),
    ]
    assert len(index.images) == 3
    assert len({cut.detector_sha256 for cut in index.cuts} | {index.detector_sha256}) == 4


def test_every_tensor_is_cut_if_more_cuts_are_requested(tiny: Tiny, tmp_path: Path) -> None:
    index = prepared(tiny, tmp_path, cuts=99)
    assert [cut.tensor for cut in index.cuts] == ["conv", "double", "relu", "negative", "embedding"]


def test_cuts_lie_between_two_tensors(tiny: Tiny, tmp_path: Path) -> None:
    index = prepared(tiny, tmp_path, cuts=99, between=("double", "negative"))
    assert [cut.tensor for cut in index.cuts] == ["relu", "negative"]
    for wrong in (("double", "double"), ("double", "nowhere")):
        with pytest.raises(UsageError, match="between"):
            prepared(tiny, tmp_path / wrong[1], between=wrong)


def test_a_tensor_without_one_row_per_input_is_not_cut(tiny: Tiny, tmp_path: Path) -> None:
    deep = deepened(tiny, tmp_path)
    file = deep.path / "onnx-fp32.onnx"
    model = onnx.load(str(file))
    double, absolute = model.graph.node[1:3]
    double.op_type, double.input[:] = "Transpose", ["conv"]
    double.attribute.append(helper.make_attribute("perm", [1, 0, 2, 3]))
    absolute.op_type = "Transpose"
    absolute.attribute.append(helper.make_attribute("perm", [1, 0, 2, 3]))
    file.write_bytes(model.SerializeToString())
    changed = relisted(deep.path)
    request = PrepareRequest(
        side=open_side(changed, changed.manifest.variants[0], BACKEND),
        category=datasets.load_category(tiny.data, "widget"),
        to=tmp_path / "cuts",
        cuts=99,
        images=1,
    )
    assert [cut.tensor for cut in prepare(request).cuts] == ["conv", "relu", "negative", "embedding"]


def test_a_cut_model_ends_at_its_tensor(folder: Path) -> None:
    model = onnx.load(str(folder / "cuts" / "cuts" / "00" / "cut.onnx"))
    assert [node.op_type for node in model.graph.node] == ["Conv", "Mul", "ReduceMean", "ReduceMean"]
    assert [value.name for value in model.graph.output] == ["double", "map", "score"]


def test_a_device_that_agrees_passes_every_cut(folder: Path) -> None:
    (comparison,) = cuts.compare(folder / "cuts", folder / "board")
    assert (comparison.verdict, comparison.first, comparison.tolerance) == ("passed", None, 1e-4)
    assert [cut.difference for cut in comparison.cuts] == [0.0, 0.0, 0.0]
    assert comparison.lines()[-1] == "blame passed: nothing differs"


def altered_expectation(folder: Path, number: int) -> None:
    """Change the expected values from that cut on: the device first differs there."""
    file = folder / "cuts" / cuts.INDEX
    document = json.loads(file.read_text())
    for cut in document["cuts"][number:]:
        path = folder / "cuts" / cut["expected"]
        arrays = cuts._expected(folder / "cuts", msgspec.convert(cut, cuts.Cut))
        storage.save_arrays({cuts.TENSOR: arrays * np.float32(1.01)}, path)
        cut["expected_sha256"] = storage.sha256_of_file(path)
    file.write_text(json.dumps(document))


def test_the_first_cut_over_tolerance_is_named_with_the_last_that_agrees(copied: Path) -> None:
    altered_expectation(copied, 1)
    (comparison,) = cuts.compare(copied / "cuts", copied / "board")
    assert [cut.verdict for cut in comparison.cuts] == ["passed", "failed", "failed"]
    assert comparison.first is not None
    assert comparison.first.tensor == "relu"
    assert comparison.first.difference == pytest.approx(0.01 / 1.01, rel=1e-3)
    assert comparison.lines()[-1].endswith(
        "the first cut over tolerance is relu (Abs), after double, which agrees; "
        "to search closer: prepare --between double relu"
    )
    for tolerance, verdict in ((0.0098, "failed"), (0.01, "passed")):
        assert cuts.compare(copied / "cuts", copied / "board", tolerance=tolerance)[0].verdict == verdict


def test_a_cut_without_a_record_is_not_measured(copied: Path) -> None:
    (copied / "board" / next(p.name for p in (copied / "board").glob("*cut-01*.json"))).unlink()
    (comparison,) = cuts.compare(copied / "cuts", copied / "board")
    assert [cut.verdict for cut in comparison.cuts] == ["passed", "not measured", "passed"]
    assert (comparison.verdict, comparison.cuts[1].reason) == ("not measured", "no record")
    altered_expectation(copied, 2)
    (comparison,) = cuts.compare(copied / "cuts", copied / "board")
    assert (comparison.verdict, "some cuts before it were not measured" in comparison.lines()[-1]) == (
        "failed",
        True,
    )


def test_records_of_other_inputs_are_not_measured(copied: Path) -> None:
    for path in (copied / "board").glob("*.json"):
        case_record = record.read(path)
        images = [
            msgspec.structs.replace(image, stages=image.stages | {"input": "0" * 64})
            for image in case_record.images
        ]
        record.write(path.parent, msgspec.structs.replace(case_record, images=tuple(images)))
    (comparison,) = cuts.compare(copied / "cuts", copied / "board")
    assert {cut.verdict for cut in comparison.cuts} == {"not measured"}
    assert "other inputs" in str(comparison.cuts[0].reason)


def test_missing_outputs_and_outputs_of_another_model_are_not_measured(copied: Path) -> None:
    first, second, _ = sorted((copied / "board").glob("*.json"))
    case_record = record.read(first)
    record.write(first.parent, msgspec.structs.replace(case_record, outputs=None))
    case_record = record.read(second)
    assert case_record.outputs is not None
    variant = msgspec.structs.replace(case_record.outputs.variant, software={"source_sha256": "0" * 64})
    saved = msgspec.structs.replace(case_record.outputs, variant=variant)
    record.write(second.parent, msgspec.structs.replace(case_record, outputs=saved))
    (comparison,) = cuts.compare(copied / "cuts", copied / "board")
    assert [cut.verdict for cut in comparison.cuts] == ["not measured", "not measured", "passed"]
    assert "--save-outputs" in str(comparison.cuts[0].reason)
    assert "not exported from the cut" in str(comparison.cuts[1].reason)


@pytest.mark.parametrize(
    "name", ["expected/01.safetensors", "cuts/01/cut.onnx", "cuts/01/manifest.json", cuts.INDEX]
)
def test_an_altered_or_missing_file_is_refused(copied: Path, name: str) -> None:
    file = copied / "cuts" / name
    data = bytearray(file.read_bytes())
    if name.endswith(".json"):
        data = bytearray(
            data.replace(b'"backbone": "tiny"', b'"backbone": "tony"').replace(b'"harness"', b'"horness"')
        )
    else:
        data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(ArtifactError):
        cuts.compare(copied / "cuts", copied / "board")
    file.unlink()
    with pytest.raises(ArtifactError):
        cuts.compare(copied / "cuts", copied / "board")


def test_altered_outputs_are_refused(copied: Path) -> None:
    for file in (copied / "board" / "evidence").glob("*.outputs.safetensors"):
        data = bytearray(file.read_bytes())
        data[-1] ^= 1
        file.write_bytes(data)
    with pytest.raises(RecordError, match="altered"):
        cuts.compare(copied / "cuts", copied / "board")


def test_results_without_a_record_of_the_cuts_are_refused(tiny: Tiny, folder: Path, tmp_path: Path) -> None:
    plan.run(plan.plan(tiny.request(tmp_path / "other")), timeout=60, report=lambda _: None)
    with pytest.raises(UsageError, match="no record of the cuts"):
        cuts.compare(folder / "cuts", tmp_path / "other")


def test_a_simulated_board_compiles_the_cuts_and_its_float16_is_within_its_own_tolerance(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for cut_artifact in artifact.find(copied / "cuts" / cuts.CUTS, ()):
        request = OmRequest(soc="Ascend310", cann="7.0", atc="simulated")
        build.export(cut_artifact, "om", head_in_graph=True, om=request)
    benched(copied / "cuts", copied / "ascend", "ascend310-simulated")
    (comparison,) = cuts.compare(copied / "cuts", copied / "ascend")
    assert (comparison.verdict, comparison.tolerance, comparison.simulated) == ("passed", 1e-2, True)
    assert all(cut.difference is not None and 0 < cut.difference < 1e-2 for cut in comparison.cuts)
    arguments = ["blame", "compare", str(copied / "cuts"), "--outputs", str(copied / "ascend")]
    assert main(arguments) == 0
    assert "SIMULATED, not hardware" in capsys.readouterr().out
    assert main([*arguments, "--tolerance", "1e-6", "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert (document["verdict"], document["devices"][0]["cuts"][0]["tensor"]) == ("failed", "double")
