"""`blame nodes`, `blame prepare` and `parity --blame --artifact` from the command line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from harness import storage
from harness.blame import cuts
from harness.cli import main
from harness.detector import artifact
from harness.run import plan as plan_module
from harness.run.job import Job
from tests.conftest import Tiny


def spoiled(tiny: Tiny, folder: Path) -> Path:
    """The tiny network with one kernel of six made half as large again."""
    model = onnx.load(str(tiny.artifact / "onnx-fp32.onnx"))
    (kernels,) = model.graph.initializer
    array = numpy_helper.to_array(kernels).copy()
    array[2] *= np.float32(1.5)
    kernels.CopyFrom(numpy_helper.from_array(array, kernels.name))
    path = folder / "spoiled.onnx"
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture
def two_variants(tiny: Tiny, tmp_path: Path) -> Tiny:
    """A copy with a second variant, which holds that other kernel: a bad export."""
    path = Path(shutil.copytree(tiny.artifact, tmp_path / "artifacts" / "widget"))
    original = artifact.read(path).manifest.variants[0]
    file = path / "onnx-bad.onnx"
    shutil.copyfile(spoiled(tiny, tmp_path), file)
    files = {file.name: storage.sha256_of_file(file)}
    artifact.add_variant(path, msgspec.structs.replace(original, id="onnx-bad", files=files))
    return Tiny(data=tiny.data, artifact=path)


def test_a_suspected_file_is_blamed_with_a_reproducer(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = spoiled(tiny, tmp_path), tmp_path / "out"
    arguments = ["blame", "nodes", str(tiny.artifact), "--data", str(tiny.data), "--other-model", str(path)]
    assert main([*arguments, "--to", str(out)]) == 1
    printed = capsys.readouterr().out
    assert "files: constant kernels differs by" in printed
    assert printed.splitlines()[-1].startswith("blame: Conv conv (tensor embedding")
    assert (out / "reproduce.py").is_file()


def test_images_are_chosen_by_name_or_number(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["blame", "nodes", str(tiny.artifact), "--data", str(tiny.data), "--json"]
    arguments += ["--other-model", str(spoiled(tiny, tmp_path))]
    for option, image in (
        (["--images", "1"], "test/good/000.png"),
        (["--image", "test/scratch/002.png"], "test/scratch/002.png"),
    ):
        assert main([*arguments, *option]) == 1
        assert json.loads(capsys.readouterr().out)["image"] == image
    assert main([*arguments, "--image", "test/scratch/02.png"]) == 2
    assert "did you mean 'test/scratch/002.png'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "code", "printed"),
    [
        ([], 2, "nothing to compare with"),
        (["--other", "onnxruntime-cpu"], 2, "nothing to compare with"),
        (["--other", "mindspore-cpu"], 2, "opens mindir, not onnx"),
        (["--variant", "onnx-fp"], 2, "did you mean 'onnx-fp32'"),
        (["--other-variant", "onnx-fp32", "--other-model", "x.onnx"], 2, "name one"),
        (["--other-model", "x.onnx"], 2, "x.onnx"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    tiny: Tiny, capsys: pytest.CaptureFixture[str], option: list[str], code: int, printed: str
) -> None:
    assert main(["blame", "nodes", str(tiny.artifact), "--data", str(tiny.data), *option]) == code
    assert printed in capsys.readouterr().err


@pytest.mark.parametrize("tolerance", ["inf", "nan", "-1"])
def test_a_tolerance_that_passes_everything_is_refused(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str], tolerance: str
) -> None:
    arguments = ["blame", "nodes", str(tiny.artifact), "--data", str(tiny.data), "--tolerance", tolerance]
    assert main([*arguments, "--other-model", str(spoiled(tiny, tmp_path))]) == 2
    assert "--tolerance" in capsys.readouterr().err


def test_variants_that_agree_give_exit_code_0(two_variants: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["blame", "nodes", str(two_variants.artifact), "--data", str(two_variants.data)]
    arguments += ["--variant", "onnx-fp32", "--other-variant", "onnx-bad"]
    assert main(arguments) == 1
    assert main([*arguments, "--tolerance", "10"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "blame: nothing differs"


def test_cuts_are_prepared_from_the_command_line(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        "blame",
        "prepare",
        str(tiny.artifact),
        "--data",
        str(tiny.data),
        "--to",
        str(tmp_path / "cuts"),
    ]
    assert main(arguments) == 0
    assert "1 cuts, 2 images" in capsys.readouterr().out
    assert [cut.tensor for cut in cuts.read(tmp_path / "cuts").cuts] == ["embedding"]
    assert main(arguments) == 2
    assert "not empty" in capsys.readouterr().err


def benched(tiny: Tiny, out: Path, variant: str, **case: Any) -> None:
    plan = plan_module.plan(tiny.request(out, variants=(variant,), save_outputs=True, **case))
    assert [records.reason for records in plan_module.run(plan, timeout=60, report=lambda _: None)] == [None]


def test_parity_blames_the_node_of_a_bad_export(
    two_variants: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The variant of the second backend, which is onnxruntime by another name, is the bad one."""
    from harness import registry
    from harness.run import worker

    out = tmp_path / "results"
    monkeypatch.setitem(registry.BACKENDS, "second", registry.BACKENDS["onnxruntime-cpu"])
    benched(two_variants, out, "onnx-fp32")
    start = worker.start

    def run_as_first(job: Job, **options: Any) -> Path:
        """A worker process does not know the name: let the first do the work, and the record bear the name."""
        from harness.run import pipeline

        session = registry.backend("onnxruntime-cpu").open(job.artifact, job.variant, threads=1)
        first = pipeline.run(job, session, load_ms=None, advance=options["advance"])
        from harness.records import record

        return record.path_of(job.out, first)

    monkeypatch.setattr(worker, "start", run_as_first)
    plan = plan_module.plan(two_variants.request(out, "second", variants=("onnx-bad",), save_outputs=True))
    plan_module.run(plan, timeout=60, report=lambda _: None)
    monkeypatch.setattr(worker, "start", start)
    arguments = ["parity", "--reference", "onnxruntime-cpu", "--results", str(out), "--blame"]
    arguments += ["--artifact", str(two_variants.artifact), "--data", str(two_variants.data)]
    assert main([*arguments, "--to", str(tmp_path / "reproducers")]) == 1
    printed = capsys.readouterr().out.splitlines()
    assert "blame · widget: second first differs from onnxruntime-cpu at: outputs" in printed
    assert any(line.startswith("widget: blame: Conv conv (tensor embedding") for line in printed)
    assert printed[-1].startswith("parity failed")
    assert (tmp_path / "reproducers" / "widget-second-onnx-bad" / "model.onnx").is_file()
