from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from harness.datasets import list_categories, load_category, read_mask_for
from harness.datasets.check import check
from harness.datasets.texture import is_texture
from harness.errors import DatasetError

Writer = Callable[..., Path]


@pytest.fixture
def cloth(tmp_path: Path, write: Writer) -> Path:
    """A data set with one category, `cloth`, in the layout of the woven textures: 3 to learn from, 2 to test on."""
    folder = tmp_path / "textures" / "cloth"
    mask = np.zeros((8, 10), np.uint8)
    mask[2:4, 3:6] = 255
    for index in range(3):
        write(folder / "train" / f"{index:03}.png", np.full((8, 10), index, np.uint8))
    for index in range(2):
        write(folder / "test" / f"{index:03}.png", np.full((8, 10), 20 + index, np.uint8))
        write(folder / "ground_truth" / "defective" / f"{index:03}.png", mask)
    return folder


def load(cloth: Path) -> object:
    return load_category(cloth.parent, "cloth")


def test_images_without_folders_are_good_to_learn_from_and_defective_to_test_on(cloth: Path) -> None:
    assert list_categories(cloth.parent) == ("cloth",)
    found = load_category(cloth.parent, "cloth")
    assert [(s.name, s.label, s.defect, s.mask_path) for s in found.train] == [
        (f"train/{index:03}.png", 0, "good", None) for index in range(3)
    ]
    assert [(s.name, s.label, s.defect, s.mask_path) for s in found.test] == [
        (f"test/{index:03}.png", 1, "defective", cloth / "ground_truth" / "defective" / f"{index:03}.png")
        for index in range(2)
    ]
    assert read_mask_for(found.test[0], (8, 10)).sum() == 6


def test_masks_may_be_named_as_in_mvtec(cloth: Path) -> None:
    truth = cloth / "ground_truth" / "defective"
    (truth / "000.png").rename(truth / "000_mask.png")
    assert load_category(cloth.parent, "cloth").test[0].mask_path == truth / "000_mask.png"


def test_a_test_image_without_a_mask_is_an_error_and_never_a_good_image(cloth: Path) -> None:
    (cloth / "ground_truth" / "defective" / "001.png").unlink()
    with pytest.raises(
        DatasetError,
        match=r"test/001.png: no mask for this test image \(without folders all are defective\): expected "
        r".*ground_truth/defective/001_mask.png, or 001.png there",
    ):
        load(cloth)


def test_a_mask_in_another_folder_is_no_mask(cloth: Path) -> None:
    (cloth / "ground_truth" / "defective").rename(cloth / "ground_truth" / "hole")
    with pytest.raises(DatasetError, match="no mask for this test image"):
        load(cloth)


@pytest.mark.parametrize("place", ["train/good", "test/good", "test/hole"])
def test_folders_beside_the_images_are_a_mixture_of_layouts(cloth: Path, write: Writer, place: str) -> None:
    write(cloth / place / "000.png")
    with pytest.raises(DatasetError, match=rf"cloth/{place}: a folder, where .*keep to one layout"):
        load(cloth)


@pytest.mark.parametrize("place", ["train", "test"])
def test_an_image_astray_in_the_layout_of_mvtec_is_a_mixture_too(
    root: Path, write: Writer, place: str
) -> None:
    write(root / "nut" / place / "stray.png")
    with pytest.raises(
        DatasetError, match=r"nut/train/good: a folder, where .*nut has images in train/ or test/"
    ):
        load_category(root, "nut")


def test_half_of_one_layout_and_half_of_the_other_is_a_mixture(cloth: Path) -> None:
    (cloth / "images").mkdir()
    for path in (cloth / "train").iterdir():
        path.rename(cloth / "images" / path.name)
    (cloth / "images").rename(cloth / "train" / "good")
    problems = check(cloth).problems
    assert any("train/good: a folder" in problem for problem in problems)
    assert any("train: holds no image" in problem for problem in problems)


def test_hidden_folders_and_files_that_are_no_images_are_passed_over(cloth: Path) -> None:
    (cloth / "train" / ".thumbnails").mkdir()
    (cloth / "test" / "notes.txt").write_text("linen")
    assert len(load_category(cloth.parent, "cloth").train) == 3
    assert check(cloth).categories[0].notes[1:] == (
        "train/.thumbnails, test/notes.txt: not an image, passed over",
    )


def test_good_images_alone_are_enough_to_learn_from(cloth: Path) -> None:
    shutil.rmtree(cloth / "test")
    assert load_category(cloth.parent, "cloth").test == ()


@pytest.mark.parametrize("part", ["train", "test"])
def test_a_part_without_images_is_an_error(cloth: Path, part: str) -> None:
    shutil.rmtree(cloth / part)
    (cloth / part).mkdir()
    with pytest.raises(DatasetError, match=rf"cloth/{part}: holds no image"):
        load(cloth)


def test_no_train_folder_at_all_is_an_error(cloth: Path) -> None:
    shutil.rmtree(cloth / "train")
    with pytest.raises(DatasetError, match=r"cloth/train: holds no image"):
        load(cloth)


def test_lists_restrict_it_as_they_do_the_other(cloth: Path) -> None:
    (cloth / "cloth_test.json").write_text(json.dumps(["test/001.png"]))
    (cloth / "ground_truth" / "defective" / "000.png").unlink()
    assert [sample.name for sample in load_category(cloth.parent, "cloth").test] == ["test/001.png"]


def test_data_check_takes_it_as_it_is_and_notes_that_image_scores_cannot_be_ranked(cloth: Path) -> None:
    report = check(cloth.parent)
    found = report.categories[0]
    assert (found.train, found.good, found.defects) == (3, 0, (("defective", 2),))
    assert (found.sizes, found.pixels, found.problems) == (((10, 8),), ("8-bit grey",), ())
    assert found.notes == (f"{cloth / 'test'}: image AUROC is undefined: only defective images to test on",)


def test_data_check_says_where_there_is_too_little_to_learn_from(cloth: Path) -> None:
    (cloth / "train" / "000.png").unlink()
    assert any(problem.startswith(f"{cloth / 'train'}: 2 images") for problem in check(cloth).problems)


def test_a_mask_without_an_image_is_noted(cloth: Path, write: Writer) -> None:
    write(cloth / "ground_truth" / "defective" / "007.png")
    assert "ground_truth/defective/007.png: a mask without an image in use, passed over" in (
        check(cloth).categories[0].notes
    )


def test_the_layout_of_mvtec_is_not_taken_for_it(root: Path) -> None:
    assert not is_texture(root / "nut")
