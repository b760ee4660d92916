"""Where the output of a command goes: into its result, to this program's own streams, to a file."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from parallel_exec.errors import ConfigError
from parallel_exec.values import checks
from parallel_exec.values.paths import file_path

if TYPE_CHECKING:
    from parallel_exec.values.command import Command

__all__ = ["INHERIT", "MERGED", "check_together", "is_path", "target"]

INHERIT = "inherit"
"""To this program's own stream of that name."""
MERGED = "stdout"
"""Of stderr: to wherever stdout goes, in order."""

NAMES = ("stdout", "stderr")


def target(name: str, value: object) -> str:
    """Return where the stream `name` is to go, if it can go there.

    Raises:
        ConfigError: It cannot.
    """
    wanted = "'inherit' or a path" if name == "stdout" else "'inherit', 'stdout' or a path"
    if not isinstance(value, str | os.PathLike):
        raise checks.refuse(name, value, f"None (captured), {wanted}")
    text = file_path(name, value)
    if isinstance(value, str) and text in NAMES and (name, text) != ("stderr", MERGED):
        raise checks.refuse(name, value, f"{wanted} (a file of that name: './{text}')")
    # What is said by a word stays apart from a file of that name.
    return os.path.join(".", text) if text != value and text in (*NAMES, INHERIT) else text


def is_path(where: str | None) -> bool:
    """Return whether a stream goes to a file."""
    return where is not None and where not in (INHERIT, MERGED)


def check_together(command: Command) -> None:
    """Refuse options that ask for what is not seen of streams that go elsewhere.

    Raises:
        ConfigError: There are some.
    """
    out, err = command.stdout, command.stderr
    if out == INHERIT and command.on_stdout is not None:
        raise _unseen("stdout='inherit'", "on_stdout=")
    if err in (INHERIT, MERGED) and command.on_stderr is not None:
        what = "stderr is inherited" if err == INHERIT else "its lines are those of stdout"
        raise ConfigError(f"stderr={err!r} cannot go with on_stderr=: {what}")
    if out == INHERIT and err in (INHERIT, MERGED):
        for name in ("max_output_bytes", "idle_timeout"):
            if getattr(command, name) is not None:
                raise _unseen(f"stdout='inherit' and stderr={err!r}", f"{name}=")
    if out is not None and err is not None and is_path(out) and is_path(err):
        same = os.path.abspath(out) == os.path.abspath(err)
        if same and not out.startswith("/dev/"):
            raise ConfigError(
                f"stdout and stderr must not both be {checks.shown(out)}: write stderr='stdout'"
            )


def _unseen(given: str, option: str) -> ConfigError:
    return ConfigError(f"{given} cannot go with {option}: what is inherited is not seen here")
