from __future__ import annotations

import numpy as np
import pytest

from harness.blame.outputs import require_tolerance
from harness.errors import UsageError

INF, NAN = np.inf, np.nan


@pytest.mark.parametrize("tolerance", [-1e-9, INF, NAN])
def test_a_negative_or_infinite_tolerance_is_refused(tolerance: float) -> None:
    with pytest.raises(UsageError, match="--tolerance"):
        require_tolerance(tolerance)
    require_tolerance(0.0)
