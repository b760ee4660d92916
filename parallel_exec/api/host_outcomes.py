"""The outcomes of a run on many hosts, and the report of them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, overload

from parallel_exec.text import MESSAGE, plain, plain_lines
from parallel_exec.values import hosts as nodes
from parallel_exec.values.outcome import Outcome, Outcomes, hosts_failed
from parallel_exec.values.result import Result

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    from parallel_exec.api.group import Group

    # A `HostOutcomes` without type arguments is one of anything.
    V_co = TypeVar("V_co", covariant=True, default=Any)
else:
    from typing import TypeVar

    V_co = TypeVar("V_co", covariant=True)

__all__ = ["HostOutcomes"]

LONGEST_COMPARED = 20_000  # lines: comparing takes longer the more there are
LONGEST_LINE = 2000  # characters of a line in a report
LONGEST_ANSWER = 100_000  # characters of an answer in a report

HOST = "{host}"


class HostOutcomes(Outcomes[V_co]):
    """The outcomes of a run on many hosts: by place, and by the name of the host."""

    __slots__ = ("_group", "_places")

    def __init__(self, outcomes: Iterable[Outcome[V_co]], group: Group) -> None:
        super().__init__(outcomes)
        self._group = group
        self._places = {member.name: index for index, member in enumerate(group)}

    @overload
    def __getitem__(self, index: int | str) -> Outcome[V_co]: ...
    @overload
    def __getitem__(self, index: slice) -> Outcomes[V_co]: ...
    def __getitem__(self, index: int | str | slice) -> Outcome[V_co] | Outcomes[V_co]:
        if isinstance(index, str):
            return super().__getitem__(self._places[index])
        return super().__getitem__(index)

    def __contains__(self, item: object) -> bool:
        return item in self._places if isinstance(item, str) else super().__contains__(item)

    def by_host(self) -> dict[str, Outcome[V_co]]:
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
        return type(self._group)(members)

    def raise_for_failures(self) -> None:
        """Do nothing if every host's outcome is fulfilled.

        Raises:
            RunFailedError: The errors of all the others. Its message says which hosts they
                are, folded (``web[01-03]``); a note of each error names its own.
        """
        if not self.ok:
            raise hosts_failed(self.by_host())

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
        Outputs that differ only by the name of their host are the same: ``{host}`` stands
        in them for it. An output that is nearly the first one is shown as its difference
        from that, as ``diff -u`` has it. Then come the errors, equal ones together too.
        What one host alone has said stands as it is.

        It is fit for a terminal: what cannot be printed is escaped, but for tabs; a line is
        cut at 2,000 characters, an answer at 100,000, an error at 4,000.
        """
        answers: list[_Said] = []
        errors: list[_Said] = []
        for name, outcome in self.by_host().items():
            if outcome.ok:
                text, ending = _answer(outcome.value)
                answers.append(_Said(name, text, ending))
            else:
                reason = outcome.reason
                text = f"{outcome.status}: {type(reason).__name__}: {plain(reason, MESSAGE)}"
                errors.append(_Said(name, text))
        parts = []
        first: _Said | None = None
        first_name, first_lines = "", list[str]()
        for said in _folded(answers):
            name = plain(nodes.fold(said.names), MESSAGE)
            heading = _heading(said.names) + said.ending
            if first is None:
                first, first_name, first_lines = said, name, said.lines()
                parts.append("\n".join([f"{heading}:", *first_lines]))
                continue
            lines = said.lines(masked=first.masked)  # to be compared
            if lines == first_lines:
                parts.append(f"{heading}: the same as {first_name}")
            elif _nearly_equal(first_lines, lines):
                diff = difflib.unified_diff(first_lines, lines, first_name, name, lineterm="")
                parts.append("\n".join([f"{heading}, unlike {first_name}:", *diff]))
            else:
                parts.append("\n".join([f"{heading}:", *said.lines()]))
        parts += [f"{_heading(said.names)} {said.text}" for said in _folded(errors)]
        return "\n\n".join(parts) + "\n" * bool(parts)


class _Said:
    """What one host, or several, have said, and how that ended.

    Attributes:
        names: The hosts.
        text: What they said; if `masked`, with ``{host}`` for the name of each.
        ending: How it ended, if that is worth a word.
        masked: Whether it differs between them by their names alone.
    """

    def __init__(self, name: str, text: str, ending: str = "") -> None:
        self.names = [name]
        self.text = text
        self.ending = ending
        self.masked = False

    def pieces(self) -> tuple[str, ...]:
        """Return the text in pieces, without the name of its host: what is equal between
        hosts. In pieces, since a host may say ``{host}``, too.
        """
        words = _own_names(self.names[0])
        if not any(word in self.text for word in words):  # a pattern for each costs more
            return (self.text,)
        either = "|".join(map(re.escape, words))
        return tuple(re.split(rf"(?<![\w-])(?:{either})(?![\w-])", self.text))

    def lines(self, *, masked: bool = False) -> list[str]:
        """Return its lines to show; `masked` without the name of its host."""
        text = HOST.join(self.pieces()) if masked and len(self.names) == 1 else self.text
        lines = plain_lines(text[:LONGEST_ANSWER])
        if len(text) > LONGEST_ANSWER:
            lines.append(f"... and {len(text) - LONGEST_ANSWER:,} more characters")
        return [line if len(line) <= LONGEST_LINE else _cut(line) for line in lines]


def _folded(all_said: Iterable[_Said]) -> list[_Said]:
    """Return what is different, most hosts first: equal texts together, then those that
    differ only by the names of their hosts.
    """
    equal: dict[tuple[str, str], _Said] = {}
    for said in all_said:
        known = equal.setdefault((said.text, said.ending), said)
        if known is not said:
            known.names += said.names
    alike: dict[Any, _Said] = {}
    for said in equal.values():
        key: object = said if len(said.names) > 1 else (said.pieces(), said.ending)
        known = alike.setdefault(key, said)
        if known is not said:
            if not known.masked:
                known.text, known.masked = HOST.join(known.pieces()), True
            known.names += said.names
    return sorted(alike.values(), key=lambda said: -len(said.names))


def _own_names(name: str) -> list[str]:
    """Return how a host may call itself: by its whole name, or without its user and port."""
    host = name.rpartition("@")[2]
    if host.count(":") == 1:
        host = host.partition(":")[0]
    return sorted({name, host} - {""}, key=len, reverse=True)


def _answer(value: object) -> tuple[str, str]:
    """Return what a host answered, and how it ended if that is worth a word."""
    if not isinstance(value, Result):
        return ("" if value is None else str(value)), ""
    ending = ""
    if value.signal is not None:
        ending = f" ended by {plain(value.signal)}"
    elif value.exit_code != 0:
        ending = f" exited with {value.exit_code}"
    return value.text(), ending


def _cut(line: str) -> str:
    return line[: LONGEST_LINE - 3] + "..."


def _heading(names: Sequence[str]) -> str:
    folded = plain(nodes.fold(names), MESSAGE)
    return folded if len(names) == 1 else f"{folded} ({len(names)} hosts)"


def _nearly_equal(first: list[str], lines: list[str]) -> bool:
    """Return whether at least half of the lines are the same."""
    if len(first) + len(lines) > LONGEST_COMPARED:
        return False
    match = difflib.SequenceMatcher(None, first, lines)
    return match.quick_ratio() >= 0.5 and match.ratio() >= 0.5
