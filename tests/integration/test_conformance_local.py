"""This machine as an environment."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

import parallel_exec as px
from tests.conformance import ClosingConformance, Conformance


class TestLocal(Conformance):
    """`Local` does what every environment must."""

    @pytest.fixture
    def environment(self) -> Iterator[px.Environment]:
        """Return this machine."""
        with px.Local() as environment:
            yield environment


class TestClosingLocal(ClosingConformance):
    """`Local` closes as every environment must."""

    @pytest.fixture
    def make_environment(self) -> Callable[[], px.Local]:
        """Return what makes one."""
        return px.Local
