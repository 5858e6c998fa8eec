"""The built-in data set: three synthetic categories in MVTec layout, for a first run without any download."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import msgspec
import numpy as np

from harness.datasets.mvtec import fingerprint, survey_category
from harness.datasets.surfaces import DEFECTS, SIZE, VISIBLE, render
from harness.errors import DatasetError, UsageError
from harness.storage import sha256_of_json, write_json
from harness.types import AnyArray

CATEGORIES = ("weave", "brushed", "washer")
"""Names of the categories of the built-in run."""
TEXTURES = ("woven",)
"""Names of categories made on request: a grey texture whose defects break its pattern and nothing else."""

_VERSION = 1  # to be raised with every change of a pixel
_MARKER = "synthetic.json"
_TRAIN_GOOD, _TEST_GOOD, _PER_DEFECT = 40, 16, 8


class Recipe(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a synthetic category was made from, `synthetic.json` in its folder."""

    version: int
    category: str
    seed: int
    size: int = SIZE
    visible_difference: int = VISIBLE
    train_good: int = _TRAIN_GOOD
    test_good: int = _TEST_GOOD
    per_defect: int = _PER_DEFECT
    defects: tuple[str, ...]
    sha256: str = ""
    """Digest of all images and masks."""


def synthesise(out: Path, categories: Sequence[str] = CATEGORIES, seed: int = 0) -> Path:
    """Make synthetic categories below `out` and give `out` back; see `make_category`."""
    for name in categories:
        make_category(name, seed, out)
    return out


def make_category(name: str, seed: int, out_root: Path) -> Path:
    """Make one category, unless it was made before, and return its folder.

    40 good images to learn from, 16 good and 8 of each of three kinds of defect to test on, 256x256, from barely
    visible to clear; a mask holds exactly the pixels its defect changed. The same seed gives the same pixels on every
    machine, and the same bytes with the same OpenCV. The folder appears whole or not at all, and takes the place of
    one made from another seed or by another version.

    Raises:
        UsageError: unknown category or negative seed.
        DatasetError: the folder holds something else, or was altered since it was made.
    """
    if name not in DEFECTS:
        raise UsageError(f"no synthetic category {name!r}: there are {', '.join(DEFECTS)}")
    if seed < 0:
        raise UsageError(f"seed {seed}: seeds start at 0")
    folder = out_root / name
    recipe = Recipe(version=_VERSION, category=name, seed=seed, defects=tuple(DEFECTS[name]))
    if folder.exists() and _is_made(folder, recipe):
        return folder
    try:
        out_root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DatasetError(f"{out_root}: no folder can be made here: {error.strerror}") from error
    # Hidden, so that what a killed process leaves is never taken for a category.
    with tempfile.TemporaryDirectory(
        dir=out_root, prefix=f".{name}.", ignore_cleanup_errors=True
    ) as temporary:
        fresh = Path(temporary) / name
        _draw(fresh, recipe)
        write_json(
            fresh / _MARKER, msgspec.to_builtins(msgspec.structs.replace(recipe, sha256=_digest(fresh)))
        )
        if folder.exists():
            folder.rename(Path(temporary) / "replaced")
        fresh.rename(folder)
    return folder


def _is_made(folder: Path, recipe: Recipe) -> bool:
    marker = folder / _MARKER
    try:
        stored = msgspec.json.decode(marker.read_bytes(), type=Recipe)
    except (OSError, msgspec.DecodeError) as error:
        raise DatasetError(
            f"{folder}: not a synthetic category ({_MARKER}: {error}): it is left alone; choose another folder"
        ) from error
    if msgspec.structs.replace(stored, sha256="") != recipe:
        return False
    if stored.sha256 != _digest(folder):
        raise DatasetError(f"{folder}: altered since it was made: delete the folder to have it made again")
    return True


def _digest(folder: Path) -> str:
    category, problems = survey_category(folder)
    return sha256_of_json([fingerprint(category, "train"), fingerprint(category, "test"), problems])


def _draw(folder: Path, recipe: Recipe) -> None:
    for kind_index, (place, defect, count) in enumerate(_plan(recipe)):
        for index in range(count):
            # One stream per image: neither the counts nor the order of drawing change any other image.
            path = (recipe.version, recipe.seed, list(DEFECTS).index(recipe.category), kind_index, index)
            random = np.random.Generator(np.random.PCG64(np.random.SeedSequence(path)))
            rendering = render(recipe.category, defect, index / max(count - 1, 1), random)
            _write_png(folder / place / defect / f"{index:03}.png", rendering.image)
            if defect != "good":
                mask = rendering.mask.astype(np.uint8) * 255
                _write_png(folder / "ground_truth" / defect / f"{index:03}_mask.png", mask)


def _plan(recipe: Recipe) -> Iterator[tuple[str, str, int]]:
    yield "train", "good", recipe.train_good
    yield "test", "good", recipe.test_good
    for defect in recipe.defects:
        yield "test", defect, recipe.per_defect


def _write_png(path: Path, pixels: AnyArray) -> None:
    encoded = cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 3])[1]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded.tobytes())
