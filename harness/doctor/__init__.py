"""Checks of one backend on this machine, step by step."""
