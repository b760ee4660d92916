"""The environments that users name, with the ways to run in them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, Unpack, runtime_checkable

from parallel_exec.api.closing import Closing
from parallel_exec.api.run_options import HERE_DEFAULTS, HereOptions
from parallel_exec.environments.base import Backend, Execution, Ticket
from parallel_exec.environments.local import LocalBackend
from parallel_exec.environments.local.backend import no_sudo
from parallel_exec.values.command import COMMAND_DEFAULTS, Command, CommandLike, Options
from parallel_exec.values.options import takes
from parallel_exec.values.result import Result

if TYPE_CHECKING:
    from parallel_exec.api.one import CommandFuture

__all__ = ["Environment", "Local", "Runnable"]


@runtime_checkable
class Environment(Protocol):
    """A place where commands run: what `Local`, `SSH` and your own have in common.

    `name`, `start` and `close` are what a new kind of place must have (see
    `parallel_exec.environments.base.Backend`); `Runnable` adds the rest.
    """

    @property
    def name(self) -> str:
        """What results and errors call it."""

    def start(self, command: Command, ticket: Ticket) -> Execution:
        """Start a command; for the engine."""

    def close(self) -> None:
        """End what still runs, give back what is held. Idempotent."""

    def run(self, command: CommandLike, **options: Unpack[HereOptions]) -> Result:
        """Run one command and wait for it; see `parallel_exec.run`."""

    def submit(self, command: CommandLike, **options: Unpack[HereOptions]) -> CommandFuture:
        """Start one command; see `parallel_exec.submit`."""

    def command(self, command: CommandLike, **options: Unpack[Options]) -> Command:
        """Return a command that is bound to this environment."""


class Runnable(Closing):
    """Gives a backend the methods of an `Environment`."""

    @takes(HereOptions, **HERE_DEFAULTS)
    def run(self, command: CommandLike, **options: Unpack[HereOptions]) -> Result:
        """Run one command here and wait for it; see `parallel_exec.run`."""
        from parallel_exec.api import one

        here: Any = {**options, "environment": self}
        return one.run(command, **here)

    @takes(HereOptions, **HERE_DEFAULTS)
    def submit(self, command: CommandLike, **options: Unpack[HereOptions]) -> CommandFuture:
        """Start one command here; see `parallel_exec.submit`."""
        from parallel_exec.api import one

        here: Any = {**options, "environment": self}
        return one.submit(command, **here)

    @takes(Options, **COMMAND_DEFAULTS)
    def command(self, command: CommandLike, **options: Unpack[Options]) -> Command:
        """Return a command bound to this environment, as a task for `all` and the like.

        Args:
            command: Words, a shell script, or a `Command`.
            **options: The options of `Command`.
        """
        bound = Command.of(command, **{**options, "environment": self})
        place_of(bound)
        return bound


class Local(LocalBackend, Runnable):
    """This machine.

    Commands run in a session of their own, drained by one thread for all of them. Every
    `Local` is alike; one of your own is worth having for its `close`, which ends what
    runs in it.

    **Thread safety:** yes.
    """


def place_of(command: Command) -> Backend:
    """Return where a command runs.

    Raises:
        ConfigError: It cannot run there.
    """
    place = command.environment or LOCAL
    if command.sudo is not None and isinstance(place, LocalBackend):
        raise no_sudo(command)
    return place


LOCAL = Local()  # where commands run that name no environment
