"""What to run: an argv, or a script for the POSIX shell, with its options."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field, fields, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Protocol, TypedDict, Unpack

from parallel_exec.errors import ConfigError
from parallel_exec.values import checks, shell, streams
from parallel_exec.values.frozen import frozen
from parallel_exec.values.functions import is_function
from parallel_exec.values.names import user_fault
from parallel_exec.values.options import check, takes
from parallel_exec.values.secret import MASK, Secret, encodes, reveal

if TYPE_CHECKING:
    from parallel_exec.environments.base import Backend

__all__ = ["COMMAND_DEFAULTS", "OPTION_NAMES", "Command", "CommandLike", "Options", "sh"]

Word = str | Secret


class Readable(Protocol):
    """As much of a binary file as an input needs."""

    def read(self, size: int, /) -> bytes | None:
        """Return the next bytes, at most `size`; none at the end."""


Input = bytes | str | Secret | Readable


class OptionsButCallbacks(TypedDict, total=False):
    """The `Options` but for those that get the output, which get more of it from hosts."""

    env: Mapping[str, Word | None] | None
    cwd: str | os.PathLike[str] | None
    input: Input | None
    timeout: float | timedelta | None
    kill_after: float | timedelta
    check: bool
    max_output_bytes: int | None
    capture: bool
    label: str | None
    encoding: str
    sudo: bool | str | None
    idle_timeout: float | timedelta | None
    stdout: str | os.PathLike[str] | None
    stderr: str | os.PathLike[str] | None


class Options(OptionsButCallbacks, total=False):
    """The options of a command, by keyword; `Command` describes them."""

    on_stdout: Callable[[str], object] | None
    on_stderr: Callable[[str], object] | None


PLACEHOLDER = re.compile(r"\{\}")

# The usual values; what is one of these objects needs no check.
KILL_AFTER = 5.0
UTF_8 = "utf-8"


@frozen
class Command:
    """A command and its options. Immutable; pickles if its options do.

    Args:
        args: A list of words runs without a shell; a string runs by ``/bin/sh``.
            Another `Command` is taken over, with its options where none are given.
        env: Variables merged over those of the environment; None removes one.
        cwd: The directory to run in.
        input: What the command reads on its standard input: bytes, str (encoded
            with `encoding`) or a readable binary file. Without it, nothing.
        timeout: Seconds from its start after which it is ended with
            `CommandTimeoutError`. None: no limit.
        kill_after: Seconds between TERM and KILL when it is ended.
        check: Whether an exit status other than 0 or a signal is an error. It
            governs these two only: a timeout, an output limit, a cancel and a
            lost connection are always errors.
        max_output_bytes: Bytes kept of stdout and stderr together; one more ends
            the command with `OutputLimitError`. None: no limit.
        capture: Whether the output is kept in the result. With False it is discarded, but for
            callbacks and for what `stdout` and `stderr` send elsewhere.
        label: How reports and errors call it. None: the words themselves.
        on_stdout: Called with each line of stdout while the command runs, as str
            without its line end. It runs in a thread of its own for each command;
            a slow one slows the command down, and one that raises is logged and
            loses nothing.
        on_stderr: The same for stderr.
        encoding: How output becomes text, and text input bytes. Bytes that do not
            decode are replaced.
        sudo: On an SSH host, whether it runs as root (True), as a user (its name) or as
            who has logged in (False), over the host's own `sudo`. None: as the host says.
            On this machine it is a `ConfigError`: write sudo into the command.
        idle_timeout: Seconds without a byte of output, on either stream, after which it is
            ended with `CommandIdleError`, whether or not the output is kept. The time in
            which its output waits for slow callbacks does not count. None: no limit.
        stdout: Where its stdout goes. None: into the result. "inherit": to this program's own
            stdout (descriptor 1, not `sys.stdout`). A path, on this machine wherever the
            command runs: to that file, which is emptied first and grows as output comes;
            relative ones are relative to the directory of this program. What goes
            elsewhere is not in the result. With a path `on_stdout` is called and
            `max_output_bytes` and `idle_timeout` count; what is inherited is not seen.
        stderr: The same for stderr. "stdout": to wherever stdout goes, both in order, and so
            in `Result.stdout` if it is captured, and to `on_stdout`.

    Raises:
        ConfigError: A value cannot be used; the message names it.
    """

    args: str | tuple[Word, ...]
    env: Mapping[str, Word | None] | None = None
    cwd: str | None = None
    input: Input | None = field(default=None, repr=False)
    timeout: float | None = None
    kill_after: float = KILL_AFTER
    check: bool = True
    max_output_bytes: int | None = None
    capture: bool = True
    label: str | None = None
    on_stdout: Callable[[str], object] | None = None
    on_stderr: Callable[[str], object] | None = None
    encoding: str = UTF_8
    environment: Backend | None = None
    sudo: bool | str | None = None
    idle_timeout: float | None = None
    stdout: str | None = None
    stderr: str | None = None
    shell: bool = field(default=False, init=False)

    if TYPE_CHECKING:
        # More is taken than is kept: a list becomes a tuple, a timedelta seconds.
        def __init__(
            self,
            args: CommandLike,
            env: Mapping[str, Word | None] | None = None,
            cwd: str | os.PathLike[str] | None = None,
            input: Input | None = None,  # noqa: A002 - as the field
            timeout: float | timedelta | None = None,
            kill_after: float | timedelta = KILL_AFTER,
            check: bool = True,
            max_output_bytes: int | None = None,
            capture: bool = True,
            label: str | None = None,
            on_stdout: Callable[[str], object] | None = None,
            on_stderr: Callable[[str], object] | None = None,
            encoding: str = UTF_8,
            environment: Backend | None = None,
            sudo: bool | str | None = None,
            idle_timeout: float | timedelta | None = None,
            stdout: str | os.PathLike[str] | None = None,
            stderr: str | os.PathLike[str] | None = None,
        ) -> None: ...

    @staticmethod
    def _refuse(unknown: dict[str, object]) -> None:
        """Be called with options that there are none of; see `frozen`."""
        check("Command", unknown, OPTION_NAMES)

    def __post_init__(self) -> None:
        put = object.__setattr__
        args: Any = self.args
        if isinstance(args, Command):
            self._take_over(args)
        elif isinstance(args, Script):
            put(self, "args", args.words)
            put(self, "shell", True)
        elif isinstance(args, str):
            put(self, "args", (_word("command", args),))
            put(self, "shell", True)
        elif isinstance(args, list) or (isinstance(args, Sequence) and not isinstance(args, bytes)):
            put(self, "args", tuple([_word("command", word) for word in args]))
        else:
            raise checks.refuse("command", args, "a string or a list of words")
        words = self.words
        if not words or (len(words) == 1 and not reveal(words[0]).strip()):
            raise ConfigError("command must not be empty")
        if not self.shell and not reveal(words[0]):
            raise ConfigError("command must name a program, not ''")
        if self.env is not None:
            put(self, "env", _environment(self.env))
        if self.cwd is not None:
            cwd = _word("cwd", self.cwd)
            if isinstance(cwd, Secret):  # errors show it
                raise checks.refuse("cwd", cwd, "a path that may be shown")
            put(self, "cwd", cwd)
        if self.timeout is not None:
            put(self, "timeout", checks.seconds("timeout", self.timeout))
        if self.idle_timeout is not None:
            put(self, "idle_timeout", checks.seconds("idle_timeout", self.idle_timeout))
        if self.kill_after is not KILL_AFTER:
            put(self, "kill_after", checks.seconds("kill_after", self.kill_after, allow_zero=True))
        if self.max_output_bytes is not None:
            checks.count("max_output_bytes", self.max_output_bytes)
        if not isinstance(self.check, bool):
            raise checks.refuse("check", self.check, "True or False")
        if not isinstance(self.capture, bool):
            raise checks.refuse("capture", self.capture, "True or False")
        if self.on_stdout is not None and not is_function(self.on_stdout):
            raise checks.refuse("on_stdout", self.on_stdout, "a function of one line")
        if self.on_stderr is not None and not is_function(self.on_stderr):
            raise checks.refuse("on_stderr", self.on_stderr, "a function of one line")
        if self.label is not None and not isinstance(self.label, str):
            raise checks.refuse("label", self.label, "a string")
        if self.environment is not None and not callable(getattr(self.environment, "start", None)):
            raise checks.refuse("environment", self.environment, "a place for commands")
        if self.sudo is not None:
            check_sudo(self.sudo)
        if self.stdout is not None or self.stderr is not None:
            if self.stdout is not None:
                put(self, "stdout", streams.target("stdout", self.stdout))
            if self.stderr is not None:
                put(self, "stderr", streams.target("stderr", self.stderr))
            streams.check_together(self)
        if self.encoding is not UTF_8:
            _check_encoding(self.encoding)
        if self.input is not None:
            _check_input(self.input, self.encoding)

    def _take_over(self, other: Command) -> None:
        """Take what `other` runs, and its options where this one has none of its own."""
        for item in fields(self):
            own = getattr(self, item.name)
            if item.name in ("args", "shell") or own is item.default:
                object.__setattr__(self, item.name, getattr(other, item.name))

    @classmethod
    def of(cls, command: CommandLike, **options: Any) -> Command:
        """Return `command` as a `Command`, with `options` over its own."""
        if not isinstance(command, Command):
            command = cls(command, **_known("a command", options)) if options else cls(command)
        elif options:
            command = command.replace(**options)
        return command

    def replace(self, **options: Any) -> Command:
        """Return a copy with other `options`; the command itself stays."""
        words: Any = Script(self.words) if self.shell else self.words
        return replace(self, args=words, **_known("a command", options))

    @property
    def words(self) -> tuple[Word, ...]:
        """The words as given, secrets still masked; a script is joined to one."""
        return self.args  # type: ignore[return-value]

    def argv(self) -> list[str]:
        """Return the plain words to execute, secrets revealed."""
        if self.shell:
            script = self.script()
            # A script that begins like an option would be taken for one.
            return ["/bin/sh", "-c", f" {script}" if script[:1] in ("-", "+") else script]
        return [word if type(word) is str else reveal(word) for word in self.args]

    def script(self) -> str:
        """Return the plain shell text to execute, secrets revealed."""
        if self.shell:
            return "".join(reveal(word) for word in self.words)
        return shlex.join(reveal(word) for word in self.words)

    def has_secrets(self) -> bool:
        """Return whether a word of it is a `Secret`."""
        return any(isinstance(word, Secret) for word in self.words)

    def secrets(self) -> list[Secret]:
        """Return all secrets in it: of its words, its variables and its input."""
        values = (*self.words, *(self.env or {}).values(), self.input)
        return [value for value in values if isinstance(value, Secret)]

    def input_bytes(self) -> bytes | None:
        """Return `input` as bytes, or None if there is none or it is a file."""
        value = self.input
        if isinstance(value, Secret):
            value = value.reveal()
        if isinstance(value, str):
            return value.encode(self.encoding)
        return bytes(value) if isinstance(value, bytes | bytearray | memoryview) else None

    def __str__(self) -> str:
        """Return the label, or the words with secrets masked."""
        if self.label is not None:
            return self.label
        if self.shell:
            return "".join(map(str, self.words))
        return " ".join(MASK if isinstance(w, Secret) else shlex.quote(w) for w in self.words)

    def __repr__(self) -> str:
        shown = []
        for item in fields(self):
            value = getattr(self, item.name)
            if item.repr and item.name not in ("args", "shell") and value != item.default:
                shown.append(f", {item.name}={value!r}")
        words = repr("".join(map(str, self.words))) if self.shell else repr(list(self.words))
        return f"Command({words}{''.join(shown)})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Command):
            return NotImplemented
        return all(getattr(self, f.name) == getattr(other, f.name) for f in fields(self))

    def __hash__(self) -> int:
        return hash((self.args, self.shell, self.cwd, self.timeout, self.label))


CommandLike = str | Sequence[Word | bytes | os.PathLike[str]] | Command


class Script:
    """Shell text in pieces, so that secret pieces stay masked."""

    __slots__ = ("words",)

    def __init__(self, words: tuple[Word, ...]) -> None:
        self.words = words


def sh(template: str, *values: object, **options: Unpack[Options]) -> Command:
    """Return a shell command with every value quoted: ``sh("grep {} {}", pattern, path)``.

    Only a literal ``{}`` is replaced; every other brace is left to the shell. A ``{}`` may
    stand bare, as a part of a word, or within single or double quotes.

    Args:
        template: The script, with ``{}`` where a value goes.
        *values: str, bytes, `Secret`, path or number. Each becomes exactly one word, or a
            part of the word that its ``{}`` is a part of.
        **options: The options of `Command`.

    Raises:
        ConfigError: The number of values differs from the number of ``{}``, or a ``{}``
            stands where no quotes keep a value together: within backticks, ``$(...)``
            inside double quotes, ``${...}``, ``$((...))``, ``$'...'``, a here-document or
            a comment. Such a value goes by ``env=``, and ``"$NAME"`` takes its place.
    """
    if not isinstance(template, str):
        raise checks.refuse("template", template, "a string")
    _word("template", template)
    places = list(shell.scan(template, PLACEHOLDER))
    if len(places) != len(values):
        were = "value was" if len(values) == 1 else "values were"
        raise ConfigError(
            f"the template has {len(places)} {{}} but {len(values)} {were} given: {template!r}"
        )
    words: list[Word] = []
    end = 0
    for number, (place, value) in enumerate(zip(places, values, strict=True), 1):
        if place.refused is not None:
            raise ConfigError(
                f"the template has its {{}} number {number} {place.refused}, where a value could"
                " become code: hand the value over by env={'NAME': value} and write"
                f' "$NAME" there: {template!r}'
            )
        words += [template[end : place.found.start()], _quoted(value, place.quotes)]
        end = place.found.end()
    words.append(template[end:])
    return Command(Script(tuple(word for word in words if word != "")), **_known("sh", options))  # type: ignore[arg-type]


def _quoted(value: object, quotes: str) -> Word:
    if isinstance(value, Secret):
        _word("value", value)
        return value.made_into(shell.put_in(value.reveal(), quotes))
    if isinstance(value, int | float):
        value = str(value)
    return shell.put_in(_word("value", value), quotes)  # type: ignore[arg-type]


def _known(function: str, options: dict[str, Any]) -> dict[str, Any]:
    check(function, options, OPTION_NAMES)
    return options


def _word(name: str, value: object) -> Word:
    """Return `value` as one word: a string without NUL."""
    if type(value) is str and value.isascii() and "\0" not in value:  # as nearly always
        return value
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, bytes):
        value = os.fsdecode(value)
    if not isinstance(value, str | Secret):
        raise checks.refuse(name, value, "made of strings")
    if "\0" in reveal(value):
        raise checks.refuse(name, value, "free of NUL bytes")
    if not encodes(value, errors="surrogateescape"):
        raise checks.refuse(name, value, "free of lone surrogates, which cannot be encoded")
    return value


def _environment(env: object) -> dict[str, Word | None]:
    if not isinstance(env, Mapping):
        raise checks.refuse("env", env, "a mapping of names to strings")
    for name, value in env.items():
        if not isinstance(name, str) or not name or "=" in name or "\0" in name:
            raise ConfigError(f"env has a name that cannot be one: {name!r}")
        if not encodes(name, errors="surrogateescape"):
            raise ConfigError(f"env has a name that cannot be encoded: {name!r}")
        if value is not None and not isinstance(value, str | Secret):
            raise ConfigError(f"env[{name!r}] must be a string or None, not {checks.shown(value)}")
        if value is not None and "\0" in reveal(value):
            raise ConfigError(f"env[{name!r}] must be free of NUL bytes, not {checks.shown(value)}")
        if value is not None and not encodes(value, errors="surrogateescape"):
            raise checks.refuse(
                f"env[{name!r}]", value, "free of lone surrogates, which cannot be encoded"
            )
    return dict(env)


def check_sudo(sudo: object) -> None:
    """Raise ConfigError for what cannot be the value of ``sudo=``."""
    if not isinstance(sudo, bool | str) or sudo == "":
        raise checks.refuse("sudo", sudo, "True, False or a user")
    fault = user_fault(sudo) if isinstance(sudo, str) else None
    if fault is not None:
        raise ConfigError(f"sudo cannot be {checks.shown(sudo)}: {fault.what}")


def _check_encoding(encoding: object) -> None:
    try:
        b"x".decode(encoding, "replace")  # type: ignore[arg-type]
    except (LookupError, TypeError, ValueError):
        raise checks.refuse("encoding", encoding, "the name of a text encoding") from None


def _check_input(value: object, encoding: str) -> None:
    known = bytes | bytearray | memoryview | str | Secret
    if not isinstance(value, known) and not hasattr(value, "read"):
        raise checks.refuse("input", value, "bytes, str or a readable binary file")
    if isinstance(value, str | Secret):
        usual = encoding is UTF_8 and reveal(value).isascii()
        if not usual and not encodes(value, encoding):
            raise checks.refuse("input", value, f"text that {encoding} can encode")


COMMAND_DEFAULTS = {each.name: each.default for each in fields(Command) if each.init}
del COMMAND_DEFAULTS["args"]
OPTION_NAMES = COMMAND_DEFAULTS.keys()
sh = takes(Options, **COMMAND_DEFAULTS)(sh)
