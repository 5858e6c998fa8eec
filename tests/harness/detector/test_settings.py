from __future__ import annotations

from typing import Any

import pytest

from harness import registry
from harness.detector.settings import Padim, Patchcore, SsimAe, Stpm, described, settings
from harness.errors import UsageError


def test_every_detector_that_can_be_fitted_has_settings() -> None:
    for name in registry.LEARNERS:
        assert settings(name, {}).crop <= settings(name, {}).resize


def test_text_from_the_command_line_becomes_numbers() -> None:
    assert settings("patchcore", {"coreset": "0.01", "layers": "layer2", "score": "max"}) == Patchcore(
        coreset=0.01, layers=("layer2",), score="max"
    )
    assert settings("patchcore", {"layers": "layer2,layer3"}) == Patchcore()
    assert settings("ssim_ae", {"channels": "1", "window": "128"}) == SsimAe(channels=1, window=128)


def test_what_is_not_given_keeps_its_default() -> None:
    made = settings("stpm", {"epochs": 3})
    assert made == Stpm(epochs=3)
    assert (made.resize, made.crop) == (256, 256)
    assert settings("padim", {}) == Padim(resize=256, crop=224)


@pytest.mark.parametrize(
    ("detector", "given", "what"),
    [
        ("padim", {"epochs": 3}, "unknown setting of padim 'epochs'"),
        ("patchcore", {"coresset": 0.1}, "did you mean 'coreset'"),
        ("patchcore", {"coreset": 0}, "coreset"),
        ("patchcore", {"coreset": 1.5}, "coreset"),
        ("patchcore", {"layers": "layer4"}, "layer4"),
        ("patchcore", {"neighbours": 1}, "neighbours"),
        ("stpm", {"epochs": "many"}, "epochs"),
        ("stpm", {"epochs": 0}, "epochs"),
        ("stpm", {"learning_rate": 0}, "learning_rate"),
        ("stpm", {"learning_rate": "inf"}, "learning_rate"),
        ("stpm", {"weight_decay": "inf"}, "weight_decay"),
        ("padim", {"resize": 10**6, "crop": 64}, "resize"),
        ("ssim_ae", {"channels": 2}, "channels"),
        ("padim", {"resize": 200}, "crop 224 must be between 1 and resize 200"),
        ("padin", {}, "did you mean 'padim'"),
    ],
)
def test_a_name_or_value_a_detector_does_not_have_is_refused(
    detector: str, given: dict[str, Any], what: str
) -> None:
    with pytest.raises(UsageError, match=what):
        settings(detector, given)


def test_the_settings_are_described_with_default_and_range() -> None:
    rows = {row["setting"]: row for row in described("patchcore")}
    assert rows["layers"] == {
        "setting": "layers",
        "default": "layer2,layer3",
        "values": "some of layer1, layer2, layer3",
    }
    assert rows["coreset"] == {"setting": "coreset", "default": "0.1", "values": "number above 0 to 1"}
    assert rows["bank"] == {"setting": "bank", "default": "–", "values": "text or not given"}
    assert [row["setting"] for row in described("padim")] == list(Padim.__struct_fields__)
