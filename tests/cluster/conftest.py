"""Two hearts that know each other."""

from __future__ import annotations

import pytest

from tests.cluster.wire import Pair


@pytest.fixture
def pair() -> Pair:
    pair = Pair()
    pair.run(1.0)
    return pair
