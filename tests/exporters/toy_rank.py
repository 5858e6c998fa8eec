"""A worker of the toy's training: what `exporters.fit.ranks` runs, with the toy in the place of STPM."""

import sys

from exporters.fit import ranks
from harness import registry

registry.LEARNERS["stpm"] = "tests.exporters.toy:learn"
sys.exit(ranks.main(sys.argv[1:]))
