from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

import harness
from harness import machine


@pytest.fixture
def undescribed() -> Iterator[None]:
    """Forget the description that is kept for the life of the process, before and after."""
    machine.describe.cache_clear()
    yield
    machine.describe.cache_clear()


def in_a_child(code: str) -> str:
    """What `code` prints in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", f"import os, threading; from harness import machine; {code}"],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    done = subprocess.run(["git", "-C", str(folder), *identity, *arguments], capture_output=True, check=True)
    return done.stdout.decode().strip()


# --- cores ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", range(1, machine.usable_cores() + 1))
def test_a_pinned_process_keeps_to_that_many_cores_threads_included(threads: int) -> None:
    found = in_a_child(
        f"before = sorted(os.sched_getaffinity(0)); machine.pin({threads}); seen = []; "
        "thread = threading.Thread(target=lambda: seen.append(sorted(os.sched_getaffinity(0)))); "
        "thread.start(); thread.join(); "
        "print([before, sorted(os.sched_getaffinity(0)), seen[0], machine.usable_cores()])"
    )
    before, own, of_thread, usable = json.loads(found)
    assert own == of_thread == before[:threads]
    assert usable == threads


def test_more_cores_than_there_are_and_fewer_than_one_are_refused() -> None:
    usable = os.sched_getaffinity(0)
    for threads in (0, -1, len(usable) + 1):
        with pytest.raises(
            ValueError, match=f"{threads} threads asked for, {len(usable)} cores are usable here"
        ):
            machine.pin(threads)
    assert os.sched_getaffinity(0) == usable


# --- memory -----------------------------------------------------------------------------------------------------------


def test_peak_memory_is_the_childs_and_not_the_parents() -> None:
    ballast = np.ones(500 << 20, np.uint8)
    assert machine.peak_memory_bytes() > ballast.nbytes
    assert int(in_a_child("print(machine.peak_memory_bytes())")) < 200 << 20
    del ballast


def test_peak_memory_is_in_bytes_and_stays_after_the_memory_is_given_back() -> None:
    found = in_a_child(
        "before = machine.peak_memory_bytes(); ballast = b'x' * (300 << 20); del ballast; "
        "print([before, machine.peak_memory_bytes()])"
    )
    before, after = json.loads(found)
    assert after - before == pytest.approx(300 << 20, rel=0.01)


# --- description ------------------------------------------------------------------------------------------------------


def test_a_host_is_described_in_full() -> None:
    found = machine.describe()
    assert found.name == platform.node()
    assert found.python == platform.python_version()
    assert found.harness == harness.__version__
    assert found.machine == platform.machine()
    assert found.processor.strip() not in ("", "unknown")
    assert found.cores >= machine.usable_cores() >= 1
    assert found.memory_bytes > 256 << 20
    assert found.system.startswith("Linux")
    assert msgspec.convert(msgspec.to_builtins(found), machine.Host) == found


@needs_git
@pytest.mark.usefixtures("undescribed")
def test_the_code_of_a_checkout_is_named_by_its_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "harness").mkdir()
    (tmp_path / "harness" / "machine.py").write_text("first")
    git(tmp_path, "init")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "first")
    monkeypatch.setattr(machine, "__file__", str(tmp_path / "harness" / "machine.py"))
    (tmp_path / "untracked").write_text("results of a run")
    found = machine.describe()
    assert (found.git_commit, found.git_dirty) == (git(tmp_path, "rev-parse", "HEAD"), False)
    assert re.fullmatch("[0-9a-f]{40}", found.git_commit or "")
    (tmp_path / "harness" / "machine.py").write_text("changed")
    machine.describe.cache_clear()
    assert machine.describe().git_dirty is True


@needs_git
@pytest.mark.usefixtures("undescribed")
def test_an_installed_wheel_has_no_commit_even_inside_another_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git(tmp_path, "init")
    git(tmp_path, "commit", "--allow-empty", "-m", "someone else's")
    (tmp_path / "site-packages" / "harness").mkdir(parents=True)
    monkeypatch.setattr(machine, "__file__", str(tmp_path / "site-packages" / "harness" / "machine.py"))
    found = machine.describe()
    assert (found.git_commit, found.git_dirty) == (None, None)


@pytest.mark.usefixtures("undescribed")
def test_a_machine_without_git_has_no_commit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    monkeypatch.setattr(machine, "__file__", str(tmp_path / "harness" / "machine.py"))
    monkeypatch.setenv("PATH", str(tmp_path))
    found = machine.describe()
    assert (found.git_commit, found.git_dirty) == (None, None)
