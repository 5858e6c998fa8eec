"""`reproduce`: fit, export and measure with the settings of a published table."""

from __future__ import annotations

import argparse

from harness.cli import arguments
from harness.cli.arguments import CONTINUES, Parser, categories, path


def add_reproduce(parser: Parser) -> None:
    """Add the options of `reproduce`."""
    parser.describe(
        "Fit, export and measure with the settings of a published table. Everything missing is listed before any work; "
        "the same command continues an interrupted run.",
        example="reproduce padim --data data --weights wide_resnet50_2.safetensors",
    )
    parser.add_argument(
        "suite",
        metavar="SUITE",
        help="padim, patchcore, fastflow, stpm, ssim_ae, ssim_ae_texture, or a TOML file of your own",
    )
    arguments.add_data(parser)
    arguments.add_category(parser)
    parser.add_argument(
        "--weights", type=path, metavar="W", help="backbone weights, or `random` for an untrained backbone"
    )
    parser.add_argument("--device", choices=("cpu", "ascend", "gpu"), default="cpu", help="device of the fit")
    arguments.add_backend(parser, default="the suite's, else all that run here")
    measurement = parser.add_argument_group("measurement")
    measurement.add_argument(
        "--batch-size", type=arguments.positive, default=1, metavar="N", help="images per run"
    )
    arguments.add_threads(measurement)
    arguments.add_warmup(measurement)
    arguments.add_timeout(measurement)
    arguments.add_force(
        measurement, "measure finished cases again, and replace detectors fitted with other settings"
    )
    output = parser.add_argument_group("output")
    arguments.add_results(output, "--out", "results folder, also for the artifacts")
    arguments.add_json(output)
    parser.set_defaults(run=_reproduce, continues=CONTINUES)


def _reproduce(options: argparse.Namespace) -> int:
    from harness import suites
    from harness.cli.outcome import conclude, run_options, say_case, say_failure, say_on_stderr
    from harness.progress import progress
    from harness.run import suite
    from harness.run.suite_ready import SuiteRequest, ready

    plan = ready(
        SuiteRequest(
            suite=suites.read(suites.find(options.suite)),
            data=options.data,
            weights=options.weights,
            device=options.device,
            categories=categories(options),
            backends=tuple(dict.fromkeys(options.backend or ())),
            out=options.out,
            options=run_options(options),
        )
    )
    say, report = (say_on_stderr, say_failure) if options.json else (print, say_case)
    outcome = suite.run(plan, say=say, report=report, progress=progress)
    return conclude(outcome.records, plan.backends, options, failures=outcome.failures)
