"""`python -m harness`."""

import signal
import sys

from harness.cli import main

# If Ctrl-C comes while a graph runs, MindSpore sends its own process SIGTERM: treat both alike.
signal.signal(signal.SIGTERM, signal.default_int_handler)
sys.exit(main())
