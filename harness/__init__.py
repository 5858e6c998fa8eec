"""Evaluation and benchmark harness for industrial anomaly detection over interchangeable backends.

The public Python API: every name of `__all__`, imported when it is first used, so that `import harness` loads nothing else.

    import harness

    detector = harness.load_artifact("artifacts/padim-resnet18/bottle")
    scores = detector.score("photos", backend="onnxruntime-cpu")
    scores.images, scores.maps, scores.defective
"""

__version__ = "0.1.0"

TYPE_CHECKING = False  # `typing` would cost a third of the time of `--help`
if TYPE_CHECKING:
    from harness import metrics
    from harness.api import (
        Detector,
        EvidenceArrays,
        GateReport,
        ParityReport,
        Progress,
        Record,
        Scores,
        bench,
        compare,
        export,
        fit,
        gate,
        load_artifact,
        read_evidence,
        read_records,
        to_dataframe,
        to_rows,
    )
    from harness.errors import (
        ArtifactError,
        DatasetError,
        HarnessError,
        MissingExtra,
        NotMeasured,
        PluginError,
        RecordError,
        Unavailable,
        UsageError,
        VerdictError,
    )

__all__ = [
    "ArtifactError",
    "DatasetError",
    "Detector",
    "EvidenceArrays",
    "GateReport",
    "HarnessError",
    "MissingExtra",
    "NotMeasured",
    "ParityReport",
    "PluginError",
    "Progress",
    "Record",
    "RecordError",
    "Scores",
    "Unavailable",
    "UsageError",
    "VerdictError",
    "__version__",
    "bench",
    "compare",
    "export",
    "fit",
    "gate",
    "load_artifact",
    "metrics",
    "read_evidence",
    "read_records",
    "to_dataframe",
    "to_rows",
]

if not TYPE_CHECKING:  # else a type checker would accept any name

    def __getattr__(name):  # noqa: ANN001, ANN202 - seen only at run time
        """Import a public name."""
        from importlib import import_module

        if name not in __all__:
            raise AttributeError(f"module 'harness' has no attribute {name!r}")
        if name == "metrics":
            return import_module("harness.metrics")
        errors = import_module("harness.errors")
        value = getattr(errors if hasattr(errors, name) else import_module("harness.api"), name)
        globals()[name] = value
        return value

    def __dir__():  # noqa: ANN202
        """The public names, and the modules that are loaded."""
        return sorted({*globals(), *__all__})
