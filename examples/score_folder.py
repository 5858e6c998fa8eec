"""Score the images of a folder with a fitted detector, and draw a heat map of each.

    python examples/score_folder.py artifacts/padim-resnet18/bottle photos heatmaps --backend onnxruntime-cpu

Prints one line per image: file, score, and whether the score is above the detector's frozen threshold.
"""

import argparse
from pathlib import Path

import matplotlib as mpl

mpl.use("agg")  # draw into files, without a window
import matplotlib.pyplot as plt

import harness


def main():
    parser = argparse.ArgumentParser(description="Score a folder of images and draw heat maps.")
    parser.add_argument("artifact", type=Path, help="folder of a fitted detector with an exported variant")
    parser.add_argument("images", type=Path, help="folder of images")
    parser.add_argument("out", type=Path, help="folder for the heat maps")
    parser.add_argument("--backend", default="onnxruntime-cpu")
    options = parser.parse_args()

    detector = harness.load_artifact(options.artifact)
    scores = detector.score(options.images, backend=options.backend)
    limits = {"vmin": scores.maps.min(), "vmax": scores.maps.max()}  # one colour scale for all images
    options.out.mkdir(parents=True, exist_ok=True)
    defective = scores.defective if scores.defective is not None else [None] * len(scores.images)
    for name, score, decision, frame, score_map in zip(
        scores.names, scores.images, defective, scores.frames, scores.maps, strict=True
    ):
        word = {True: "defective", False: "good", None: "no threshold"}[
            None if decision is None else bool(decision)
        ]
        print(f"{name}: {score:.3f} {word}")
        figure, (left, right) = plt.subplots(1, 2, figsize=(8, 4), layout="constrained")
        left.imshow(frame.squeeze(), cmap="gray")
        right.imshow(frame.squeeze(), cmap="gray")
        overlay = right.imshow(score_map, cmap="inferno", alpha=0.6, **limits)
        figure.colorbar(overlay, ax=right, label="anomaly score")
        figure.suptitle(f"{Path(name).name}: {score:.3f}, {word}")
        for axes in (left, right):
            axes.set_axis_off()
        figure.savefig(options.out / f"{Path(name).name}.png")  # `a.jpg` and `a.png` give two pictures
        plt.close(figure)


if __name__ == "__main__":
    main()
