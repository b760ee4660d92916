"""Names of hosts and users that could become code are refused, whatever door they take."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import parallel_exec as px
from parallel_exec.environments.ssh.config import resolve
from parallel_exec.environments.ssh.destination import Destination
from parallel_exec.errors import ConfigError
from parallel_exec.values.names import host_fault, user_fault

BOTH = [
    *("a'b", 'a"b', "a`b", "a;b", "a&b", "a<b", "a>b", "a|b", "a(b", "a)b", "a{b", "a}b", "a b"),
    *("a\tb", "a\nb", "a\rb", "a\x1bb", "a\x7fb", "a\x00b", "a\u00a0b", "a\u202eb", "-a", "a$(b"),
    *("-oProxyCommand=x", "$(id)", "`id`", "\udcff"),
]
HOSTS = [*BOTH, "a$b", "a\\b", "\\", "$IFS"]
USERS = [*BOTH, "a\\", "\\"]
GOOD_USERS = ["me", "a.b-c_d", "DOMAIN\\me", "me$", "a$b", "me@realm", "a+b", "ü", "a-"]

DOORS: dict[str, Callable[[str], object]] = {
    "SSH": px.SSH,
    "hosts": lambda name: px.hosts(name),
    "jump": lambda name: px.SSH("web", jump=name),
    "jumps": lambda name: px.SSH("web", jump=["first", name]),
    "jump of hosts": lambda name: px.hosts("web[1-2]", jump=name),
    "Destination": lambda name: Destination(*reversed(name.rpartition("@")[::2])),
}


@pytest.mark.parametrize("door", DOORS)
def test_names_that_are_refused(door: str) -> None:
    """Before anything is looked up or run."""
    for text in [f"me@{name}" for name in HOSTS] + [f"{name}@web" for name in USERS]:
        if "hosts" in door and len(text.split()) > 1:
            continue  # there, two names
        with pytest.raises(ConfigError):
            DOORS[door](text)


def test_users_that_are_not() -> None:
    """Those of domains, and those with signs that expand nothing."""
    for name in GOOD_USERS:
        assert user_fault(name) is None
        assert Destination(host="web", user=name).user == name
        px.SSH(f"{name}@web").close()


def test_faults_say_what_and_where() -> None:
    """The sign that cannot be, and its place."""
    assert host_fault("web1.example") is None
    assert host_fault("fe80::1%eth0") is None
    assert host_fault("ab;c") == ("a host cannot have ';'", 2)
    assert host_fault("-a") == ("a host cannot start with '-'", 0)
    assert user_fault("ab\\") == ("a user cannot end with a backslash", 2)
    assert user_fault("a\x1bb`") == ("a user cannot have '\\x1b'", 1)


@pytest.mark.parametrize(
    ("setting", "names"), [("HostName", HOSTS), ("ProxyJump", HOSTS), ("User", USERS)]
)
def test_names_of_the_configuration(tmp_path: Path, setting: str, names: list[str]) -> None:
    """What a HostName turns into, each hop of a ProxyJump, and users."""
    for number, name in enumerate(names):
        path = tmp_path / str(number)
        quoted = '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'
        path.write_text(f"{setting} {quoted}\n", errors="surrogateescape")
        with pytest.raises(ConfigError):
            list(map(Destination.parse, resolve(Destination("web"), str(path)).proxy_jump))


@pytest.mark.parametrize(
    "command",
    ["exit 1 # %h %p %r", "sh -c 'echo %r; exit 1'", "exec false \"%h\" '%r'", "false %r|cat %n"],
)
def test_nothing_is_executed_here(tmp_path: Path, command: str) -> None:
    """A name with everything in it that is let through reaches a proxy's shell as a name."""
    path = tmp_path / "config"
    path.write_text(f"ProxyCommand {command}\n")
    with (
        px.SSH(
            "a$x\\$HOME${IFS@web1".replace("{", ""),
            config=path,
            connect_timeout=5,
            agent=False,
            known_hosts=tmp_path / "none",
        ) as host,
        pytest.raises((px.errors.ConnectError, ConfigError)),
    ):
        host.run("true")
    assert sorted(item.name for item in tmp_path.iterdir()) == ["config"]
