"""Runs cases: from the plan over worker processes to the finished records."""
