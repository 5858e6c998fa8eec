from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest

from harness import blame, datasets, parity, storage
from harness.blame import outputs as blame_outputs
from harness.cli import main
from harness.detector import artifact
from harness.detector.artifact import TensorSpec, Variant
from harness.errors import RecordError
from harness.records import batches, outputs, record
from harness.records.record import Record, StoredOutputs
from harness.run import plan
from harness.types import AnyArray
from tests.conftest import Tiny
from tests.harness.record_factory import Outputs, Results, frames
from tests.harness.record_factory import outputs as plain

VARIANT = Variant(
    id="onnx-fp32",
    format="onnx",
    precision="fp32",
    input=TensorSpec(name="image", dtype="float32", shape=(None, 3, 6, 6)),
    input_stage="layout",
    outputs=(),
    files={"model.onnx": "e" * 64},
    agreement={},
)


def blamed(results: Results, inputs: Path | None = None) -> blame.StageBlame:
    report = parity.parity(results.folder, reference="reference")
    (stage_blame,) = blame.blame(results.folder, report, inputs=inputs)
    return stage_blame


def staged(
    case_record: Record, results: Results, stages: Callable[[int], dict[str, str]], *images: int
) -> None:
    """Rewrite the stages of these images, or of all images."""
    changed = tuple(
        msgspec.structs.replace(image, stages=image.stages | stages(index))
        if not images or index in images
        else image
        for index, image in enumerate(case_record.images)
    )
    record.write(results.folder, msgspec.structs.replace(case_record, images=changed))


def stored(case_record: Record, results: Results, **arrays: AnyArray) -> None:
    """Save outputs beside the record, one row per image."""
    name = record.outputs_name(case_record.case, case_record.inputs_sha256)
    path = results.folder / name
    with path.open("wb") as file:
        writer = outputs.Writer(file, [1] * len(case_record.images))
        writer.add(arrays, None)
        writer.finish()
    saved = StoredOutputs(file=name, sha256=storage.sha256_of_file(path), variant=VARIANT)
    record.write(results.folder, msgspec.structs.replace(case_record, outputs=saved))


def moved(arrays: Outputs, by: float = 0.5) -> Outputs:
    return dataclasses.replace(arrays, maps=arrays.maps + np.float32(by))


def raw() -> AnyArray:
    return np.random.default_rng(3).normal(size=(8, 5)).astype(np.float32)


def test_pairs_that_passed_are_not_blamed(results: Results) -> None:
    results.add("reference", plain())
    results.add("other", plain())
    report = parity.parity(results.folder, reference="reference")
    assert blame.blame(results.folder, report) == ()


def test_records_that_were_not_compared_are_blamed_on_no_stage(results: Results) -> None:
    results.add("reference", plain())
    results.add("other", plain(), detector_sha256="9" * 64)
    stage_blame = blamed(results)
    assert stage_blame.stage is None
    assert "different detectors" in stage_blame.found[0]


@pytest.mark.parametrize(
    ("changed", "stage"),
    [(("decode", "frame", "input"), "decode"), (("frame", "input"), "frame"), (("input",), "input")],
)
def test_the_first_stage_whose_digest_differs_is_blamed(
    results: Results, changed: tuple[str, ...], stage: str
) -> None:
    results.add("reference", plain())
    candidate = results.add("other", moved(plain()))
    staged(candidate, results, lambda _: dict.fromkeys(changed, "0" * 64), 2, 5)
    stage_blame = blamed(results)
    assert (stage_blame.stage, stage_blame.image) == (stage, candidate.images[2].name)
    assert f"{stage} differs first for 2 of 8 images" in stage_blame.found[0]


def test_a_frame_that_differs_without_reaching_the_input_is_not_blamed(results: Results) -> None:
    results.add("reference", plain())
    candidate = results.add("other", moved(plain()))
    staged(candidate, results, lambda _: {"frame": "0" * 64})
    assert blamed(results).stage is None  # maps differ, and no outputs are stored
    assert "the outputs of reference and other are not saved" in blamed(results).found[1]


def test_frames_in_the_evidence_explain_the_difference(results: Results) -> None:
    arrays_of_both = plain(side=16)
    pictures = np.random.default_rng(0).integers(0, 255, (8, 16, 16, 3), np.uint8)
    for name, shown, word in (("reference", pictures, "r"), ("other", pictures[..., ::-1], "o")):
        candidate = results.add(name, arrays_of_both if word == "r" else moved(arrays_of_both))
        arrays = record.read_evidence(results.folder, candidate)
        assert arrays is not None
        arrays = dataclasses.replace(arrays, frames=np.ascontiguousarray(shown))
        evidence = record.write_evidence(results.folder, candidate.case, candidate.inputs_sha256, arrays)
        candidate = msgspec.structs.replace(candidate, evidence=evidence)
        digests = [storage.sha256_of_array(np.ascontiguousarray(frame)) for frame in shown]
        staged(candidate, results, lambda index, d=digests, w=word: {"frame": d[index], "input": w})  # type: ignore[misc]
    stage_blame = blamed(results)
    assert stage_blame.stage == "frame"
    assert stage_blame.found[-1] == "the channels are in reverse order (BGR for RGB)"


def test_frames_with_another_digest_are_ignored(results: Results) -> None:
    results.add("reference", plain())
    candidate = results.add("other", moved(plain()))
    staged(candidate, results, lambda _: {"frame": "0" * 64, "input": "1" * 64})
    assert "is unknown" in blamed(results).found[-1]
    assert frames(plain()).shape == (8, 6, 6, 3)


def test_outputs_beyond_tolerance_are_blamed_with_name_image_and_amount(results: Results) -> None:
    other = raw()
    other[4] *= 1.5
    stored(results.add("reference", plain()), results, left=raw(), right=raw())
    candidate = results.add("other", moved(plain()))
    stored(candidate, results, left=raw(), right=other)
    stage_blame = blamed(results)
    assert (stage_blame.stage, stage_blame.image) == ("outputs", candidate.images[4].name)
    assert [line.split(" of its")[0] for line in stage_blame.found[1:]] == ["output right differs by 0.5"]


def test_swapped_outputs_are_recognised(results: Results) -> None:
    stored(results.add("reference", plain()), results, left=raw(), right=raw() * 2)
    stored(results.add("other", moved(plain())), results, left=raw() * 2, right=raw())
    stage_blame = blamed(results)
    assert stage_blame.stage == "outputs"
    assert {line for line in stage_blame.found if "calls" in line} == {
        "left is what the reference calls right: outputs have changed names or places",
        "right is what the reference calls left: outputs have changed names or places",
    }


def test_the_outputs_of_another_image_are_recognised(results: Results) -> None:
    stale = raw()
    stale[3] = stale[2]
    candidate = results.add("reference", plain())
    stored(candidate, results, left=raw())
    stored(results.add("other", moved(plain())), results, left=stale)
    stage_blame = blamed(results)
    names = [image.name for image in candidate.images]
    assert (
        stage_blame.found[-1]
        == f"the outputs of {names[3]} are the reference's of {names[2]}: a stale buffer, or another order"
    )


def test_an_output_has_its_own_tolerance(results: Results) -> None:
    one = results.add("reference", plain())
    two = results.add("other", moved(plain()))
    readers = []
    for candidate, factor in ((one, 1.0), (two, 1.01)):
        stored(candidate, results, left=raw(), right=raw() * np.float32(factor))
        saved = record.read(record.path_of(results.folder, candidate)).outputs
        assert saved is not None
        readers.append(outputs.Reader(results.folder / saved.file, saved.sha256))
    names = [image.name for image in one.images]
    for allowed, differ in ((0.02, False), (0.005, True)):
        tolerances = parity.Tolerances(outputs={"right": allowed})
        assert blame_outputs.compare(readers[0], readers[1], names, tolerances).differ == differ


def test_with_a_head_in_one_graph_only_network_and_head_are_not_told_apart(
    results: Results,
) -> None:
    stored(results.add("reference", plain()), results, left=raw())
    candidate = results.add("other", moved(plain()))
    stored(candidate, results, map=raw())
    saved = record.read(record.path_of(results.folder, candidate))
    assert saved.outputs is not None
    headed = msgspec.structs.replace(saved.outputs.variant, contains=("head",))
    headed_outputs = msgspec.structs.replace(saved.outputs, variant=headed)
    record.write(results.folder, msgspec.structs.replace(saved, outputs=headed_outputs))
    stage_blame = blamed(results)
    assert stage_blame.stage is None
    assert "other has the head in its graph" in stage_blame.found[-1]


def test_inputs_are_not_blamed_if_one_network_normalises_in_its_graph(results: Results) -> None:
    """The inputs may differ, because the frames are equal."""
    stored(results.add("reference", plain(), input_stage="layout"), results, left=raw())
    candidate = results.add("other", moved(plain()), input_stage="crop")
    stored(candidate, results, left=raw() * 2)
    saved = record.read(record.path_of(results.folder, candidate))
    staged(saved, results, lambda index: {"input": f"uint8 {index}"})
    stage_blame = blamed(results)
    assert stage_blame.stage == "outputs"
    assert stage_blame.found[0].startswith(
        "the frames are equal; after them reference preprocesses up to layout"
    )


def test_frames_are_blamed_if_one_network_normalises_in_its_graph(results: Results) -> None:
    results.add("reference", plain(), input_stage="layout")
    candidate = results.add("other", moved(plain()), input_stage="crop")
    staged(candidate, results, lambda index: {"input": f"uint8 {index}", "frame": f"another {index}"})
    assert blamed(results).stage == "frame"


def test_outputs_of_other_names_are_blamed(results: Results) -> None:
    stored(results.add("reference", plain()), results, left=raw())
    stored(results.add("other", moved(plain())), results, right=raw())
    assert (blamed(results).stage, blamed(results).found) == (
        "outputs",
        ("the inputs of the network are equal", "the outputs are left and right"),
    )


@pytest.mark.parametrize(("factor", "how"), [(1.0, "equal bit for bit"), (1 + 5e-5, "within tolerance")])
def test_the_head_is_blamed_if_its_inputs_agree_and_its_maps_differ(
    results: Results, factor: float, how: str
) -> None:
    stored(results.add("reference", plain()), results, left=raw())
    stored(results.add("other", moved(plain())), results, left=raw() * np.float32(factor))
    stage_blame = blamed(results)
    assert stage_blame.stage == "head"
    assert how in stage_blame.found[1]
    assert stage_blame.found[2].startswith("the maps of these outputs differ")


def test_the_head_is_blamed_if_only_scores_differ(results: Results) -> None:
    reference = plain()
    stored(results.add("reference", reference), results, left=raw())
    stored(
        results.add("other", dataclasses.replace(reference, scores=reference.scores + 0.1)),
        results,
        left=raw(),
    )
    stage_blame = blamed(results)
    assert stage_blame.stage == "head"
    assert "the scores of these outputs differ; the maps agree" in stage_blame.found[2]


def test_other_ground_truth_is_blamed_on_the_metrics(results: Results) -> None:
    reference = plain()
    masks = reference.masks.copy()
    masks[5, 0, 0] = True
    results.add("reference", reference)
    results.add("other", dataclasses.replace(reference, masks=masks))
    stage_blame = blamed(results)
    assert stage_blame.stage == "metrics"
    assert "ground truth" in stage_blame.found[-1]


def test_a_level_that_was_not_measured_is_not_blamed(results: Results) -> None:
    for name in ("reference", "other"):
        candidate = results.add(name, plain())
    (results.folder / str(candidate.evidence and candidate.evidence.file)).unlink()
    stage_blame = blamed(results)
    assert stage_blame.stage is None
    assert "nothing that was measured differs; not measured: maps" in stage_blame.found[-1]


# End to end, with the tiny detector.

OtherInputs = Callable[..., Path]


@pytest.fixture
def other_inputs(tiny: Tiny, tmp_path: Path) -> OtherInputs:
    """Bench the tiny detector, and again on inputs of another preprocessor; return the folder of these inputs."""

    def make(spoil: Callable[[AnyArray], AnyArray], batch_size: int = 1) -> Path:
        out, folder = tmp_path / "results", tmp_path / "in"
        plan.run(plan.plan(tiny.request(out)), timeout=60, report=lambda _: None)
        finished = plan.plan(tiny.request(out)).finished[0]
        opened = artifact.read(tiny.artifact)
        category = datasets.load_category(tiny.data, finished.case.category)
        index = batches.write(
            opened, opened.manifest.variants[0], category, folder, batch_size=batch_size, format_="npy"
        )
        changed = []
        for batch in index.batches:
            path = folder / batch.file
            np.save(path, np.ascontiguousarray(spoil(np.load(path))))
            changed.append(msgspec.structs.replace(batch, sha256=storage.sha256_of_file(path)))
        images = tuple(msgspec.structs.replace(image, stages={}) for image in index.images)
        index = msgspec.structs.replace(index, batches=tuple(changed), images=images)
        storage.write_json(folder / batches.INDEX, msgspec.to_builtins(index))
        plan.run(plan.plan(tiny.request(out, inputs=folder)), timeout=60, report=lambda _: None)
        return folder

    return make


def swapped(rows: AnyArray) -> AnyArray:
    """BGR for RGB before the normalisation."""
    mean, std = (np.array(values, np.float32)[:, None, None] for values in (MEAN, STD))
    return np.asarray((rows * std + mean)[:, ::-1] - mean, np.float32) / std


MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.mark.parametrize(
    ("spoil", "stage", "text"),
    [
        (swapped, "frame", "BGR for RGB"),
        (lambda rows: rows.transpose(0, 1, 3, 2), "frame", "height and width are transposed"),
        (lambda rows: rows * np.float32(0.5), "input", "by mean 0.485 0.456 0.406 and std 0.458 0.448 0.45"),
    ],
)
def test_another_programs_preprocessing_is_explained_from_its_inputs(
    other_inputs: OtherInputs,
    capsys: pytest.CaptureFixture[str],
    spoil: Callable[[AnyArray], AnyArray],
    stage: str,
    text: str,
) -> None:
    folder = other_inputs(spoil)
    out = folder.parent / "results"
    arguments = ["parity", "--reference", "onnxruntime-cpu", "--results", str(out), "--blame"]
    assert main(arguments) == 1
    assert "inputs of onnxruntime-cpu (inputs " in capsys.readouterr().out
    assert main([*arguments, "--inputs", str(folder), "--json"]) == 1
    (stage_blame,) = json.loads(capsys.readouterr().out)["blame"]
    assert stage_blame["stage"] == stage
    assert text in stage_blame["found"][-1]


def test_the_image_is_found_within_its_batch(other_inputs: OtherInputs) -> None:
    """The second image of each batch of three is transposed."""

    def second(rows: AnyArray) -> AnyArray:
        rows[1] = rows[1].transpose(0, 2, 1)
        return rows

    folder = other_inputs(second, batch_size=3)
    report = parity.parity(folder.parent / "results", reference="onnxruntime-cpu")
    (stage_blame,) = blame.blame(folder.parent / "results", report, inputs=folder)
    assert (stage_blame.stage, stage_blame.image) == ("frame", "test/good/001.png")
    assert stage_blame.found == (
        "input differs first for 3 of 8 images, for example test/good/001.png",
        "height and width are transposed",
    )


def test_the_input_of_another_image_is_recognised_under_any_normalisation(other_inputs: OtherInputs) -> None:
    """The last batch holds two images; the first of three change places with the last."""
    folder = other_inputs(lambda rows: rows[::-1] * np.float32(2), batch_size=3)
    report = parity.parity(folder.parent / "results", reference="onnxruntime-cpu")
    (stage_blame,) = blame.blame(folder.parent / "results", report, inputs=folder)
    assert (stage_blame.stage, stage_blame.image) == ("decode", "test/good/000.png")
    assert stage_blame.found[-1].startswith(
        "test/good/000.png shows test/good/002.png: the images are in another order"
    )


def test_a_picture_that_no_normalisation_explains_is_blamed_on_the_frame(other_inputs: OtherInputs) -> None:
    folder = other_inputs(lambda rows: np.random.default_rng(0).random(rows.shape, np.float32))
    report = parity.parity(folder.parent / "results", reference="onnxruntime-cpu")
    (stage_blame,) = blame.blame(folder.parent / "results", report, inputs=folder)
    assert stage_blame.stage == "frame"
    assert "not alike, and neither normalisation nor layout" in stage_blame.found[-1]


def test_inputs_of_another_record_are_refused(
    other_inputs: OtherInputs,
) -> None:
    folder = other_inputs(swapped)
    index = msgspec.structs.replace(batches.read(folder).index, harness="another")
    storage.write_json(folder / batches.INDEX, msgspec.to_builtins(index))
    report = parity.parity(folder.parent / "results", reference="onnxruntime-cpu")
    with pytest.raises(RecordError, match="not the inputs of"):
        blame.blame(folder.parent / "results", report, inputs=folder)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--inputs", "in"], "--inputs needs --blame"),
        (["--blame", "--data", "in"], "--artifact and --data together"),
    ],
)
def test_options_without_effect_are_refused(
    results: Results, capsys: pytest.CaptureFixture[str], option: list[str], message: str
) -> None:
    for name in ("reference", "other"):
        results.add(name, plain())
    assert main(["parity", "--reference", "reference", "--results", str(results.folder), *option]) == 2
    assert message in capsys.readouterr().err


def test_two_variants_of_one_backend_are_blamed_each_by_its_name(results: Results) -> None:
    moved = plain()
    moved.scores[4:] += 0.5
    results.add("cpu", plain())
    for variant in ("onnx-fp16", "onnx-int8"):
        results.add("cpu", moved, case={"variant": variant})
    report = parity.parity(results.folder, reference="cpu:onnx-fp32")
    sides = [
        (stage_blame.reference, stage_blame.other) for stage_blame in blame.blame(results.folder, report)
    ]
    assert sides == [("cpu:onnx-fp32", "cpu:onnx-fp16"), ("cpu:onnx-fp32", "cpu:onnx-int8")]
