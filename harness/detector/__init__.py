"""A fitted detector on disk: its artifact, its preprocessing, its settings."""
