"""A simulated board and an OM for it, compiled by hand: these tests rest on the simulated `acl` alone."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import numpy as np
import pytest

from backends.ascend.adapter import Ascend
from backends.ascend.runtime import runtime
from backends.ascend.session import AscendSession
from backends.simulators import om
from backends.simulators.acl import Board, create
from harness import storage
from harness.detector import artifact
from harness.detector.artifact import Artifact, Target, TensorSpec, Variant
from harness.types import AnyArray, Float32
from tests.conftest import Tiny, patch_embedding

IMAGE, EMBEDDING = (3, 32, 32), (6, 8, 8)
HALF = 5e-3
"""What float16 may be off by: values here stay below 8, and 8 · 2^-11 is 4e-3."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """An artifact with one OM, a board, and the adapter on it."""

    artifact: Artifact
    variant: Variant
    kernels: Float32
    acl: ModuleType
    backend: Ascend
    opened: list[AscendSession] = field(default_factory=list)

    def open(self) -> AscendSession:
        self.opened.append(self.backend.open(self.artifact, self.variant, threads=1))
        return self.opened[-1]

    def expected(self, batch: Float32) -> AnyArray:
        """In float32; the device computes in float16."""
        return patch_embedding(self.kernels, batch)

    def finish(self) -> list[str]:
        """End the process's use of the board; gives what the simulator says was not given back."""
        runtime(self.backend.load).finish()
        report: list[str] = self.acl.simulator.leak_report
        return report


class Maker:
    """Makes setups, each with a board and a folder of its own."""

    def __init__(self, tiny: Tiny, folder: Path) -> None:
        self.tiny, self.folder, self.count = tiny, folder, 0

    def __call__(
        self,
        *,
        gears: tuple[int, ...] = (),
        batch: int = 1,
        dtype: om.DType = "float32",
        header: dict[str, Any] | None = None,
        variant: dict[str, Any] | None = None,
        onnx: bytes | None = None,
        simulated: bool = True,
        **board: Any,
    ) -> Setup:
        self.count += 1
        path = Path(shutil.copytree(self.tiny.artifact, self.folder / str(self.count) / "widget"))
        found = artifact.read(path)
        made = msgspec.structs.replace(
            om.Header(
                soc="Ascend310",
                cann="5.0",
                precision_mode="force_fp16",
                inputs=(om.Tensor(name="image", dtype="float32", shape=(-1 if gears else batch, *IMAGE)),),
                outputs=(
                    om.Tensor(
                        name="conv:0:embedding", dtype=dtype, shape=(-1 if gears else batch, *EMBEDDING)
                    ),
                ),
                gears=gears,
            ),
            **(header or {}),
        )
        model = path / "model.om"
        onnx = onnx or (path / "onnx-fp32.onnx").read_bytes()
        model.write_bytes(om.SimulatedOm(header=made, onnx=onnx).to_bytes())
        described = msgspec.structs.replace(
            found.manifest.variants[0],
            id="om-simulated",
            format="om",
            precision="fp16",
            target=Target(
                soc=made.soc, cann=made.cann, options={"precision_mode": "force_fp16"}, simulated=True
            ),
            gears=gears or (batch,),
            files={model.name: storage.sha256_of_file(model)},
            agreement={},
        )
        described = msgspec.structs.replace(described, **(variant or {}))
        artifact.add_variant(path, described)
        acl = create(Board(**board))
        backend = Ascend(family="Ascend310", load=lambda: acl, simulated=simulated)
        return Setup(
            artifact=artifact.read(path),
            variant=described,
            kernels=found.net()["conv.weight"],
            acl=acl,
            backend=backend,
        )


@pytest.fixture
def make(tiny: Tiny, tmp_path: Path) -> Maker:
    pytest.importorskip(
        "onnxruntime", reason="onnxruntime, which computes for the simulator, is not installed"
    )
    return Maker(tiny, tmp_path)


def images(count: int, seed: int = 0) -> Float32:
    return np.random.default_rng(seed).standard_normal((count, *IMAGE)).astype(np.float32)


def output(**changes: Any) -> TensorSpec:
    return msgspec.structs.replace(
        TensorSpec(name="embedding", dtype="float32", shape=(None, *EMBEDDING)), **changes
    )
