"""One command on many hosts."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Unpack

from parallel_exec.api import many
from parallel_exec.api.closing import Closing
from parallel_exec.api.environments import Environment
from parallel_exec.api.many import ManyOptions
from parallel_exec.api.tasks import Task
from parallel_exec.environments.base import wait_for_starts
from parallel_exec.errors import ConfigError
from parallel_exec.values import checks, hosts as nodes
from parallel_exec.values.command import OPTION_NAMES, Command, CommandLike
from parallel_exec.values.outcome import Outcome, Outcomes
from parallel_exec.values.paths import file_path, for_host
from parallel_exec.values.result import Result
from parallel_exec.values.secret import Secret

__all__ = ["FANOUT", "Group", "HostOutcomes", "hosts"]

FANOUT = 64
"""How many hosts at once where nothing else is asked for."""

PerHost = CommandLike | Mapping[str, CommandLike] | Callable[[Any], CommandLike]


class HostOutcomes(Outcomes[Any]):
    """The outcomes of a run on many hosts: by place, and by the name of the host."""

    __slots__ = ("_group", "_places")

    def __init__(self, outcomes: Iterable[Outcome[Any]], group: Group) -> None:
        super().__init__(outcomes)
        self._group = group
        self._places = {member.name: index for index, member in enumerate(group)}

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, str):
            return super().__getitem__(self._places[index])
        return super().__getitem__(index)

    def __contains__(self, item: object) -> bool:
        return item in self._places if isinstance(item, str) else super().__contains__(item)

    def by_host(self) -> dict[str, Outcome[Any]]:
        """Return the outcomes by the names of their hosts."""
        return {
            name: super(HostOutcomes, self).__getitem__(at) for name, at in self._places.items()
        }

    @property
    def failed(self) -> Group:
        """The hosts whose outcome is not fulfilled, as a group to try again."""
        members = [
            member for member, outcome in zip(self._group, self, strict=True) if not outcome.ok
        ]
        return Group(members)

    def outputs(self) -> list[tuple[str, bytes]]:
        """Return the different outputs, each with the hosts that gave it, most hosts first.

        The hosts are folded to a node set, as ``web[01-20]``. `report` shows the same
        to people.
        """
        groups: dict[bytes, list[str]] = {}
        for name, outcome in self.by_host().items():
            if isinstance(outcome.value, Result):
                groups.setdefault(outcome.value.stdout, []).append(name)
        ordered = sorted(groups.items(), key=lambda item: -len(item[1]))
        return [(nodes.fold(names), output) for output, names in ordered]

    def report(self) -> str:
        """Return what the hosts answered as a text to read: each answer once.

        Hosts with the same output and exit status stand together, most of them first.
        An output that is nearly the first one is shown as its difference from that, as
        ``diff -u`` has it. Then come the errors, equal ones together too: ``{host}``
        stands in them for the name.
        """
        answers: dict[Any, list[str]] = {}
        errors: dict[str, list[str]] = {}
        for name, outcome in self.by_host().items():
            if outcome.ok:
                answers.setdefault(_answer(outcome.value), []).append(name)
            else:
                kind = type(outcome.reason).__name__
                text = f"{kind}: {outcome.reason}".replace(name, "{host}")
                errors.setdefault(f"{outcome.status}: {text}", []).append(name)
        parts = []
        first, first_lines = "", list[str]()
        for (text, ending), names in sorted(answers.items(), key=lambda item: -len(item[1])):
            folded, lines = nodes.fold(names), text.splitlines()
            heading = _heading(names) + ending
            if first and lines == first_lines:
                parts.append(f"{heading}: the same as {first}")
            elif first and _nearly_equal(first_lines, lines):
                diff = difflib.unified_diff(first_lines, lines, first, folded, lineterm="")
                parts.append("\n".join([f"{heading}, unlike {first}:", *diff]))
            else:
                parts.append("\n".join([f"{heading}:", *lines]))
            if not first:
                first, first_lines = folded, lines
        parts += [
            f"{_heading(names)} {text}"
            for text, names in sorted(errors.items(), key=lambda item: -len(item[1]))
        ]
        return "\n\n".join(parts) + "\n" * bool(parts)


LONGEST_COMPARED = 20_000  # lines: comparing takes longer the more there are


def _answer(value: object) -> tuple[str, str]:
    """Return what a host answered, and how it ended if that is worth a word."""
    if not isinstance(value, Result):
        return ("" if value is None else str(value)), ""
    ending = ""
    if value.signal is not None:
        ending = f" ended by {value.signal}"
    elif value.exit_code != 0:
        ending = f" exited with {value.exit_code}"
    return value.text(), ending


def _heading(names: Sequence[str]) -> str:
    folded = nodes.fold(names)
    return folded if len(names) == 1 else f"{folded} ({len(names)} hosts)"


def _nearly_equal(first: list[str], lines: list[str]) -> bool:
    """Return whether at least half of the lines are the same."""
    if len(first) + len(lines) > LONGEST_COMPARED:
        return False
    match = difflib.SequenceMatcher(None, first, lines)
    return match.quick_ratio() >= 0.5 and match.ratio() >= 0.5


class Group(Closing, Sequence[Environment]):
    """Several environments that do the same.

    Args:
        environments: The members, each with a name of its own.

    Raises:
        ConfigError: Two members have the same name.
    """

    def __init__(self, environments: Iterable[Environment]) -> None:
        self._members = tuple(environments)
        names = [member.name for member in self._members]
        twice = (
            {name for name in names if names.count(name) > 1}
            if len(set(names)) < len(names)
            else ()
        )
        if twice:
            raise ConfigError(
                f"environments must have names of their own, not twice {min(twice)!r}"
            )

    def run(self, command: PerHost, **options: Any) -> HostOutcomes:
        """Run a command on every member.

        Args:
            command: One command for all; a mapping of host names to commands; or a
                function that is given the member and returns its command.
            **options: Those of `Command` and those of `ManyOptions`; a `timeout` is the
                command's. ``concurrency`` is 64 by default.

        Returns:
            The outcomes, in the order of the members and by the name of the host.

        Raises:
            ConfigError: An argument cannot be used; nothing was started.

        **Blocking, cancellation, thread safety:** as `parallel_exec.all_settled`.
        """
        own: dict[str, Any] = {k: v for k, v in options.items() if k in OPTION_NAMES}
        rest: Any = {k: v for k, v in options.items() if k not in OPTION_NAMES}
        return self._settle([self._bound(member, command, own) for member in self], rest)

    def put(
        self, source: Any, target: str | os.PathLike[str], *, preserve: bool = False,
        on_progress: Callable[[str, int, int | None], object] | None = None,
        **options: Unpack[ManyOptions],
    ) -> HostOutcomes:  # fmt: skip
        """Copy a file or a directory to every member, many at a time; see `SSH.put`.

        Args:
            source: The local path. A file object can be read once, so for one member only.
            target: The path on the hosts, with ``{host}`` for the name of the member.
            preserve: Whether modes and times are kept.
            on_progress: Called with the member's name, the bytes done and their total
                (None if unknown), by several threads at once.
            **options: See `ManyOptions`.

        Returns:
            The outcomes; each value is a `Transfer`.

        Raises:
            ConfigError: An argument cannot be used; nothing was started.
        """
        if len(self) > 1 and not isinstance(source, str | os.PathLike):
            raise checks.refuse("source", source, "a path: a file object can be read only once")
        return self._copy_all("put", source, target, preserve, on_progress, options)

    def get(
        self, source: str | os.PathLike[str], target: str | os.PathLike[str], *,
        preserve: bool = False,
        on_progress: Callable[[str, int, int | None], object] | None = None,
        **options: Unpack[ManyOptions],
    ) -> HostOutcomes:  # fmt: skip
        """Copy a file or a directory from every member; see `SSH.get`.

        Args:
            source: The path on the hosts.
            target: The local path, with ``{host}`` for the name of the member.
            preserve: Whether modes and times are kept.
            on_progress: As for `put`.
            **options: See `ManyOptions`.

        Returns:
            The outcomes; each value is a `Transfer`.

        Raises:
            ConfigError: An argument cannot be used; nothing was started.
        """
        if len(self) > 1 and "{host}" not in file_path("target", target):
            raise checks.refuse("target", target, "a path with {host} in it, one file a host")
        return self._copy_all("get", source, target, preserve, on_progress, options)

    def _copy_all(
        self,
        way: str,
        source: Any,
        target: str | os.PathLike[str],
        preserve: bool,
        on_progress: Callable[[str, int, int | None], object] | None,
        options: ManyOptions,
    ) -> HostOutcomes:
        # By the member's own name: hosts may differ in their user or port alone.
        template = file_path("target", target, empty=True)
        return self._settle(
            [
                self._copy(
                    way,
                    each,
                    source,
                    for_host("target", template, each.name),
                    preserve,
                    on_progress,
                )
                for each in self
            ],
            options,
        )

    def _copy(
        self,
        way: str,
        member: Environment,
        source: Any,
        target: Any,
        preserve: bool,
        on_progress: Callable[[str, int, int | None], object] | None,
    ) -> Task:
        copy = getattr(member, way, None)
        if copy is None:
            raise ConfigError(f"environments must be SSH hosts to copy files, not {member!r}")
        progress = None if on_progress is None else partial(on_progress, member.name)
        call = partial(copy, source, target, preserve=preserve, progress=progress)
        return Task(call, key=member.name, label=f"{way} {source} {member.name}")

    def close(self) -> None:
        """Close every member, many at a time. Idempotent.

        **Blocking**: until what runs on each of them has ended.
        """
        wait_for_starts()
        used = [member for member in self if not _close_unused(member)]
        closing = []
        with ThreadPoolExecutor(FANOUT, "parallel_exec close") as threads:
            for member in used:
                try:
                    closing.append(threads.submit(member.close))
                except RuntimeError:  # no thread starts, as when the interpreter exits
                    member.close()
        for closed in closing:
            closed.result()

    def _bound(self, member: Environment, command: PerHost, options: dict[str, Any]) -> Command:
        if isinstance(command, Mapping):
            if member.name not in command:
                raise ConfigError(
                    f"command must have one for each host, and has none for {member.name}"
                )
            command = command[member.name]
        elif callable(command):
            command = command(member)
        return member.command(command, **options)

    def _settle(self, tasks: Sequence[Any], options: ManyOptions) -> HostOutcomes:
        chosen: ManyOptions = {"concurrency": FANOUT, **options}
        return HostOutcomes(many.all_settled(tasks, **chosen), self)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, str):
            for member in self._members:
                if member.name == index:
                    return member
            raise KeyError(index)
        return Group(self._members[index]) if isinstance(index, slice) else self._members[index]

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[Environment]:
        return iter(self._members)

    def __repr__(self) -> str:
        return f"<Group of {len(self)}: {nodes.fold(member.name for member in self)}>"


def _close_unused(member: Environment) -> bool:
    """Close a member that was never used, if it knows how; return whether it is closed."""
    close: Callable[[], bool] | None = getattr(member, "close_unused", None)
    return close is not None and close()


def hosts(
    *texts: str,
    file: str | os.PathLike[str] | Iterable[str | os.PathLike[str]] = (),
    exclude: str | Iterable[str] = (),
    **options: Any,
) -> Group:
    """Return hosts as a group: ``px.hosts("web[01-20],db1", exclude="web07")``.

    In a file each line names a host, or several, and then options of `SSH` for it, as
    ``db[1-2] user=root port=2222 sudo=yes``; ``user`` and ``port`` belong to its name.
    A value with blanks stands in quotes, ``#`` begins a comment.

    Args:
        *texts: Names with ranges (``rack[1-2]node[1-4]``), with ``user@`` and ``:port``.
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

    for name in {"password", "passphrase", "sudo_password"} & options.keys():
        if isinstance(options[name], str):  # a refusal keeps this frame in its traceback
            options[name] = Secret(options[name])
    specs = nodes.parse(*texts, files=file, exclude=exclude)
    return Group(SSH(spec.name, **{**options, **_options(spec)}) for spec in specs)


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
    "idle_timeout": float,
}
"""How the options of `SSH` are read from a host file."""
