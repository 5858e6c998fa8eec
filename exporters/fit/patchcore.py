"""PatchCore's fit: the patches of all good images, and a coreset of them as memory bank (Roth et al. 2022)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporters.errors import WeightsError
from exporters.fit import coreset
from exporters.fit.faiss_index import read_index
from exporters.nets.patchcore import PatchcoreNet
from exporters.nets.resnet import load
from exporters.runtime import mindspore as ms
from harness import machine, storage
from harness.build import FitRequest
from harness.contracts import Images, Learnt
from harness.detector.artifact import HeadSpec
from harness.detector.settings import Patchcore
from harness.errors import ArtifactError, UsageError
from harness.heads.neighbours import BLOCK, Neighbours
from harness.heads.patchcore import LARGEST, OUTPUT
from harness.progress import progress
from harness.types import AnyArray, Float32

Run = Callable[[Float32], dict[str, AnyArray]]

SIGMA = 4.0
"""Standard deviation of the map's Gaussian blur in pixels (section 3.3)."""
LARGEST_FEATURE = 1e15
"""Beyond it squared distances would overflow; a sound network's features are below a hundred."""


def learn(request: FitRequest, weights: Mapping[str, Float32], images: Images, unseen: Images) -> Learnt:
    """Fill the memory bank, from the images or from a faiss index."""
    del unseen
    settings = request.settings
    assert isinstance(settings, Patchcore)  # noqa: S101 - `harness.detector.settings` pairs them
    net = PatchcoreNet(request.backbone, settings.layers, (settings.crop, settings.crop))
    load(net, weights)
    _require_score(settings, net)

    def run(batch: Float32) -> dict[str, AnyArray]:
        return {OUTPUT: net(ms.Tensor(batch)).asnumpy()}

    bank, report = _bank(request, settings, net, run, images)
    state: dict[str, AnyArray] = {"bank": bank}
    if settings.score == "reweighted":
        state["neighbours"] = _supports(bank, settings.neighbours, request.category.name)
    parameters = {
        "layers": list(settings.layers),
        "grid": list(net.grid),
        "map_size": [settings.crop, settings.crop],
        "sigma": SIGMA,
        "half_pixel": settings.protocol == "standard",
        "score": settings.score,
        "squared": settings.protocol == "seed",
    }
    return Learnt(
        run=run,
        net=weights,
        state=state,
        head=HeadSpec(name="patchcore", parameters=parameters),
        report={
            "bank_rows": len(bank),
            "dimensions": net.dimensions,
            "state_bytes": int(bank.nbytes),
            **report,
        },
    )


def _bank(
    request: FitRequest, settings: Patchcore, net: PatchcoreNet, run: Run, images: Images
) -> tuple[Float32, dict[str, Any]]:
    """The memory bank (M, D), no row twice, and where it is from."""
    if settings.bank is None:
        rows, report = _selected(request, settings, _patches(request, net, run, images))
    else:
        rows, report = _taken_over(Path(settings.bank), net)
    bank = _without_repeats(rows)
    if len(bank) < 2:
        raise UsageError(
            f"the memory bank of {request.category.name} holds a single patch: ask for a larger coreset; if it was not "
            "small, the weights give the same features everywhere"
        )
    return bank, report


def _require_score(settings: Patchcore, net: PatchcoreNet) -> None:
    """Refuse an image score that has no meaning with the other settings."""
    if settings.score == "reweighted" and settings.protocol == "seed":
        raise UsageError(
            "protocol=seed has squared distances and no re-weighted score: give score=top10 or score=max"
        )
    if settings.score == "top10" and np.prod(net.grid) < LARGEST:
        raise UsageError(
            f"score=top10: an image of {settings.crop} pixels has only {np.prod(net.grid)} patches"
        )


def _patches(request: FitRequest, net: PatchcoreNet, run: Run, images: Images) -> Float32:
    """All patches (images · h · w, D): 4 bytes · D each, held once."""
    count = int(np.prod(net.grid))
    patches = np.empty((len(images), count, net.dimensions), np.float32)
    done = 0
    with progress(f"fit patchcore {request.category.name}", len(images)) as advance:
        for batch, real in images.batches():
            embedding = run(batch)[OUTPUT][:real]
            largest = np.abs(embedding).max()
            if not largest < LARGEST_FEATURE:  # NaN too
                raise WeightsError(
                    f"{request.category.root}: the network's features reach {largest:g}; check the weights"
                )
            patches[done : done + real] = embedding.reshape(real, net.dimensions, count).transpose(0, 2, 1)
            done += real
            advance(real)
    return patches.reshape(-1, net.dimensions)


def _selected(request: FitRequest, settings: Patchcore, patches: Float32) -> tuple[Float32, dict[str, Any]]:
    """The coreset of the patches, or all of them."""
    count = max(1, int(settings.coreset * len(patches)))
    if count == len(patches):
        return patches, {"patches": count}
    chosen = coreset.select(
        patches,
        count,
        dimensions=settings.projection,
        seed=request.seed,
        start="mean" if settings.protocol == "seed" else "point",
        label=f"coreset {request.category.name}",
    )
    return patches[chosen], {"patches": len(patches)}


def _taken_over(path: Path, net: PatchcoreNet) -> tuple[Float32, dict[str, Any]]:
    """The rows of a faiss index."""
    rows = read_index(path)
    if rows.shape[1] != net.dimensions:
        raise ArtifactError(
            f"{path}: rows of {rows.shape[1]} dimensions, the network's patches have {net.dimensions}; choose the "
            "backbone and the layers the index was made with"
        )
    return rows, {"bank_file": path.name, "bank_sha256": storage.sha256_of_file(path)}


def _without_repeats(rows: Float32) -> Float32:
    """The first of equal rows; the others add nothing to a nearest distance, and cost."""
    first: dict[bytes, int] = {}
    for index, row in enumerate(rows):
        first.setdefault(hashlib.blake2b(row.data, digest_size=16).digest(), index)
    return rows if len(first) == len(rows) else rows[list(first.values())]


def _supports(bank: Float32, count: int, category: str) -> NDArray[np.int32]:
    """The rows (M, b) of each row's `count` nearest in the bank, itself among them."""
    neighbours = Neighbours(bank, threads=machine.usable_cores())
    supports = np.empty((len(bank), min(count, len(bank))), np.int32)
    with progress(f"neighbours {category}", len(bank), unit="patches") as advance:
        for first in range(0, len(bank), BLOCK):
            supports[first : first + BLOCK] = neighbours.search(
                bank[first : first + BLOCK], supports.shape[1]
            )[1]
            advance(len(supports[first : first + BLOCK]))
    return supports
