"""pytest plugin: interleaved benchmarks, sessions, records and gates as fixtures.

Every pytest of an environment with the harness loads this file, so nothing but pytest is imported before a fixture asks.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from harness.contracts import Session
    from harness.gates.interleaved import Interleaved
    from harness.records.record import Record

_NAME = "harness-interleaved"
_FOLDER = "HARNESS_INTERLEAVED_FOLDER"
"""Environment variable: this process is one of several, and the folder is where it leaves what it measured."""
_SIMULATED = pytest.StashKey[bool]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Where results lie."""
    group = parser.getgroup("anomaly-parity-harness")
    group.addoption(
        "--harness-results",
        metavar="DIR",
        type=Path,
        default=Path("results"),
        help="results folder whose records tests see (%(default)s)",
    )
    group.addoption(
        "--interleaved-results",
        metavar="DIR",
        type=Path,
        help="results folder that interleaved benchmarks are written to, even if there are none (results, if there are)",
    )
    group.addoption(
        "--interleaved-processes",
        metavar="N",
        type=int,
        default=1,
        help="run the same command in N fresh processes, one after the other, and merge what they measure (%(default)s; a"
        " gate asks for 5)",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> int | None:
    """With `--interleaved-processes`, run the same command in fresh processes instead, all of which must succeed."""
    count: int = config.getoption("interleaved_processes")
    if count < 1:
        raise pytest.UsageError(f"--interleaved-processes {count}: at least 1 is needed")
    if count == 1 or _FOLDER in os.environ or config.getoption("collectonly") or config.getoption("help"):
        return None
    from harness.errors import NotMeasured
    from harness.gates import interleaved

    path = (config.getoption("interleaved_results") or Path("results")) / interleaved.FILE
    started, runs = interleaved.now(), list[interleaved.Run]()
    # What an earlier call measured is gone, whatever goes wrong in this one.
    interleaved.write(path, (), started=started)
    for number in range(1, count + 1):
        sys.stdout.write(f"interleaved benchmarks: process {number} of {count}\n")
        sys.stdout.flush()
        with tempfile.TemporaryDirectory() as folder:
            code = subprocess.run(
                [sys.executable, "-m", "pytest", *config.invocation_params.args],
                cwd=config.invocation_params.dir,
                env={**os.environ, _FOLDER: folder},
                check=False,
            ).returncode
            if code != 0:
                sys.stderr.write(f"process {number} of {count} ended with {code}: nothing is measured\n")
                return code if code > 0 else 1
            try:
                runs.append(interleaved.read(Path(folder)))
            except NotMeasured as reason:
                raise pytest.UsageError(
                    f"process {number} of {count} ran no tests: nothing is measured"
                ) from reason
    interleaved.write(path, interleaved.merged(runs), started=started)
    return 0


def pytest_configure(config: pytest.Config) -> None:
    """Begin an empty run."""
    config.pluginmanager.register(_Interleaving(config), _NAME)


class _Interleaving:
    """What interleaved benchmarks measure in one test session."""

    def __init__(self, config: pytest.Config) -> None:
        asked: Path | None = config.getoption("interleaved_results")
        if _FOLDER in os.environ:
            asked = Path(os.environ.pop(_FOLDER))  # not for a pytest that a test starts
        self.results = asked or Path("results")
        self.wanted = asked is not None
        """Whether a file is written though no test asks for it, so that none of an earlier session is left to a gate."""
        self.started = ""
        self.measured: dict[str, Interleaved] = {}

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Take away what an earlier session measured, before anything can go wrong in this one."""
        used = any("interleaved" in getattr(item, "fixturenames", ()) for item in session.items)
        self.wanted = (self.wanted or used) and not session.config.getoption("collectonly")
        if self.wanted:
            from harness.gates import interleaved

            self.started = interleaved.now()
            self._write()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A test that fails has measured nothing."""
        if not report.passed and report.nodeid in self.measured:
            import msgspec

            self.measured[report.nodeid] = msgspec.structs.replace(
                self.measured[report.nodeid], status="failed"
            )

    def pytest_sessionfinish(self) -> None:
        """Write what was measured."""
        if self.measured:
            self._write()

    def _write(self) -> None:
        from harness.gates import interleaved

        interleaved.write(
            self.results / interleaved.FILE,
            tuple(self.measured.values()),
            started=self.started,
        )


@pytest.fixture
def interleaved(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Time a subject and its control in turns: `interleaved(subject, control, names=("head", "faiss"))`.

    Both are called without arguments. `blocks` (20) is how often both have their turn, `samples` (5) how many times are
    taken in a turn; a sample repeats its call until it takes `shortest_ms` (1). `harness gate` judges the ratio of the
    medians under the test's id; a test that fails, or is skipped, has measured nothing. `--benchmark-disable` of
    pytest-benchmark calls both once and measures nothing.
    """
    config = request.config
    if hasattr(config, "workerinput"):
        raise pytest.UsageError("tests that run side by side time each other: leave out -n")
    if config.getoption("benchmark_skip", default=False):
        pytest.skip("--benchmark-skip")
    run = config.pluginmanager.get_plugin(_NAME)
    assert isinstance(run, _Interleaving)  # noqa: S101 - registered above

    def measure(
        subject: Callable[[], Any],
        control: Callable[[], Any],
        *,
        names: tuple[str, str],
        blocks: int = 20,
        samples: int = 5,
        shortest_ms: float = 1.0,
    ) -> None:
        from harness.gates import interleaved as timing

        node = request.node
        if node.nodeid in run.measured:
            raise pytest.UsageError(
                f"{node.nodeid}: one comparison per test, the gate finds it by the test's id"
            )
        if config.getoption("benchmark_disable", default=False):
            subject()
            control()
            return
        run.measured[node.nodeid] = timing.Interleaved(
            benchmark=node.nodeid,
            subject=names[0],
            control=names[1],
            status="measured",
            simulated=node.stash.get(_SIMULATED, False),
            processes=(
                timing.measure(subject, control, blocks=blocks, samples=samples, shortest_ms=shortest_ms),
            ),
        )

    return measure


@pytest.fixture
def harness_session(request: pytest.FixtureRequest) -> Iterator[Callable[..., Session]]:
    """Open an artifact on a backend: `harness_session(folder, "onnxruntime-cpu", variant=…, threads=1)`.

    Sessions are closed when the test ends. A backend that cannot run here skips the test with its own reason.
    """
    from harness import errors, registry
    from harness.detector import artifact

    opened: list[Session] = []

    def open_session(folder: Path, name: str, *, variant: str | None = None, threads: int = 1) -> Session:
        backend, found = registry.backend(name), artifact.read(folder)
        reason = backend.unavailable()
        if reason is not None:
            pytest.skip(reason)
        known = {item.id: item for item in found.manifest.variants}
        if variant is not None and variant not in known:
            raise pytest.UsageError(errors.unknown(f"variant of {folder}", variant, known))
        chosen = found.variant(backend.formats) if variant is None else known[variant]
        session = backend.open(found, chosen, threads=threads)
        opened.append(session)
        request.node.stash[_SIMULATED] = request.node.stash.get(_SIMULATED, False) or session.report.simulated
        return session

    yield open_session
    for session in opened:
        session.close()


@pytest.fixture(scope="session")
def harness_records(pytestconfig: pytest.Config) -> tuple[Record, ...]:
    """The newest record of every case in the results folder (`--harness-results`)."""
    from harness.records import record

    return record.latest(record.read_all(pytestconfig.getoption("harness_results")))


@pytest.fixture
def harness_gate(pytestconfig: pytest.Config) -> Callable[[Path], None]:
    """Fail the test unless the rules of a file pass over the results folder: `harness_gate(Path("rules.toml"))`."""

    def judge(rules: Path) -> None:
        from harness import gates

        report = gates.gate(rules, pytestconfig.getoption("harness_results"))
        if report.verdict != "passed":
            pytest.fail("\n".join(gates.lines(report)), pytrace=False)

    return judge
