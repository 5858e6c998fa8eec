"""A template for plug-ins of anomaly-parity-harness."""
