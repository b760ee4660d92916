"""The public face of SSH hosts, on a real server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import parallel_exec as px
from tests.integration.ssh.server import Server


def options(sshd: Server) -> dict[str, Any]:
    """Return the options with which the server is trusted and lets the tests in."""
    return {
        "identity_file": str(sshd.key),
        "known_hosts": str(sshd.known_hosts),
        "config": False,
    }


def test_a_host_runs_commands_like_any_environment(sshd: Server) -> None:
    """`run`, `command` and `submit` are those of every environment."""
    with px.SSH(sshd.destination, **options(sshd)) as host:
        assert host.run("echo one").text() == "one\n"
        first, second = px.all([host.command("echo two"), "echo three"])
        assert (first.text(), second.text()) == ("two\n", "three\n")
        assert host.submit(["echo", "four"]).result().environment == host.name


def test_a_group_runs_on_every_host_and_copies_files(make_sshd: Any, tmp_path: Path) -> None:
    """Two servers stand for hosts; each answers for itself, and its file is kept apart."""
    servers = [make_sshd(), make_sshd()]
    members = [px.SSH(server.destination, **options(server)) for server in servers]
    with px.Group(members) as group:
        outcomes = group.run("echo $SSH_CONNECTION | cut -d' ' -f4")
        outcomes.raise_for_failures()
        for server in servers:
            assert outcomes[server.destination].value.text().strip() == str(server.port)
        group.get("/etc/hostname", tmp_path / "{host}" / "hostname").raise_for_failures()
        kept = {path.parent.name for path in tmp_path.rglob("hostname")}
        assert len(kept) == len(servers)
