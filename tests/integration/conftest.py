"""What tests with real processes share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.processes import Nap


@pytest.fixture
def nap() -> Iterator[Nap]:
    """Return a long sleep of the test's own; whoever still sleeps it afterwards is ended."""
    nap = Nap()
    yield nap
    nap.end()
