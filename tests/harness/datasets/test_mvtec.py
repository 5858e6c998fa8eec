from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.datasets import fingerprint, list_categories, load_category, read_image, read_mask_for
from harness.errors import DatasetError

Writer = Callable[..., Path]


def _names(root: Path, split: str = "test") -> list[str]:
    return [sample.name for sample in getattr(load_category(root, "nut"), split)]


def _list(root: Path, document: Any, split: str = "test") -> Path:
    path = root / "nut" / f"nut_{split}.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


def test_a_category_is_found_sorted_with_labels_and_masks(root: Path) -> None:
    nut = load_category(root, "nut")
    assert [sample.name for sample in nut.train] == [f"train/good/{index}.png" for index in range(4)]
    assert [(s.name, s.label, s.defect) for s in nut.test] == [
        ("test/crack/0.png", 1, "crack"),
        ("test/crack/1.png", 1, "crack"),
        ("test/good/0.png", 0, "good"),
        ("test/good/1.png", 0, "good"),
    ]
    assert nut.test[1].mask_path == root / "nut" / "ground_truth" / "crack" / "1_mask.png"
    assert nut.test[2].mask_path is None


def test_samples_are_sorted_by_their_name_across_folders(root: Path, write: Writer) -> None:
    write(root / "nut" / "test" / "crack-b" / "0.PNG")
    write(root / "nut" / "ground_truth" / "crack-b" / "0.bmp")
    assert _names(root) == sorted(_names(root))


def test_masks_may_have_the_name_of_the_image_and_another_format(root: Path) -> None:
    truth = root / "nut" / "ground_truth" / "crack"
    (truth / "0_mask.png").rename(truth / "0.png")
    assert load_category(root, "nut").test[0].mask_path == truth / "0.png"


def test_files_that_are_no_images_and_hidden_ones_are_passed_over(root: Path) -> None:
    for name in ("Thumbs.db", ".DS_Store", "notes.txt", ".0.png"):
        (root / "nut" / "train" / "good" / name).write_bytes(b"x")
        (root / "nut" / "test" / "crack" / name).write_bytes(b"x")
    (root / "nut" / "test" / ".cache").mkdir()
    (root / "nut" / "test" / "good" / "folder.png").mkdir()
    assert len(_names(root, "train")) == 4
    assert len(_names(root)) == 4


def test_categories_are_the_folders_with_train_or_test(root: Path) -> None:
    (root / "bolt" / "test").mkdir(parents=True)
    (root / ".hidden" / "train").mkdir(parents=True)
    (root / "docs").mkdir()
    assert list_categories(root) == ("bolt", "nut")


def test_a_folder_that_is_itself_a_category_gets_the_right_call(root: Path) -> None:
    with pytest.raises(DatasetError, match=f"itself a category.*--data {root} --category nut"):
        list_categories(root / "nut")


def test_a_missing_folder_and_one_without_categories_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="gone: no such folder"):
        list_categories(tmp_path / "gone")
    with pytest.raises(DatasetError, match="no category here"):
        list_categories(tmp_path)


@pytest.mark.parametrize("name", ["nuts", "../nut", "/etc", ""])
def test_an_unknown_category_is_answered_with_what_is_there(root: Path, name: str) -> None:
    with pytest.raises(DatasetError, match=r"no category.*there are: nut"):
        load_category(root, name)


def test_a_misspelt_category_gets_a_suggestion(root: Path) -> None:
    with pytest.raises(DatasetError, match=r"did you mean nut\?"):
        load_category(root, "nutt")


def test_no_train_good_is_an_error(root: Path) -> None:
    shutil.rmtree(root / "nut" / "train")
    with pytest.raises(DatasetError, match=r"train/good: no such folder"):
        load_category(root, "nut")


@pytest.mark.parametrize("kind", ["train/good", "test/good", "test/crack"])
def test_a_folder_without_images_is_an_error(root: Path, kind: str) -> None:
    shutil.rmtree(root / "nut" / kind)
    (root / "nut" / kind).mkdir()
    with pytest.raises(DatasetError, match=f"{kind}: holds no image"):
        load_category(root, "nut")


def test_a_test_folder_without_folders_is_an_error_but_none_at_all_is_not(root: Path) -> None:
    shutil.rmtree(root / "nut" / "test")
    assert load_category(root, "nut").test == ()
    (root / "nut" / "test").mkdir()
    with pytest.raises(DatasetError, match="test: holds no folder of images"):
        load_category(root, "nut")


def test_a_defective_image_without_a_mask_is_an_error_that_says_how_many_more(root: Path) -> None:
    shutil.rmtree(root / "nut" / "ground_truth")
    with pytest.raises(
        DatasetError, match=r"(?s)crack/0.png: no mask.*crack/0_mask.png.*\(1 more: .*data check"
    ):
        load_category(root, "nut")


def test_two_masks_for_one_image_are_an_error(root: Path, write: Writer) -> None:
    write(root / "nut" / "ground_truth" / "crack" / "0.png")
    with pytest.raises(DatasetError, match=r"crack/0.png: has 2 masks, .*0_mask.png and .*0.png: keep one"):
        load_category(root, "nut")


@pytest.mark.parametrize("beside", [True, False])
@pytest.mark.parametrize("suffix", [".png", ""])
def test_fastflows_lists_restrict_a_split(root: Path, suffix: str, beside: bool) -> None:  # noqa: FBT001
    entries = {
        "0": {"name": f"1{suffix}", "img_type": "good"},
        "1": {"name": f"0{suffix}", "img_type": "crack"},
    }
    path = _list(root, entries)
    if beside:
        path.rename(root / path.name)
    assert _names(root) == ["test/crack/0.png", "test/good/1.png"]
    assert len(_names(root, "train")) == 4


def test_a_list_may_be_an_array_of_paths_for_either_split(root: Path) -> None:
    _list(root, ["train/good/3.png", "train/good/1.png"], "train")
    assert _names(root, "train") == ["train/good/1.png", "train/good/3.png"]


def test_what_is_not_listed_needs_no_mask(root: Path) -> None:
    (root / "nut" / "ground_truth" / "crack" / "0_mask.png").unlink()
    _list(root, ["test/crack/1.png", "test/good/0.png"])
    assert _names(root) == ["test/crack/1.png", "test/good/0.png"]


@pytest.mark.parametrize(
    "entry",
    [
        "../../etc/passwd",
        "/etc/passwd",
        "test/good/../../../x.png",
        "train/good/0.png",
        "test/good/9.png",
        "\0",
        "",
    ],
)
def test_a_list_can_only_name_images_of_its_split(root: Path, entry: str) -> None:
    path = _list(root, [entry])
    with pytest.raises(DatasetError, match=rf"{path.name}: .* is not an image of .*nut/test"):
        load_category(root, "nut")


def test_fastflow_entries_cannot_climb_out_either(root: Path) -> None:
    _list(root, {"0": {"name": "../../train/good/0", "img_type": "good"}})
    with pytest.raises(DatasetError, match="is not an image of"):
        load_category(root, "nut")


def test_a_listed_link_that_leaves_the_category_is_refused(root: Path, write: Writer) -> None:
    outside = write(root.parent / "outside.png")
    (root / "nut" / "test" / "good" / "link.png").symlink_to(outside)
    _list(root, ["test/good/link.png"])
    with pytest.raises(DatasetError, match=r"link.png' leaves its folder"):
        load_category(root, "nut")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not a list of images"),
        ("{", "not a list of images"),
        ("3", "Expected `object | array`"),
        ("[3]", r"Expected `str`, got `int` - at `\$\[0\]`"),
        ('{"0": {"name": "0"}}', "missing required field `img_type`"),
        ('{"0": {"name": "0", "img_type": "good", "x": 1}}', "unknown field `x`"),
        ("[]", "names no image"),
        ('["test/good/0.png", "test/good/0"]', "'test/good/0' is listed twice"),
    ],
)
def test_a_malformed_list_is_refused_by_name(root: Path, text: str, message: str) -> None:
    path = _list(root, [])
    path.write_text(text)
    with pytest.raises(DatasetError, match=rf"{path.name}: .*{message}"):
        load_category(root, "nut")


def test_an_entry_that_fits_two_images_and_two_lists_are_refused(root: Path, write: Writer) -> None:
    write(root / "nut" / "test" / "good" / "0.bmp")
    path = _list(root, ["test/good/0"])
    with pytest.raises(DatasetError, match="fits several images"):
        load_category(root, "nut")
    shutil.copy(path, root / path.name)
    with pytest.raises(DatasetError, match="two lists of one split"):
        load_category(root, "nut")


def test_the_mask_of_a_good_image_is_all_false(root: Path) -> None:
    good = load_category(root, "nut").test[-1]
    mask = read_mask_for(good, (8, 10, 3))
    assert mask.shape == (8, 10)
    assert not mask.any()


def test_a_mask_of_another_size_than_its_image_is_refused(root: Path) -> None:
    sample = load_category(root, "nut").test[0]
    assert read_mask_for(sample, (8, 10)).sum() == 6
    with pytest.raises(DatasetError, match=r"0_mask.png: the mask is 10x8, but its image .*0.png is 11x8"):
        read_mask_for(sample, (8, 11, 3))


def test_the_fingerprint_changes_with_pixels_masks_and_names_of_its_split_only(
    root: Path, write: Writer
) -> None:
    def prints() -> tuple[str, str]:
        nut = load_category(root, "nut")
        return fingerprint(nut, "train"), fingerprint(nut, "test")

    train, test = prints()
    assert prints() == (train, test)
    write(root / "nut" / "ground_truth" / "crack" / "0_mask.png", np.full((8, 10), 255, np.uint8))
    assert prints()[0] == train
    assert prints()[1] != test
    (root / "nut" / "train" / "good" / "3.png").rename(root / "nut" / "train" / "good" / "4.png")
    assert prints()[0] != train


@pytest.mark.real
@pytest.mark.parametrize(
    ("folder", "name", "counts"),
    [("mvtec", "bottle", (209, 20, 63)), ("magnetic_tile", "tile", (150, 40, 60))],
)
def test_real_categories_are_found_whole(
    shared: Path, folder: str, name: str, counts: tuple[int, int, int]
) -> None:
    category = load_category(shared / "data" / folder, name)
    good = [sample for sample in category.test if not sample.label]
    assert (len(category.train), len(good), len(category.test) - len(good)) == counts
    sample = category.test[0]
    image = read_image(sample.path)
    assert read_mask_for(sample, image.shape).shape == image.shape[:2]


@pytest.mark.parametrize("place", ["train/good", "test/good", "test/crack"])
def test_two_images_of_one_name_are_refused(root: Path, write: Writer, place: str) -> None:
    kind = root / "nut" / place
    first = min(kind.iterdir())
    write(first.with_suffix(".bmp"))
    with pytest.raises(DatasetError, match=rf"{first.stem}: 2 images have this name: give each its own"):
        load_category(root, "nut")
