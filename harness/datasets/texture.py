"""The layout of the woven textures that came with SSIM-AE (Bergmann et al. 2019): images without folders of their own.

    ROOT/CATEGORY/train/NAME.png                       good
    ROOT/CATEGORY/test/NAME.png                        defective
    ROOT/CATEGORY/ground_truth/defective/NAME.png      (or NAME_mask.png)

Every test image is defective and has a mask: without a folder to say so, an image that has none could as well have
lost it. Good images to test on need the layout of MVTec AD.
"""

from __future__ import annotations

from pathlib import Path

from harness.datasets.images import images_in, is_hidden

DEFECT = "defective"
"""The one kind of defect."""


def is_texture(folder: Path) -> bool:
    """Whether images lie in `train/` or `test/` themselves; any folder beside them is then a mixture of layouts."""
    return any(images_in(folder / part) for part in ("train", "test"))


def images_of(folder: Path, part: str, problems: list[str]) -> list[Path]:
    """The images of `train` or `test`, sorted; folders in it are problems, as is a part without images."""
    place = folder / part
    images = images_in(place)
    if place.is_dir():
        problems += [
            f"{path}: a folder, where {folder} has images in train/ or test/ themselves: keep to one layout, that or "
            "train/good/NAME.png and test/KIND/NAME.png"
            for path in sorted(place.iterdir())
            if path.is_dir() and not is_hidden(path)
        ]
    if not images and (part == "train" or place.is_dir()):
        problems.append(f"{place}: holds no image: detectors learn from train/ and are tested on test/")
    return images
