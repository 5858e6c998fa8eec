from __future__ import annotations

import csv
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from harness import storage
from harness.errors import HarnessError
from harness.suites import published
from harness.suites.published import COLUMNS, Published, Row
from tests.conftest import SHARED

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def tables() -> Published:
    return published.read()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(storage.shipped("published"), tmp_path / "published"))


def values(tables: Published, **expected: str) -> dict[str, float]:
    """Category → value of the rows that are as wanted."""
    rows = [row for row in tables.rows if all(getattr(row, name) == text for name, text in expected.items())]
    assert len({row.category for row in rows}) == len(rows), "the question is about several tables"
    return {row.category: row.value for row in rows}


# --- the data ---------------------------------------------------------------------------------------------------------


def test_every_row_of_the_reference_is_there_to_the_letter() -> None:
    reference = SHARED / "reference" / "published.csv"
    if not reference.is_file():
        pytest.skip(f"the reference tables are not at {reference}")
    ours: set[tuple[str, ...]] = set()
    for file in storage.shipped("published").glob("*.csv"):
        with file.open(encoding="utf-8", newline="") as text:
            ours |= {tuple(row) for row in csv.reader(text)}
    with reference.open(encoding="utf-8", newline="") as text:
        theirs = [tuple(row) for row in csv.reader(text)]
    assert theirs[0] == COLUMNS
    assert len(theirs) == 1018
    assert ours == set(theirs)


def test_the_counts_of_images_add_up_to_those_of_mvtec(tables: Published) -> None:
    counts = tables.datasets["mvtec_ad"].values()
    assert len(counts) == 15
    assert sum(source.train for source in counts) == 3629
    assert sum(source.good + source.defective for source in counts) == 1725


def test_the_310_table_of_padim_is_the_910_table(tables: Published) -> None:
    for metric in ("image_auroc", "pixel_auroc"):
        first, second = (
            values(tables, source="seed 000", device=device, metric=metric)
            for device in ("ascend910", "ascend310")
        )
        assert first == second
        assert first.keys() == tables.datasets["mvtec_ad"].keys()


def test_the_headline_of_seed_001_is_the_mean_of_the_top_10_scores(tables: Published) -> None:
    headline = values(tables, source="seed 001", metric="image_auroc")["mean"]
    of_310 = values(
        tables,
        source="mindxsdk-referenceapps PatchCoreAnomalyDetection_mindspore README",
        device="ascend310",
        metric="image_auroc_top10",
    )
    singles = [value for category, value in of_310.items() if category != "mean"]
    assert headline == of_310["mean"] == pytest.approx(sum(singles) / 15, abs=5e-5)
    (source,) = (source for source in tables.sources if source.name == "seed 001")
    assert source.metrics == {"image_auroc": "image_auroc_top10"}


def test_published_means_are_those_of_their_categories(tables: Published) -> None:
    for source, device, metric in (
        ("seed 002", "ascend910", "pixel_auroc"),
        ("seed 003", "ascend910", "image_auroc"),
        ("seed 003", "ascend910", "pixel_auroc"),
    ):
        rows = [
            row
            for row in tables.rows
            if (row.source, row.device, row.metric) == (source, device, metric) and "(" not in row.category
        ]
        mean = next(row.value for row in rows if row.category == "mean")
        singles = [row.value for row in rows if row.category != "mean"]
        assert len(singles) == 15
        assert mean == pytest.approx(sum(singles) / 15, abs=6e-4)


def test_the_latencies_of_the_310_end_at_toothbrush(tables: Published) -> None:
    source = "mindxsdk-referenceapps PatchCoreAnomalyDetection performance.txt"
    assert len(values(tables, source=source)) == 12
    assert "wood" not in values(tables, source=source)


def test_settings_come_from_the_suite_of_the_source(tables: Published) -> None:
    (source,) = (source for source in tables.sources if source.name == "seed 001")
    assert source.settings_for("cable")["layers"] == ["layer3"]
    assert source.settings_for("cable")["crop"] == 320
    assert source.settings_for("bottle")["crop"] == 224
    assert source.settings_for("bottle")["mask_resize"] == "area_truncated"


def test_settings_without_a_suite_are_those_the_source_states(tables: Published) -> None:
    (source,) = (source for source in tables.sources if source.name.startswith("mindspore models SSIM-AE"))
    assert source.settings_for("grid")["weight_decay"] == 1e-4
    assert source.settings_for("cable")["weight_decay"] == 1e-5
    (silent,) = (source for source in tables.sources if source.name == "anomalib README")
    assert silent.settings_for("bottle") == {}


def test_names_are_also_given_as_our_records_have_them() -> None:
    row = Row(
        source="s",
        model="m",
        backbone="wide_resnet50_2 (racm)",
        device="d",
        dataset="t",
        category="bottle (README log sample)",
        metric="x",
        value=1.0,
    )
    assert (row.network, row.about) == ("wide_resnet50_2", "bottle")


def test_the_readme_of_the_tables_counts_and_explains_them(tables: Published) -> None:
    readme = (ROOT / "results" / "published" / "README.md").read_text(encoding="utf-8")
    assert f"{len(tables.rows)} numbers" in readme
    explained = " ".join(re.findall(r"`[^`\n]+`", readme))
    for metric in {row.metric for row in tables.rows}:
        shorter = re.sub(r"(?<!f1)_(rounded|median|top\d+|max|var|mean|best_of_all)$", "", metric)
        assert shorter in explained, metric


# --- the reader -------------------------------------------------------------------------------------------------------


def swap(file: str, old: str, new: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / file
        text = path.read_text(encoding="utf-8")
        assert old in text
        path.write_text(text.replace(old, new, 1), encoding="utf-8")

    return change


LINE_2 = "seed 000,padim,wide_resnet50_2,ascend910,mvtec_ad,bottle,image_auroc,0.998\n"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (swap("padim.csv", "metric,value", "value,metric"), r"padim\.csv: line 1: columns .*expected"),
        (swap("padim.csv", "0.998\n", "0.998,extra\n"), r"padim\.csv: line 2: 9 fields, expected 8"),
        (swap("padim.csv", ",0.998\n", "\n"), r"padim\.csv: line 2: 7 fields"),
        (swap("padim.csv", "0.998\n", "99.8 %\n"), r"padim\.csv: line 2: value: could not convert"),
        (swap("padim.csv", "0.998\n", "nan\n"), r"padim\.csv: line 2: value: nan is no number"),
        (swap("padim.csv", "0.998\n", "inf\n"), r"padim\.csv: line 2: value: inf is no number"),
        (swap("padim.csv", LINE_2, LINE_2 + LINE_2), r"padim\.csv: line 3: the same as line 2"),
        (swap("padim.csv", "seed 000,padim", "seed 000,stpm"), r"padim\.csv: line 2: model: .*model padim"),
        (swap("padim.csv", ",ascend910,", ",,"), r"padim\.csv: line 2: device: expected a value"),
        (swap("padim.csv", "mvtec_ad", "mvtec"), r"no counts of the data set 'mvtec'"),
        (swap("padim.csv", "seed 000", "seed 099"), r"'seed 099' on mvtec_ad has 0 sources"),
        (swap("sources.toml", 'dataset = "texture"\n', ""), r"'seed 004' on mvtec_ad has 2 sources"),
        (swap("sources.toml", 'title = "anomalib', 'titel = "anomalib'), r"sources\.toml: .*`titel`.*source"),
        (swap("sources.toml", "train = 209", 'train = "209"'), r"sources\.toml: .*Expected `int`"),
        (swap("sources.toml", "neighbours = 9", "neighbors = 9"), "patchcore has no setting 'neighbors'"),
        (swap("sources.toml", "percentile = 99.4", "quantile = 99.4"), "ssim_ae has no setting 'quantile'"),
        (
            swap("sources.toml", 'name = "anomalib README"', 'name = "anomalib"'),
            "anomalib README.* 0 sources",
        ),
        (swap("sources.toml", 'suite = "padim"', 'suite = "padin"'), "seed 000.*did you mean 'padim'"),
        (swap("sources.toml", "[[source]]", "[[source"), r"sources\.toml: "),
        (lambda folder: (folder / "sources.toml").unlink(), r"sources\.toml: .*No such file"),
        (shutil.rmtree, "no published tables here"),
    ],
)
def test_a_table_of_another_form_is_refused_with_its_place(
    folder: Path, change: Callable[[Path], None], message: str
) -> None:
    change(folder)
    with pytest.raises(HarnessError, match=message):
        published.read(folder)


def test_a_source_without_rows_is_refused(folder: Path) -> None:
    with (folder / "sources.toml").open("a", encoding="utf-8") as file:
        file.write('\n[[source]]\nname = "nobody"\ntitle = "Nobody"\n')
    with pytest.raises(HarnessError, match="'nobody' has no rows"):
        published.read(folder)
