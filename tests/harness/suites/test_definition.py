from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from harness import storage, suites
from harness.detector.settings import Fastflow, Padim, Patchcore, SsimAe
from harness.errors import UsageError
from harness.suites import published

MVTEC = tuple(published.read().datasets["mvtec_ad"])

SMALL = """\
detector = "padim"
backbone = "resnet18"
categories = ["widget", "gadget"]

[settings]
resize = 40
crop = 32

[category.gadget]
resize = 64
"""


def written(tmp_path: Path, text: str = SMALL, name: str = "small.toml") -> Path:
    (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path / name


# --- the shipped suites -----------------------------------------------------------------------------------------------


def test_there_is_a_suite_for_every_published_system() -> None:
    assert suites.names() == ("fastflow", "padim", "patchcore", "ssim_ae", "ssim_ae_texture", "stpm")


@pytest.mark.parametrize("name", suites.names())
def test_a_shipped_suite_is_read_and_says_where_its_values_come_from(name: str) -> None:
    path = suites.find(name)
    suite = suites.read(path)
    assert (suite.name, suite.protocol) == (name, "seed")
    head, _, rest = path.read_text(encoding="utf-8").partition("[settings]\n")
    assert head.startswith("# ")
    assert "model zoo" in head or "mindxsdk-referenceapps" in head
    shared = rest.partition("[category")[0].split("\n")
    assert [line for line in shared if line and "# " not in line] == []


@pytest.mark.parametrize("name", ["padim", "patchcore", "fastflow", "stpm"])
def test_suites_of_mvtec_have_all_fifteen_categories(name: str) -> None:
    assert suites.read(suites.find(name)).categories == MVTEC


def test_the_categories_of_every_suite_are_those_its_source_publishes() -> None:
    tables = published.read()
    for source in tables.sources:
        if source.suite is None:
            continue
        named = {row.about for row in tables.rows_of(source)} - {"mean", "all"}
        assert named <= set(suites.read(suites.find(source.suite)).categories), source.name


SDK = """\
bottle      layer2 256 224 0.01
cable       layer3 336 320 0.01
capsule     layer3 324 320 0.04
carpet      layer3 336 320 0.04
grid        layer2 320 320 0.01
hazelnut    layer2 256 224 0.009
leather     layer2 256 224 0.01
metal_nut   layer2 224 224 0.02
pill        layer2 280 280 0.009
screw       layer2 368 320 0.01
tile        layer2 332 320 0.01
toothbrush  layer2 256 224 0.01
transistor  layer3 336 320 0.01
wood        layer2 256 224 0.01
zipper      layer2 256 224 0.01"""


def test_patchcore_has_the_settings_of_the_910_category_by_category() -> None:
    suite = suites.read(suites.find("patchcore"))
    lines = []
    for category in suite.categories:
        settings = suite.settings_for(category)
        assert isinstance(settings, Patchcore)
        (layer,) = settings.layers
        lines.append(f"{category:<12}{layer} {settings.resize} {settings.crop} {settings.coreset:g}")
        assert (settings.score, settings.interpolation, settings.projection) == ("top10", "area", 128)
    assert "\n".join(lines) == SDK
    assert (suite.backbone, suite.mask_resize) == ("wide_resnet101_2", "area_truncated")


def test_padim_has_the_draw_and_the_resize_of_the_model_zoo() -> None:
    suite = suites.read(suites.find("padim"))
    settings = suite.settings_for("bottle")
    assert settings == Padim(
        resize=256, crop=224, interpolation="pil_lanczos", protocol="seed", channels=550, draw="modelzoo"
    )
    assert (suite.backbone, suite.mask_resize, suite.mask_threshold) == ("wide_resnet50_2", "nearest", 127)


def test_fastflow_has_the_schedule_of_the_model_zoo() -> None:
    suite = suites.read(suites.find("fastflow"))
    assert suite.settings_for("zipper") == Fastflow(interpolation="pil_bilinear", protocol="seed")
    assert (suite.seed, suite.mask_resize) == (1, "bilinear_truncated")


def test_ssim_ae_has_both_shapes() -> None:
    colour = suites.read(suites.find("ssim_ae")).settings_for("metal_nut")
    texture = suites.read(suites.find("ssim_ae_texture")).settings_for("texture_1")
    assert isinstance(colour, SsimAe)
    assert isinstance(texture, SsimAe)
    assert (colour.channels, colour.resize, colour.crop, colour.window, colour.latent) == (
        3,
        266,
        256,
        256,
        500,
    )
    assert (colour.epochs, colour.percentile, colour.threshold) == (300, 75.0, None)
    assert (texture.channels, texture.resize, texture.crop, texture.window, texture.latent) == (
        1,
        256,
        256,
        128,
        100,
    )
    assert (texture.epochs, texture.rotate, texture.threshold) == (200, 45.0, 0.5)
    assert (colour.learning_rate, texture.learning_rate) == (2e-4, 2e-4)


# --- the reader -------------------------------------------------------------------------------------------------------


def test_settings_of_a_category_go_before_those_of_the_suite(tmp_path: Path) -> None:
    suite = suites.read(written(tmp_path, f'protocol = "seed"\nbackends = ["ort"]\n{SMALL}'))
    assert suite.settings_for("widget") == Padim(resize=40, crop=32, protocol="seed")
    assert suite.settings_for("gadget") == Padim(resize=64, crop=32, protocol="seed")
    assert (suite.name, suite.backends, suite.seed) == ("small", ("ort",), 0)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("detector =", "detecter =", r"unknown key 'detecter'; did you mean 'detector'"),
        ('"padim"', '"padin"', r"unknown detector 'padin'; did you mean 'padim'"),
        ("[settings]", "[setting]", r"unknown key 'setting'; did you mean 'settings'"),
        (
            "resize = 40",
            "resise = 40",
            r"settings\.resise: unknown setting of padim 'resise'; did you mean 'resize'",
        ),
        ("resize = 64", "rezise = 64", r"category\.gadget\.rezise: unknown setting .*'resize'"),
        ("category.gadget", "category.gadgets", r"category\.gadgets: unknown category 'gadgets'; .*'gadget'"),
        ("resize = 40", "resize = '40'", r"settings of widget: Expected `int`, got `str` - at `\$\.resize`"),
        ("resize = 40", "resize = 40.5", r"settings of widget: Expected `int`, got `float`"),
        ("resize = 64", "resize = 0", r"settings of gadget: Expected `int` >= 1 - at `\$\.resize`"),
        ("resize = 64", "resize = 16", r"crop 32 must be between 1 and resize 16"),
        ("resize = 64", 'draw = "mine"', r"settings of gadget: Invalid enum value 'mine' - at `\$\.draw`"),
        ("resize = 40", 'protocol = "seed"', r"settings\.protocol: .*write it at the top"),
        ("resize = 64", 'protocol = "seed"', r"category\.gadget\.protocol: .*write it at the top"),
        ('["widget", "gadget"]', "[]", r"length >= 1 - at `\$\.categories`"),
        ('["widget", "gadget"]', '["gadget", "gadget"]', "one is named twice"),
        ('backbone = "resnet18"', 'backbone = "none"', "padim with 'none': only ssim_ae has none"),
        ('backbone = "resnet18"\n', "", "missing required field `backbone`"),
        ("[settings]", "mask_threshold = 255\n[settings]", r"<= 254 - at `\$\.mask_threshold`"),
        ("[settings]", 'mask_resize = "eroded"\n[settings]', r"'eroded' - at `\$\.mask_resize`"),
        ("[settings]", 'name = "other"\n[settings]', "unknown key 'name'"),
        ("[settings]", "[settings", r"small\.toml: "),
        ("padim", "pad\udcffim", r"small\.toml: "),
    ],
)
def test_a_suite_of_another_form_is_refused_with_its_place(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    assert old in SMALL
    path = written(tmp_path)
    path.write_bytes(SMALL.replace(old, new, 1).encode("utf-8", "surrogateescape"))
    with pytest.raises(UsageError, match=rf"small\.toml: .*{message}" if "toml" not in message else message):
        suites.read(path)


def test_a_file_that_is_missing_names_the_suites_there_are(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nowhere\.toml: cannot be read \(No such file.*padim, patchcore"):
        suites.read(tmp_path / "nowhere.toml")


def test_ssim_ae_with_a_backbone_is_refused(tmp_path: Path) -> None:
    text = 'detector = "ssim_ae"\nbackbone = "resnet18"\ncategories = ["a"]\n'
    with pytest.raises(UsageError, match="ssim_ae with 'resnet18'"):
        suites.read(written(tmp_path, text))


# --- names ------------------------------------------------------------------------------------------------------------


def test_a_suite_is_found_by_name_or_path(tmp_path: Path) -> None:
    assert suites.find("padim") == storage.shipped("suites") / "padim.toml"
    assert suites.find(str(tmp_path / "own.toml")) == tmp_path / "own.toml"
    assert suites.find(str(storage.shipped("suites") / "padim.toml")).name == "padim.toml"


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(
        UsageError, match=r"unknown suite 'patchcor'; did you mean 'patchcore'.*or give the path"
    ):
        suites.find("patchcor")


def test_another_file_under_a_shipped_name_is_refused(tmp_path: Path) -> None:
    copy = shutil.copy(suites.find("padim"), tmp_path / "padim.toml")
    with pytest.raises(
        UsageError, match="padim is a suite of this program; records could not tell them apart"
    ):
        suites.find(str(copy))


def test_a_suite_in_object_storage_is_refused() -> None:
    with pytest.raises(UsageError, match=r"aws s3 cp s3://bucket/padim\.toml LOCAL"):
        suites.find("s3://bucket/padim.toml")


def test_the_help_of_reproduce_names_every_suite() -> None:
    from harness.cli import parser

    action: Any = next(name for name in parser()._actions if name.dest == "==SUPPRESS==" or name.choices)
    shown = " ".join(action.choices["reproduce"].format_help().split())
    for name in suites.names():
        assert name in shown
