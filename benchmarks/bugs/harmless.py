"""Changes that do no harm: parity has to pass."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import onnx
import onnx.version_converter

from benchmarks.bugs.base import Change
from benchmarks.bugs.files import by_name, by_number
from benchmarks.bugs.graphs import compile_om, rescale
from benchmarks.bugs.preprocessors import frame
from benchmarks.bugs.site import HEADED, Site
from harness import build
from harness.detector.preprocess import Preprocessor, standard_steps
from harness.run import plan as plan_module
from harness.run import replay


def _opset(backend: str) -> Callable[[Site], None]:
    def inject(site: Site) -> None:
        variant = site.variant()
        path = site.artifact / variant.model
        onnx.save(onnx.version_converter.convert_version(onnx.load(str(path)), 17), str(path))
        site.relist(variant)
        site.bench(backend)

    return inject


def _optimised_offline(site: Site) -> None:
    """Constants folded and nodes fused beforehand, as deployment scripts do."""
    import onnxruntime

    variant = site.variant()
    path = site.artifact / variant.model
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(site.folder / "optimised.onnx")
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    shutil.move(options.optimized_model_filepath, path)
    site.relist(variant)
    site.bench()


def _exported_again(site: Site) -> None:
    build.export(site.opened(), "mindir")
    site.bench("mindspore-cpu")


def _reencoded(site: Site) -> None:
    site.own_data()
    for sample in site.category().test:
        image = cv2.imread(str(sample.path), cv2.IMREAD_UNCHANGED)
        assert image is not None
        cv2.imwrite(str(sample.path), image, [cv2.IMWRITE_PNG_COMPRESSION, 9])
    site.bench()


def _elsewhere(site: Site) -> None:
    """Artifact and data under other paths; a blank and an umlaut in them."""
    moved = site.folder / "Prüf stand"
    site.data = Path(shutil.copytree(site.data, moved / "data"))
    site.artifact = Path(shutil.move(site.artifact, moved / "weave"))
    site.bench()


def _through_files(site: Site) -> None:
    site.write_inputs(batch_size=4, format_="npy")
    site.score(site.run_elsewhere(by_name))


def _through_bare_files(site: Site) -> None:
    site.write_inputs()
    site.score(site.run_elsewhere(by_number), "ais_bench")


def _right_preprocessor(site: Site) -> None:
    right = Preprocessor(standard_steps(72, 64))
    site.preprocess_elsewhere(lambda sample: right.tensor(frame(sample)))
    site.bench()


def _replayed(site: Site) -> None:
    """Outputs that another machine stored, scored here."""
    elsewhere = site.folder / "elsewhere"
    site.bench(out=elsewhere)
    request = replay.ReplayRequest(
        artifacts=(site.artifact,), results=elsewhere, categories=(), out=site.results
    )
    plan = plan_module.planned(replay.jobs(request), site.results, force=False)
    plan_module.run(plan, timeout=600, report=lambda _: None)


def _simulated(site: Site) -> None:
    compile_om(site, batches=(1, 4))
    site.bench("ascend310-simulated", batch_size=3)


def _aipp(site: Site) -> None:
    compile_om(site, aipp=True)
    site.bench("ascend310-simulated")


def _rescaled(site: Site) -> None:
    site.edit_graph(rescale)
    site.bench()


def _renamed_tensors(site: Site) -> None:
    """Every tensor inside the graph has another name."""

    def edit(model: onnx.ModelProto) -> None:
        kept = {value.name for value in (*model.graph.input, *model.graph.output)}
        for node in model.graph.node:
            for names in (node.input, node.output):
                names[:] = [name if name in kept or not name else f"t{name}" for name in names]
        for item in model.graph.initializer:
            item.name = f"t{item.name}"
        del model.graph.value_info[:]

    site.edit_graph(edit)
    site.bench()


def _benched(name: str, backend: str = "onnxruntime-cpu", **settings: Any) -> Change:
    return _change(name, lambda site: site.bench(backend, **settings))


def _change(name: str, inject: Callable[[Site], None], **more: Any) -> Change:
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
