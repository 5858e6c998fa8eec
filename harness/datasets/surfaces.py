"""Synthetic industrial surfaces and their defects, drawn with numpy in float64.

What varies between good images is what varies on a line: lamps, the fixture's play, grain and sensor noise. Each lamp
and axis swings as a sine at a random phase, so its extremes are met often and forty images cover its range. The
surfaces keep their place in the frame: a model of each position can learn them, one that only looks for brightness
cannot, because the lamps change it by more than a defect does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from harness.types import Bool, UInt8

Float64 = NDArray[np.float64]

SIZE = 256
VISIBLE = 4
"""Grey levels of 255 by which a defect changes every pixel of its mask, in the channel it changes most."""
MARGIN = 18
"""Pixels at each border that no defect reaches: the default preprocessing crops 16 away."""

_Y, _X = np.mgrid[:SIZE, :SIZE].astype(np.float64)
_CENTRE = SIZE / 2
_WARP, _WEFT = np.array([120.0, 150.0, 165.0]), np.array([95.0, 122.0, 140.0])
_THREAD = 9.0
_GREY = np.array([[0.114], [0.587], [0.299]])
_OUTER, _INNER = 84.0, 38.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """A surface without a defect."""

    image: Float64
    """(256, 256, C) grey levels, C = 1 grey or 3 BGR, neither rounded nor clipped."""
    across: Float64
    """(256, 256) first coordinate in the surface's own frame: warp thread number, column, or radius in pixels."""
    along: Float64
    """(256, 256) second coordinate: weft thread number, row, or angle in radians."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendering:
    """One image and its exact ground truth."""

    image: UInt8
    """(256, 256) grey or (256, 256, 3) BGR."""
    clean: UInt8
    """The same scene without the defect; equal to `image` exactly where `mask` is false."""
    mask: Bool
    """(256, 256)."""


Defect = Callable[[Generator, Scene, float], tuple[Float64, Bool]]
"""(random numbers, scene, severity 0 barely visible to 1 clear) -> (what the image becomes, where)."""


def render(category: str, defect: str, severity: float, random: Generator) -> Rendering:
    """Draw one image of a category with one of its defects, or with `good`."""
    scene = _SURFACES[category](random)
    clean = np.clip(np.rint(scene.image), 0, 255)
    image, mask = clean, np.zeros((SIZE, SIZE), np.bool_)
    if defect != "good":
        target, shape = DEFECTS[category][defect](random, scene, severity)
        image, mask = _with_defect(clean, target, shape)
    return Rendering(image=_picture(image), clean=_picture(clean), mask=mask)


def _with_defect(clean: Float64, target: Float64, shape: Bool) -> tuple[Float64, Bool]:
    """Change `clean` towards `target` inside `shape`, each pixel by at least `VISIBLE`: the mask has no holes."""
    frame = (np.maximum(abs(_X - _CENTRE + 0.5), abs(_Y - _CENTRE + 0.5))) < _CENTRE - MARGIN
    shape = shape & frame
    change = np.rint(np.clip(target, 0, 255)) - clean
    towards_grey = np.where(clean.mean(axis=2) < _CENTRE, 1.0, -1.0)
    direction = np.where(change.mean(axis=2) == 0, towards_grey, np.sign(change.mean(axis=2)))
    weak = abs(change).max(axis=2) < VISIBLE
    change = np.where(weak[..., None], VISIBLE * direction[..., None], change)
    image = np.where(shape[..., None], np.clip(clean + change, 0, 255), clean)
    mask = abs(image - clean).max(axis=2) >= VISIBLE
    return np.where(mask[..., None], image, clean), mask


def _picture(image: Float64) -> UInt8:
    return np.ascontiguousarray(np.squeeze(image.astype(np.uint8)))


def _smooth(field: Float64, down: float, right: float) -> Float64:
    """Gaussian blur with periodic borders; sigmas in pixels."""
    down_frequency, right_frequency = np.fft.fftfreq(SIZE)[:, None], np.fft.rfftfreq(SIZE)[None]
    gain = np.exp(-2 * np.pi**2 * ((down_frequency * down) ** 2 + (right_frequency * right) ** 2))
    smoothed: Float64 = np.fft.irfft2(np.fft.rfft2(field) * gain, s=field.shape)
    return smoothed


def _noise(random: Generator, down: float, right: float) -> Float64:
    """Noise of unit variance, smooth over the given sigmas."""
    field = _smooth(random.standard_normal((SIZE, SIZE)), down, right)
    field /= field.std()
    return field


def _swing(random: Generator, amplitude: float) -> float:
    return amplitude * float(np.sin(random.uniform(0, 2 * np.pi)))


def _lit(random: Generator, image: Float64) -> Float64:
    """The image under lamps of changing strength and direction, with sensor noise."""
    slope_x, slope_y = _swing(random, 0.15), _swing(random, 0.15)
    light = 1 + slope_x * (_X / _CENTRE - 1) + slope_y * (_Y / _CENTRE - 1)
    light *= 1 + _swing(random, 0.16)
    lit: Float64 = image * light[..., None] + random.normal(0, 1.5, (SIZE, SIZE, 1))
    return lit


def _weave(random: Generator) -> Scene:
    """Plain weave: warp and weft threads that pass over each other in turn."""
    turn, x, y = _swing(random, 0.0012), _X - _CENTRE, _Y - _CENTRE
    across = (x + turn * y + _swing(random, 0.6) + 0.06 * _noise(random, 50, 50)) / _THREAD + 40
    along = (y - turn * x + _swing(random, 0.6) + 0.06 * _noise(random, 50, 50)) / _THREAD + 40
    column, row = np.floor(across).astype(int), np.floor(along).astype(int)
    warp_round, weft_round = _roundness(across), _roundness(along)
    warp_gain, weft_gain = random.normal(1, 0.02, (2, 128))
    warp = warp_gain[column] * (0.6 + 0.4 * warp_round) * (0.9 + 0.1 * weft_round)
    weft = weft_gain[row] * (0.6 + 0.4 * weft_round) * (0.9 + 0.1 * warp_round)
    warp *= 1 + 0.013 * _noise(random, 12, 1)
    weft *= 1 + 0.013 * _noise(random, 1, 12)
    warp_on_top = ((column + row) % 2 == 0)[..., None]
    image = np.where(warp_on_top, warp[..., None] * _WARP, weft[..., None] * _WEFT)
    return Scene(image=_lit(random, image), across=across, along=along)


def _woven(random: Generator) -> Scene:
    """The plain weave in grey: what is wrong with it is wrong with the pattern alone."""
    scene = _weave(random)
    return Scene(image=scene.image @ _GREY, across=scene.across, along=scene.along)


def _roundness(thread: Float64) -> Float64:
    height: Float64 = np.cos(np.pi * (thread - np.floor(thread) - 0.5))
    return height


def _brushed(random: Generator) -> Scene:
    """Brushed sheet with two pressed ribs and a wandering reflection."""
    grain = 2.8 * _noise(random, 0.7, 30) + 0.8 * _noise(random, 0.6, 5) + _noise(random, 2, 60)
    reflection = 30 * np.exp(-(((_X - _CENTRE - _swing(random, 40) - 0.1 * _Y) / 75) ** 2))
    row = _Y + _swing(random, 0.6)
    ribs = sum(_bump(row, at - 2.5, 2.0) - _bump(row, at + 2.5, 2.0) for at in (64, 192))
    image = (128 + grain + reflection + 55 * ribs)[..., None]
    return Scene(image=_lit(random, image), across=_X, along=_Y)


def _bump(field: Float64, at: float, width: float) -> Float64:
    height: Float64 = np.exp(-(((field - at) / width) ** 2))
    return height


def _washer(random: Generator) -> Scene:
    """Turned steel washer, lit from the upper left, on a dark mat."""
    x, y = _X - _CENTRE - _swing(random, 1), _Y - _CENTRE - _swing(random, 1)
    radius, angle = np.hypot(x, y), np.arctan2(y, x)
    mat = (1 + 0.03 * _noise(random, 1.2, 1.2) + 0.03 * _noise(random, 6, 6))[..., None] * np.array(
        [70.0, 62, 52]
    )
    shade = np.hypot(_X - _CENTRE - 5, _Y - _CENTRE - 6)
    shadow = _smooth(((shade < _OUTER) & (shade > _INNER)).astype(np.float64), 4, 4)
    grooves = np.convolve(random.standard_normal(402), [0.25, 0.5, 0.25], "valid")
    lathe = np.interp(radius, np.arange(0, 200, 0.5), grooves)
    facing = angle + 2.2 + _swing(random, 0.1)
    bevel = 45 * np.cos(facing) * (_bump(radius, _OUTER - 3, 2.5) - _bump(radius, _INNER + 3, 2.5))
    steel = 150 + 26 * np.cos(2 * facing) + 4 * lathe + 2 * _noise(random, 0.7, 0.7) + bevel
    cover = np.clip(_OUTER - radius + 0.5, 0, 1) * np.clip(radius - _INNER + 0.5, 0, 1)
    image = mat * (1 - 0.55 * shadow - cover + 0.55 * shadow * cover)[..., None]
    image += steel[..., None] * np.array([1.02, 1, 0.97]) * cover[..., None]
    return Scene(image=_lit(random, image), across=radius, along=angle)


def _patch(random: Generator, centre: tuple[float, float], radii: tuple[float, float]) -> Float64:
    """Distance from the centre of an irregular ellipse at any angle; below 1 inside."""
    u, v = _turned(centre, random.uniform(0, np.pi))
    distance: Float64 = np.hypot(u / radii[0], v / radii[1]) * (1 + 0.18 * _noise(random, 8, 8))
    return distance


def _stroke(
    random: Generator, centre: tuple[float, float], angle: float, size: tuple[float, float]
) -> tuple[Float64, Bool]:
    """A bent line of (length, width): signed distance from its middle, and its pixels."""
    u, v = _turned(centre, angle)
    v = v - random.uniform(-0.1, 0.1) * size[0] * np.sin(np.pi * u / size[0])
    return v, (abs(v) < size[1] / 2) & (abs(u) < size[0] / 2)


def _turned(centre: tuple[float, float], angle: float) -> tuple[Float64, Float64]:
    x, y = _X - centre[0], _Y - centre[1]
    return x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)


def _anywhere(random: Generator) -> tuple[float, float]:
    x, y = random.uniform(60, SIZE - 60, 2)
    return float(x), float(y)


def _on_ring(random: Generator, inner: float, outer: float) -> tuple[tuple[float, float], float]:
    radius, angle = random.uniform(inner, outer), random.uniform(-np.pi, np.pi)
    return (_CENTRE + radius * np.cos(angle), _CENTRE + radius * np.sin(angle)), angle


def _float(random: Generator, scene: Scene, severity: float) -> tuple[Float64, Bool]:
    """Warp threads that pass over weft threads they should pass under."""
    x, y = (int(value) for value in _anywhere(random))
    column, row = np.floor(scene.across), np.floor(scene.along)
    near = (abs(column - column[y, x]) <= 1) & (abs(row - row[y, x]) <= 1 + 1.5 * severity)
    light = _smooth(scene.image.mean(axis=2), 6, 6)
    warp = (0.6 + 0.4 * _roundness(scene.across)) * light / light.mean()
    return warp[..., None] * _WARP, near & ((column + row) % 2 == 1)


def _dye(random: Generator, scene: Scene, severity: float) -> tuple[Float64, Bool]:
    """A blotch of another hue, hardly of another brightness."""
    radius = random.uniform(15, 22)
    distance = _patch(random, _anywhere(random), (radius, radius * random.uniform(0.6, 1)))
    depth = (
        (0.15 + 0.48 * severity) * np.clip(3 - 3 * distance, 0.4, 1) * (1 + 0.15 * _noise(random, 2.5, 2.5))
    )
    return scene.image * (1 + depth[..., None] * np.array([-1.2, -0.1, 0.5])), distance < 1


def _loose_thread(random: Generator, scene: Scene, severity: float) -> tuple[Float64, Bool]:
    """A thread that lies on the cloth."""
    size = (random.uniform(40, 75), 3.6)
    v, shape = _stroke(random, _anywhere(random), random.uniform(0, np.pi), size)
    thread = (0.75 + 0.25 * np.sqrt(np.clip(1 - (v / 2) ** 2, 0, 1)))[..., None] * np.array([150.0, 160, 175])
    return scene.image + (thread - scene.image) * (0.35 + 0.65 * severity), shape


def _patched(scene: Scene, x: Float64, y: Float64) -> Float64:
    """The surface as it is at (x, y), pixel by pixel, in the place of each pixel."""
    column, row = (np.clip(np.rint(at), 0, SIZE - 1).astype(int) for at in (x, y))
    patched: Float64 = scene.image[row, column]
    return patched


def _twist(random: Generator, scene: Scene, severity: float) -> tuple[Float64, Bool]:
    """A piece of the cloth with its threads at another angle."""
    centre, radius = _anywhere(random), random.uniform(10, 12) + 10 * severity
    angle = (0.15 + 0.5 * severity) * random.choice([-1.0, 1.0])
    distance = _patch(random, centre, (radius, 0.8 * radius))
    u, v = _turned(centre, angle)
    return _patched(scene, centre[0] + u, centre[1] + v), distance < 1


def _stretch(random: Generator, scene: Scene, severity: float) -> tuple[Float64, Bool]:
    """Threads drawn apart and thickened."""
    centre, radius = _anywhere(random), random.uniform(10, 12) + 10 * severity
    scale = 1.2 + 0.8 * severity
    distance = _patch(random, centre, (radius, 0.8 * radius))
    u, v = _turned(centre, 0)
    return _patched(scene, centre[0] + u / scale, centre[1] + v / scale), distance < 1


def _slip(random: Generator, scene: Scene, severity: float) -> tuple[Float64, Bool]:
    """Threads pushed along in a band: what passes over and what under no longer fits its surroundings."""
    centre, shift = _anywhere(random), _THREAD * (0.3 + 0.7 * severity)
    length, width = random.uniform(25, 30) + 25 * severity, random.uniform(12, 15) + 10 * severity
    inside = (abs(_X - centre[0]) < length / 2) & (abs(_Y - centre[1]) < width / 2)
    return _patched(scene, _X - shift, _Y), inside


def _scratch(random: Generator, scene: Scene, severity: float) -> tuple[Float64, Bool]:
    """A furrow across the grain, one flank dark and one bright."""
    size = (random.uniform(30, 70), 2.4)
    v, shape = _stroke(random, _anywhere(random), random.uniform(0.35, 2.8), size)
    return scene.image + np.where(v < 0, -1, 0.6)[..., None] * (8 + 60 * severity), shape


def _dent(random: Generator, scene: Scene, severity: float) -> tuple[Float64, Bool]:
    """A round dent, bright on the side that faces the lamp."""
    centre, radius = _anywhere(random), random.uniform(9, 15)
    x, y = (_X - centre[0]) / radius, (_Y - centre[1]) / radius
    distance = np.hypot(x, y)
    slope = (x + y) * np.exp(-1.5 * distance**2)
    return scene.image + slope[..., None] * (30 + 130 * severity), distance < 1.25


def _smear(random: Generator, scene: Scene, severity: float) -> tuple[Float64, Bool]:
    """A film that hides the grain and dims the sheet a little."""
    radius = random.uniform(14, 22)
    distance = _patch(random, _anywhere(random), (radius, 0.7 * radius))
    film = _smooth(scene.image[..., 0], 3, 3)[..., None]
    return film + (scene.image - film) * 0.3 * (1 - severity) - 8 - 30 * severity, distance < 1


def _chip(random: Generator, scene: Scene, severity: float) -> tuple[Float64, Bool]:
    """A piece broken from the rim: the mat shows, in shadow."""
    centre, _ = _on_ring(random, _OUTER - 2.5, _OUTER - 0.5)
    radius = 2.5 + 8 * severity
    distance = _patch(random, centre, (radius, radius))
    mat = (1 + 0.06 * _noise(random, 1.2, 1.2))[..., None] * np.array([45.0, 40, 34])
    return mat, (distance < 1) & (scene.across < _OUTER + 0.5)


def _radial_scratch(random: Generator, scene: Scene, severity: float) -> tuple[Float64, Bool]:
    """A furrow across the turning marks."""
    centre, angle = _on_ring(random, _INNER + 10, _OUTER - 10)
    v, shape = _stroke(random, centre, angle + random.normal(0, 0.5), (random.uniform(18, 32), 2.2))
    on_face = (scene.across > _INNER + 4) & (scene.across < _OUTER - 4)
    return scene.image + np.where(v < 0, -1, 0.5)[..., None] * (11 + 85 * severity), shape & on_face


def _rust(random: Generator, scene: Scene, severity: float) -> tuple[Float64, Bool]:
    """A brown spot on the face."""
    centre, _ = _on_ring(random, _INNER + 10, _OUTER - 10)
    radius = random.uniform(7, 12)
    distance = _patch(random, centre, (radius, 0.7 * radius))
    on_face = (scene.across > _INNER + 2) & (scene.across < _OUTER - 2)
    return scene.image * (1 - (0.14 + 0.65 * severity) * np.array([0.8, 0.55, 0.3])), (distance < 1) & on_face


_SURFACES: Mapping[str, Callable[[Generator], Scene]] = MappingProxyType(
    {"weave": _weave, "brushed": _brushed, "washer": _washer, "woven": _woven}
)
DEFECTS: Mapping[str, Mapping[str, Defect]] = MappingProxyType(
    {
        "weave": MappingProxyType({"float": _float, "dye": _dye, "thread": _loose_thread}),
        "brushed": MappingProxyType({"scratch": _scratch, "dent": _dent, "smear": _smear}),
        "washer": MappingProxyType({"chip": _chip, "scratch": _radial_scratch, "rust": _rust}),
        "woven": MappingProxyType({"twist": _twist, "stretch": _stretch, "slip": _slip}),
    }
)
"""What can go wrong with each surface."""
