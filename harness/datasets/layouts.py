"""Layouts of other distributions: how images and masks lie in a category's folder.

`harness.datasets.mvtec` reads the built-in layouts. A folder that none of them fits is shown to the layouts of the group
`harness.datasets` (`harness.plugins`).
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Protocol

from harness.datasets.texture import is_texture
from harness.errors import DatasetError
from harness.plugins import Family
from harness.types import Category, Sample


class Layout(Protocol):
    """One layout of a category's folder."""

    def is_category(self, folder: Path) -> bool:
        """Whether `folder` holds one category in this layout; looks at names alone, and is false for any other layout."""

    def load(self, folder: Path) -> Category:
        """Find the images and masks without reading pixels; raises `DatasetError` for what is wrong.

        `train` holds good images only, `test` good (label 0) and defective ones (label 1), each defective one with its mask.
        A sample's name is its path relative to `folder`, with `/`.
        """


LAYOUTS: Family[Layout] = Family(
    kind="layout",
    builtin=dict.fromkeys(("mvtec", "texture"), ""),
    group="harness.datasets",
    members=("is_category", "load"),
)


def plugin_for(folder: Path) -> Layout | None:
    """The layout of another distribution that `folder` has; `None` for the built-in ones and for an unknown one.

    Raises:
        DatasetError: several layouts claim the folder.
        PluginError: a layout cannot be loaded.
    """
    if any((folder / split / "good").is_dir() for split in ("train", "test")) or is_texture(folder):
        return None
    names = [name for name in LAYOUTS.names() if name not in LAYOUTS.builtin]
    claims = {name: layout for name in names if (layout := LAYOUTS.load(name)).is_category(folder)}
    if len(claims) > 1:
        raise DatasetError(
            f"{folder}: fits the layouts {' and '.join(claims)}: uninstall the distribution of one"
        )
    return next(iter(claims.values()), None)


def survey(layout: Layout, folder: Path) -> tuple[Category, tuple[str, ...]]:
    """The category, its samples sorted by name, and what keeps it from being used."""
    try:
        category = layout.load(folder)
    except DatasetError as error:
        return Category(name=folder.resolve().name, root=folder, train=(), test=()), (str(error),)
    train, test = (tuple(sorted(samples, key=_name)) for samples in (category.train, category.test))
    problems = [f"{sample.path}: a training image must be good" for sample in train if sample.label != 0]
    for split in (train, test):
        counts = Counter(map(_name, split))
        problems += [
            f"{folder}: {count} images have the name {name}" for name, count in counts.items() if count > 1
        ]
        problems += [
            f"{sample.path}: label {sample.label} {'with' if sample.mask_path else 'without'} a mask: good images are 0 and "
            "have none, defective ones are 1 and have one"
            for sample in split
            if (sample.label, sample.mask_path is not None) not in ((0, False), (1, True))
        ]
    return Category(name=folder.resolve().name, root=folder, train=train, test=test), tuple(problems)


def _name(sample: Sample) -> str:
    return sample.name
