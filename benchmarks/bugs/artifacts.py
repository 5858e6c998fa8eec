"""Bugs of an artifact on the device: a file of another fit, or a whole that was put together and signed again."""

from __future__ import annotations

import shutil
from collections.abc import Callable

import msgspec

from benchmarks.bugs.base import Change, Place
from benchmarks.bugs.site import Site
from harness.detector import artifact


def _state_copied(other: str, *, sign: bool) -> Change:
    def inject(site: Site) -> None:
        shutil.copyfile(site.others[other] / artifact.STATE, site.artifact / artifact.STATE)
        if sign:
            manifest = artifact.read(site.others[other]).manifest
            site.edit_manifest(
                sign=True,
                state_sha256=manifest.state_sha256,
                head=manifest.head,
                thresholds=manifest.thresholds,
            )
        site.bench()

    what = {"seed": "fitted state of another seed", "washer": "another category's fitted state"}[other]
    place: Place = "detector" if sign else "state"
    return Change(
        name=f"{what}, {'signed again' if sign else 'copied in'}",
        where="artifact",
        inject=inject,
        place=place,
    )


def _model_copied(site: Site) -> None:
    shutil.copyfile(site.others["seed"] / "onnx-fp32.onnx", site.artifact / "onnx-fp32.onnx")
    site.bench()


def _threshold(*, sign: bool) -> Change:
    def inject(site: Site) -> None:
        other = artifact.read(site.others["washer"]).manifest.thresholds
        site.edit_manifest(sign=sign, thresholds=other)
        site.bench()

    how = "signed again" if sign else "edited"
    return Change(
        name=f"threshold of another artifact, {how}", where="artifact", inject=inject, place="detector"
    )


def _blur(site: Site) -> None:
    head = site.opened().manifest.head
    parameters = head.parameters | {"sigma": 0.0}
    site.edit_manifest(sign=True, head=msgspec.structs.replace(head, parameters=parameters))
    site.bench()


def _whole_other_category(site: Site) -> None:
    """The folder of another category under this one's name."""
    shutil.rmtree(site.artifact)
    shutil.copytree(site.others["washer"], site.artifact)
    site.bench(artifacts=(site.artifact.parent,), categories=(site.artifact.name,))


def _preprocessing(site: Site) -> None:
    steps = tuple(
        msgspec.structs.replace(step, interpolation="linear") if step.stage == "resize" else step
        for step in site.opened().manifest.preprocessing
    )
    site.edit_manifest(sign=True, preprocessing=steps)
    site.bench()


def _fitted_again(site: Site) -> None:
    """From another seed, channels and all, under the same names."""
    shutil.rmtree(site.artifact)
    shutil.copytree(site.others["seed"], site.artifact)
    site.bench()


def _bug(name: str, inject: Callable[[Site], None], place: Place) -> Change:
    return Change(name=name, where="artifact", inject=inject, place=place)


BUGS = (
    _state_copied("seed", sign=False),
    _state_copied("seed", sign=True),
    _state_copied("washer", sign=False),
    _state_copied("washer", sign=True),
    _bug("detector fitted again from another seed", _fitted_again, "detector"),
    _bug("another category's artifact", _whole_other_category, "detector"),
    _bug("model file of another export, copied in", _model_copied, "model"),
    _threshold(sign=False),
    _threshold(sign=True),
    _bug("blur set to 0 in the manifest, signed again", _blur, "detector"),
    _bug("another interpolation in the manifest, signed again", _preprocessing, "detector"),
)
