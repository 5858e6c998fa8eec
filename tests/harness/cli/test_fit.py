from __future__ import annotations

import importlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness import build, cli
from tests.conftest import write_category

ROOT = Path(__file__).resolve().parents[3]

FAKE = '''
"""A fit whose outcome depends on the category's name."""

import os
import signal
import sys
import time
from pathlib import Path

from harness.errors import DatasetError, UsageError

NOTES = Path(os.environ["FAKE_NOTES"])


def note(name, text):
    (NOTES / name).write_text(text)


def check(request):
    note("checked", request.detector)
    if request.seed == 13:
        raise UsageError("no category could be fitted with that")


def fit(request):
    name = request.category.name
    if name == "slow":
        try:
            note(name, "under way")
            time.sleep(60)
        except KeyboardInterrupt:
            note(name, "stopped in order")
            raise
    note(name, f"{sorted(os.sched_getaffinity(0))} {os.environ.get('ASCEND_RT_VISIBLE_DEVICES')} "
         f"{os.environ.get('DEVICE_ID')}")
    print(f"said by {name}")
    if name.startswith("bad"):
        raise DatasetError(f"{name} is no good")
    if name == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if name == "broken":
        raise ZeroDivisionError("a defect")
    print(f"progress of {name}", file=sys.stderr)
    from fakemade import made
    return made(request), True
'''

MADE = """
from types import SimpleNamespace as Made


def made(request):
    training = {"epochs": 4, "first_loss": 0.5, "last_loss": 0.25}
    manifest = Made(
        fit_report={"seconds": 1.5, "training": training},
        training=Made(images=9),
        thresholds=Made(held_out_images=1, image=2.0),
    )
    return Made(path=request.out, manifest=manifest)
"""

HOOK = """
import fakefit
from harness import build
build.fit, build.check_fit = fakefit.fit, fakefit.check
"""


@pytest.fixture
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Replace fits here and in child processes by fakes that write notes into this folder."""
    site = tmp_path / "site"
    site.mkdir()
    for name, text in (("fakefit", FAKE), ("fakemade", MADE), ("sitecustomize", HOOK)):
        (site / f"{name}.py").write_text(text)
    folder = tmp_path / "notes"
    folder.mkdir()
    monkeypatch.setenv("FAKE_NOTES", str(folder))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(site), str(ROOT)]))
    monkeypatch.setattr(sys, "path", [str(site), *sys.path])
    for module in ("fakefit", "fakemade"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    fake = importlib.import_module("fakefit")
    monkeypatch.setattr(build, "fit", fake.fit)
    monkeypatch.setattr(build, "check_fit", fake.check)
    return folder


def data(tmp_path: Path, *names: str) -> Path:
    for name in names:
        write_category(tmp_path / "data" / name, train=3)
    return tmp_path / "data"


def fit(tmp_path: Path, names: tuple[str, ...], *more: str) -> list[str]:
    where = ["--data", str(data(tmp_path, *names)), "--out", str(tmp_path / "out")]
    return ["fit", "--weights", "random", *where, *more]


def test_one_category_is_fitted_in_this_process(
    notes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(fit(tmp_path, ("good",))) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "backbone: untrained, drawn from the seed: for trying things out, never for a claim"
    assert lines[1] == "said by good"
    measured = tmp_path / "out" / "padim-resnet18"
    assert lines[2:] == [
        f"{measured / 'good'}: fitted on 9 images in 1.5 s, 4 epochs, loss 0.5 → 0.25, 1 held out, threshold 2.000",
        "  the thresholds come from only 1 held-out images: they are rough",
        f"next: python -m harness export {measured} --format onnx --format mindir",
    ]
    assert not (notes / "checked").exists()


def test_a_failed_category_does_not_stop_the_others_and_is_listed_at_the_end(
    notes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ("bad", "broken", "good", "killed", "last")
    assert cli.main(fit(tmp_path, names)) == 3
    shown = capsys.readouterr()
    assert "good: said by good" in shown.out.splitlines()
    assert "last: progress of last" in shown.err.splitlines()
    assert shown.out.splitlines()[-1] == "2 of 5 categories fitted"
    assert shown.out.count("untrained") == 1
    assert "next:" not in shown.out
    assert shown.err.splitlines()[-3:] == [
        "failed: bad: bad is no good",
        "failed: broken: this is a defect of the harness: please report it with the lines above",
        "failed: killed: killed by SIGKILL (out of memory?)",
    ]
    assert all((notes / name).is_file() for name in names)


def test_all_fitted_is_success_with_one_hint_at_the_end(
    notes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(fit(tmp_path, ("first", "second"), "--category", "all")) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[-2] == "2 of 2 categories fitted"
    assert [line for line in out if "next:" in line] == [out[-1]]
    assert (notes / "checked").read_text() == "padim"


def test_an_error_common_to_all_categories_gives_the_exit_code(notes: Path, tmp_path: Path) -> None:
    assert cli.main(fit(tmp_path, ("bad1", "bad2"))) == 2
    assert (notes / "bad2").is_file()


def test_a_setting_that_no_category_can_use_stops_at_once(
    notes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(fit(tmp_path, ("first", "second"), "--seed", "13")) == 2
    assert "no category could be fitted with that" in capsys.readouterr().err
    assert [note.name for note in notes.iterdir()] == ["checked"]


def test_an_unknown_category_stops_at_once(
    notes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = fit(tmp_path, ("first", "second"), "--category", "first", "--category", "secon")
    assert cli.main(arguments) == 2
    assert "unknown category 'secon'; did you mean 'second'?" in capsys.readouterr().err
    assert list(notes.iterdir()) == []


def test_simultaneous_fits_share_the_cores(notes: Path, tmp_path: Path) -> None:
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        pytest.skip("one core cannot be shared")
    assert cli.main(fit(tmp_path, ("a", "b", "c"), "--jobs", "2")) == 0
    seen = {(notes / name).read_text() for name in "abc"}
    assert seen <= {f"{cores[index::2]} None None" for index in (0, 1)}
    assert sorted(os.sched_getaffinity(0)) == cores


@pytest.mark.parametrize(("visible", "devices"), [(None, {"0", "1"}), ("4,6", {"4", "6"})])
def test_simultaneous_fits_see_one_device_each(
    notes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, visible: str | None, devices: set[str]
) -> None:
    monkeypatch.delenv("ASCEND_RT_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("ASCEND_RT_VISIBLE_DEVICES", visible)
    assert cli.main(fit(tmp_path, ("a", "b"), "--jobs", "2", "--device", "ascend")) == 0
    cores = sorted(os.sched_getaffinity(0))
    seen = {(notes / name).read_text() for name in "ab"}
    assert seen <= {f"{cores} {device} 0" for device in devices}


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--jobs", "999"], "--jobs 999: .* cores are usable here"),
        (
            ["--jobs", "2", "--workers", "2", "--detector", "stpm"],
            "--jobs and --workers both use several devices",
        ),
        (["--jobs", "3", "--device", "ascend"], "--jobs 3: ASCEND_RT_VISIBLE_DEVICES shows 2 devices"),
        (["--set", "epochs"], "--set epochs: expected NAME=VALUE"),
        (["--resize", "64", "--set", "resize=128"], "--set resize=128: resize is set twice"),
        (["--set", "crop=64", "--set", "crop=64"], "--set crop=64: crop is set twice"),
        (["--detector", "ssim_ae"], "ssim_ae has no backbone: leave out --weights"),
        (
            ["--set", "epoch=3", "--detector", "stpm"],
            "unknown setting of stpm 'epoch'; did you mean 'epochs'",
        ),
    ],
)
def test_wrong_use_is_reported_before_the_first_category(
    notes: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    more: list[str],
    words: str,
) -> None:
    monkeypatch.setenv("ASCEND_RT_VISIBLE_DEVICES", "0,1")
    assert cli.main(fit(tmp_path, ("first", "second"), *more)) == 2
    assert re.search(words, capsys.readouterr().err)
    assert not (notes / "first").exists()


def test_ctrl_c_reaches_running_categories_and_starts_no_other(notes: Path, tmp_path: Path) -> None:
    arguments = fit(tmp_path, ("good", "slow", "waiting"))
    with subprocess.Popen(
        [sys.executable, "-m", "harness", *arguments], cwd=ROOT, stderr=subprocess.PIPE, text=True
    ) as process:
        for _ in range(300):
            if (notes / "slow").exists():
                break
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert (
        "interrupted: 1 of 3 categories are fitted and kept; the same command with --resume continues" in err
    )
    assert (notes / "slow").read_text() == "stopped in order"
    assert not (notes / "waiting").exists()


def test_a_killed_command_ends_its_categories(notes: Path, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "harness", *fit(tmp_path, ("slow", "waiting"))], cwd=ROOT
    )
    for _ in range(300):
        if (notes / "slow").exists():
            break
        time.sleep(0.1)
    process.kill()
    process.wait()
    for _ in range(300):
        if (notes / "slow").read_text() == "stopped in order":
            return
        time.sleep(0.1)
    raise AssertionError("the category's process went on")
