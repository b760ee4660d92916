"""Which lines of OpenSSH's configuration apply to a destination: Host, Match, Include."""

from __future__ import annotations

import contextlib
import functools
import getpass
import glob
import math
import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from parallel_exec.environments.ssh import tokens
from parallel_exec.environments.ssh.canonical import canonical
from parallel_exec.environments.ssh.config_file import Line, matches, read
from parallel_exec.environments.ssh.destination import Destination, service
from parallel_exec.errors import ConfigError, ConnectTimeoutError

__all__ = ["Evaluation", "evaluate", "local_user"]

SYSTEM_CONFIG = "/etc/ssh/ssh_config"
MAX_DEPTH = 16  # of Include in Include, as in OpenSSH
WITHIN_S = 15.0  # unless the caller says otherwise
REPEATED = {"identityfile", "certificatefile"}
TIMES = {"connecttimeout", "serveraliveinterval"}


@dataclass(slots=True)
class Evaluation:
    """Values found so far; the first one for a keyword stands.

    Attributes:
        host: The name that ``Host`` is matched with: as it was given, later the final one.
        lines: For each keyword the line that set it first.
        deadline: When commands and name servers must have answered, in monotonic seconds.
        final: Whether the files are read for a second time, with the final name.
    """

    destination: Destination
    host: str
    deadline: float = math.inf
    values: dict[str, list[str]] = field(default_factory=dict)
    lines: dict[str, Line] = field(default_factory=dict)
    final: bool = False
    wants_final: bool = False

    def host_name(self) -> str:
        """Return the name to connect to, as far as it is known now."""
        if "hostname" not in self.values:
            return _small(self.host)
        name = self.values["hostname"][0]
        return _small(tokens.fill_in("HostName", name, {"h": self.host}))

    def first(self, keyword: str, default: str) -> str:
        """Return the value of a setting that has one."""
        return self.values[keyword][0] if keyword in self.values else default


def _small(name: str) -> str:
    """Return a name in small letters; addresses, which have zones, stay."""
    return name if ":" in name else name.lower()


def evaluate(destination: Destination, config: str | None, within: float = WITHIN_S) -> Evaluation:
    """Return the values of the files that apply, without their meaning.

    Args:
        destination: Its user and port win over those of the files.
        config: A file; None for the user's and the system's; "" for none.
        within: Seconds for the commands of ``Match exec`` and for name servers.

    Raises:
        ConnectTimeoutError: They have not answered in time.
        ConfigError: A file cannot be read, is not safe, or has a line that is no setting.
        ConnectError: A canonical name is wanted, and there is none.
    """
    state = Evaluation(destination, destination.host, time.monotonic() + within)
    if destination.user is not None:
        state.values["user"] = [destination.user]
    if destination.port is not None:
        state.values["port"] = [str(destination.port)]
    _apply_all(state, config)
    left = max(0.0, state.deadline - time.monotonic())
    direct = _is_direct(state.values)
    name = canonical(state.host_name(), state.values, direct=direct, within=left)
    canonicalizes = state.first("canonicalizehostname", "no").lower() not in ("no", "false")
    if state.wants_final or canonicalizes:
        state.host = name
        state.values["hostname"] = [name.replace("%", "%%")]
        state.final = True
        _apply_all(state, config)
    return state


def _is_direct(values: dict[str, list[str]]) -> bool:
    ways = [values[keyword][0] for keyword in ("proxycommand", "proxyjump") if keyword in values]
    return all(way.lower() == "none" for way in ways)


def _apply_all(state: Evaluation, config: str | None) -> None:
    home = os.path.expanduser("~/.ssh")
    if config == "":
        return
    if config is not None:
        path = os.path.expanduser(config)
        if not _apply(state, path, home, active=True):
            raise ConfigError(f"config cannot be read: {config!r}")
        return
    _apply(state, os.path.join(home, "config"), home, active=True, own=True)
    _apply(state, SYSTEM_CONFIG, os.path.dirname(SYSTEM_CONFIG), active=True)


def _apply(
    state: Evaluation, path: str, base: str, *, active: bool, own: bool = False, depth: int = 0
) -> bool:
    """Take the values of one file that apply; return False if there is no file.

    Args:
        state: What is known so far.
        path: The file.
        base: The folder of relative names in ``Include``.
        active: Whether the block around the ``Include`` of this file applies.
        own: Whether only this user may be able to change the file.
        depth: How many files include this one.
    """
    if depth > MAX_DEPTH:
        raise ConfigError(f"{path}: more than {MAX_DEPTH} files include each other")
    lines = read(path, own=own)
    if lines is None:
        return False
    outer = active
    for line in lines:
        keyword, words = line.keyword, line.words
        if keyword == "host":
            active = outer and matches(words, state.host, exact_case=True)
        elif keyword == "match":
            active = outer and _match(state, line)
        elif not active:
            continue
        elif keyword == "include":
            for pattern in words:
                pattern = os.path.join(base, os.path.expanduser(pattern))
                for name in sorted(glob.glob(pattern)):
                    _apply(state, name, base, active=active, own=own, depth=depth + 1)
        elif keyword in REPEATED:
            if len(words) > 1:
                raise ConfigError(f"{line.where}: {keyword} has more than one value")
            values = state.values.setdefault(keyword, [])
            values += [word for word in words if word not in values]
            state.lines.setdefault(keyword, line)
        elif keyword in TIMES and words[0] == "none":
            continue  # as if it was not there, in OpenSSH as well
        elif keyword not in state.values:
            state.values[keyword] = list(words)
            state.lines[keyword] = line
    return True


def _match(state: Evaluation, line: Line) -> bool:
    words = list(line.words)
    answer = True
    while words:
        criterion = words.pop(0)
        negated = criterion.startswith("!")
        criterion, equals, argument = criterion.removeprefix("!").partition("=")
        criterion = criterion.lower()
        if criterion == "all":
            hit = True
        elif criterion in ("canonical", "final"):
            state.wants_final = state.wants_final or criterion == "final"
            hit = state.final
        else:
            if not equals:
                if not words:
                    raise ConfigError(f"{line.where}: 'Match {criterion}' has no pattern")
                argument = words.pop(0)
            if not answer:  # a command is not even run then
                continue
            criterion_of = CRITERIA.get(criterion)
            if criterion_of is None:
                raise ConfigError(f"{line.where}: 'Match {criterion}' is not understood")
            hit = criterion_of(state, argument)
        answer = answer and hit != negated
    return answer


def _among(patterns: str, name: str, *, exact_case: bool = True) -> bool:
    return matches(patterns.split(","), name, exact_case=exact_case)


@functools.lru_cache(maxsize=1)
def local_user() -> str:
    """Return the name of the user who runs this process."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return str(os.getuid())


def _exec(state: Evaluation, text: str) -> bool:
    """Run the command of a ``Match exec``; return whether it succeeded."""
    port = service(state.first("port", "22"))
    known = tokens.known_tokens(
        alias=state.destination.host,
        host=state.host_name(),
        user=state.first("user", local_user()),
        port=int(port) if port.isascii() and port.isdigit() else 22,
        key_alias=state.first("hostkeyalias", "").lower() or None,
        local_user=local_user(),
    )
    command = tokens.for_shell("Match exec", text, known)
    process = subprocess.Popen(
        ["/bin/sh", "-c", command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        return process.wait(max(0.0, state.deadline - time.monotonic())) == 0
    except subprocess.TimeoutExpired:
        raise ConnectTimeoutError(f"a command of 'Match exec' does not end: {text!r}") from None
    finally:
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


CRITERIA: dict[str, Callable[[Evaluation, str], bool]] = {
    "exec": _exec,
    "host": lambda state, text: _among(text, state.host_name(), exact_case=False),
    "localuser": lambda state, text: _among(text, local_user()),
    "originalhost": lambda state, text: _among(text, state.destination.host, exact_case=False),
    "sessiontype": lambda state, text: _among(text, "exec"),
    "tagged": lambda state, text: _among(text, state.first("tag", "")),
    "user": lambda state, text: _among(text, state.first("user", local_user())),
}
