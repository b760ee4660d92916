"""The options of functions: what is said of one that does not exist, and how tools see them.

Functions that share options take them as ``**options``, typed by a `TypedDict`. At run time
a wrong name is refused here, with the right one; `help()` and editors read the options from
the signature that `takes` gives a function.
"""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

from parallel_exec.errors import ConfigError
from parallel_exec.values import checks
from parallel_exec.values.secret import MASK, sensitive

__all__ = ["check", "only_known", "takes", "unknown"]

F = TypeVar("F", bound=Callable[..., Any])

# What other tools call it: the option that does the same here, where the function has it.
SAME = {
    **dict.fromkeys(("max_workers", "n_jobs", "workers", "processes", "threads"), "concurrency"),
    **dict.fromkeys(("num_workers", "jobs", "max_concurrency", "pool_size"), "concurrency"),
    **dict.fromkeys(("retries", "tries", "attempts", "max_retries"), "retry"),
    **dict.fromkeys(("callback", "done_callback", "on_done"), "on_outcome"),
    **dict.fromkeys(("backend", "pool"), "executor"),
    **dict.fromkeys(("token", "cancel_token"), "cancel"),
    **dict.fromkeys(("stdin", "stdin_data", "data"), "input"),
    **dict.fromkeys(("environ", "environment_variables"), "env"),
    **dict.fromkeys(("chdir", "directory", "workdir"), "cwd"),
    **dict.fromkeys(("username", "login"), "user"),
    **dict.fromkeys(("key_filename", "key_file", "pkey", "private_key"), "identity_file"),
    **dict.fromkeys(("gateway", "proxy", "bastion"), "jump"),
    **dict.fromkeys(("forks", "num_threads"), "concurrency"),
}
# What has another way here, or needs none.
OTHERWISE = {
    "shell": "a string is run by the shell, a list of words without one",
    "text": "output is bytes; Result.text() decodes it, and encoding= says how",
    "universal_newlines": "output is bytes; Result.text() decodes it, and encoding= says how",
    "capture_output": "output is captured anyway; capture=False discards it",
    "user": "log in with px.SSH('user@host'), or be another user there with sudo=",
    "host": "run it with px.SSH(host).run(...)",
    "hosts": "run it with px.hosts(hosts).run(...)",
    "preexec_fn": "nothing runs between fork and exec; let the command set itself up",
    "start_new_session": "every command has a session of its own",
    "close_fds": "a command gets no descriptors but its standard ones",
    "return_exceptions": "all_settled returns how every task ended",
    "desc": "progress=px.VisualProgress(label=...)",
    "verbose": "progress=True shows how far it is",
    "idle_timeout": "keep_idle= of SSH says how long an idle connection is kept; idle_timeout= is"
    " an option of commands, which may print nothing for so long",
    "missing_host_key_policy": "known_hosts= and accept_new= say which keys are trusted",
}


def check(function: str, options: Mapping[str, object], known: Collection[str]) -> None:
    """Refuse options that `function` does not have.

    Raises:
        ConfigError: There is one; the message has its value and the name to write instead.
    """
    for name, value in options.items():
        if name not in known:
            raise unknown(function, name, value, known)


def unknown(function: str, name: str, value: object, known: Collection[str]) -> ConfigError:
    """Return the error for an option that `function` does not have."""
    advice = OTHERWISE.get(name)
    if SAME.get(name) in known:
        advice = f"use {SAME[name]}="
    elif SAME.get(name) == "retry" and "attempts" in known:
        advice = "use attempts="
    elif advice is None and (near := difflib.get_close_matches(name, known, 1)):
        advice = f"did you mean {near[0]}=?"
    elif advice is None:
        advice = f"it takes {', '.join(sorted(known))}"
    given = MASK if sensitive(name) else checks.shown(value)
    return ConfigError(f"{function} has no option {name}= (given {given}): {advice}")


def only_known(function: F) -> F:
    """Have a function, or the `__init__` of a class, refuse options that it does not have
    with the error of `check` in place of Python's `TypeError`.
    """
    known = [
        each.name
        for each in inspect.signature(function).parameters.values()
        if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY) and each.name != "self"
    ]

    @functools.wraps(function)
    def checked(*args: Any, **options: Any) -> Any:
        for name, value in options.items():
            if name not in known:
                called = function.__name__
                raise unknown(
                    type(args[0]).__name__ if called == "__init__" else called, name, value, known
                )
        return function(*args, **options)

    return checked  # type: ignore[return-value]


def takes(*sources: type, **defaults: object) -> Callable[[F], F]:
    """Show the options of `sources`, which are `TypedDict`s, in a function's signature.

    Args:
        *sources: What ``**options`` is typed by.
        **defaults: The defaults to show; ``...`` stands for those that are not given.
    """
    names = {name: None for source in sources for name in source.__annotations__}

    def show(function: F) -> F:
        signature = inspect.signature(function)
        kept = [each for each in signature.parameters.values() if each.kind is not each.VAR_KEYWORD]
        present = {each.name for each in kept}
        kept += [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=defaults.get(name, ...))
            for name in names
            if name not in present
        ]
        function.__signature__ = signature.replace(parameters=kept)  # type: ignore[attr-defined]
        return function

    return show
