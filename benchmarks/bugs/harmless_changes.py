"""Harmless changes: parity must pass."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import onnx
import onnx.version_converter

from benchmarks.bugs.change import Change
from benchmarks.bugs.deployment import HEADED, Deployment
from benchmarks.bugs.file_bugs import by_name, by_number
from benchmarks.bugs.graph_bugs import compile_om, rescale
from benchmarks.bugs.preprocessor_bugs import frame
from harness import build
from harness.detector.preprocess import Preprocessor, standard_steps
from harness.run import plan as plan_module
from harness.run import replay


def _opset(backend: str) -> Callable[[Deployment], None]:
    def inject(deployment: Deployment) -> None:
        variant = deployment.variant()
        path = deployment.artifact / variant.model
        onnx.save(onnx.version_converter.convert_version(onnx.load(str(path)), 17), str(path))
        deployment.relist(variant)
        deployment.bench(backend)

    return inject


def _optimised_offline(deployment: Deployment) -> None:
    """Fold constants and fuse nodes in advance, like deployment scripts."""
    import onnxruntime

    variant = deployment.variant()
    path = deployment.artifact / variant.model
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(deployment.folder / "optimised.onnx")
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    shutil.move(options.optimized_model_filepath, path)
    deployment.relist(variant)
    deployment.bench()


def _exported_again(deployment: Deployment) -> None:
    build.export(deployment.opened(), "mindir")
    deployment.bench("mindspore-cpu")


def _reencoded(deployment: Deployment) -> None:
    deployment.own_data()
    for sample in deployment.category().test:
        image = cv2.imread(str(sample.path), cv2.IMREAD_UNCHANGED)
        assert image is not None
        cv2.imwrite(str(sample.path), image, [cv2.IMWRITE_PNG_COMPRESSION, 9])
    deployment.bench()


def _elsewhere(deployment: Deployment) -> None:
    """Move artifact and data to paths with a blank and an umlaut."""
    moved = deployment.folder / "Prüf stand"
    deployment.data = Path(shutil.copytree(deployment.data, moved / "data"))
    deployment.artifact = Path(shutil.move(deployment.artifact, moved / "weave"))
    deployment.bench()


def _through_files(deployment: Deployment) -> None:
    deployment.write_inputs(batch_size=4, format_="npy")
    deployment.score(deployment.run_elsewhere(by_name))


def _through_bare_files(deployment: Deployment) -> None:
    deployment.write_inputs()
    deployment.score(deployment.run_elsewhere(by_number), "ais_bench")


def _right_preprocessor(deployment: Deployment) -> None:
    right = Preprocessor(standard_steps(72, 64))
    deployment.preprocess_elsewhere(lambda sample: right.tensor(frame(sample)))
    deployment.bench()


def _replayed(deployment: Deployment) -> None:
    """Score the outputs that another machine saved."""
    elsewhere = deployment.folder / "elsewhere"
    deployment.bench(out=elsewhere)
    request = replay.ReplayRequest(
        artifacts=(deployment.artifact,), results=elsewhere, categories=(), out=deployment.results
    )
    plan = plan_module.planned(replay.jobs(request), deployment.results, force=False)
    plan_module.run(plan, timeout=600, report=lambda _: None)


def _simulated(deployment: Deployment) -> None:
    compile_om(deployment, batches=(1, 4))
    deployment.bench("ascend310-simulated", batch_size=3)


def _aipp(deployment: Deployment) -> None:
    compile_om(deployment, aipp=True)
    deployment.bench("ascend310-simulated")


def _rescaled(deployment: Deployment) -> None:
    deployment.edit_graph(rescale)
    deployment.bench()


def _renamed_tensors(deployment: Deployment) -> None:
    """Every tensor inside the graph has another name."""

    def edit(model: onnx.ModelProto) -> None:
        fixed = {value.name for value in (*model.graph.input, *model.graph.output)}
        for node in model.graph.node:
            for names in (node.input, node.output):
                names[:] = [name if name in fixed or not name else f"t{name}" for name in names]
        for tensor in model.graph.initializer:
            tensor.name = f"t{tensor.name}"
        del model.graph.value_info[:]

    deployment.edit_graph(edit)
    deployment.bench()


def _benched(name: str, backend: str = "onnxruntime-cpu", **settings: Any) -> Change:
    return _change(name, lambda deployment: deployment.bench(backend, **settings))


def _change(name: str, inject: Callable[[Deployment], None], **more: Any) -> Change:
    return Change(name=name, where="harmless", inject=inject, **more)


HARMLESS = (
    _benched("another runtime (onnxruntime for MindSpore)"),
    _change("another provider of the same precision (ONNX's own, opset 17)", _opset("onnx-reference")),
    _benched("two threads", threads=2),
    _benched("batch size 8", batch_size=8),
    _benched("graph optimisation turned off", "onnxruntime-unoptimised"),
    _change("graph optimised offline", _optimised_offline),
    _change("opset 17 for 11", _opset("onnxruntime-cpu")),
    _change("tensors renamed", _renamed_tensors),
    _change("weights rescaled, and taken back", _rescaled),
    _change("exported again (MINDIR)", _exported_again, reference="onnxruntime-cpu"),
    _benched("head in the graph", variant=HEADED),
    _change("images encoded again without loss", _reencoded),
    _change("artifact and data under another path", _elsewhere),
    _change("outputs through files, batch size 4", _through_files),
    _change("outputs through bare files", _through_bare_files),
    _change("another program's preprocessor that is right", _right_preprocessor),
    _change("stored outputs replayed", _replayed),
    _change("float16 within its profile (OM, simulated, gears)", _simulated),
    _change("AIPP as it should be (OM, simulated)", _aipp),
)
