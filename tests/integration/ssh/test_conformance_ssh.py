"""A host that is reached by SSH as an environment."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import parallel_exec as px
from tests.conformance import ClosingConformance, Conformance
from tests.integration.ssh.server import Server


class TestSSH(Conformance):
    """`SSH` does what every environment must."""

    @pytest.fixture
    def environment(self, sshd: Server) -> Iterator[px.Environment]:
        """Return a host."""
        with px.SSH(sshd.destination, **sshd.options) as environment:
            yield environment


class TestClosingSSH(ClosingConformance):
    """`SSH` closes as every environment must."""

    @pytest.fixture
    def make_environment(self, sshd: Server) -> Callable[[], px.SSH]:
        """Return what makes one."""
        return lambda: px.SSH(sshd.destination, **sshd.options)


class TestDropbear(Conformance):
    """So it does where the server is another."""

    @pytest.fixture
    def environment(self, dropbear: Server) -> Iterator[px.Environment]:
        """Return a host."""
        with px.SSH(dropbear.destination, **dropbear.options) as environment:
            yield environment

    def test_much_in_and_much_out_does_not_deadlock(self, environment: px.Environment) -> None:
        """The same without ``/dev/stderr``: the pipes there are not the account's to open."""
        data = os.urandom(1 << 21)
        script = "cd $(mktemp -d) && mkfifo p && { cat p >&2 & tee p; wait; rm -r $PWD; }"
        result = environment.run(script, input=data)
        assert result.stdout == data
        assert result.stderr == data

    def test_background_children_that_print_get_time(self, environment: px.Environment) -> None:
        """They do not: this server closes the line when the command itself has ended."""
        result = environment.run("(sleep 100000; echo late) & echo early", kill_after=1)
        assert result.lines() == ["early"]
        assert result.ok

    def test_background_children_that_print_to_a_file_get_time(
        self, environment: px.Environment, tmp_path: Path
    ) -> None:
        """They do not here either."""
        script = "(sleep 100000; echo late) & echo early"
        environment.run(script, stdout=tmp_path / "out", kill_after=1)
        assert (tmp_path / "out").read_text() == "early\n"
