from __future__ import annotations

from harness.errors import MOST_LISTED, unknown

NAMES = [f"layer{number}" for number in range(20)]


def test_up_to_three_near_misses_are_named() -> None:
    message = unknown("node", "layer1x", NAMES)
    hint = message.partition("; ")[2].partition("?")[0]
    assert hint.startswith("did you mean 'layer1', 'layer")
    assert (hint.count(", "), hint.count(" or ")) == (1, 1)


def test_few_names_are_listed() -> None:
    assert unknown("head", "zzz", ["b", "a"]) == "unknown head 'zzz' (known: a, b)"


def test_many_names_are_cut_and_counted() -> None:
    message = unknown("node", "zzz", NAMES)
    assert message.count("layer") == MOST_LISTED
    assert message.endswith(", … (20 in all))")


def test_a_command_that_lists_all_takes_the_place_of_the_list() -> None:
    message = unknown("node", "zzz", NAMES, "python -m harness nodes")
    assert message == "unknown node 'zzz' (20 are known: python -m harness nodes)"
