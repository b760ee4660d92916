"""Lists and files of hosts, as groups."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Unpack

from parallel_exec.api.group import Group
from parallel_exec.api.ssh_options import SSH_DEFAULTS, SSHOptions
from parallel_exec.errors import ConfigError
from parallel_exec.values import hosts as nodes
from parallel_exec.values.options import check, takes
from parallel_exec.values.secret import Secret, hide_passwords

__all__ = ["READERS", "hosts"]


KNOWN = {*SSHOptions.__annotations__, "file", "exclude"}


@takes(SSHOptions, **SSH_DEFAULTS)
def hosts(
    *texts: str | Iterable[str],
    file: str | os.PathLike[str] | Iterable[str | os.PathLike[str]] = (),
    exclude: str | Iterable[str] = (),
    **options: Unpack[SSHOptions],
) -> Group:
    """Return hosts as a group: ``px.hosts("web[01-20],db1", exclude="web07")``.

    In a file each line names a host, or several, and then options of `SSH` for it, as
    ``db[1-2] user=root port=2222 sudo=yes``; ``user`` and ``port`` belong to its name.
    A value with blanks stands in quotes, ``#`` begins a comment.

    Args:
        *texts: Names with ranges (``rack[1-2]node[1-4]``), with ``user@`` and ``:port``;
            texts, or lists of them.
        file: The path of a file of hosts, or several.
        exclude: Names to leave out, with ranges too; one without a user or a port leaves
            out the host with any.
        **options: Those of `SSH`, for all of the hosts. What a file says goes over them.

    Returns:
        The hosts, each once, in the order in which they are named.

    Raises:
        ConfigError: A text or a file cannot be read, or an option cannot be used.

    **Blocking:** no; nothing connects before it is used.
    """
    from parallel_exec.api.ssh import SSH

    given: Any = options
    hide_passwords(given)  # before anything can be refused
    check("hosts", given, KNOWN)
    specs = nodes.parse(*_texts(texts), files=file, exclude=exclude)
    return Group(SSH(spec.name, **{**given, **_options(spec)}) for spec in specs)


def _texts(given: Iterable[Any]) -> Iterator[str]:
    """Yield texts, those of lists one by one."""
    for each in given:
        if isinstance(each, Iterable) and not isinstance(each, str | bytes | Mapping):
            yield from each
        else:
            yield each


def _options(spec: nodes.HostSpec) -> dict[str, Any]:
    """Return what a host file says of a host, as `SSH` takes it."""
    options: dict[str, Any] = {}
    # A value may be a secret in the wrong place: it is not told, nor kept by a traceback.
    for name, hidden in [(name, Secret(text)) for name, text in spec.options]:
        if name not in READERS:
            raise ConfigError(f"{name} of {spec.name} in a host file is not an option of SSH")
        if not _read(name, hidden, options):
            raise ConfigError(f"{name} of {spec.name} in a host file cannot be used")
    return options


def _read(name: str, hidden: Secret, options: dict[str, Any]) -> bool:
    """Put the value of an option among `options`; return whether it can be used."""
    try:
        options[name] = READERS[name](hidden.reveal())
    except ValueError:
        return False
    return True


def _switch(text: str) -> bool:
    if text.lower() not in SWITCHES:
        raise ValueError("neither yes nor no")
    return SWITCHES[text.lower()]


def _switch_or_text(text: str) -> bool | str:
    return SWITCHES.get(text.lower(), text)


SWITCHES = {"yes": True, "true": True, "no": False, "false": False}

READERS: dict[str, Callable[[str], Any]] = {
    "identity_file": str,
    "password": Secret,
    "passphrase": Secret,
    "agent": _switch,
    "known_hosts": str,
    "accept_new": _switch,
    "config": _switch_or_text,
    "jump": str,
    "connect_timeout": float,
    "sudo": _switch_or_text,
    "sudo_password": Secret,
    "pty": _switch,
    "max_sessions": int,
    "keepalive": float,
    "keep_idle": float,
}
"""How the options of `SSH` are read from a host file."""
