"""Variants in reduced precision: float16 and int8."""
