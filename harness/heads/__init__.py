"""Heads: numpy in, numpy out, one place per detector, used by every backend."""
