"""What a user asked for, as one frozen value: equal settings share their connections."""

from __future__ import annotations

from dataclasses import dataclass, field

from parallel_exec.environments.ssh.destination import Destination
from parallel_exec.environments.ssh.prompts import Prompt
from parallel_exec.values.secret import Secret

__all__ = ["Settings"]


@dataclass(frozen=True, slots=True)
class Settings:
    """How to reach one host. `SSHBackend` says what each of them means.

    Attributes:
        config: The path of a configuration file; None for the user's and the
            system's; "" for none at all.
        jump: The hops, first one first; None leaves it to the configuration, an
            empty tuple goes there directly.
    """

    destination: Destination
    identity_files: tuple[str, ...] = ()
    password: Secret | None = field(default=None, repr=False)
    passphrase: Secret | None = field(default=None, repr=False)
    prompt: Prompt | None = field(default=None, hash=False)  # not every callable has a hash
    agent: bool = True
    known_hosts: tuple[str, ...] | None = None
    accept_new: bool | None = None
    config: str | None = None
    jump: tuple[Settings, ...] | None = None
    connect_timeout: float | None = None
    max_sessions: int = 10
    keepalive: float | None = None
    keep_idle: float = 300.0

    def for_hop(self, destination: Destination) -> Settings:
        """Return the settings to log in to a jump host that is given by name only.

        Keys and trust are the same; the password is not sent to another host, nor are
        answers of `prompt`, which is not told who asks. Timeouts are the hop's own: hosts
        that differ in theirs still share the way there.
        """
        return Settings(
            destination,
            identity_files=self.identity_files,
            passphrase=self.passphrase,
            agent=self.agent,
            known_hosts=self.known_hosts,
            accept_new=self.accept_new,
            config=self.config,
        )
