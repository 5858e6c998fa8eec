"""Where the tests find what lies beside the checkout, a detector small enough for any test, and backends that ail."""

from __future__ import annotations

import gc
import importlib.util
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import pytest

from harness import datasets, registry, storage
from harness.build import FitRequest
from harness.detector import artifact
from harness.detector.artifact import (
    Artifact,
    HeadSpec,
    Manifest,
    TensorSpec,
    Thresholds,
    Training,
    Variant,
    Weights,
)
from harness.detector.preprocess import Preprocessor, standard_steps
from harness.detector.settings import Padim
from harness.heads.padim import OUTPUT
from harness.run.options import RunOptions
from harness.run.plan import BenchRequest
from harness.types import AnyArray, Category, Float32

# MindSpore and onnx read these when they are imported, in whichever test comes first.
for _name, _value in registry.backend("mindspore-cpu").environment.items():
    os.environ.setdefault(_name, _value)

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real images and weights; never part of the project."""
    if not (SHARED / "data").is_dir():
        pytest.skip(f"real images and weights are not at {SHARED}")
    return SHARED


def pytest_collection_finish() -> None:
    """Leave what was collected out of garbage collection, which MindSpore runs in full before every compilation."""
    gc.collect()
    gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if importlib.util.find_spec("mindspore") is not None:
        return
    for item in items:
        if item.get_closest_marker("mindspore"):
            item.add_marker(pytest.mark.skip(reason="MindSpore is not installed"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiny:
    """A data set of one category, `widget`, and an ONNX detector for it that a worker runs in an instant."""

    data: Path
    """The folder that holds the category."""
    artifact: Path

    def request(self, out: Path, *backends: str, **settings: Any) -> BenchRequest:
        """A bench of the detector; `settings` are fields of `BenchRequest` or of its `RunOptions`."""
        options = {name: settings.pop(name) for name in RunOptions.__slots__ if name in settings}
        fields = {"artifacts": (self.artifact,), "data": self.data, "categories": (), **settings}
        return BenchRequest(
            out=out, backends=backends or ("onnxruntime-cpu",), options=RunOptions(**options), **fields
        )


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """Shared by all tests, which must not change it."""
    return make_tiny(tmp_path_factory.mktemp("tiny"))


def make_tiny(folder: Path) -> Tiny:
    """Draw 8 good images to fit on, 4 good and 4 scratched to score, and fit PaDiM over a single convolution."""
    pytest.importorskip("onnx", reason="onnx, which builds the model, is not installed")
    write_category(folder / "data" / "widget")
    category = datasets.load_category(folder / "data", "widget")
    made = Tiny(data=folder / "data", artifact=folder / "artifacts" / "padim-tiny" / "widget")
    _write_artifact(made.artifact, category)
    return made


@pytest.fixture(scope="session")
def request_to_fit(tmp_path_factory: pytest.TempPathFactory) -> FitRequest:
    """PaDiM over an untrained ResNet-18 on 12 images, squashed to 72 and cropped to 64 pixels."""
    folder = tmp_path_factory.mktemp("small")
    write_category(folder / "data" / "widget", side=80, train=12)
    return FitRequest(
        detector="padim",
        backbone="resnet18",
        weights=None,
        dataset="data",
        category=datasets.load_category(folder / "data", "widget"),
        out=folder / "artifacts" / "padim-resnet18" / "widget",
        settings=Padim(resize=72, crop=64),
    )


@pytest.fixture(scope="session")
def fitted(request_to_fit: FitRequest) -> Artifact:
    """What that request gives, for tests marked `mindspore`; not to be changed."""
    from exporters.fit.job import fit

    return fit(request_to_fit)[0]


@pytest.fixture(scope="session")
def exported(fitted: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A copy of `fitted` with its ONNX and MINDIR variants; not to be changed."""
    from exporters import mindir, onnx

    path = Path(shutil.copytree(fitted.path, tmp_path_factory.mktemp("exported") / "widget"))
    for export in (onnx.export, mindir.export):
        artifact.add_variant(path, export(artifact.read(path)))
    return artifact.read(path)


def write_category(folder: Path, *, side: int = 40, train: int = 8) -> None:
    """Draw a category of grained squares; in `test/scratch` a bright line crosses them."""
    rng = np.random.default_rng(0)
    for split, kind, count in (("train", "good", train), ("test", "good", 4), ("test", "scratch", 4)):
        for index in range(count):
            image = np.tile(np.linspace(60, 180, side)[:, None, None], (1, side, 3))
            image += rng.normal(0, 6, image.shape)
            if kind == "scratch":
                mask: AnyArray = np.zeros((side, side), np.uint8)
                cv2.line(mask, (8, 10 + 4 * index), (side - 9, side // 2), (255,), 2)
                image[mask > 0] += 35
                write_image(folder / "ground_truth" / kind / f"{index:03}_mask.png", mask)
            write_image(folder / split / kind / f"{index:03}.png", image.clip(0, 255).astype(np.uint8))


def write_image(path: Path, pixels: AnyArray) -> None:
    """Write pixels as an image of the path's format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels)


def patch_embedding(kernels: Float32, batch: Float32) -> Float32:
    """What the tiny network computes: a convolution with kernel 4 and stride 4, (N, 3, 32, 32) → (N, 6, 8, 8)."""
    patches = batch.reshape(len(batch), 3, 8, 4, 8, 4)
    return np.asarray(np.einsum("ncykxl,dckl->ndyx", patches, kernels), np.float32)


@pytest.fixture(scope="session")
def another_distribution(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as `pip install --target` leaves it: a module of backends that ail, and their entry points."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "fakebackend.py").write_text(FAKE_BACKENDS.replace("in AILS:", f"in {AILS}:"))
    metadata = folder / "fakebackend-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: fakebackend\nVersion: 1.0\n")
    lines = [f"fake-{ail} = fakebackend:{ail}" for ail in AILS]
    (metadata / "entry_points.txt").write_text("\n".join(["[harness.backends]", *lines, ""]))
    return folder


@pytest.fixture
def fakes(another_distribution: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make the backends `fake-…` known; gives the folder where they log to `opened` and look for `healed`."""
    return make_known(another_distribution, tmp_path / "fakes", monkeypatch)


def make_known(site: Path, notes: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put `site` on the path of this process and its workers, which keep their notes in `notes`."""
    notes.mkdir()
    monkeypatch.setattr(sys, "path", [str(site), *sys.path])
    monkeypatch.setenv("PYTHONPATH", str(site))
    monkeypatch.setenv("FAKE_NOTES", str(notes))
    return notes


AILS = ("work", "kill", "exit", "fail", "hang", "chatter", "nan", "absent", "shape", "off", "big")

FAKE_BACKENDS = '''
"""Each backend here computes what the tiny network does, until its ail takes hold in the middle of the case."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

CORES_AT_IMPORT = len(os.sched_getaffinity(0))

import numpy as np

from harness.contracts import DeviceReport
from harness.errors import Unavailable


class Fake:
    simulated = False
    formats = ("onnx",)
    environment = {"FAKE_FLAG": "set"}

    def __init__(self, ail):
        self.ail = ail

    def unavailable(self):
        return "there is no such board here: plug one in" if self.ail == "absent" else None

    def open(self, artifact, variant, *, threads):
        if self.ail == "absent":
            raise Unavailable(self.unavailable())
        with (Path(os.environ["FAKE_NOTES"]) / "opened").open("a") as notes:
            notes.write(f"{self.ail}\\n")
        return Session(self.ail, artifact)


class Session:
    device_ms = {}

    def __init__(self, ail, artifact):
        self.ail = ail
        self.runs = 0
        self.kernels = artifact.net()["conv.weight"]
        self.ballast = np.ones(40_000_000) if ail == "big" else None
        options = {
            "flag_at_exec": str(b"FAKE_FLAG=set" in Path("/proc/self/environ").read_bytes().split(b"\\0")),
            "cores_at_import": str(CORES_AT_IMPORT),
            "cores_of_threads": str({len(os.sched_getaffinity(int(task))) for task in os.listdir("/proc/self/task")}),
        }
        self.report = DeviceReport(device="fake", runtime={"fake": "1.0"}, options=options, simulated=False)

    def run(self, batch):
        self.runs += 1
        patches = batch.reshape(len(batch), 3, 8, 4, 8, 4)
        embedding = np.einsum("ncykxl,dckl->ndyx", patches, self.kernels).astype(np.float32)
        healed = (Path(os.environ["FAKE_NOTES"]) / "healed").exists()
        if self.runs > 5 and not healed:  # three to warm up, two images done
            embedding = getattr(self, self.ail, lambda same: same)(embedding)
        return {"embedding": embedding}

    def close(self):
        pass

    def kill(self, embedding):
        for line in range(7):
            print(f"line {line}", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)

    def exit(self, embedding):
        os._exit(7)

    def fail(self, embedding):
        raise ZeroDivisionError("the driver lost its temper")

    def hang(self, embedding):
        child = subprocess.Popen(["sleep", "600"])
        (Path(os.environ["FAKE_NOTES"]) / "hanging").write_text(f"{os.getpid()} {child.pid}")
        time.sleep(600)

    def chatter(self, embedding):
        print(\'{"record": "/nowhere"}\', flush=True)
        os.write(1, b"not json\\n")
        subprocess.run(["echo", \'{"error": "no", "skipped": true}\'], check=True)
        return embedding

    def nan(self, embedding):
        return embedding * np.float32(np.nan)

    def shape(self, embedding):
        return embedding[:, :, 1:]

    def off(self, embedding):
        return embedding * np.float32(1.5)


for _ail in AILS:
    globals()[_ail] = Fake(_ail)
'''


def _write_artifact(folder: Path, category: Category) -> None:
    steps = standard_steps(40, 32)
    kernels = np.random.default_rng(1).normal(0, 0.2, (6, 3, 4, 4)).astype(np.float32)
    ready = Preprocessor(steps)
    images = [ready.tensor(ready.frame(ready.decode(sample.path))) for sample in category.train]
    embeddings = patch_embedding(kernels, np.stack(images)).reshape(len(images), 6, 64).astype(np.float64)
    inverses = [np.linalg.inv(np.cov(embeddings[:, :, p].T) + 0.01 * np.eye(6)) for p in range(64)]
    state = {
        "mean": embeddings.mean(0).T.astype(np.float32, order="C"),
        "order": np.arange(64, dtype=np.int32),
        "factor.0000": np.array(
            [np.linalg.cholesky(inverse).T for inverse in inverses], np.float32, order="C"
        ),
    }
    net = {"conv.weight": kernels}
    parameters = {"epsilon": 0.01, "form": "inverse", "grid": [8, 8], "sigma": 1.0, "map_size": [32, 32]}
    manifest = Manifest(
        schema=artifact.SCHEMA,
        detector="padim",
        backbone="tiny",
        category=category.name,
        preprocessing=steps,
        head=HeadSpec(name="padim", parameters=parameters),
        thresholds=Thresholds(
            image=4.0, pixel=3.0, image_quantile=0.95, pixel_quantile=0.995, held_out_images=1
        ),
        training=Training(
            dataset="data",
            fingerprint=datasets.fingerprint(category, "train"),
            images=len(images),
            held_out=(),
        ),
        weights=Weights(source="random", sha256=storage.sha256_of_arrays(net), seed=1),
        seed=0,
        request_sha256="0" * 64,
        net_sha256=storage.sha256_of_arrays(net),
        state_sha256=storage.sha256_of_arrays(state),
        detector_sha256="",
    )
    manifest = msgspec.structs.replace(manifest, detector_sha256=artifact.detector_digest(manifest))
    folder.mkdir(parents=True)
    artifact.write_arrays(folder / artifact.STATE, state)
    artifact.write_arrays(folder / artifact.NET, net)
    artifact.write_manifest(folder, manifest)
    artifact.add_variant(folder, _write_onnx(folder / "onnx-fp32.onnx", kernels))


def _write_onnx(path: Path, kernels: Float32) -> Variant:
    import onnx
    from onnx import helper, numpy_helper

    free = {
        name: helper.make_tensor_value_info(name, 1, ["batch", *shape]) for name, shape in _SHAPES.items()
    }
    node = helper.make_node(
        "Conv", ["image", "kernels"], [OUTPUT], kernel_shape=[4, 4], strides=[4, 4], name="conv"
    )
    graph = helper.make_graph(
        [node], "tiny", [free["image"]], [free[OUTPUT]], [numpy_helper.from_array(kernels, "kernels")]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
    image, output = (
        TensorSpec(name=name, dtype="float32", shape=(None, *shape)) for name, shape in _SHAPES.items()
    )
    return Variant(
        id="onnx-fp32",
        format="onnx",
        precision="fp32",
        input=image,
        input_stage="layout",
        outputs=(output,),
        files={path.name: storage.sha256_of_file(path)},
        agreement={"1": 0.0, "3": 0.0},
    )


_SHAPES = {"image": (3, 32, 32), OUTPUT: (6, 8, 8)}
