"""Writes truncated models, images and expected tensors into a folder for a board (see `harness.blame.cuts`).

Each cut is an artifact whose graph ends at one tensor of the original. It also outputs a map and a score, both means of its
input: so `bench` scores it like a graph with its head, and `--save-outputs` saves the tensor.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper

from harness import __version__, storage
from harness.blame import cuts
from harness.blame.nodes.graph import Graph, Tensor
from harness.blame.nodes.side import Side, evenly_spread
from harness.detector import artifact
from harness.detector.artifact import HEAD, HeadSpec, Manifest, TensorSpec, Variant
from harness.detector.preprocess import Crop, Preprocessor, Step, Windows
from harness.errors import UsageError
from harness.heads.graph import MAP, SCORE
from harness.onnx_models.graph import opset_of
from harness.records.batches import stage_digests
from harness.types import AnyArray, Category, Sample

MODEL = "cut.onnx"
STAGE = "layout"
"""Last preprocessing step before a cut's network."""
_PREFIX = "cut."
"""Before a graph's own `map` and `score`, whose names the cut's map and score use."""
_AXES_AS_INPUT = 18
"""The first opset in which ReduceMean has its axes as an input."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrepareRequest:
    """What is cut, and at how many tensors."""

    side: Side
    """The variant, on the reference backend."""
    category: Category
    to: Path
    """A new folder."""
    cuts: int
    """Number of tensors inside the graph; the outputs are cut too."""
    images: int
    """Number of test images, evenly spread."""
    between: tuple[str, str] | None = None
    """Cut only after the first tensor, up to the second."""


def prepare(request: PrepareRequest) -> cuts.Index:
    """Write the folder completely, or not at all.

    Raises:
        UsageError: the folder exists, `between` names no tensors of the graph, or the graph normalises.
    """
    side, manifest = request.side, request.side.artifact.manifest
    if side.variant.input_stage not in ("layout", "windows"):
        raise UsageError(
            f"{side.variant.id} normalises in its graph: cut the variant that takes float images"
        )
    steps = _steps(manifest.preprocessing)
    preprocessor = Preprocessor(steps, until=STAGE)
    samples = evenly_spread(request.category.test, request.images)
    stages, batches = {}, []
    for sample in samples:
        pixels = preprocessor.decode(sample.path)
        frame = preprocessor.frame(pixels)
        row = preprocessor.tensor(frame)
        stages[sample.name] = stage_digests(pixels, frame, row[None])
        batches.append(side.batch(row))
    tensors = _places(request, batches[0])
    values = _expected(side, [tensor.name for tensor in tensors], batches)
    with storage.new_folder(request.to) as folder:
        _copy(request.category, samples, folder / cuts.DATA)
        written = [
            _cut(folder, number, side, steps, tensor, values[tensor.name])
            for number, tensor in enumerate(tensors)
        ]
        index = cuts.Index(
            schema=cuts.SCHEMA,
            harness=__version__,
            detector_sha256=manifest.detector_sha256,
            variant=side.variant.id,
            model_sha256=side.variant.files[side.variant.model],
            reference=side.backend,
            input_stage=STAGE,
            images=stages,
            cuts=tuple(written),
        )
        storage.write_json(folder / cuts.INDEX, msgspec.to_builtins(index))
    return index


def _steps(steps: Sequence[Step]) -> tuple[Step, ...]:
    """The artifact's steps, with the image's centre in place of its windows: one input of the network."""
    windows = next((step for step in steps if isinstance(step, Windows)), None)
    if windows is None:
        return tuple(steps)
    centre = Crop(height=windows.size, width=windows.size)
    others = [step for step in steps if not isinstance(step, Windows | Crop)]
    place = [step.stage for step in others].index("scale")
    return (*others[:place], centre, *others[place:])


def _places(request: PrepareRequest, batch: AnyArray) -> list[Tensor]:
    """Tensors to cut at, in topological order: evenly spread ones, and the outputs."""
    graph = request.side.graph
    tensors = _row_by_row(request.side, batch)
    names = [tensor.name for tensor in tensors]
    start, stop = 0, len(names)
    if request.between is not None:
        for name in request.between:
            if name not in names:
                raise UsageError(
                    f"--between: {name!r} is no float tensor of {request.side.variant.id} with one row for each input"
                )
        start, stop = names.index(request.between[0]) + 1, names.index(request.between[1]) + 1
    count = min(request.cuts, stop - start)
    if count < 1:
        raise UsageError(
            f"there is no tensor between {' and '.join(request.between or ())}: nothing is left to cut"
        )
    spread = {start + round((stop - start) * (number + 1) / (count + 1)) - 1 for number in range(count)}
    last = {stop - 1} if request.between else {names.index(name) for name in graph.outputs if name in names}
    return [tensors[place] for place in sorted((spread | last) - {start - 1})]


def _row_by_row(side: Side, batch: AnyArray) -> list[Tensor]:
    """Tensors with one row for each input on axis 0, as saved outputs must have; a graph may also hold other layouts."""
    names = [tensor.name for tensor in side.graph.tensors]
    single = side.values(names, batch)
    if side.variant.input.shape[0] is not None:
        return [tensor for tensor in side.graph.tensors if single[tensor.name].shape[:1] == batch.shape[:1]]
    double = side.values(names, np.concatenate([batch, batch]))
    return [
        tensor
        for tensor in side.graph.tensors
        if (1, *double[tensor.name].shape[1:]) == single[tensor.name].shape
        and double[tensor.name].shape[:1] == (2,)
    ]


def _expected(side: Side, names: Sequence[str], batches: Sequence[AnyArray]) -> dict[str, AnyArray]:
    """The reference's values, with the images in order on axis 0."""
    model = side.graph.exposed(names)
    outputs = [side.run(model, batch)[0] for batch in batches]
    return {name: np.concatenate([arrays[name][:1] for arrays in outputs]) for name in names}


def _cut(
    folder: Path, number: int, side: Side, steps: tuple[Step, ...], tensor: Tensor, values: AnyArray
) -> cuts.Cut:
    place = folder / cuts.CUTS / f"{number:02}"
    place.mkdir(parents=True)
    output = f"{_PREFIX}{tensor.name}" if tensor.name in (MAP, SCORE) else tensor.name
    onnx.save(_with_head(side.graph.exposed([tensor.name]), side.graph), str(place / MODEL))
    batch, _, height, width = side.variant.input.shape
    variant = msgspec.structs.replace(
        side.variant,
        id=f"{side.variant.id}-cut",
        input_stage=STAGE,
        outputs=(
            msgspec.structs.replace(side.graph.spec(tensor.name), name=output),
            TensorSpec(name=MAP, dtype="float32", shape=(batch, height, width)),
            TensorSpec(name=SCORE, dtype="float32", shape=(batch,)),
        ),
        contains=(HEAD,),
        files={MODEL: storage.sha256_of_file(place / MODEL)},
        agreement={},
    )
    manifest = _manifest(side.artifact.manifest, number, steps, variant)
    artifact.write_manifest(place, manifest)
    expected = folder / cuts.EXPECTED / f"{number:02}.safetensors"
    expected.parent.mkdir(exist_ok=True)
    storage.save_arrays({cuts.TENSOR: values}, expected)
    return cuts.Cut(
        tensor=tensor.name,
        operator=tensor.operator,
        output=output,
        artifact=f"{cuts.CUTS}/{place.name}",
        artifact_sha256=cuts.manifest_digest(manifest),
        detector_sha256=manifest.detector_sha256,
        model_sha256=variant.files[MODEL],
        expected=f"{cuts.EXPECTED}/{expected.name}",
        expected_sha256=storage.sha256_of_file(expected),
    )


def _manifest(manifest: Manifest, number: int, steps: tuple[Step, ...], variant: Variant) -> Manifest:
    """A cut's manifest: a detector of its own, so that its records never count as the original's."""
    cut = msgspec.structs.replace(
        manifest,
        detector=f"{manifest.detector}-cut-{number:02}",
        preprocessing=steps,
        head=HeadSpec(
            name="graph",
            parameters={"map_size": list(variant.input.shape[2:]), "model_sha256": variant.files[MODEL]},
        ),
        fit_report={},
        settings={},
        variants=(variant,),
    )
    return msgspec.structs.replace(cut, detector_sha256=artifact.detector_digest(cut))


def _with_head(model: Any, graph: Graph) -> Any:
    """`model` with two more outputs, a map and a score: the input's mean over the channels, then the map's mean."""
    renamed = {name: f"{_PREFIX}{name}" for name in (MAP, SCORE)}
    for node in model.graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
    for value in model.graph.output:
        value.name = renamed.get(value.name, value.name)
    as_input = opset_of(model) >= _AXES_AS_INPUT
    for source, target, axes in ((graph.input.name, MAP, [1]), (MAP, SCORE, [1, 2])):
        if as_input:
            name = f"{_PREFIX}{target}.axes"
            model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(axes, np.int64), name))
            node = onnx.helper.make_node("ReduceMean", [source, name], [target], keepdims=0)
        else:
            node = onnx.helper.make_node("ReduceMean", [source], [target], axes=axes, keepdims=0)
        model.graph.node.append(node)
    batch, _, height, width = graph.input.type.tensor_type.shape.dim
    for name, dimensions in ((MAP, (batch, height, width)), (SCORE, (batch,))):
        shape = [dimension.dim_value or dimension.dim_param for dimension in dimensions]
        model.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape))
    onnx.checker.check_model(model)
    return model


def _copy(category: Category, samples: Sequence[Sample], folder: Path) -> None:
    """Copy the images with their masks, and one training image, which a category must have."""
    files = [category.train[0].path, *(sample.path for sample in samples)]
    files += [sample.mask_path for sample in samples if sample.mask_path is not None]
    for file in files:
        target = folder / category.name / file.relative_to(category.root)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
