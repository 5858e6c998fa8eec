from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from harness.datasets import (
    fingerprint,
    list_categories,
    load_category,
    read_image,
    read_mask_for,
    surfaces,
    synthetic,
)
from harness.datasets.check import check
from harness.datasets.surfaces import DEFECTS, MARGIN, VISIBLE, render
from harness.datasets.synthetic import CATEGORIES, TEXTURES, make_category, synthesise
from harness.errors import DatasetError, UsageError
from harness.metrics import pixel_metrics
from harness.storage import sha256_of_file
from harness.types import Category, Float32, UInt8

KINDS = [(category, defect) for category in DEFECTS for defect in DEFECTS[category]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthesise(tmp_path_factory.mktemp("synthetic set"))


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw three images a folder instead of all: enough where only files and folders matter."""
    plan = synthetic._plan
    monkeypatch.setattr(
        synthetic, "_plan", lambda recipe: ((split, kind, 3) for split, kind, _ in plan(recipe))
    )


def _files(folder: Path) -> dict[str, str]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): sha256_of_file(path) for path in paths}


def _generator(*key: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(key)))


def test_there_are_three_categories_with_three_kinds_of_defect_and_nothing_to_complain_of(made: Path) -> None:
    report = check(made)
    assert list_categories(made) == ("brushed", "washer", "weave")
    assert report.problems == ()
    assert [check.notes for check in report.categories] == [(), (), ()]
    for category in report.categories:
        assert (category.train, category.good) == (40, 16)
        assert [count for _, count in category.defects] == [8, 8, 8]
        assert category.sizes == ((256, 256),)


@pytest.mark.parametrize(("category", "defect"), KINDS)
def test_a_mask_holds_exactly_the_pixels_its_defect_changed(category: str, defect: str) -> None:
    for seed in range(8):
        drawn = render(category, defect, seed / 7, _generator(seed))
        difference = abs(drawn.image.astype(int) - drawn.clean).reshape(256, 256, -1).max(axis=2)
        assert drawn.mask.any()
        assert (difference[drawn.mask] >= VISIBLE).all()
        assert (difference[~drawn.mask] == 0).all()
        rows, columns = np.nonzero(drawn.mask)
        assert min(rows.min(), columns.min()) >= MARGIN
        assert max(rows.max(), columns.max()) < 256 - MARGIN


@pytest.mark.parametrize(("category", "defect"), KINDS)
def test_even_the_faintest_defect_has_a_mask(category: str, defect: str) -> None:
    assert all(render(category, defect, 0, _generator(9, seed)).mask.any() for seed in range(12))


@pytest.mark.parametrize(("category", "defect"), KINDS)
def test_a_severe_defect_changes_more_than_a_faint_one(category: str, defect: str) -> None:
    def change(severity: float) -> float:
        drawn = [render(category, defect, severity, _generator(3, seed)) for seed in range(5)]
        return float(np.mean([abs(each.image.astype(int) - each.clean).sum() for each in drawn]))

    assert change(1) > 1.5 * change(0)


def test_no_defect_reaches_the_border_that_preprocessing_crops() -> None:
    clean, everywhere = np.full((256, 256, 3), 90, np.float64), np.ones((256, 256), np.bool_)
    image, mask = surfaces._with_defect(clean, np.full_like(clean, 140), everywhere)
    inside = np.zeros((256, 256), np.bool_)
    inside[MARGIN:-MARGIN, MARGIN:-MARGIN] = True
    np.testing.assert_array_equal(mask, inside)
    np.testing.assert_array_equal(image, np.where(inside[..., None], 140, clean))
    assert MARGIN >= 16


def test_good_images_are_clean() -> None:
    for category in DEFECTS:
        drawn = render(category, "good", 1, _generator(1))
        assert not drawn.mask.any()
        np.testing.assert_array_equal(drawn.image, drawn.clean)


@pytest.mark.parametrize(
    ("categories", "expected"), [(CATEGORIES, "f4b6049bd1d0a564"), (TEXTURES, "25139e7a1d2f36fb")]
)
def test_pixels_are_the_same_on_every_machine(categories: tuple[str, ...], expected: str) -> None:
    digest = hashlib.sha256()
    for category in categories:
        for defect in DEFECTS[category]:
            drawn = render(category, defect, 0.5, _generator(0))
            digest.update(drawn.image.tobytes() + drawn.mask.tobytes())
    # The same with numpy 1.26 and 2.2, with and without AVX2 and AVX-512.
    assert digest.hexdigest()[:16] == expected


def test_files_are_what_was_drawn(made: Path) -> None:
    sample = next(s for s in load_category(made, "washer").test if s.name == "test/chip/005.png")
    key = (1, 0, CATEGORIES.index("washer"), 2 + list(DEFECTS["washer"]).index("chip"), 5)
    drawn = render("washer", "chip", 5 / 7, _generator(*key))
    np.testing.assert_array_equal(read_image(sample.path), drawn.image)
    np.testing.assert_array_equal(read_mask_for(sample, (256, 256)), drawn.mask)


@pytest.mark.usefixtures("few")
def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    first, second = (make_category("brushed", 3, tmp_path / name) for name in "ab")
    assert _files(first) == _files(second)
    other = make_category("brushed", 4, tmp_path / "c")
    assert fingerprint(load_category(other.parent, "brushed"), "train") != fingerprint(
        load_category(first.parent, "brushed"), "train"
    )


@pytest.mark.usefixtures("few")
def test_what_is_there_is_used_again_and_another_seed_takes_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_category("brushed", 0, tmp_path)
    before = _files(folder)
    make_category("brushed", 1, tmp_path)
    assert _files(folder) != before
    assert [path.name for path in tmp_path.iterdir()] == ["brushed"]
    after = _files(folder)
    monkeypatch.setattr(synthetic, "_draw", lambda *_: pytest.fail("drawn again"))
    assert make_category("brushed", 1, tmp_path) == folder
    assert _files(folder) == after


@pytest.mark.usefixtures("few")
def test_an_older_version_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_category("brushed", 0, tmp_path)
    before = _files(folder)
    monkeypatch.setattr(synthetic, "_VERSION", 2)
    assert _files(make_category("brushed", 0, tmp_path)) != before


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize(
    "name", ["train/good/000.png", "test/good/001.png", "ground_truth/dent/002_mask.png"]
)
def test_an_altered_set_is_refused(tmp_path: Path, name: str) -> None:
    folder = make_category("brushed", 0, tmp_path)
    shutil.copy(folder / "test" / "dent" / "002.png", folder / name)
    with pytest.raises(DatasetError, match="brushed: altered since it was made: delete"):
        make_category("brushed", 0, tmp_path)


@pytest.mark.parametrize("marker", [None, "{}", '{"version": "one"}'])
def test_a_folder_of_someone_else_is_left_alone(tmp_path: Path, marker: str | None) -> None:
    (tmp_path / "weave" / "train" / "good").mkdir(parents=True)
    if marker:
        (tmp_path / "weave" / "synthetic.json").write_text(marker)
    before = _files(tmp_path)
    with pytest.raises(DatasetError, match=r"weave: not a synthetic category .*left alone"):
        make_category("weave", 0, tmp_path)
    assert _files(tmp_path) == before


@pytest.mark.usefixtures("few")
def test_a_killed_run_leaves_nothing_that_looks_like_a_category(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[Path]] = []

    def killed(*_: object) -> None:
        # What a process killed here would leave for good.
        seen.append([path for path in tmp_path.iterdir() if not path.name.startswith(".")])
        raise KeyboardInterrupt

    monkeypatch.setattr(synthetic, "write_json", killed)
    with pytest.raises(KeyboardInterrupt):
        make_category("brushed", 0, tmp_path)
    assert seen == [[]]
    assert list(tmp_path.iterdir()) == []


def test_wrong_calls_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match="no synthetic category 'wave': there are weave, brushed, washer, woven"
    ):
        synthesise(tmp_path, ["wave"])
    with pytest.raises(UsageError, match="seed -1"):
        make_category("weave", -1, tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(DatasetError, match="no folder can be made here"):
        make_category("weave", 0, tmp_path / "file" / "below")


def test_the_marker_says_what_was_made(made: Path) -> None:
    marker = msgspec.json.decode((made / "weave" / "synthetic.json").read_bytes(), type=synthetic.Recipe)
    assert (marker.seed, marker.category, marker.defects) == (0, "weave", ("float", "dye", "thread"))
    assert (made / "weave" / "synthetic.json").stat().st_mode & 0o044
    assert (made / "weave").stat().st_mode & 0o055


@pytest.mark.parametrize("name", CATEGORIES)
def test_blurring_and_subtracting_does_not_find_the_defects(made: Path, name: str) -> None:
    def grey(image: UInt8) -> Float32:
        mean: Float32 = image.reshape(256, 256, -1).mean(axis=2, dtype=np.float32)
        return mean

    category = load_category(made, name)
    usual = np.mean([grey(read_image(sample.path)) for sample in category.train], axis=0)
    images = [grey(read_image(sample.path)) for sample in category.test]
    labels = [sample.label for sample in category.test]
    for sigma in (0, 2, 4, 8, 16, 32):
        blurred = [cv2.GaussianBlur(image, (0, 0), sigma) if sigma else usual for image in images]
        maps = [
            cv2.GaussianBlur(np.abs(image - base), (0, 0), 4)
            for image, base in zip(images, blurred, strict=True)
        ]
        assert roc_auc_score(labels, [each.max() for each in maps]) < 0.78


@pytest.fixture(scope="module")
def woven(tmp_path_factory: pytest.TempPathFactory) -> Category:
    root = tmp_path_factory.mktemp("textures")
    make_category("woven", 0, root)
    return load_category(root, "woven")


def test_a_texture_is_made_when_it_is_asked_for_and_is_grey(woven: Category) -> None:
    report = check(woven.root)
    assert report.problems == ()
    assert report.categories[0].pixels == ("8-bit grey",)
    assert report.categories[0].defects == (("slip", 8), ("stretch", 8), ("twist", 8))
    assert (len(woven.train), len(woven.test)) == (40, 40)


def test_defects_of_a_texture_change_its_pattern_and_neither_its_brightness_nor_its_contrast(
    woven: Category,
) -> None:
    inside, around = [], []
    for sample in woven.test:
        image = read_image(sample.path).astype(np.float64)
        mask = read_mask_for(sample, image.shape)
        if mask.any():
            ring = cv2.dilate(mask.astype(np.uint8), np.ones((25, 25), np.uint8)).astype(bool) & ~mask
            inside.append((image[mask].mean(), image[mask].std()))
            around.append((image[ring].mean(), image[ring].std()))
    brightness, contrast = (np.array(inside) / np.array(around)).T
    assert abs(np.median(brightness) - 1) < 0.05
    assert abs(np.median(contrast) - 1) < 0.25


@pytest.mark.parametrize("smooth", [0, 4])
def test_blurring_and_subtracting_does_not_find_the_pixels_of_a_broken_pattern(
    woven: Category, smooth: float
) -> None:
    images = [read_image(sample.path).astype(np.float32) for sample in woven.test]
    masks = np.stack([read_mask_for(sample, (256, 256)) for sample in woven.test])
    for sigma in (1, 1.5, 2, 3, 4, 6, 8, 12, 16, 32, 64):
        maps = [np.abs(image - cv2.GaussianBlur(image, (0, 0), sigma)) for image in images]
        if smooth:
            maps = [cv2.GaussianBlur(each, (0, 0), smooth) for each in maps]
        assert pixel_metrics(np.stack(maps), masks).values["pixel_auroc"] < 0.6
