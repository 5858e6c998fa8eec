"""A worker of the toy's training: what `exporters.train.group` runs, with the toy in the place of STPM."""

import sys

from exporters.fit import rank
from harness import registry

registry.LEARNERS["stpm"] = "tests.exporters.toy:learn"
sys.exit(rank.main(sys.argv[1:]))
