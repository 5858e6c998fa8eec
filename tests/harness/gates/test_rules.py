from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import UsageError
from harness.gates import find, names, read
from harness.gates.rules import Bound, Latency
from tests.harness.gates.gatefiles import BOUND, FIND, LATENCY, MEMORY, NONINFERIOR, Bench


def test_a_rule_has_the_shared_find_and_its_own(bench: Bench) -> None:
    one, two = read(bench.rules(BOUND, BOUND + 'find.backend = "ascend310"\nfind.threads = 2\n')).rule
    assert isinstance(one, Bound)
    assert isinstance(two, Bound)
    assert (one.find.backend, one.find.threads) == ("onnxruntime-cpu", None)
    assert (two.find.backend, two.find.threads, two.find.variant) == ("ascend310", 2, "onnx-fp32")


def test_a_benchmark_needs_nothing_to_find(bench: Bench) -> None:
    (rule,) = read(bench.rules(LATENCY, find="")).rule
    assert isinstance(rule, Latency)
    assert rule.of == "control"


def test_the_baseline_lies_beside_the_rules(bench: Bench) -> None:
    assert read(bench.rules(MEMORY)).baseline == bench.folder / "baseline"


@pytest.mark.parametrize(
    ("rule", "why"),
    [
        (BOUND.replace("0.9", "nan"), r"rule\[0\].at_least"),
        (BOUND.replace("at_least = 0.9", "at_most = inf"), r"rule\[0\].at_most"),
        (BOUND.replace("0.9", "0.0"), "cannot fail"),
        (BOUND.replace("0.9", "-1.0"), "cannot fail"),
        (BOUND.replace("at_least = 0.9", "at_most = 1.0"), "cannot fail"),
        (
            BOUND + 'stage = "infer"\n',
            "image_auroc has no stage, only latency_ms and images_per_second have one",
        ),
        (BOUND + 'statistic = "p99"\n', "image_auroc has no statistic, only latency_ms has one"),
        (
            BOUND.replace("image_auroc", "images_per_second") + 'statistic = "p99"\n',
            "images_per_second has no statistic",
        ),
        (BOUND + 'find.mask_resize = "dilate"\n', r"rule\[0\].find.mask_resize"),
        (BOUND.replace("at_least = 0.9", ""), "give one of at_least and at_most"),
        (BOUND + "at_most = 1.0\n", "give one of at_least and at_most"),
        (BOUND.replace("image_auroc", "auroc"), r"Invalid enum value 'auroc' - at `\$.rule\[0\].value`"),
        (BOUND.replace("bound", "bond"), "Invalid value 'bond'"),
        (BOUND.replace('of = "each"', ""), "missing required field `of`"),
        (BOUND + "atleast = 1\n", "unknown field `atleast`"),
        (BOUND + 'find.batchsize = "1"\n', "unknown field `batchsize`"),
        (BOUND + "find.categories = []\n", r"rule\[0\].find.categories"),
        (BOUND + 'find.categories = ["a", "a"]\n', "names one twice"),
        (BOUND + 'find.backend = ""\n', r"rule\[0\].find.backend"),
        (BOUND + 'find.detector_sha256 = "d"\n', "detector_sha256"),
        (
            BOUND + f'find.detector_sha256 = "{"d" * 12}"\nfind.categories = ["a", "b"]\n',
            "belongs to one category",
        ),
        (BOUND + "find = 3\n", "not TOML|Cannot overwrite|Expected `object`"),
        (NONINFERIOR.replace("0.2", "inf"), "margin"),
        (NONINFERIOR.replace("0.2", "0.0"), "margin"),
        (NONINFERIOR + "level = 0.5\n", "level"),
        (MEMORY.replace("1.1", "inf"), "at_most"),
        (MEMORY.replace("peak_memory_bytes", "latency_ms"), "value"),
        (LATENCY.replace("minimum_effect = 0.1", "minimum_effect = 0.0"), "minimum_effect"),
        (LATENCY.replace("minimum_effect = 0.1", ""), "minimum_effect"),
        (LATENCY.replace('control = "theirs"', ""), "control"),
        (LATENCY + "level = 0.01\n", "level"),
    ],
)
def test_a_rule_that_is_wrong_is_refused_with_its_place(bench: Bench, rule: str, why: str) -> None:
    path = bench.rules(rule)
    with pytest.raises(UsageError, match=why) as caught:
        read(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("field", ["detector", "backbone", "dataset", "categories", "backend", "variant"])
def test_a_find_without_a_required_field_is_refused(bench: Bench, field: str) -> None:
    less = "\n".join(line for line in FIND.splitlines() if not line.startswith(f"{field} "))
    with pytest.raises(UsageError, match=f"missing required field `{field}`"):
        read(bench.rules(BOUND, find=less))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("rules = 3", "unknown key 'rules'; did you mean 'rule'"),
        ("rule = 3", "Expected `array`"),
        ("find = 3", "Expected `object`"),
        ("[[rule]", "rules.toml"),
        (f'{FIND}[[rule]]\nname = "a"\n{BOUND}[[rule]]\nname = "a"\n{BOUND}', "'a' is there twice"),
        (f'{FIND}[[rule]]\nname = "a"\n{MEMORY}', "compares with a baseline: name its folder"),
        (f'[[rule]]\nname = "a"\n{LATENCY}of = "baseline"\n', "compares with a baseline: name its folder"),
    ],
)
def test_a_file_that_is_wrong_is_refused(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "rules.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=why):
        read(path)


def test_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        read(tmp_path / "rules.toml")


def test_shipped_rules_are_found_by_name_and_read() -> None:
    assert names() == ("ratios", "seed_patchcore")
    assert [len(read(find(name)).rule) for name in names()] == [3, 2]
    with pytest.raises(UsageError, match="did you mean 'ratios'"):
        find("ratio")
    assert find("some/where.toml") == Path("some/where.toml")
