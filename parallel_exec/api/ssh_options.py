"""The options of hosts that are named in a list, where the class of `SSH` is not yet imported."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypedDict

from parallel_exec.values.secret import Secret

if TYPE_CHECKING:
    from parallel_exec.environments.ssh.environment import Jump

__all__ = ["SSH_DEFAULTS", "SSHOptions"]


class SSHOptions(TypedDict, total=False):
    """The options of `SSH`, which describes them."""

    user: str | None
    port: int | None
    identity_file: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None
    password: str | Secret | None
    passphrase: str | Secret | None
    prompt: Callable[[str, bool], str | Secret] | None
    agent: bool
    known_hosts: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None
    accept_new: bool | None
    config: str | os.PathLike[str] | bool | None
    jump: Jump | Sequence[Jump] | None
    connect_timeout: float | timedelta | None
    sudo: bool | str
    sudo_password: str | Secret | None
    pty: bool
    max_sessions: int
    keepalive: float | timedelta | None
    keep_idle: float | timedelta


# As they are shown in signatures. Those of `SSH` itself hold; a test compares them.
SSH_DEFAULTS: dict[str, Any] = {
    **dict.fromkeys(SSHOptions.__annotations__),
    "agent": True,
    "sudo": False,
    "pty": False,
    "max_sessions": 10,
    "keep_idle": 300.0,
}
