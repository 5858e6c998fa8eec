from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from harness import registry
from harness.errors import UsageError
from harness.heads.padim import PadimHead


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


def test_only_our_trained_and_fitted_detectors_with_a_network_have_a_backbone() -> None:
    names = [name for name in registry.detector_names() if registry.has_backbone(name)]
    assert names == ["padim", "patchcore", "fastflow", "stpm"]
    assert not registry.has_backbone("another")
