from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from harness import parity
from harness.errors import RecordError
from harness.parity import pictures
from harness.types import AnyArray
from tests.harness.record_factory import Outputs, Results, outputs


def write(results: Results, base: Outputs, other: Outputs, **changes: Any) -> tuple[Path, ...]:
    results.add("reference", base)
    results.add("other", other, **changes)
    report = parity.parity(results.folder, reference="reference")
    return pictures.write_report(results.folder, report, results.folder / "pictures")


def changed(base: Outputs, scores: dict[int, float], pixels: dict[int, float]) -> Outputs:
    copy = dataclasses.replace(base, scores=base.scores.copy(), maps=base.maps.copy())
    for index, score in scores.items():
        copy.scores[index] = score
    for index, value in pixels.items():
        copy.maps[index, 0, 0] = value
    return copy


def panel(picture: Path, column: int) -> AnyArray:
    start = pictures.MARGIN + column * (pictures.PANEL + pictures.MARGIN)
    drawn = cv2.imread(str(picture))
    assert drawn is not None
    return drawn[pictures.TOP : pictures.TOP + pictures.PANEL, start : start + pictures.PANEL]


def only(written: tuple[Path, ...], part: str) -> Path:
    (match,) = (path for path in written if part in path.name)
    return match


def test_every_flip_and_the_five_largest_differences_get_one_picture_each(results: Results) -> None:
    base = outputs(good=6, defective=6)
    flips = dict.fromkeys(range(6), 2.6)  # all good images flip; five of them also differ most
    written = write(results, base, changed(base, flips, {11: 9.0}))
    names = sorted(path.name.rpartition("_")[0] for path in written)
    flipped = [f"bottle_other_flip_test-good-{index:03}" for index in range(6)]
    assert names == ["bottle_other_difference_test-crack-011", *flipped]
    assert set(written) == set((results.folder / "pictures").iterdir())


def test_writing_again_writes_the_same_files(results: Results) -> None:
    base = outputs()
    first = write(results, base, changed(base, {4: 2.4}, {}))
    before = {path: path.read_bytes() for path in first}
    again = write(results, base, changed(base, {4: 2.4}, {}))
    assert {path: path.read_bytes() for path in again} == before
    assert len(first) == 5


def test_pictures_of_an_earlier_report_are_deleted_and_other_files_stay(results: Results) -> None:
    base = outputs()
    first = write(results, base, changed(base, {4: 2.4, 7: 4.5}, {}))
    mine = [results.folder / "pictures" / name for name in ("bottle_other_flip.png", "notes_flip.txt")]
    for path in mine:
        path.write_bytes(b"mine")
    again = write(results, base, base)  # nothing flips any more, and other images come first
    assert {only(first, "flip"), only(first, "difference_test-crack-007")}.isdisjoint(again)
    assert {*again, *mine} == set((results.folder / "pictures").iterdir())


def test_pictures_have_the_stated_size(results: Results) -> None:
    for path in write(results, outputs(), outputs()):
        drawn = cv2.imread(str(path))
        assert drawn is not None
        assert drawn.shape == (pictures.HEIGHT, pictures.WIDTH, 3)


def test_both_maps_share_one_scale_and_the_difference_shows_where_they_differ(results: Results) -> None:
    base = dataclasses.replace(outputs(), maps=np.zeros((8, 6, 6), np.float32))
    base.maps[7, 5, 5] = 1.0
    path = only(write(results, base, changed(base, {}, {7: 2.0})), "crack-007")
    one, two, apart = (panel(path, column) for column in (1, 2, 3))
    half, top, bottom = (
        cv2.applyColorMap(np.array([[value]], np.uint8), cv2.COLORMAP_INFERNO)[0, 0]
        for value in (128, 255, 0)
    )
    assert (one[-9, -9] == half).all()
    assert (two[9, 9] == top).all()
    assert (one[9, 9] == bottom).all()
    assert apart[9, 9].astype(int).sum() > apart[-9, -9].astype(int).sum()


def test_the_image_is_drawn_in_its_colours_and_the_mask_where_it_is(results: Results) -> None:
    written = write(results, outputs(), outputs())
    path = only(written, "good-000")
    assert (panel(path, 0)[100, 100] == 100).all()
    assert not panel(path, 4).any()
    masked = only(write(results, outputs(), changed(outputs(), {7: 9.0}, {})), "crack-007")
    size = pictures.PANEL // 6
    assert (panel(masked, 4)[size + 5, size + 5] == 255).all()
    assert not panel(masked, 4)[5, 5].any()


@pytest.mark.parametrize(("colour", "bgr"), [((200, 100, 50), [50, 100, 200]), ((70,), [70, 70, 70])])
def test_red_green_and_blue_keep_their_places_and_grey_stays_grey(
    colour: tuple[int, ...], bgr: list[int]
) -> None:
    base = outputs()
    subject = pictures.Picture(
        category="bottle",
        names=("reference", "other"),
        image="test/good/000.png",
        label=0,
        scores=(1.0, 1.0),
        threshold=2.0,
        flipped=False,
        frame=np.full((6, 6, len(colour)), colour, np.uint8),
        mask=base.masks[0],
        maps=(base.maps[0], base.maps[0]),
    )
    drawn = pictures.draw(subject)
    assert drawn[pictures.TOP + 50, pictures.MARGIN + 50].tolist() == bgr


def test_values_that_are_not_finite_have_a_colour_of_their_own(results: Results) -> None:
    base = changed(outputs(), {}, {3: np.nan})
    path = only(write(results, base, base), "good-003")
    assert panel(path, 1)[9, 9].tolist() == [255, 255, 0]
    assert panel(path, 1)[-9, -9].tolist() != [255, 255, 0]


def test_maps_of_two_shapes_are_drawn_without_a_difference(results: Results) -> None:
    written = write(results, outputs(side=6), outputs(side=8))
    assert len(written) == 5
    assert (panel(written[0], 3) == 224).all()


def test_maps_that_are_not_square_keep_their_proportions(results: Results) -> None:
    wide = outputs(side=6)
    wide = dataclasses.replace(wide, maps=wide.maps[:, :3], masks=wide.masks[:, :3])
    path = write(results, wide, wide)[0]
    assert (panel(path, 1)[10, :] == 224).all()
    assert not (panel(path, 1)[144, :] == 224).all()


def test_without_evidence_or_a_comparison_there_is_no_picture(results: Results) -> None:
    assert write(results, outputs(), outputs(), evidence=None) == ()
    assert write(results, outputs(), outputs(), detector_sha256="b" * 64) == ()


@pytest.mark.parametrize("category", ["größe 1", "../up", "a/b"])
def test_names_stay_safe_and_apart_whatever_the_category_is_called(results: Results, category: str) -> None:
    for backend in ("reference", "other"):
        results.add(backend, outputs(), case={"category": category})
    report = parity.parity(results.folder, reference="reference")
    written = pictures.write_report(results.folder, report, results.folder / "pictures")
    assert len(set(written)) == 5
    for path in written:
        assert path.parent == results.folder / "pictures"
        assert path.name.isascii()
        assert not path.name.startswith((".", "-"))


def test_a_record_removed_since_the_comparison_is_an_error(results: Results) -> None:
    results.add("reference", outputs())
    results.add("other", outputs())
    report = parity.parity(results.folder, reference="reference")
    (results.folder / report.pairs[0].record_files[1]).unlink()
    with pytest.raises(RecordError, match="run parity again"):
        pictures.write_report(results.folder, report, results.folder / "pictures")


def test_long_text_and_text_beyond_ascii_is_cut_to_its_place() -> None:
    canvas = np.full((40, 400, 3), 255, np.uint8)
    pictures._put(canvas, "ü" * 200, (10, 25), 300)
    assert (canvas[:, 320:] == 255).all()
    assert (canvas[:, :320] != 255).any()
