"""Evaluation and benchmark harness for industrial anomaly detection over interchangeable backends."""

__version__ = "0.1.0"
