"""A layout of another distribution: BeanTech's, with `ok` and `ko` for good and defective."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from harness import datasets
from harness.datasets.check import check
from harness.datasets.layouts import plugin_for
from harness.errors import DatasetError

LAYOUT = """
from harness.errors import DatasetError
from harness.types import Category, Sample

class BeanTech:
    def is_category(self, folder):
        return (folder / "train" / "ok").is_dir()

    def load(self, folder):
        if not any((folder / "train" / "ok").iterdir()):
            raise DatasetError(f"{folder}: no image to learn from")
        def samples(split, kind, label):
            for path in sorted((folder / split / kind).glob("*.png"), reverse=True):
                mask = folder / "ground_truth" / kind / path.name
                yield Sample(name=f"{split}/{kind}/{path.name}", path=path, label=label, defect="good" if not label else kind,
                             mask_path=mask if label and mask.exists() else None)
        test = (*samples("test", "ok", 0), *samples("test", "ko", 1))
        return Category(name="any", root=folder, train=tuple(samples("train", "ok", 0)), test=test)

layout = BeanTech()
"""
Write = Callable[[str], None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(site)
    (site / "beantech_layout.py").write_text(LAYOUT)

    def add(name: str) -> None:
        info = site / f"{name}_layout-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}-layout\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[harness.datasets]\n{name} = beantech_layout:layout\n")
        importlib.invalidate_caches()

    return add


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three images to learn from, one good and one defective test image with its mask."""
    folder = tmp_path / "btad" / "01"
    pixels = np.zeros((8, 8), np.uint8)
    for index, place in enumerate(("train/ok/0", "train/ok/1", "train/ok/2", "test/ok/0", "test/ko/1")):
        path = folder / f"{place}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(path), pixels + index)
    (folder / "ground_truth" / "ko").mkdir(parents=True)
    assert cv2.imwrite(str(folder / "ground_truth" / "ko" / "1.png"), pixels + 255)
    return folder.parent


def test_a_layout_of_another_distribution_is_read_sorted_and_checked(install: Write, root: Path) -> None:
    install("beantech")
    assert datasets.list_categories(root) == ("01",)
    category = datasets.load_category(root, "01")
    assert category.name == "01"
    assert [sample.name for sample in category.train] == [f"train/ok/{number}.png" for number in range(3)]
    assert [(sample.name, sample.label) for sample in category.test] == [
        ("test/ko/1.png", 1),
        ("test/ok/0.png", 0),
    ]
    assert check(root).problems == ()
    assert len(datasets.fingerprint(category, "test")) == 64


def test_without_the_plugin_the_built_in_layout_says_what_is_missing(root: Path) -> None:
    with pytest.raises(DatasetError, match=r"train/good: no such folder"):
        datasets.load_category(root, "01")


def test_a_defective_image_without_a_mask_and_an_error_of_the_plugin_are_problems(
    install: Write, root: Path
) -> None:
    install("beantech")
    (root / "01" / "ground_truth" / "ko" / "1.png").unlink()
    with pytest.raises(DatasetError, match=r"ko/1.png: label 1 without a mask"):
        datasets.load_category(root, "01")
    for path in (root / "01" / "train" / "ok").iterdir():
        path.unlink()
    with pytest.raises(DatasetError, match="no image to learn from"):
        datasets.load_category(root, "01")


def test_two_layouts_that_claim_a_folder_are_both_named(install: Write, root: Path) -> None:
    install("beantech")
    install("second")
    with pytest.raises(DatasetError, match="fits the layouts beantech and second"):
        datasets.load_category(root, "01")


def test_a_folder_of_a_built_in_layout_is_shown_to_no_plugin(install: Write, tmp_path: Path) -> None:
    install("beantech")
    folder = tmp_path / "mvtec" / "nut"
    for place in ("train/good", "train/ok"):
        (folder / place).mkdir(parents=True)
    assert plugin_for(folder) is None
