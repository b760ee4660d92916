"""One command, or one function, on many hosts."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from typing import Any, TypeVar, Unpack

from parallel_exec.api.closing import Closing
from parallel_exec.api.environments import Environment
from parallel_exec.api.host_outcomes import HostOutcomes
from parallel_exec.api.many import DEFAULTS, Many, ManyOptions, executor_of, limit_of, work_of
from parallel_exec.api.ssh_options import SSH_DEFAULTS, SSHOptions
from parallel_exec.api.tasks import Task
from parallel_exec.api.waves import Waves
from parallel_exec.engine.task import Work
from parallel_exec.engine.work import Broken, Call, Send, name_of
from parallel_exec.environments.base import wait_for_starts
from parallel_exec.errors import ConfigError
from parallel_exec.limits.composed import AllOf
from parallel_exec.observers.live import print_line
from parallel_exec.text import MESSAGE, plain
from parallel_exec.values import checks, hosts as nodes, shell, streams
from parallel_exec.values.command import (
    COMMAND_DEFAULTS,
    OPTION_NAMES,
    Command,
    CommandLike,
    OptionsButCallbacks,
)
from parallel_exec.values.functions import is_function
from parallel_exec.values.options import check, takes
from parallel_exec.values.paths import file_path, for_host
from parallel_exec.values.result import Result
from parallel_exec.values.secret import hide_passwords
from parallel_exec.values.transfer import Transfer

__all__ = ["FANOUT", "Group"]

FANOUT = 64
"""How many hosts at once where nothing else is asked for."""

PerHost = CommandLike | Mapping[str, CommandLike] | Callable[[Any], CommandLike]

T = TypeVar("T")


class GroupOptions(OptionsButCallbacks, ManyOptions, total=False):
    """The options of `Group.run`: those of a command, but where it runs, and of many."""

    on_stdout: Callable[[str, str], object] | None
    on_stderr: Callable[[str, str], object] | None


FANNED = {**DEFAULTS, "concurrency": FANOUT}
RUN_DEFAULTS = {**FANNED, **COMMAND_DEFAULTS}
MANY = ManyOptions.__annotations__.keys()
RUN = {*GroupOptions.__annotations__, "waves", "live"}
MAP = {*MANY, "waves"}
GET = {*MANY, "preserve", "on_progress"}
PUT = {*GET, "waves"}

HOST = re.compile(r"\{host\}")
PLAIN_NAME = re.compile(r"(?![0-9]+\Z)[A-Za-z0-9][A-Za-z0-9@:._-]*\Z")  # alike in all quotes
KEYWORDS = frozenset(
    (
        *(
            "if",
            "then",
            "else",
            "elif",
            "fi",
            "do",
            "done",
            "case",
            "esac",
            "while",
            "until",
            "for",
        ),
        *("in", "time", "function", "select", "coproc"),
    )
)


class Group(Closing, Sequence[Environment]):
    """Several environments that do the same.

    Args:
        environments: The members, each with a name of its own: environments, or the names
            of hosts, which become `SSH`. (`hosts` understands lists and ranges.)
        **options: Those of `SSH`, for the members that are given by name.

    Raises:
        ConfigError: Two members have the same name, or one is neither a name nor an
            environment.
    """

    @takes(SSHOptions, **SSH_DEFAULTS)
    def __init__(
        self, environments: Iterable[Environment | str], **options: Unpack[SSHOptions]
    ) -> None:
        self._members: tuple[Environment, ...] = ()
        known: Any = options
        hide_passwords(known)  # before anything can be refused
        check("Group", known, SSHOptions.__annotations__)
        if isinstance(environments, str | bytes | Mapping) or not isinstance(
            environments, Iterable
        ):
            wanted = "a list of environments or of names (px.hosts takes names in one text)"
            raise checks.refuse("environments", environments, wanted)
        given = list(environments)
        if options and not any(isinstance(each, str) for each in given):
            raise ConfigError(
                f"{min(options)} is an option of SSH, for members that are given by name: here"
                " are environments only, which have options of their own"
            )
        self._members = tuple(_member(each, known) for each in given)
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

    @takes(GroupOptions, **RUN_DEFAULTS)
    def run(
        self,
        command: PerHost,
        *,
        waves: Sequence[int | str] | None = None,
        live: bool = False,
        **options: Unpack[GroupOptions],
    ) -> HostOutcomes[Result]:
        """Run a command on every member.

        Args:
            command: One command for all: shell text, in which ``{host}`` stands for the
                name of the member, quoted where it must be; words or a `Command`, which
                are taken as they are. Or a mapping of host names to commands. Or a
                function that is given the member and returns its words or its `Command`;
                it is called in this thread, and before the wave of the host. One that
                raises, or returns anything else, fails for its host alone. A function that
                does the work itself goes to `map`.
            waves: The sizes of successive waves, the last of which repeats: numbers of
                hosts and shares of all ("10%", rounded up). A wave begins when the one
                before has succeeded: every host has, but for `max_failures`, which counts
                in each wave. When a wave fails, what runs is let finish, and the rest is
                ``skipped``. None: all at once.
            live: Whether the lines of output are printed as they come, whole and with the
                name of their host, stdout's to stdout and stderr's to stderr. What cannot
                be printed is escaped. They are captured all the same.
            **options: Those of `Command` and those of `ManyOptions`; a `timeout` is the
                command's. ``concurrency`` is 64 by default. `on_stdout` and `on_stderr`
                are called with the member's name and the line; those of a `Command`
                itself with the line. A path given as `stdout` or `stderr` has ``{host}``
                in it, for the name of the member.

        Returns:
            The outcomes, in the order of the members and by the name of the host.

        Raises:
            ConfigError: An argument cannot be used; nothing was started.

        **Blocking, cancellation, thread safety:** as `parallel_exec.all_settled`.
        """
        check("Group.run", options, RUN)
        own: dict[str, Any] = {k: v for k, v in options.items() if k in OPTION_NAMES}
        rest: Any = {k: v for k, v in options.items() if k not in OPTION_NAMES}
        if not isinstance(live, bool):
            raise checks.refuse("live", live, "True or False")
        for name in ("on_stdout", "on_stderr"):
            if own.get(name) is not None and not is_function(own[name]):
                raise checks.refuse(name, own[name], "a function of a host's name and a line")
        for name in ("stdout", "stderr"):
            of_command = getattr(command, name) if isinstance(command, Command) else None
            _check_stream(name, own.get(name, of_command), len(self), live)
        work = work_of(executor_of(rest), rest.get("timeout"))
        bind = partial(self._bound, options=own, live=live)
        if not callable(command):
            bound = [bind(member, self._command_of(member, command)) for member in self]
            return self._settle(bound, work, "Group.run", rest, waves)

        def make(member: Environment) -> Work:
            try:
                return work(bind(member, _returned(command, member)))
            except Exception as error:  # it is this host's failure alone
                return _Failed(error, label=f"{name_of(command)}({member.name})")

        return self._settle(self._members, make, "Group.run", rest, waves)

    @takes(ManyOptions, **FANNED)
    def map(
        self,
        fn: Callable[[Any], T],
        *,
        waves: Sequence[int | str] | None = None,
        **options: Unpack[ManyOptions],
    ) -> HostOutcomes[T]:
        """Call a function for every member, many at once, each in a thread.

        Args:
            fn: Called with the member. Whatever it does there (`run`, `put`, several
                commands, any Python in between), what it returns is the value of the
                host's outcome. One that raises fails for its host alone.
            waves: As for `run`.
            **options: See `ManyOptions`. ``concurrency`` is 64 by default. Limits by host
                (`PerHost`) hold.

        Returns:
            The outcomes, in the order of the members and by the name of the host.

        Raises:
            ConfigError: An argument cannot be used; nothing was started.

        **Blocking, cancellation, thread safety:** as `parallel_exec.all_settled`.
        """
        check("Group.map", options, MAP)
        given: Any = fn
        if not is_function(given):
            raise checks.refuse("fn", fn, "a function of one environment")
        executor = executor_of(options)

        def make(member: Environment) -> Work:
            label = f"{name_of(fn)}({member.name})"
            if executor is not None:
                return Send(executor, fn, (member,), label=label)
            return _OnHost(fn, member, label)

        return self._settle(self._members, make, "Group.map", options, waves)

    @takes(ManyOptions, **FANNED)
    def put(
        self, source: Any, target: str | os.PathLike[str], *, preserve: bool = False,
        on_progress: Callable[[str, int, int | None], object] | None = None,
        waves: Sequence[int | str] | None = None,
        **options: Unpack[ManyOptions],
    ) -> HostOutcomes[Transfer]:  # fmt: skip
        """Copy a file or a directory to every member, many at a time; see `SSH.put`.

        Args:
            source: The local path. A file object can be read once, so for one member only.
            target: The path on the hosts, with ``{host}`` for the name of the member.
            preserve: Whether modes and times are kept.
            on_progress: Called with the member's name, the bytes done and their total
                (None if unknown), by several threads at once.
            waves: As for `run`.
            **options: See `ManyOptions`.

        Returns:
            The outcomes; each value is a `Transfer`.

        Raises:
            ConfigError: An argument cannot be used; nothing was started.
        """
        check("Group.put", options, PUT)
        if len(self) > 1 and not isinstance(source, str | os.PathLike):
            raise checks.refuse("source", source, "a path: a file object can be read only once")
        return self._copy_all("put", source, target, preserve, on_progress, options, waves)

    @takes(ManyOptions, **FANNED)
    def get(
        self, source: str | os.PathLike[str], target: str | os.PathLike[str], *,
        preserve: bool = False,
        on_progress: Callable[[str, int, int | None], object] | None = None,
        **options: Unpack[ManyOptions],
    ) -> HostOutcomes[Transfer]:  # fmt: skip
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
        check("Group.get", options, GET)
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
        waves: Sequence[int | str] | None = None,
    ) -> HostOutcomes[Transfer]:
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
            work_of(executor_of(options), None),
            f"Group.{way}",
            options,
            waves,
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

    def _command_of(self, member: Environment, command: Any) -> CommandLike:
        """Return what a member shall run, of a command for all or a mapping."""
        if isinstance(command, Mapping):
            if member.name not in command:
                raise ConfigError(
                    f"command must have one for each host, and has none for {member.name}"
                )
            command = command[member.name]
        return _filled(command, member.name) if isinstance(command, str) else command

    def _bound(
        self, member: Environment, command: CommandLike, *, options: dict[str, Any], live: bool
    ) -> Command:
        own: dict[str, Any] = {}
        for name in ("stdout", "stderr"):
            call = options.get(f"on_{name}")
            where = options.get(name, getattr(command, name, None))
            # Where stderr goes with stdout, its lines are heard there.
            if call is not None or (live and (name, where) != ("stderr", streams.MERGED)):
                hear = partial(_hear, member.name, call, name if live else None)
                own[f"on_{name}"] = hear
            if where is not None and streams.is_path(where := streams.target(name, where)):
                own[name] = for_host(name, where, member.name)
        return member.command(command, **{**options, **own})

    def _settle(
        self,
        items: Sequence[Any],
        make: Callable[[Any], Work],
        name: str,
        options: ManyOptions,
        waves: Sequence[int | str] | None = None,
    ) -> HostOutcomes[Any]:
        chosen: ManyOptions = {"concurrency": FANOUT, **options}
        if waves is None:
            return HostOutcomes(_outcomes(Many(items, make, name, chosen)), self)
        names = [member.name for member in self]
        with closing(Waves(waves, names, chosen)) as plan:
            limit = AllOf(plan.gate, limit_of(chosen["concurrency"]))
            chosen = {**plan.options, "concurrency": limit}
            many = Many(items, make, name, chosen, also=plan.rule)
            return HostOutcomes(_outcomes(many), self)

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
        names = plain(nodes.fold(member.name for member in self), MESSAGE)
        return f"<Group of {len(self)}: {names}>"


class _Failed(Broken):
    """What a function has failed to give. It fails when its turn, and its wave, has come."""

    __slots__ = ()

    exempt = False


class _OnHost(Call):
    """A function that is called for a host, whose limit holds for it."""

    __slots__ = ("host",)

    def __init__(self, fn: Callable[[Any], Any], member: Environment, label: str) -> None:
        super().__init__(fn, (member,), label=label)
        self.host = member.name


def _outcomes(many: Many) -> list[Any]:
    with closing(many.settled()) as settled:
        tasks = sorted(settled, key=lambda task: task.index)
    return [task.outcome() for task in tasks]


def _member(given: Any, options: dict[str, Any]) -> Environment:
    """Return a member, made of its name if that was given."""
    from parallel_exec.api.ssh import SSH

    if isinstance(given, str):
        host = given.rpartition("@")[2]
        if any(sign in host[1:] for sign in "[,!") or host[:1] in ",!":
            raise ConfigError(
                f"environments must have one name each, and no ranges, which px.hosts takes:"
                f" {checks.shown(given)}"
            )
        return SSH(given, **options)
    if not callable(getattr(given, "start", None)) or not isinstance(
        getattr(given, "name", None), str
    ):
        raise checks.refuse("environments", given, "made of environments and names of hosts")
    member: Environment = given
    return member


def _returned(function: Callable[[Any], Any], member: Environment) -> CommandLike:
    """Return the command that a function gives for a host."""
    command = function(member)
    if isinstance(command, Command) or (
        isinstance(command, Sequence) and not isinstance(command, str | bytes)
    ):
        return command
    kind = "plain text" if isinstance(command, str) else f"a {type(command).__name__}"
    raise ConfigError(
        f"a function given to Group.run must return the command of its host, words or a Command"
        f" (as px.sh and px.Command make them), and {name_of(function)} returned {kind} for"
        f" {member.name}. Group.map takes functions that do the work themselves"
    )


def _filled(text: str, name: str) -> str:
    """Return shell text with a host's name in the place of each ``{host}``: as one word, or
    a part of one.
    """
    if not HOST.search(text):
        return text
    if PLAIN_NAME.match(name) and name not in KEYWORDS:
        return text.replace("{host}", name)
    parts: list[str] = []
    end = 0
    for place in shell.scan(text, HOST):
        if place.refused is not None:
            raise ConfigError(
                f"command has {{host}} {place.refused}, where the name {name!r} could become"
                f" code: {checks.shown(text)}"
            )
        parts += [text[end : place.found.start()], shell.put_in(name, place.quotes)]
        end = place.found.end()
    return "".join([*parts, text[end:]])


def _check_stream(name: str, where: object, hosts: int, live: bool) -> None:
    """Refuse one file for many hosts, and what cannot be printed line by line.

    Raises:
        ConfigError: `where`, given for all hosts, is such.
    """
    if where is None:
        return
    given = streams.target(name, where)
    if live and given == streams.INHERIT:
        raise ConfigError(f"{name}='inherit' cannot go with live=True, which prints its lines")
    if hosts > 1 and streams.is_path(given) and "{host}" not in given:
        raise checks.refuse(name, where, "a path with {host} in it, one file a host")


def _hear(
    name: str, call: Callable[[str, str], object] | None, stream: str | None, line: str
) -> None:
    """Hand on a line of a host's output."""
    if stream is not None:
        print_line(name, line, stream)
    if call is not None:
        call(name, line)


def _close_unused(member: Environment) -> bool:
    """Close a member that was never used, if it knows how; return whether it is closed."""
    close: Callable[[], bool] | None = getattr(member, "close_unused", None)
    return close is not None and close()
