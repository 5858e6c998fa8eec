"""`python -m harness`."""

import signal
import sys

from harness.cli import main

# MindSpore answers Ctrl-C in the middle of a graph by sending its own process SIGTERM: both end in order.
signal.signal(signal.SIGTERM, signal.default_int_handler)
sys.exit(main())
