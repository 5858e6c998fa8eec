"""Checks a data set and reports everything that is wrong with it, before hours of work."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.datasets import layouts
from harness.datasets.images import as_uint8, images_in, stored_pixels
from harness.datasets.mvtec import (
    is_category,
    list_categories,
    masks_of,
    read_mask_for,
    survey_category,
)
from harness.datasets.texture import is_texture
from harness.errors import DatasetError
from harness.storage import sha256_of_file
from harness.types import AnyArray, Category, Sample

_FEWEST_TRAIN = 3
_LAYOUT = {1: "grey", 2: "grey + alpha", 3: "colour", 4: "colour + alpha"}


@dataclass(frozen=True, slots=True, kw_only=True)
class CategoryCheck:
    """The result for one category."""

    name: str
    train: int
    """Good images to learn from."""
    good: int
    """Good images to test on."""
    defects: tuple[tuple[str, int], ...]
    """Kinds of defect with their number of images, sorted."""
    sizes: tuple[tuple[int, int], ...]
    """Distinct (width, height) of the readable images, sorted."""
    pixels: tuple[str, ...]
    """Distinct depths and channels, such as `8-bit colour`, sorted."""
    problems: tuple[str, ...]
    """What keeps the category from being used or measured; each names its file."""
    notes: tuple[str, ...]
    """What is allowed but worth knowing."""

    def size_range(self) -> str:
        """Give the sizes in words, `900x900` or `103x105 to 388x402 (187 sizes)`."""
        if len(self.sizes) < 2:
            return "".join(f"{width}x{height}" for width, height in self.sizes)
        widths, heights = zip(*self.sizes, strict=True)
        return f"{min(widths)}x{min(heights)} to {max(widths)}x{max(heights)} ({len(self.sizes)} sizes)"


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckReport:
    """The results for all categories of a data set."""

    root: Path
    categories: tuple[CategoryCheck, ...]

    @property
    def problems(self) -> tuple[str, ...]:
        """The problems of all categories; none means that the data set can be used."""
        return tuple(problem for category in self.categories for problem in category.problems)

    def rows(self) -> list[dict[str, str | int]]:
        """Give one table row per category, with equal keys."""
        return [
            {
                "category": category.name,
                "train good": category.train,
                "test good": category.good,
                "test defective": sum(count for _, count in category.defects),
                "defects": ", ".join(f"{kind} {count}" for kind, count in category.defects),
                "sizes": category.size_range(),
                "pixels": ", ".join(category.pixels),
                "problems": len(category.problems),
            }
            for category in self.categories
        ]

    def lines(self) -> list[str]:
        """Give the problems, then the notes, each with its category, and a last line that sums up."""
        problems = [f"problem: {check.name}: {text}" for check in self.categories for text in check.problems]
        notes = [f"note: {check.name}: {text}" for check in self.categories for text in check.notes]
        total = (
            f"{_count(self.categories, 'category', 'categories')}, {_count(problems, 'problem', 'problems')}"
        )
        return [*problems, *notes, f"{self.root}: {total}"]


def check(root: Path, mask_threshold: int = 127) -> CheckReport:
    """Read every image and mask of a data set, or of a single category folder, and report all that is wrong.

    Raises:
        DatasetError: there is no such folder, or no category in it.
    """
    folders = [root] if is_category(root) else [root / name for name in list_categories(root)]
    return CheckReport(root=root, categories=tuple(_check_category(path, mask_threshold) for path in folders))


def _check_category(folder: Path, mask_threshold: int) -> CategoryCheck:
    category, layout_problems = survey_category(folder)
    problems, sizes, pixels = list(layout_problems), set[tuple[int, int]](), set[str]()
    for sample in (*category.train, *category.test):
        try:
            stored = _read_sample(sample, mask_threshold)
        except DatasetError as error:
            problems.append(str(error))
            continue
        sizes.add((stored.shape[1], stored.shape[0]))
        pixels.add(f"{8 * stored.dtype.itemsize}-bit {_LAYOUT[1 if stored.ndim == 2 else stored.shape[2]]}")
    kinds = Counter(sample.defect for sample in category.test if sample.label)
    good = sum(not sample.label for sample in category.test)
    unranked = _unranked(category, good)
    problems += _too_little(category)
    problems += [] if is_texture(folder) else unranked
    return CategoryCheck(
        name=category.name,
        train=len(category.train),
        good=good,
        defects=tuple(sorted(kinds.items())),
        sizes=tuple(sorted(sizes)),
        pixels=tuple(sorted(pixels)),
        problems=tuple(problems),
        notes=(
            *(unranked if is_texture(folder) else ()),  # as its layout has it
            *(_passed_over(category) if layouts.plugin_for(folder) is None else ()),
            *_duplicates(category),
        ),
    )


def _read_sample(sample: Sample, mask_threshold: int) -> AnyArray:
    stored = stored_pixels(sample.path)
    as_uint8(stored, sample.path)
    read_mask_for(sample, stored.shape, threshold=mask_threshold)
    return stored


def _too_little(category: Category) -> list[str]:
    if len(category.train) >= _FEWEST_TRAIN:
        return []
    place = category.root / ("train" if is_texture(category.root) else "train/good")
    needed = "to learn what good looks like and hold one out for the thresholds"
    return [f"{place}: {len(category.train)} images: at least {_FEWEST_TRAIN} are needed {needed}"]


def _unranked(category: Category, good: int) -> list[str]:
    if good not in {0, len(category.test)}:
        return []
    there = "only good images" if good else "only defective images" if category.test else "no images"
    return [f"{category.root / 'test'}: image AUROC is undefined: {there} to test on"]


def _passed_over(category: Category) -> list[str]:
    train, test, ground_truth = (category.root / part for part in ("train", "test", "ground_truth"))
    flat = is_texture(category.root)
    images = [path for path in (train, test) if path.is_dir()] if flat else _folders(train) + _folders(test)
    folders = [*images, *_folders(ground_truth)]
    strange = [path for folder in folders for path in sorted({*folder.iterdir()} - {*images_in(folder)})]
    other = [] if flat else [path for path in _folders(train) if path.name != "good"]
    used = {sample.mask_path for sample in category.test}
    orphans = [path for paths in masks_of(category.root).values() for path in paths if path not in used]
    groups = (
        (strange, "not an image, passed over"),
        (other, "only train/good is learnt from, passed over"),
        (orphans, "a mask without an image in use, passed over"),
    )
    return [f"{_some(category.root, paths)}: {what}" for paths, what in groups if paths]


def _duplicates(category: Category) -> list[str]:
    """Images that are also in the training data flatter a detector: it has learnt them by heart."""
    train = {sha256_of_file(sample.path): sample.name for sample in category.train}
    pairs = [(sample.name, train.get(sha256_of_file(sample.path))) for sample in category.test]
    return [
        f"{name} is the same file as {twin}: the test image was learnt from" for name, twin in pairs if twin
    ]


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []


def _some(root: Path, paths: list[Path]) -> str:
    names = [path.relative_to(root).as_posix() for path in paths]
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _count(things: Sequence[object], one: str, many: str) -> str:
    return f"{len(things)} {one if len(things) == 1 else many}"
