"""The options of one command that is run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from parallel_exec.engine.cancel import CancelToken
from parallel_exec.engine.retry import RetryLike
from parallel_exec.values.command import COMMAND_DEFAULTS, Options

if TYPE_CHECKING:
    from parallel_exec.api.environments import Environment

__all__ = ["HERE_DEFAULTS", "RUN_DEFAULTS", "HereOptions", "RunOptions"]


class HereOptions(Options, total=False):
    """The options of the `run` and `submit` of an environment: those of a `Command`, and these.

    Attributes:
        retry: When to try again; see `Retry`. None: never.
        cancel: A token that stops it.
    """

    retry: RetryLike | None
    cancel: CancelToken | None


class RunOptions(HereOptions, total=False):
    """The options of `run` and `submit`: those of a `Command`, and these.

    Attributes:
        environment: Where to run; this machine by default.
        retry: When to try again; see `Retry`. None: never.
        cancel: A token that stops it.
    """

    environment: Environment | None


# As they are shown in signatures.
HERE_DEFAULTS: dict[str, Any] = {**COMMAND_DEFAULTS, "retry": None, "cancel": None}
RUN_DEFAULTS: dict[str, Any] = {**HERE_DEFAULTS, "environment": None}
