"""What can go wrong on a device.

harness.errors.HarnessError
├── BackendError        the runtime failed to load or run the model (3)
└── harness.errors.Unavailable
    └── DeviceMismatch  another device than the one asked for would have run (3)
"""

from harness.errors import HarnessError, Unavailable


class BackendError(HarnessError):
    """The runtime failed to load or run the model."""


class DeviceMismatch(Unavailable):
    """Another device than the one asked for would have run; never accepted silently."""
