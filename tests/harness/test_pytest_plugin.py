from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness.gates import interleaved
from tests.conftest import Tiny
from tests.harness.gates.gatefiles import BOUND, Bench, add, timed, write_run

pytest_plugins = ["pytester"]
PLUGIN = ("-p", "harness.pytest_plugin", "-p", "no:cacheprovider", "-p", "no:hypothesispytest")
QUICK = 'names=("ours", "theirs"), blocks=10, samples=1, shortest_ms=0.001'


@pytest.fixture
def tests(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makepyfile(
        f"""
        import pytest
        def ours(): sum(range(50))
        def theirs(): sum(range(60))
        def test_passes(interleaved):
            interleaved(ours, theirs, {QUICK})
        def test_fails(interleaved):
            interleaved(ours, theirs, {QUICK})
            assert False
        def test_fails_later(interleaved, ending_badly):
            interleaved(ours, theirs, {QUICK})
        def test_expected_to_fail(interleaved, request):
            request.applymarker(pytest.mark.xfail)
            interleaved(ours, theirs, {QUICK})
            assert False
        @pytest.mark.skip
        def test_skipped(interleaved):
            interleaved(ours, theirs, {QUICK})
        def test_kernel(benchmark, interleaved):
            benchmark.pedantic(ours, rounds=2)
            interleaved(ours, theirs, {QUICK})
        @pytest.fixture
        def ending_badly():
            yield
            assert False
        """
    )
    return pytester


def statuses(folder: Path) -> dict[str, str]:
    return {
        benchmark.benchmark.partition("::")[2]: benchmark.status
        for benchmark in interleaved.read(folder).benchmarks
    }


def test_only_passed_tests_are_measured(tests: pytest.Pytester) -> None:
    tests.runpytest(*PLUGIN)
    assert statuses(tests.path / "results") == {
        "test_passes": "measured",
        "test_kernel": "measured",
        "test_fails": "failed",
        "test_fails_later": "failed",
        "test_expected_to_fail": "failed",
    }
    (benchmark, *_) = interleaved.read(tests.path / "results").benchmarks
    assert (benchmark.subject, benchmark.control, benchmark.simulated) == ("ours", "theirs", False)
    assert [len(process.subject_ms) for process in benchmark.processes] == [10]


def test_benchmark_only_runs_tests_with_both_fixtures(tests: pytest.Pytester) -> None:
    result = tests.runpytest(*PLUGIN, "--benchmark-only")
    result.assert_outcomes(passed=1, skipped=5)
    assert statuses(tests.path / "results") == {"test_kernel": "measured"}


def test_benchmark_compare_fail_fails_a_slower_kernel_and_no_other(tests: pytest.Pytester) -> None:
    only = (*PLUGIN, "--benchmark-only")
    tests.runpytest(*only, "--benchmark-save=before")
    assert tests.runpytest(*only, "--benchmark-compare", "--benchmark-compare-fail=min:100000%").ret == 0
    (path,) = (tests.path / ".benchmarks").rglob("*_before.json")
    import json

    document = json.loads(path.read_text())
    for name in ("min", "median", "mean", "max"):
        document["benchmarks"][0]["stats"][name] /= 1e6
    path.write_text(json.dumps(document))
    assert tests.runpytest(*only, "--benchmark-compare", "--benchmark-compare-fail=min:100000%").ret != 0


@pytest.mark.parametrize("option", ["--benchmark-disable", "--benchmark-skip"])
def test_benchmarks_that_are_disabled_or_skipped_measure_nothing(tests: pytest.Pytester, option: str) -> None:
    tests.runpytest(*PLUGIN, option)
    assert statuses(tests.path / "results") == {}


def test_the_measurements_of_an_earlier_session_are_removed(tests: pytest.Pytester) -> None:
    tests.runpytest(*PLUGIN)
    tests.runpytest(*PLUGIN, "--collect-only")
    assert "test_passes" in statuses(tests.path / "results")
    tests.runpytest(*PLUGIN, "-k", "test_skipped")
    assert statuses(tests.path / "results") == {}


def test_a_session_without_interleaved_tests_writes_only_with_the_option(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_plain(): pass")
    pytester.runpytest(*PLUGIN).assert_outcomes(passed=1)
    assert not (pytester.path / "results").exists()
    pytester.runpytest(*PLUGIN, "--interleaved-results", "there").assert_outcomes(passed=1)
    assert statuses(pytester.path / "there") == {}


@pytest.fixture
def processes(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A benchmark whose second process ends as `how` says; an earlier session has measured it."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[2]))
    pytester.makepyfile(
        f"""
        import os, signal
        from pathlib import Path
        import pytest
        def test_other(interleaved):
            interleaved(int, float, {QUICK})
        def test_one(interleaved):
            interleaved(int, float, {QUICK})
            assert "HARNESS_INTERLEAVED_FOLDER" not in os.environ  # a pytest started here would write there
            with Path("pids").open("a") as file:
                file.write(f"{{os.getpid()}} ")
            how = os.environ.get("HOW")
            if how and len(Path("pids").read_text().split()) == 2:
                {{"fail": pytest.fail, "skip": pytest.skip, "kill": lambda _: os.kill(os.getpid(), signal.SIGKILL)}}[how](how)
        """
    )
    write_run(pytester.path / "results", [timed(1.0, benchmark="::test_earlier")])
    return pytester


def test_each_process_is_a_fresh_one_and_all_are_kept(processes: pytest.Pytester) -> None:
    result = processes.runpytest(*PLUGIN, "-k", "test_one", "--interleaved-processes=2")
    assert result.ret == 0
    result.stdout.fnmatch_lines(["*process 1 of 2", "*process 2 of 2"])
    pids = (processes.path / "pids").read_text().split()
    assert len(set(pids)) == 2
    assert str(os.getpid()) not in pids
    (benchmark,) = interleaved.read(processes.path / "results").benchmarks
    assert (benchmark.benchmark.partition("::")[2], benchmark.status) == ("test_one", "measured")
    assert [len(process.subject_ms) for process in benchmark.processes] == [10, 10]
    assert len(set(benchmark.processes)) == 2


@pytest.mark.parametrize("how", ["fail", "kill"])
def test_a_process_that_fails_or_is_killed_leaves_nothing_measured(
    processes: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setenv("HOW", how)
    result = processes.runpytest(*PLUGIN, "--interleaved-processes=3", "--interleaved-results=results")
    assert result.ret == 1
    result.stderr.fnmatch_lines(["process 2 of 3 ended with *: nothing is measured"])
    assert len((processes.path / "pids").read_text().split()) == 2
    assert statuses(processes.path / "results") == {}
    assert [path.name for path in (processes.path / "results").rglob("*.*")] == ["interleaved.json"]


def test_a_benchmark_that_one_process_skips_has_failed(
    processes: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOW", "skip")
    assert processes.runpytest(*PLUGIN, "--interleaved-processes=2").ret == 0
    assert statuses(processes.path / "results") == {"test_one": "failed", "test_other": "measured"}


def test_processes_that_run_no_tests_measure_nothing(processes: pytest.Pytester) -> None:
    several = (*PLUGIN, "--interleaved-processes=2")
    processes.runpytest(*several, "--collect-only")
    processes.runpytest(*several, "--help")
    assert statuses(processes.path / "results") == {"test_earlier": "measured"}
    result = processes.runpytest(*several, "--markers")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: process 1 of 2 ran no tests: nothing is measured"])
    assert statuses(processes.path / "results") == {}


def test_fewer_than_one_process_is_refused(processes: pytest.Pytester) -> None:
    result = processes.runpytest(*PLUGIN, "--interleaved-processes=0")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: --interleaved-processes 0: at least 1 is needed"])


def test_one_comparison_per_test(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        f"""
        def test_two(interleaved):
            interleaved(int, float, {QUICK})
            interleaved(int, float, {QUICK})
        """
    )
    pytester.runpytest(*PLUGIN).stdout.fnmatch_lines(["*one comparison per test*"])
    assert statuses(pytester.path / "results") == {"test_two": "failed"}


def test_sessions_run_close_and_skip_with_the_backends_reason(pytester: pytest.Pytester, tiny: Tiny) -> None:
    pytester.makepyfile(
        f"""
        from pathlib import Path
        import numpy as np
        folder = Path({str(tiny.artifact)!r})
        def test_run(harness_session):
            session = harness_session(folder, "onnxruntime-cpu", variant="onnx-fp32")
            batch = np.zeros((1, 3, 32, 32), np.float32)
            assert session.run(batch)["embedding"].shape == (1, 6, 8, 8)
        def test_absent(harness_session):
            harness_session(folder, "ascend310")
        def test_unknown(harness_session):
            harness_session(folder, "onnxruntime-cpu", variant="onnx-fp23")
        """
    )
    result = pytester.runpytest(*PLUGIN)
    result.assert_outcomes(passed=1, skipped=1, failed=1)
    result.stdout.fnmatch_lines(["*did you mean 'onnx-fp32'*"])


def test_a_simulated_session_marks_what_it_measures(pytester: pytest.Pytester, tiny: Tiny) -> None:
    pytester.makepyfile(
        f"""
        from pathlib import Path
        from types import SimpleNamespace
        from harness import registry

        class Backend:
            formats = ("onnx",)
            def unavailable(self): return None
            def open(self, artifact, variant, *, threads):
                report = SimpleNamespace(simulated=True)
                return SimpleNamespace(report=report, close=lambda: None)

        def test_simulated(harness_session, interleaved, monkeypatch):
            monkeypatch.setattr(registry, "backend", lambda name: Backend())
            harness_session(Path({str(tiny.artifact)!r}), "board")
            interleaved(int, float, {QUICK})
        """
    )
    pytester.runpytest(*PLUGIN).assert_outcomes(passed=1)
    (benchmark,) = interleaved.read(pytester.path / "results").benchmarks
    assert benchmark.simulated


def test_records_and_gates_are_fixtures(pytester: pytest.Pytester, tmp_path: Path) -> None:
    bench = Bench(folder=tmp_path)
    add(bench.results)
    good = bench.rules(BOUND)
    bad = bench.folder / "bad.toml"
    bad.write_text(good.read_text().replace("0.9", "1.5"))
    missing = bench.folder / "missing.toml"
    missing.write_text(good.read_text().replace("onnxruntime-cpu", "ascend310"))
    pytester.makepyfile(
        f"""
        from pathlib import Path
        import pytest
        def test_records(harness_records):
            assert [item.case.category for item in harness_records] == ["bottle"]
        @pytest.mark.parametrize("rules", [{str(good)!r}, {str(bad)!r}, {str(missing)!r}])
        def test_gate(harness_gate, rules):
            harness_gate(Path(rules))
        """
    )
    result = pytester.runpytest(*PLUGIN, "--harness-results", str(bench.results.folder))
    result.assert_outcomes(passed=2, failed=2)
    result.stdout.fnmatch_lines(["*gate failed: *bad.toml*", "*gate not measured: *missing.toml*"])


def test_loading_the_plugin_loads_nothing_heavy() -> None:
    code = "import sys, harness.pytest_plugin; print([name for name in sys.modules if name.split('.')[0] in "
    code += "('numpy', 'cv2', 'msgspec', 'onnxruntime', 'exporters', 'backends')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ast.literal_eval(done.stdout) == []
