"""A pytest plugin with four fixtures: `interleaved`, `harness_session`, `harness_records` and `harness_gate`.

Every pytest run in an environment with the harness loads this file, so it imports only pytest until a fixture is used.
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
"""Environment variable of a process that is one of several: the folder for its measurements."""
_SIMULATED = pytest.StashKey[bool]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the plugin's options."""
    group = parser.getgroup("anomaly-parity-harness")
    group.addoption(
        "--harness-results",
        metavar="DIR",
        type=Path,
        default=Path("results"),
        help="results folder of `harness_records` and `harness_gate` (%(default)s)",
    )
    group.addoption(
        "--interleaved-results",
        metavar="DIR",
        type=Path,
        help="results folder for interleaved benchmarks, written even if none ran (default: results, if any ran)",
    )
    group.addoption(
        "--interleaved-processes",
        metavar="N",
        type=int,
        default=1,
        help="run the same command in N fresh processes, one after the other, and merge their measurements (%(default)s; a"
        " gate needs 5)",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> int | None:
    """With `--interleaved-processes`, run the same command in fresh processes instead; all of them must succeed."""
    count: int = config.getoption("interleaved_processes")
    if count < 1:
        raise pytest.UsageError(f"--interleaved-processes {count}: at least 1 is needed")
    if count == 1 or _FOLDER in os.environ or config.getoption("collectonly") or config.getoption("help"):
        return None
    from harness.errors import NotMeasured
    from harness.gates import interleaved

    path = (config.getoption("interleaved_results") or Path("results")) / interleaved.FILE
    started, runs = interleaved.now(), list[interleaved.Run]()
    # An earlier run's measurements must not outlive a failure of this one.
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
    """The interleaved benchmarks of one test session."""

    def __init__(self, config: pytest.Config) -> None:
        folder: Path | None = config.getoption("interleaved_results")
        if _FOLDER in os.environ:
            folder = Path(os.environ.pop(_FOLDER))  # a pytest run that a test starts must not inherit it
        self.results = folder or Path("results")
        self.always_writes = folder is not None
        """Whether a file is written even if no test measures, so that a gate does not read an earlier session's."""
        self.started = ""
        self.measured: dict[str, Interleaved] = {}

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Remove the measurements of an earlier session, before anything can go wrong in this one."""
        used = any("interleaved" in getattr(test, "fixturenames", ()) for test in session.items)
        self.always_writes = (self.always_writes or used) and not session.config.getoption("collectonly")
        if self.always_writes:
            from harness.gates import interleaved

            self.started = interleaved.now()
            self._write()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Mark the benchmark of a failed test as failed."""
        if not report.passed and report.nodeid in self.measured:
            import msgspec

            self.measured[report.nodeid] = msgspec.structs.replace(
                self.measured[report.nodeid], status="failed"
            )

    def pytest_sessionfinish(self) -> None:
        """Write the measurements."""
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

    Both are functions without arguments. Each has one turn in each of `blocks` (20) blocks, and `samples` (5) timed
    samples in a turn; a sample repeats its call until it takes `shortest_ms` (1) milliseconds. `harness gate` judges the
    ratio of the medians under the test's id. A test that fails or is skipped measures nothing. With pytest-benchmark's
    `--benchmark-disable` both are called once and nothing is measured.
    """
    config = request.config
    if hasattr(config, "workerinput"):
        raise pytest.UsageError("tests in parallel disturb each other's times: leave out -n")
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
                f"{node.nodeid}: only one comparison per test: the gate finds it by the test's id"
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

    Without `variant`, the variant that fits the backend is opened. Sessions are closed when the test ends. If the
    backend is unavailable here, the test is skipped with the backend's reason.
    """
    from harness import registry
    from harness.detector import artifact

    opened: list[Session] = []

    def open_session(folder: Path, name: str, *, variant: str | None = None, threads: int = 1) -> Session:
        backend, detector = registry.backend(name), artifact.read(folder)
        reason = backend.unavailable()
        if reason is not None:
            pytest.skip(reason)
        selected = detector.variant(backend.formats) if variant is None else detector.variant_named(variant)
        session = backend.open(detector, selected, threads=threads)
        opened.append(session)
        request.node.stash[_SIMULATED] = request.node.stash.get(_SIMULATED, False) or session.report.simulated
        return session

    yield open_session
    for session in opened:
        session.close()


@pytest.fixture(scope="session")
def harness_records(pytestconfig: pytest.Config) -> tuple[Record, ...]:
    """The newest record of each case in the results folder `--harness-results`."""
    from harness.records import record

    return record.latest(record.read_all(pytestconfig.getoption("harness_results")))


@pytest.fixture
def harness_gate(pytestconfig: pytest.Config) -> Callable[[Path], None]:
    """Fail the test unless the rules of a file pass over `--harness-results`: `harness_gate(Path("rules.toml"))`."""

    def judge(rules: Path) -> None:
        from harness import gates

        report = gates.gate(rules, pytestconfig.getoption("harness_results"))
        if report.verdict != "passed":
            pytest.fail("\n".join(gates.lines(report)), pytrace=False)

    return judge
