from __future__ import annotations

import importlib
import importlib.metadata
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from harness import registry
from harness.errors import HarnessError, UsageError
from harness.heads.padim import PadimHead

Install = Callable[[str, str], None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Put a distribution on the path that adds a backend: an entry point, and a module `other_sdk` that it names."""
    monkeypatch.syspath_prepend(tmp_path)

    def add(name: str, value: str) -> None:
        info = tmp_path / f"{name}_plugin-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}-plugin\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[harness.backends]\n{name} = {value}\n")
        (tmp_path / "other_sdk.py").write_text("npu = 'the backend of another distribution'\n")
        importlib.invalidate_caches()

    return add


def test_a_known_head_is_found() -> None:
    assert registry.head("padim") is PadimHead


@pytest.mark.parametrize(
    ("resolve", "name", "hint"),
    [
        (
            registry.backend,
            "onnxruntime_cpu",
            "unknown backend 'onnxruntime_cpu'; did you mean 'onnxruntime-cpu', 'onnxruntime-gpu' or 'onnxruntime-cann'",
        ),
        (
            registry.backend,
            "ascend901",
            "unknown backend 'ascend901'; did you mean 'ascend910', 'ascend310' or 'ascend310p'",
        ),
        (registry.head, "padimm", "unknown head 'padimm'; did you mean 'padim'?"),
        (registry.head, "zzz", r"unknown head 'zzz' \(known: fastflow, given, graph, padim"),
        (registry.head, "", r"unknown head '' \(known: fastflow, given, graph, padim"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(
    resolve: Callable[[str], object], name: str, hint: str
) -> None:
    with pytest.raises(UsageError, match=hint):
        resolve(name)


def test_an_unknown_backend_is_answered_with_the_command_that_lists_all() -> None:
    count = len(registry.backend_names())
    with pytest.raises(UsageError, match=rf"\({count} are known: python -m harness backends\)"):
        registry.backend("tpu")


@pytest.mark.parametrize("family", ["BACKENDS", "HEADS", "LEARNERS", "NETS", "EXPORTERS"])
def test_every_name_in_a_table_points_at_a_file_of_ours_that_defines_it(family: str) -> None:
    root = Path(__file__).resolve().parents[2]
    for target in getattr(registry, family).values():
        module, _, attribute = target.partition(":")
        source = (root / module.replace(".", "/")).with_suffix(".py").read_text(encoding="utf-8")
        starts = [f"{start}{attribute}" for start in ("def ", "class ", "")]
        assert any(line.startswith(tuple(starts)) for line in source.splitlines()), target


def test_another_distribution_adds_a_backend(install: Install) -> None:
    before = registry.backend_names()
    install("some-npu", "other_sdk:npu")
    assert registry.backend_names() == (*before, "some-npu")
    found: Any = registry.backend("some-npu")
    assert found == "the backend of another distribution"
    with pytest.raises(UsageError, match="did you mean 'some-npu'"):
        registry.backend("some_npu")


def test_another_distribution_does_not_replace_a_backend_of_ours(install: Install) -> None:
    names = registry.backend_names()
    install("onnxruntime-cpu", "other_sdk:npu")
    found: Any = registry.backend("onnxruntime-cpu")
    assert found != "the backend of another distribution"
    assert registry.backend_names() == names


def package(folder: Path, name: str) -> ModuleType:
    found = ModuleType(name)
    found.__file__ = str(folder / name / "__init__.py")
    found.__path__ = [str(folder / name)]
    return found


def test_a_backends_package_of_another_distribution_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "backends", package(tmp_path, "backends"))
    with pytest.raises(HarnessError, match=f"{tmp_path / 'backends'}.* hides ours .*environment of its own"):
        registry.backend("onnxruntime-cpu")


def test_an_exporters_package_without_a_file_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    foreign = ModuleType("exporters")  # a namespace package has no file
    foreign.__file__ = None
    monkeypatch.setitem(sys.modules, "exporters", foreign)
    with pytest.raises(HarnessError, match=r"the package 'exporters' of another distribution .* hides ours"):
        registry.load("exporters.fit.job:fit")


def test_our_own_packages_are_not_refused() -> None:
    for name in registry.OUR_PACKAGES:
        registry._check_owner(f"{name}.anything")
