"""Data sets in the layout of MVTec AD: what is on disk, as frozen samples in a fixed order.

    ROOT/CATEGORY/train/good/NAME.png
    ROOT/CATEGORY/test/good/NAME.png
    ROOT/CATEGORY/test/DEFECT/NAME.png
    ROOT/CATEGORY/ground_truth/DEFECT/NAME_mask.png   (or NAME.png)

or in that of `harness.datasets.texture`, where images lie in `train/` and `test/` themselves, or in a plug-in's
(`harness.datasets.layouts`). Any image format OpenCV reads will do, for images and masks apart. Hidden files and other files are passed over.

Lists: `CATEGORY_train.json` and `CATEGORY_test.json`, in the category folder or beside it, restrict that split to the
images they name. They are either what FastFlow in the MindSpore model zoo writes, an object of numbered entries with
the file name (its suffix may be left out) and the folder,

    {"0": {"name": "000", "img_type": "good"}, "1": {"name": "003", "img_type": "broken_large"}}

or an array of paths below the category folder, `["test/good/000.png", "test/broken_large/003.png"]`. The order in a
list means nothing: samples are always sorted by name.
"""

from __future__ import annotations

import difflib
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np

from harness.datasets import layouts, texture
from harness.datasets.images import images_in, is_hidden, read_mask
from harness.errors import DatasetError
from harness.storage import inside, sha256_of_file, sha256_of_json
from harness.types import Bool, Category, Sample

Split = Literal["train", "test"]
Masks = dict[tuple[str, str], list[Path]]
"""Mask files by defect folder and file name without its suffix."""


class ListEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One entry of a list as FastFlow writes it."""

    name: str
    """File name, with or without its suffix."""
    img_type: str
    """`good`, or the name of the defect folder."""


def list_categories(root: Path) -> tuple[str, ...]:
    """Name the categories of a data set, sorted: the folders in `root` with `train/`, `test/` or a plug-in's layout.

    Raises:
        DatasetError: `root` is not a folder, is itself a category, or holds none.
    """
    if not root.is_dir():
        raise DatasetError(f"{root}: no such folder: --data takes the folder that holds the categories")
    if is_category(root):
        absolute = root.resolve()
        raise DatasetError(
            f"{root}: this is itself a category: give the folder above it, --data {absolute.parent} --category {absolute.name}"
        )
    names = sorted(path.name for path in root.iterdir() if not is_hidden(path) and is_category(path))
    if not names:
        raise DatasetError(
            f"{root}: no category here: expected folders such as {root / 'bottle' / 'train' / 'good'}"
        )
    return tuple(names)


def load_category(root: Path, name: str) -> Category:
    """Find the images and masks of one category; pixels are not read.

    `test` is empty where there is no `test/` folder: a detector can be fitted on good images alone.

    Raises:
        DatasetError: no such category, no `train/good`, a folder without images, a defective image without a mask or
            with two, or a list that is malformed or names what is not there.
    """
    known = list_categories(root)
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f", did you mean {close[0]}?" if close else ";"
        raise DatasetError(f"{root}: no category {name!r}{hint} there are: {', '.join(known)}")
    category, problems = survey_category(root / name)
    if problems:
        more = (
            f"\n({len(problems) - 1} more: python -m harness data check {root})" if len(problems) > 1 else ""
        )
        raise DatasetError(problems[0] + more)
    return category


def survey_category(folder: Path) -> tuple[Category, tuple[str, ...]]:
    """Find what can be used of a category folder, and say all that is wrong with it; never raises for content."""
    layout = layouts.plugin_for(folder)
    if layout is not None:
        return layouts.survey(layout, folder)
    problems: list[str] = []
    train = _restrict(folder, "train", _train_images(folder, problems), problems)
    test = _restrict(folder, "test", _test_images(folder, problems), problems)
    problems += _namesakes(train) + _namesakes(test)
    masks = masks_of(folder)
    samples = [_sample(folder, path, masks, problems) for path in test]
    category = Category(
        name=folder.resolve().name,
        root=folder,
        train=tuple(_good(folder, path) for path in train),
        test=tuple(sample for sample in samples if sample is not None),
    )
    return category, tuple(problems)


def read_mask_for(sample: Sample, image_shape: Sequence[int], *, threshold: int = 127) -> Bool:
    """Read the ground truth of one sample as (H, W), all false for a good image.

    `image_shape` begins with the image's height and width.

    Raises:
        DatasetError: as `read_mask`, or the mask's size is not the image's.
    """
    height, width = image_shape[:2]
    if sample.mask_path is None:
        return np.zeros((height, width), np.bool_)
    mask = read_mask(sample.mask_path, threshold=threshold)
    require_same_size(sample, (mask.shape[0], mask.shape[1]), (height, width))
    return mask


def require_same_size(sample: Sample, mask_size: tuple[int, int], image_size: tuple[int, int]) -> None:
    """Raise `DatasetError` unless the mask of `sample` has its image's height and width."""
    if mask_size != image_size:
        raise DatasetError(
            f"{sample.mask_path}: the mask is {mask_size[1]}x{mask_size[0]}, but its image {sample.path} is "
            f"{image_size[1]}x{image_size[0]}: export the mask at the size of the image"
        )


def fingerprint(category: Category, split: Split) -> str:
    """Hexadecimal SHA-256 over names, labels and the bytes of all images and masks of one split."""
    samples = category.train if split == "train" else category.test
    return sha256_of_json(
        [
            [s.name, s.label, sha256_of_file(s.path), s.mask_path and sha256_of_file(s.mask_path)]
            for s in samples
        ]
    )


def is_category(folder: Path) -> bool:
    """Whether `folder` looks like one category rather than a folder of categories."""
    split = (folder / "train").is_dir() or (folder / "test").is_dir()
    return split or (folder.is_dir() and layouts.plugin_for(folder) is not None)


def _train_images(folder: Path, problems: list[str]) -> list[Path]:
    if texture.is_texture(folder):
        return texture.images_of(folder, "train", problems)
    good = folder / "train" / "good"
    if not good.is_dir():
        problems.append(f"{good}: no such folder: detectors learn from the good images in it")
        return []
    return _filled(good, problems)


def _test_images(folder: Path, problems: list[str]) -> list[Path]:
    if texture.is_texture(folder):
        return texture.images_of(folder, "test", problems)
    test = folder / "test"
    if not test.is_dir():
        return []
    kinds = [path for path in test.iterdir() if path.is_dir() and not is_hidden(path)]
    if not kinds:
        problems.append(f"{test}: holds no folder of images, such as test/good")
    # Sorted as the names are, with "/" between folder and file, so that lists and folders give one order.
    return sorted((path for kind in kinds for path in _filled(kind, problems)), key=Path.as_posix)


def _namesakes(images: Sequence[Path]) -> list[str]:
    """Images of one name but for the suffix: most often one image twice, and masks go by name."""
    counts = Counter(image.with_suffix("") for image in images)
    return [
        f"{name}: {count} images have this name: give each its own, or delete what is there twice"
        for name, count in counts.items()
        if count > 1
    ]


def _filled(kind: Path, problems: list[str]) -> list[Path]:
    images = images_in(kind)
    if not images:
        problems.append(f"{kind}: holds no image: fill the folder or remove it")
    return images


def _good(folder: Path, image: Path) -> Sample:
    name = image.relative_to(folder).as_posix()
    return Sample(name=name, path=image, label=0, defect="good", mask_path=None)


def _sample(folder: Path, image: Path, masks: Masks, problems: list[str]) -> Sample | None:
    flat = image.parent == folder / "test"
    kind = texture.DEFECT if flat else image.parent.name
    if kind == "good":
        return _good(folder, image)
    ground_truth = folder / "ground_truth" / kind
    mask_paths = masks.get((kind, f"{image.stem}_mask"), []) + masks.get((kind, image.stem), [])
    if not mask_paths:
        expected = f"{ground_truth / image.stem}_mask.png"
        what = "test image (without folders all are defective)" if flat else "defective image"
        problems.append(f"{image}: no mask for this {what}: expected {expected}, or {image.stem}.png there")
        return None
    if len(mask_paths) > 1:
        problems.append(
            f"{image}: has {len(mask_paths)} masks, {' and '.join(map(str, mask_paths))}: keep one"
        )
        return None
    name = image.relative_to(folder).as_posix()
    return Sample(name=name, path=image, label=1, defect=kind, mask_path=mask_paths[0])


def _restrict(folder: Path, split: Split, images: list[Path], problems: list[str]) -> list[Path]:
    try:
        file = _list_file(folder, split)
        return _listed(folder, file, split, images) if file else images
    except DatasetError as error:
        problems.append(str(error))
        return images


def _list_file(folder: Path, split: Split) -> Path | None:
    absolute = folder.resolve()
    name = f"{absolute.name}_{split}.json"
    files = [path for path in (folder / name, absolute.parent / name) if path.is_file()]
    if len(files) == 2:
        raise DatasetError(f"{files[0]} and {files[1]}: two lists of one split: remove one")
    return files[0] if files else None


def _listed(folder: Path, file: Path, split: Split, images: list[Path]) -> list[Path]:
    # A list may leave the suffix out, so an image answers to both spellings.
    by_name: dict[str, list[Path]] = defaultdict(list)
    for path in images:
        name = path.relative_to(folder).as_posix()
        by_name[name].append(path)
        by_name[name.removesuffix(path.suffix)].append(path)
    chosen: set[Path] = set()
    for entry in _read_list(file, split):
        matches = by_name.get(entry, [])
        if not matches:
            raise DatasetError(f"{file}: {entry!r} is not an image of {folder / split}: correct the list")
        if len(matches) > 1 or matches[0] in chosen:
            fault = "fits several images: add the suffix" if len(matches) > 1 else "is listed twice: keep one"
            raise DatasetError(f"{file}: {entry!r} {fault}")
        chosen.add(inside(folder, matches[0].relative_to(folder).as_posix(), DatasetError))
    if not chosen:
        raise DatasetError(f"{file}: names no image: delete it to use every image")
    return [path for path in images if path in chosen]


def _read_list(file: Path, split: Split) -> list[str]:
    try:
        entries: dict[str, ListEntry] | list[str] = msgspec.json.decode(
            file.read_bytes(), type=dict[str, ListEntry] | list[str]
        )
    except (msgspec.DecodeError, UnicodeDecodeError, OSError) as error:
        raise DatasetError(
            f'{file}: not a list of images: {error}: expected {{"0": {{"name": "000", "img_type": "good"}}, …}} or '
            f'["{split}/good/000.png", …]; delete it to use every image'
        ) from error
    if isinstance(entries, dict):
        return [f"{split}/{entry.img_type}/{entry.name}" for entry in entries.values()]
    return entries


def masks_of(folder: Path) -> Masks:
    """Give every mask file of a category, those of `ground_truth/good` too."""
    masks: Masks = defaultdict(list)
    ground_truth = folder / "ground_truth"
    for kind in sorted(ground_truth.iterdir()) if ground_truth.is_dir() else []:
        for path in images_in(kind):
            masks[kind.name, path.stem].append(path)
    return masks
