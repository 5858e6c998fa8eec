"""MindSpore cell → AIR, on an Ascend host alone. Never run on one: only against a stand-in for MindSpore's Ascend target.

AIR is deprecated; ONNX, which `atc` converts to OM, is the living road. The graph is of batch 1, and nothing but `atc`
reads the file, so it is not compared with the cell.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from exporters.errors import ExportError
from harness import storage
from harness.detector.artifact import Artifact, TensorSpec, Variant
from harness.errors import Unavailable


def export(artifact: Artifact, *, head_in_graph: bool = False) -> Variant:
    """Export the fitted network into the artifact folder and describe the new variant.

    Raises:
        ExportError: MindSpore refused the network, or wrote its weights beside the file (from 2 GB on).
        Unavailable: no Ascend here; says where it can be done and what replaces it.
        UsageError: the head does not fit into a graph.
    """
    try:
        from exporters.runtime import mindspore as ms
        from exporters.runtime import use

        use("ascend")
    except Unavailable as error:
        raise Unavailable(
            f"{artifact.path}: AIR can only be written by MindSpore on an Ascend 910 host; AIR is deprecated, "
            f"export ONNX instead (--format onnx), which atc converts to OM ({error})"
        ) from error
    from exporters.base import outputs, subject

    net = subject(artifact, head_in_graph=head_in_graph)
    net.cell.set_train(False)  # MindSpore does it for ONNX alone
    id_ = f"air-fp32{net.variant}"
    target = artifact.path / f"{id_}.air"
    image = np.zeros((1, *net.shape), np.float32)
    with TemporaryDirectory(prefix="export-") as folder:  # MindSpore refuses blanks and umlauts in paths
        exported = Path(folder) / "model.air"
        try:
            ms.export(net.cell, ms.Tensor(image), file_name=str(exported), file_format="AIR")
        except (RuntimeError, ValueError, TypeError) as error:
            raise ExportError(f"MindSpore cannot export this network to AIR: {error}") from error
        if [path.name for path in Path(folder).iterdir()] != [exported.name]:
            raise ExportError(
                "MindSpore wrote more than one file: over 2 GB, AIR needs a folder of weights beside it"
            )
        first = outputs(net.cell, image, net.outputs)
        with storage.replacing(target) as temporary:
            shutil.copyfile(exported, temporary)
    return Variant(
        id=id_,
        format="air",
        precision="fp32",
        input=TensorSpec(name="image", dtype="float32", shape=image.shape),
        input_stage=net.input_stage,
        outputs=tuple(
            TensorSpec(name=name, dtype=str(array.dtype), shape=array.shape) for name, array in first.items()
        ),
        contains=net.contains,
        files={target.name: storage.sha256_of_file(target)},
        agreement={},
        software={"mindspore": ms.__version__},
        gears=(1,),
    )
