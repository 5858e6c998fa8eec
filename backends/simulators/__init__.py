"""Stand-ins for Ascend software, for developing and testing where there is none; never taken for the real thing."""
