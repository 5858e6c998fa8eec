"""Parts of other distributions: entry points on the path, whose modules lie beside them."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from harness import plugins, registry
from harness.cli.program import main
from harness.errors import HarnessError, PluginError, UsageError
from harness.run import worker

Install = Callable[..., None]
MODULE = """
class Npu(str):
    formats, environment, simulated = ("onnx",), {}, False
    def unavailable(self): return None
    def open(self, artifact, variant, *, threads): raise NotImplementedError

npu = Npu("the backend of another distribution")
half = "no backend"
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Put a distribution on the path that adds a backend: an entry point, and a module `other_sdk` that it names."""
    monkeypatch.syspath_prepend(tmp_path)

    def add(name: str, value: str, distribution: str = "npu-plugin") -> None:
        info = tmp_path / f"{distribution}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[harness.backends]\n{name} = {value}\n")
        (tmp_path / "other_sdk.py").write_text(MODULE)
        (tmp_path / "broken_sdk.py").write_text("raise RuntimeError('no driver\\nis loaded')\n")
        importlib.invalidate_caches()

    return add


def test_another_distribution_adds_a_backend(install: Install) -> None:
    before = registry.backend_names()
    install("some-npu", "other_sdk:npu")
    assert registry.backend_names() == (*before, "some-npu")
    backend: Any = registry.backend("some-npu")
    assert backend == "the backend of another distribution"
    with pytest.raises(UsageError, match="did you mean 'some-npu'"):
        registry.backend("some_npu")


def test_a_built_in_part_is_no_plugin(install: Install) -> None:
    install("some-npu", "other_sdk:npu")
    assert registry.BACKEND_FAMILY.plugin("onnxruntime-cpu") is None
    assert registry.BACKEND_FAMILY.plugin("some-npu") is not None
    assert registry.BACKEND_FAMILY.distribution("some-npu") == "npu-plugin 1.0"


def test_another_distribution_does_not_replace_a_backend_of_ours(install: Install) -> None:
    names = registry.backend_names()
    install("onnxruntime-cpu", "other_sdk:npu")
    clash = "'onnxruntime-cpu' is in anomaly-parity-harness and in npu-plugin 1.0: uninstall one of them"
    with pytest.raises(PluginError, match=clash):
        registry.backend("onnxruntime-cpu")
    assert registry.backend_names() == names


def test_two_distributions_with_one_name_are_both_named(install: Install) -> None:
    install("some-npu", "other_sdk:npu")
    install("some-npu", "other_sdk:npu", "second-plugin")
    with pytest.raises(PluginError, match=r"is in .*(npu|second)-plugin 1.0 and in (npu|second)-plugin 1.0"):
        registry.backend("some-npu")


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("broken_sdk:npu", "RuntimeError: no driver is loaded"),
        ("absent_sdk:npu", "ModuleNotFoundError: No module named 'absent_sdk'"),
        ("other_sdk:absent", "AttributeError: .*absent"),
        ("other_sdk:half", "has no formats, environment, simulated, unavailable, open"),
    ],
)
def test_a_plugin_that_cannot_be_used_is_named_in_one_line(
    install: Install, monkeypatch: pytest.MonkeyPatch, value: str, reason: str
) -> None:
    install("some-npu", value)
    monkeypatch.setattr(registry, "backend_names", lambda: ("some-npu",))
    with pytest.raises(PluginError, match=f"'some-npu' of npu-plugin 1.0 .*{value}.*{reason}") as error:
        registry.backend("some-npu")
    assert "\n" not in str(error.value)
    assert worker.probe("some-npu") == str(error.value)
    assert main(["backends", "--json"]) == 0


def test_a_name_that_no_file_could_have_is_refused(install: Install) -> None:
    install("some/npu", "other_sdk:npu")
    with pytest.raises(PluginError, match=r"npu-plugin 1.0 adds a backend with the name 'some/npu'"):
        registry.backend_names()


def package(folder: Path, name: str) -> ModuleType:
    module = ModuleType(name)
    module.__file__ = str(folder / name / "__init__.py")
    module.__path__ = [str(folder / name)]
    return module


def test_a_backends_package_of_another_distribution_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "backends", package(tmp_path, "backends"))
    with pytest.raises(HarnessError, match=f"{tmp_path / 'backends'}.* hides ours .*environment of its own"):
        registry.backend("onnxruntime-cpu")


def test_an_exporters_package_without_a_file_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    namespace = ModuleType("exporters")  # a namespace package has no file
    namespace.__file__ = None
    monkeypatch.setitem(sys.modules, "exporters", namespace)
    with pytest.raises(HarnessError, match=r"the package 'exporters' of another distribution .* hides ours"):
        registry.load("exporters.fit.job:fit")


def test_our_own_packages_are_not_refused() -> None:
    for name in plugins.OUR_PACKAGES:
        plugins.require_our_package(f"{name}.anything")
