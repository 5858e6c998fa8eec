"""What every backend owes the harness; one that cannot run here is skipped in its own words."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from backends.errors import BackendError
from harness import build, registry
from harness.build import OmRequest
from harness.detector import artifact
from harness.detector.artifact import Artifact, Variant
from harness.errors import ArtifactError, Unavailable
from harness.storage import sha256_of_file
from harness.types import Float32
from tests.conftest import Tiny

MINDSPORE = ("mindspore-cpu", "ascend910", "ascend-lite-simulated")
EVERY = [
    pytest.param(name, marks=pytest.mark.mindspore if name in MINDSPORE else ()) for name in registry.BACKENDS
]


@pytest.fixture(autouse=True)
def environment(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a worker sets for the backend."""
    for key, value in registry.backend(request.getfixturevalue("name")).environment.items():
        monkeypatch.setenv(key, value)


@pytest.fixture
def detector(
    request: pytest.FixtureRequest, tiny: Tiny, tmp_path_factory: pytest.TempPathFactory, name: str
) -> Artifact:
    """An artifact with a variant for the backend `name`, if that can run here."""
    backend = registry.backend(name)
    reason = backend.unavailable()
    if reason is not None:
        pytest.skip(f"{name}: {reason}")
    if "onnx" in backend.formats:
        return artifact.read(tiny.artifact)
    if "om" in backend.formats:
        return compiled(tiny, tmp_path_factory.mktemp("compiled") / "widget")
    found: Artifact = request.getfixturevalue("exported")
    return found


def compiled(tiny: Tiny, path: Path) -> Artifact:
    """A copy of the tiny detector with an OM of the simulated `atc`."""
    shutil.copytree(tiny.artifact, path)
    request = OmRequest(soc="Ascend310", cann="7.0", batches=(1, 4), atc="simulated")
    build.export(artifact.read(path), "om", om=request)
    return artifact.read(path)


def variant_for(name: str, detector: Artifact) -> Variant:
    backend = registry.backend(name)
    return detector.variant(backend.formats, simulated=backend.simulated)


def images(detector: Artifact, count: int) -> Float32:
    _, *shape = detector.manifest.variants[0].input.shape
    sides = [side for side in shape if side is not None]
    return np.random.default_rng(count).standard_normal((count, *sides)).astype(np.float32)


@pytest.mark.parametrize("name", list(registry.BACKENDS))
def test_a_backend_declares_what_it_opens_and_what_it_needs_before_import(name: str) -> None:
    backend = registry.backend(name)
    assert backend.formats
    assert set(backend.formats) <= set(registry.EXPORTERS)
    assert isinstance(backend.environment, Mapping)
    assert all(isinstance(text, str) for pair in backend.environment.items() for text in pair)


@pytest.mark.parametrize("name", EVERY)
def test_a_backend_that_cannot_run_says_why_and_what_to_do_and_opens_nothing(name: str, tiny: Tiny) -> None:
    backend = registry.backend(name)
    reason = backend.unavailable()
    if reason is None:
        pytest.skip(f"{name} runs here")
    assert re.search(
        r"pip install|install MindSpore with CANN|install the Ascend driver and CANN|install Intel's driver",
        reason,
    )
    assert "\n" not in reason
    assert not reason.endswith(".")
    found = artifact.read(tiny.artifact)
    with pytest.raises(Unavailable, match=re.escape(reason)):
        backend.open(found, found.manifest.variants[0], threads=1)


@pytest.mark.parametrize("name", EVERY)
def test_outputs_have_the_names_types_and_shapes_of_the_variant(name: str, detector: Artifact) -> None:
    backend = registry.backend(name)
    variant = variant_for(name, detector)
    session = backend.open(detector, variant, threads=1)
    for count in (1, 3, 1):
        outputs = session.run(images(detector, count))
        found = {key: (array.dtype.name, array.shape) for key, array in outputs.items()}
        assert found == {spec.name: (spec.dtype, (count, *spec.shape[1:])) for spec in variant.outputs}
        assert all(np.isfinite(array).all() for array in outputs.values())
    assert set(session.device_ms) in (set(), {"h2d", "compute", "d2h"})
    session.close()


@pytest.mark.parametrize("name", EVERY)
def test_an_image_gets_the_same_output_in_any_batch_and_every_time(name: str, detector: Artifact) -> None:
    backend = registry.backend(name)
    session = backend.open(detector, variant_for(name, detector), threads=1)
    batch = images(detector, 3)
    together, again = (session.run(batch)["embedding"] for _ in range(2))
    np.testing.assert_array_equal(together, again)
    scale = np.abs(together).max()
    for index in range(3):
        alone = session.run(batch[index : index + 1])["embedding"]
        np.testing.assert_allclose(alone[0], together[index], rtol=0, atol=1e-5 * scale)
    assert not np.allclose(together[0], together[1])


@pytest.mark.parametrize("name", EVERY)
def test_a_session_says_what_it_runs_on(name: str, detector: Artifact) -> None:
    backend = registry.backend(name)
    report = backend.open(detector, variant_for(name, detector), threads=1).report
    assert report.device.startswith({"onnxruntime-cpu": "cpu", "mindspore-cpu": "cpu"}.get(name, ""))
    assert report.runtime
    assert report.options
    assert report.simulated == name.endswith("-simulated")


@pytest.mark.parametrize("name", EVERY)
def test_an_altered_model_file_is_refused(name: str, detector: Artifact, tmp_path: Path) -> None:
    copy = artifact.read(Path(shutil.copytree(detector.path, tmp_path / "copy")))
    variant = variant_for(name, copy)
    data = bytearray((copy.path / variant.model).read_bytes())
    data[len(data) // 2] ^= 1
    (copy.path / variant.model).write_bytes(data)
    with pytest.raises(ArtifactError, match=rf"{variant.model}: does not match the digest"):
        registry.backend(name).open(copy, variant, threads=1)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("damage", ["cut", "garbage"])
def test_a_model_that_cannot_be_loaded_is_named(
    name: str, detector: Artifact, tmp_path: Path, damage: str
) -> None:
    path = Path(shutil.copytree(detector.path, tmp_path / "copy"))
    variant = variant_for(name, artifact.read(path))
    model = path / variant.model
    model.write_bytes(
        model.read_bytes()[: model.stat().st_size // 2] if damage == "cut" else b"no model" * 99
    )
    damaged = type(variant)(
        **{key: getattr(variant, key) for key in variant.__struct_fields__}
        | {"files": {variant.model: sha256_of_file(model)}}
    )
    artifact.add_variant(path, damaged)
    with pytest.raises(BackendError, match=rf"^{re.escape(str(model))}: "):
        registry.backend(name).open(artifact.read(path), damaged, threads=1)
