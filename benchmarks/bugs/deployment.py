"""A deployment that an injection alters: copies of its files, and the commands that run on them."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx

from harness import datasets, storage
from harness.detector import artifact
from harness.detector.artifact import Artifact, Variant
from harness.records import batches
from harness.run import external
from harness.run import plan as plan_module
from harness.run.options import RunOptions
from harness.types import Category, Float32, Sample

VARIANT = "onnx-fp32"
HEADED = "onnx-fp32-head"
Outputs = dict[str, Float32]


@dataclass(slots=True, kw_only=True)
class Deployment:
    """One deployment, in a folder of its own."""

    folder: Path
    """Empty, for temporary files."""
    artifact: Path
    """A copy that may be altered."""
    data: Path
    """Shared by all deployments: copy it (`own_data`) before altering it."""
    results: Path
    """Results folder with the reference's record."""
    others: dict[str, Path]
    """Artifacts of other fits, read only: `washer`, another category; `seed`, another seed."""
    inputs: Path | None = None
    """Folder of the input batches, once there are any."""

    def opened(self) -> Artifact:
        """The artifact as it is now."""
        return artifact.read(self.artifact)

    def variant(self, id_: str = VARIANT) -> Variant:
        """One of the artifact's variants."""
        return self.opened().variant_named(id_)

    def category(self) -> Category:
        """The test data as they are now."""
        return datasets.load_category(self.data, self.opened().manifest.category)

    def own_data(self, name: str = "data") -> Path:
        """Copy the data; return the category's folder."""
        self.data = Path(shutil.copytree(self.data, self.folder / name))
        return self.category().root

    def bench(self, backend: str = "onnxruntime-cpu", *, variant: str | None = None, **settings: Any) -> None:
        """`harness bench ARTIFACT --save-outputs`; `settings` are fields of `BenchRequest` or of its `RunOptions`."""
        options = {name: settings.pop(name) for name in RunOptions.__slots__ if name in settings}
        request = plan_module.BenchRequest(
            **{
                "artifacts": (self.artifact,),
                "data": self.data,
                "categories": (),
                "backends": (backend,),
                "out": self.results,
                "variants": () if variant is None else (variant,),
                "options": RunOptions(**{"warmup": 1, **options}),
                "save_outputs": True,
                "inputs": self.inputs,
                **settings,
            }
        )
        plan_module.run(plan_module.plan(request), timeout=request.options.timeout, report=lambda _: None)

    def write_inputs(self, *, batch_size: int | None = None, format_: batches.Format = "npy") -> None:
        """`harness inputs`."""
        self.inputs = self.folder / "inputs"
        batches.write(
            self.opened(),
            self.variant(),
            self.category(),
            self.inputs,
            batch_size=batch_size,
            format_=format_,
        )

    def preprocess_elsewhere(self, make: Callable[[Sample], Float32]) -> None:
        """Overwrite the batches, one image each, as docs/reference/file-formats.md describes it for other programs."""
        self.write_inputs()
        assert self.inputs is not None
        path = self.inputs / batches.INDEX
        index = json.loads(path.read_bytes())
        for batch, image, sample in zip(index["batches"], index["images"], self.category().test, strict=True):
            content = io.BytesIO()
            np.save(content, make(sample)[None])
            (self.inputs / batch["file"]).write_bytes(content.getvalue())
            batch["sha256"] = hashlib.sha256(content.getvalue()).hexdigest()
            image["stages"] = {}
        path.write_text(json.dumps(index))

    def run_elsewhere(self, name_of: Callable[[str, int, str], str]) -> Path:
        """Run the batches with onnxruntime alone, like a board's own program; return the folder of outputs.

        `name_of` makes a file's name from the batch's stem, the output's number and its name.
        """
        import onnxruntime

        assert self.inputs is not None
        folder = self.folder / "outputs"
        folder.mkdir()
        session = onnxruntime.InferenceSession(
            str(self.opened().model_file(self.variant())), providers=["CPUExecutionProvider"]
        )
        names = [output.name for output in session.get_outputs()]
        for file in sorted((self.inputs / batches.FOLDER).iterdir()):
            batch = np.load(file)
            for number, array in enumerate(session.run(names, {session.get_inputs()[0].name: batch})):
                path = folder / name_of(file.stem, number, names[number])
                if path.suffix == ".bin":
                    path.write_bytes(array.tobytes())
                else:
                    np.save(path, array)
        return folder

    def score(self, outputs: Path, program: external.Program = "npy") -> None:
        """`harness score`."""
        assert self.inputs is not None
        request = external.ScoreRequest(
            artifacts=self.artifact,
            data=self.data,
            categories=(),
            inputs=self.inputs,
            outputs=outputs,
            program=program,
            out=self.results,
        )
        plan = plan_module.planned(external.jobs(request), self.results, force=False)
        plan_module.run(plan, timeout=600, report=lambda _: None)

    def edit_graph(self, edit: Callable[[onnx.ModelProto], None], id_: str = VARIANT) -> None:
        """Change the model file like a faulty exporter, and list it in the manifest."""
        variant = self.variant(id_)
        path = self.artifact / variant.model
        model = onnx.load(str(path))
        before = model.SerializeToString()
        edit(model)
        assert model.SerializeToString() != before, "nothing was injected"
        onnx.checker.check_model(model)
        onnx.save(model, str(path))
        self.relist(variant)

    def relist(self, variant: Variant, **changes: Any) -> None:
        """List the variant's file with its present digest."""
        digest = storage.sha256_of_file(self.artifact / variant.model)
        listed = msgspec.structs.replace(variant, files={variant.model: digest}, **changes)
        artifact.add_variant(self.artifact, listed)

    def edit_manifest(self, *, sign: bool, **changes: Any) -> None:
        """Change keys of the manifest; if `sign`, also its detector's digest, like a new fit."""
        manifest = msgspec.structs.replace(self.opened().manifest, **changes)
        if sign:
            manifest = msgspec.structs.replace(manifest, detector_sha256=artifact.detector_digest(manifest))
        artifact.write_manifest(self.artifact, manifest)
