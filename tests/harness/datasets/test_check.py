from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from harness.datasets.check import check
from harness.errors import DatasetError

Writer = Callable[..., Path]


def test_a_sound_data_set_has_counts_and_no_problems(root: Path) -> None:
    report = check(root)
    assert report.problems == ()
    assert report.rows() == [
        {
            "category": "nut",
            "train good": 4,
            "test good": 2,
            "test defective": 2,
            "defects": "crack 2",
            "sizes": "10x8",
            "pixels": "8-bit grey",
            "problems": 0,
        }
    ]
    assert report.lines() == [f"{root}: 1 category, 0 problems"]


def test_a_single_category_folder_is_checked_too(root: Path) -> None:
    assert check(root / "nut").rows() == check(root).rows()


def test_all_problems_are_collected_each_with_its_file(root: Path, write: Writer) -> None:
    nut = root / "nut"
    cut = nut / "train" / "good" / "0.png"
    cut.write_bytes(cut.read_bytes()[:-9])
    (nut / "ground_truth" / "crack" / "0_mask.png").unlink()
    write(nut / "ground_truth" / "crack" / "1_mask.png", np.zeros((8, 10), np.uint8))
    write(nut / "test" / "dirt" / "0.png")
    write(nut / "ground_truth" / "dirt" / "0.png", np.full((9, 9), 255, np.uint8))
    (nut / "test" / "burr").mkdir()
    problems = check(root).problems
    for part in (
        "good/0.png: OpenCV",
        "crack/0.png: no mask",
        "1_mask.png: the mask is empty",
        "9x9",
        "burr: holds no",
    ):
        assert sum(part in problem for problem in problems) == 1, part
    assert len(problems) == 5
    assert check(root).lines()[-1].endswith("1 category, 5 problems")


def test_the_mask_threshold_is_honoured(root: Path, write: Writer) -> None:
    write(root / "nut" / "ground_truth" / "crack" / "1_mask.png", np.eye(8, 10, dtype=np.uint8))
    assert len(check(root).problems) == 1
    assert check(root, mask_threshold=0).problems == ()


@pytest.mark.parametrize(
    ("kind", "there"), [("crack", "only good images"), ("good", "only defective images")]
)
def test_one_class_only_leaves_image_auroc_undefined(root: Path, kind: str, there: str) -> None:
    shutil.rmtree(root / "nut" / "test" / kind)
    (problem,) = check(root).problems
    assert f"nut/test: image AUROC is undefined: {there}" in problem


def test_no_test_images_leave_image_auroc_undefined(root: Path) -> None:
    shutil.rmtree(root / "nut" / "test")
    assert "image AUROC is undefined: no images" in check(root).problems[0]


def test_fewer_than_three_train_images_are_too_few(root: Path) -> None:
    (root / "nut" / "train" / "good" / "0.png").unlink()
    assert check(root).problems == ()
    (root / "nut" / "train" / "good" / "1.png").unlink()
    assert "train/good: 2 images: at least 3" in check(root).problems[0]


def test_sizes_and_pixel_formats_are_summed_up(root: Path, write: Writer) -> None:
    write(root / "nut" / "train" / "good" / "8.tif", np.zeros((20, 5, 3), np.uint16))
    write(root / "nut" / "train" / "good" / "9.png", np.zeros((8, 10, 4), np.uint8))
    (row,) = check(root).rows()
    assert row["sizes"] == "5x8 to 10x20 (2 sizes)"
    assert row["pixels"] == "16-bit colour, 8-bit colour + alpha, 8-bit grey"


def test_what_is_allowed_but_odd_is_a_note(root: Path, write: Writer) -> None:
    nut = root / "nut"
    (nut / "train" / "good" / "Thumbs.db").write_bytes(b"x")
    (nut / "test" / "crack" / "Thumbs.db").write_bytes(b"x")
    write(nut / "train" / "scrap" / "0.png")
    write(nut / "ground_truth" / "crack" / "7_mask.png")
    shutil.copy(nut / "train" / "good" / "2.png", nut / "test" / "good" / "1.png")
    report = check(root)
    assert report.problems == ()
    assert report.categories[0].notes == (
        "train/good/Thumbs.db, test/crack/Thumbs.db: not an image, passed over",
        "train/scrap: only train/good is learnt from, passed over",
        "ground_truth/crack/7_mask.png: a mask without an image in use, passed over",
        "test/good/1.png is the same file as train/good/2.png: the test image was learnt from",
    )
    assert report.lines()[0] == f"note: nut: {report.categories[0].notes[0]}"


def test_nothing_to_check_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no category here"):
        check(tmp_path)


@pytest.mark.real
def test_real_categories_are_sound(shared: Path) -> None:
    report = check(shared / "data" / "magnetic_tile" / "tile")
    assert report.problems == ()
    assert report.categories[0].defects == (
        ("blowhole", 12),
        ("break", 12),
        ("crack", 12),
        ("fray", 12),
        ("uneven", 12),
    )
    assert report.categories[0].pixels == ("8-bit grey",)
    assert len(report.categories[0].sizes) > 100
