"""How long `python -m harness --help` takes, beside an interpreter that does nothing and one that imports numpy.

The three take turns, so that a busy machine slows all of them. Run with `pytest benchmarks/test_startup.py -s`.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

TURNS = 21
COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "python -m harness --help": ["-m", "harness", "--help"],
    "python -c 'import numpy'": ["-c", "import numpy"],
}


def test_startup() -> None:
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(TURNS):
        for name, arguments in COMMANDS.items():
            start = time.perf_counter()
            done = subprocess.run([sys.executable, *arguments], capture_output=True, check=True)
            seconds[name].append(time.perf_counter() - start)
            assert bool(done.stdout) == ("harness" in name)
    print()
    for name, taken in seconds.items():
        quartiles = statistics.quantiles(taken, n=4)
        middle, spread = quartiles[1] * 1e3, f"{quartiles[0] * 1e3:.0f} to {quartiles[2] * 1e3:.0f}"
        print(f"{name}: {middle:.0f} ms (median of {TURNS}, quartiles {spread})")
