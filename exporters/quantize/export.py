"""The float32 ONNX variant → a variant in float16 or int8, made and checked on good images the fit saw."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path

import numpy as np

from exporters.errors import ExportError
from exporters.quantize import float16, graph, int8
from exporters.quantize.calibration import batches, spread
from exporters.source_variant import source
from harness import datasets, storage
from harness.build import IMAGES, PrecisionRequest
from harness.detector.artifact import HEAD, Artifact, Lowered, Variant
from harness.errors import DatasetError, MissingExtra
from harness.onnx_models.graph import opset_of
from harness.types import AnyArray, Category, Sample

try:
    import onnx
    import onnx.checker
    import onnx.shape_inference
    import onnxruntime
except ImportError as _error:
    raise MissingExtra(
        "onnx and onnxruntime", "mindspore,ort", needed_for="Reducing the precision"
    ) from _error


def export(
    artifact: Artifact, category: Category, request: PrecisionRequest, *, head_in_graph: bool = False
) -> Variant:
    """Write the variant that `request` asks for into the artifact folder and describe it.

    Raises:
        ArtifactError: no float32 ONNX variant, or a graph that is not in float32.
        DatasetError: other training images than the fit saw, or none but those held out for the thresholds.
        ExportError: float16 cannot hold what the network computes, nothing could be quantised, or the outputs are not finite.
        UsageError: a node or an operator type that the graph does not have.
    """
    made_from = source(artifact, ("onnx",), head_in_graph=head_in_graph)
    file, where = artifact.model_file(made_from), f"{artifact.path}: {made_from.id}"
    model = _read(file, where)
    head = frozenset() if request.reduce_head else graph.head_nodes(model, made_from)
    graph.fold_batch_norms(model)
    keep = graph.named_nodes(model, request.keep_float, where) | head
    samples = _samples(artifact, category, request.images)
    rows = list(batches(artifact, made_from, samples))
    id_ = identifier(made_from, request)
    target = artifact.path / f"{id_}.onnx"
    try:
        reduced = _reduced(model, request, keep, rows)
        with storage.replacing(target) as temporary:
            onnx.save(_checked(reduced, model), str(temporary))
            agreement = _agreement(file, temporary, rows)
    except ExportError as error:
        raise ExportError(f"{where}, {request.precision}: {error}") from error
    return Variant(
        id=id_,
        format="onnx",
        precision=request.precision,
        input=made_from.input,
        input_stage=made_from.input_stage,
        outputs=made_from.outputs,
        contains=made_from.contains,
        files={target.name: storage.sha256_of_file(target)},
        agreement=agreement,
        software=made_from.software
        | {
            "onnxruntime": onnxruntime.__version__,
            "onnx": onnx.__version__,
            "opset": str(opset_of(reduced)),
        },
        lowered=Lowered(
            source=made_from.id,
            source_sha256=made_from.files[made_from.model],
            calibration=request.calibration if request.precision == "int8" else None,
            keep_float=request.keep_float,
            float_nodes=tuple(node.name for node in model.graph.node if node.name in keep),
            images=tuple(sample.name for sample in samples),
            images_sha256=storage.sha256_of_json([storage.sha256_of_array(batch) for batch in rows]),
        ),
    )


def groups(artifact: Artifact) -> dict[str, tuple[str, ...]]:
    """Names of the nodes of the float32 ONNX variant that are worth keeping in float32 together; `precision_graph.groups`.

    Raises:
        ArtifactError: no float32 ONNX variant, or a graph that is not in float32.
    """
    made_from = source(artifact, ("onnx",), head_in_graph=False)
    model = _read(artifact.model_file(made_from), f"{artifact.path}: {made_from.id}")
    graph.fold_batch_norms(model)
    return graph.groups(model)


def _read(file: Path, where: str) -> onnx.ModelProto:
    model = onnx.load(str(file))
    graph.require_float32(model, where)
    graph.name_nodes(model)
    return model


def identifier(made_from: Variant, request: PrecisionRequest) -> str:
    """Of the variant that `request` gives: precision, settings that are not the usual ones, head."""
    parts = ["onnx", request.precision]
    if request.label is not None:
        parts.append(request.label)
    else:
        parts += (
            [request.calibration] if request.precision == "int8" and request.calibration != "minmax" else []
        )
        kept = storage.sha256_of_json(sorted(set(request.keep_float)))[:8]
        parts += [f"keep-{kept}"] if request.keep_float else []
    parts += [f"images{request.images}"] if request.images != IMAGES else []
    parts += made_from.contains
    parts += [request.precision] if request.reduce_head and HEAD in made_from.contains else []
    return "-".join(parts)


def _samples(artifact: Artifact, category: Category, count: int) -> Sequence[Sample]:
    """Good images that the fit saw: those held out set the thresholds, and stay unseen here too."""
    training = artifact.manifest.training
    if datasets.fingerprint(category, "train") != training.fingerprint:
        raise DatasetError(
            f"{category.root}: other training images than {artifact.path} was fitted on ({training.dataset}): --data must hold "
            "the very images, which show what ranges its tensors have"
        )
    held_out = set(training.held_out)
    seen = [sample for sample in category.train if sample.name not in held_out]
    if not seen:
        raise DatasetError(f"{category.root}: no good training images to calibrate on but those held out")
    return spread(seen, count)


def _reduced(
    model: onnx.ModelProto, request: PrecisionRequest, keep: AbstractSet[str], rows: Sequence[AnyArray]
) -> onnx.ModelProto:
    if request.precision == "fp16":
        reduced = float16.float16_from_float32(model, keep)
        float16.require_no_overflow(reduced, rows)
        return reduced
    with tempfile.TemporaryDirectory(prefix="int8-") as folder:
        return int8.int8_from_float32(
            model, iter(rows), calibration=request.calibration, keep=keep, folder=Path(folder)
        )


def _checked(reduced: onnx.ModelProto, model: onnx.ModelProto) -> onnx.ModelProto:
    """Valid, and with the inputs, outputs and description of `model`."""
    ports = [(*value.graph.input, *value.graph.output) for value in (reduced, model)]
    if [value.name for value in ports[0]] != [value.name for value in ports[1]]:
        raise ExportError("the converted graph has other inputs or outputs")
    del reduced.metadata_props[:]
    reduced.metadata_props.extend(model.metadata_props)
    try:
        onnx.checker.check_model(reduced, full_check=True)
    except (onnx.shape_inference.InferenceError, onnx.checker.ValidationError) as error:
        raise ExportError(f"the converted graph is invalid: {error}") from error
    return reduced


def _agreement(reference: Path, reduced: Path, rows: Sequence[AnyArray]) -> dict[str, float]:
    """Output → largest difference from float32 on `rows`, relative to float32's largest value.

    Raises:
        ExportError: an output is not finite.
    """
    first, second = (
        onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
        for path in (reference, reduced)
    )
    names = [output.name for output in first.get_outputs()]
    source = first.get_inputs()[0].name
    apart, largest = np.zeros(len(names)), np.full(len(names), np.finfo(np.float32).tiny, np.float64)
    for batch in rows:
        for index, (one, two) in enumerate(
            zip(first.run(names, {source: batch}), second.run(names, {source: batch}), strict=True)
        ):
            if not np.isfinite(two).all():
                raise ExportError(f"output {names[index]!r} is infinite or NaN on a good image; not kept")
            apart[index] = max(apart[index], np.abs(two - one).max())
            largest[index] = max(largest[index], np.abs(one).max())
    return dict(zip(names, (apart / largest).tolist(), strict=True))
