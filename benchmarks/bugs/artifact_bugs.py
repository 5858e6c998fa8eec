"""Bugs of an artifact on the device: a file from another fit, or an artifact that was put together and signed again."""

from __future__ import annotations

import shutil
from collections.abc import Callable

import msgspec

from benchmarks.bugs.change import Change, Place
from benchmarks.bugs.deployment import Deployment
from harness.detector import artifact


def _state_copied(other: str, *, sign: bool) -> Change:
    def inject(deployment: Deployment) -> None:
        shutil.copyfile(deployment.others[other] / artifact.STATE, deployment.artifact / artifact.STATE)
        if sign:
            manifest = artifact.read(deployment.others[other]).manifest
            deployment.edit_manifest(
                sign=True,
                state_sha256=manifest.state_sha256,
                head=manifest.head,
                thresholds=manifest.thresholds,
            )
        deployment.bench()

    state = {"seed": "fitted state of another seed", "washer": "another category's fitted state"}[other]
    place: Place = "detector" if sign else "state"
    return Change(
        name=f"{state}, {'signed again' if sign else 'copied in'}",
        where="artifact",
        inject=inject,
        place=place,
    )


def _model_copied(deployment: Deployment) -> None:
    shutil.copyfile(deployment.others["seed"] / "onnx-fp32.onnx", deployment.artifact / "onnx-fp32.onnx")
    deployment.bench()


def _threshold(*, sign: bool) -> Change:
    def inject(deployment: Deployment) -> None:
        other = artifact.read(deployment.others["washer"]).manifest.thresholds
        deployment.edit_manifest(sign=sign, thresholds=other)
        deployment.bench()

    how = "signed again" if sign else "edited"
    return Change(
        name=f"threshold of another artifact, {how}", where="artifact", inject=inject, place="detector"
    )


def _blur(deployment: Deployment) -> None:
    head = deployment.opened().manifest.head
    parameters = head.parameters | {"sigma": 0.0}
    deployment.edit_manifest(sign=True, head=msgspec.structs.replace(head, parameters=parameters))
    deployment.bench()


def _other_category(deployment: Deployment) -> None:
    """Another category's folder under this category's name."""
    shutil.rmtree(deployment.artifact)
    shutil.copytree(deployment.others["washer"], deployment.artifact)
    deployment.bench(artifacts=(deployment.artifact.parent,), categories=(deployment.artifact.name,))


def _preprocessing(deployment: Deployment) -> None:
    steps = tuple(
        msgspec.structs.replace(step, interpolation="linear") if step.stage == "resize" else step
        for step in deployment.opened().manifest.preprocessing
    )
    deployment.edit_manifest(sign=True, preprocessing=steps)
    deployment.bench()


def _fitted_again(deployment: Deployment) -> None:
    """Fitted from another seed, with other channels, under the same names."""
    shutil.rmtree(deployment.artifact)
    shutil.copytree(deployment.others["seed"], deployment.artifact)
    deployment.bench()


def _bug(name: str, inject: Callable[[Deployment], None], place: Place) -> Change:
    return Change(name=name, where="artifact", inject=inject, place=place)


BUGS = (
    _state_copied("seed", sign=False),
    _state_copied("seed", sign=True),
    _state_copied("washer", sign=False),
    _state_copied("washer", sign=True),
    _bug("detector fitted again from another seed", _fitted_again, "detector"),
    _bug("another category's artifact", _other_category, "detector"),
    _bug("model file of another export, copied in", _model_copied, "model"),
    _threshold(sign=False),
    _threshold(sign=True),
    _bug("blur set to 0 in the manifest, signed again", _blur, "detector"),
    _bug("another interpolation in the manifest, signed again", _preprocessing, "detector"),
)
