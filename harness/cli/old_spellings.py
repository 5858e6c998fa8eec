"""Earlier spellings of `bench`, rewritten to the commands that replace them, with a hint for each."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence

from harness.errors import UsageError

REPLAY = "replay"


def translated(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The arguments of `bench …` in today's spelling, and one hint for each rewritten option.

    Raises:
        UsageError: a replay together with other backends, or without saved outputs or an artifact.
    """
    earlier = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for name in ("--artifact", "--onnx", "--backend"):
        earlier.add_argument(name, action="append", default=[])
    for name in ("--suite", "--outputs"):
        earlier.add_argument(name)
    try:
        options, others = earlier.parse_known_args(arguments[1:])
    except argparse.ArgumentError:  # an option without its value: the parser of `bench` says so
        return list(arguments), []
    artifacts = [part for path in options.artifact for part in ("--artifact", path)]
    backends = [part for name in options.backend for part in ("--backend", name)]
    onnx = [part for path in options.onnx for part in ("--onnx", path)]
    if options.suite is not None:
        hint = "hint: bench --suite SUITE is now: reproduce SUITE"
        outputs = [] if options.outputs is None else ["--outputs", options.outputs]
        return ["reproduce", options.suite, *artifacts, *onnx, *outputs, *backends, *others], [hint]
    if REPLAY in options.backend or options.outputs is not None:
        if options.backend != [REPLAY] or options.outputs is None or not artifacts:
            raise UsageError(
                "a replay measures no other backend: replay RESULTS --artifact DIR; "
                "RESULTS comes from bench --save-outputs, or from score"
            )
        hint = "hint: bench --backend replay --outputs RESULTS is now: replay RESULTS"
        return ["replay", options.outputs, *artifacts, *onnx, *others], [hint]
    hints = ["hint: bench --artifact DIR is now: bench DIR"] if artifacts else []
    hints += ["hint: bench --onnx FILE is now: bench FILE"] if onnx else []
    if not hints:
        return list(arguments), []
    models = list(itertools.takewhile(lambda argument: not argument.startswith("-"), others))
    return ["bench", *models, *options.artifact, *options.onnx, *backends, *others[len(models) :]], hints
