"""Where the words of a shell script can take a value: a scanner of POSIX shell words.

A value is put in by single quotes of its own. Outside of quotes that is all; within
``'...'`` or ``"..."`` the quotes around it are closed before it and opened again behind.
Anywhere else a quote may mean something else, or nothing, and a value could get out of
it: there none is put in. Where shells disagree on how a script goes on (dash and bash are
measured in `tests/property/test_shell.py`), nothing behind that point takes a value.

The scanner knows nothing of what commands do with their arguments: a value that is handed
to ``eval`` or to another shell's ``-c`` is that one's script.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["Placeholder", "put_in", "scan"]

PLAIN, SINGLE, DOUBLE = "", "'", '"'

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*|[0-9@*#?$!-]")
HERE = re.compile(
    r"""<<(?P<tabs>-?)[ \t]*"""
    r"""(?:(?P<bare>[\w.!+-]+)|\\?(?P<quote>['"]?)(?P<kept>[\w.!+-]+)(?P=quote))"""
    r"""(?=[ \t\n;&|()<>]|\Z)"""
)
BRACKET = re.compile(r"(?:[A-Za-z_]\w*(?:\\\n)*)?\[(?!\s|\[\s)", re.ASCII)  # at the start of a word
GLOB = re.compile(r"""\w*\[[^'"\\`$\s\[\](){}<>;&|]*\](?!\+?=)""", re.ASCII)
SUBSCRIPT = re.compile(r"[^\s;&|<>]*\]\+?=")
BALANCED = re.compile(r"""(?:[^'"\\]|\\.|'[^']*'|"(?:[^"\\]|\\.)*")*""", re.DOTALL)
SIMPLE_EXPANSION = re.compile(r"""\$\{\w+\}|\$\([^()'"\\`#\n]*\)""", re.ASCII)
CASE = re.compile(r"case(?![^\s;&|()<>'\"\\$`])")


@dataclass(frozen=True, slots=True)
class Placeholder:
    """One place of a template that wants a value.

    Attributes:
        found: What the pattern found there.
        quotes: The quotes it stands in: "" for none, a single or a double one.
        refused: Why no value can be put in here ("within backticks"); None if it can.
    """

    found: re.Match[str]
    quotes: str
    refused: str | None


def scan(template: str, pattern: re.Pattern[str]) -> Iterator[Placeholder]:
    """Yield the placeholders of a script in order, each with where it stands.

    Args:
        template: A script for a POSIX shell.
        pattern: Finds the placeholders. None of them may have quotes, backslashes, blanks
            or other signs of the shell's in it, but for ``{``, ``}`` and ``%``.
    """
    where = _Scanner(template).places()
    for found in pattern.finditer(template):
        around = where[found.start() : found.end()]
        refused = next((place for place in around if len(place) > 1), None)
        if refused is None and len(set(around)) > 1:
            refused = "on a quote"
        if refused is None and SUBSCRIPT.match(template, found.end()):
            refused = "within a subscript"  # which is arithmetic
        yield Placeholder(found, around[0] if refused is None else "", refused)


def put_in(value: str, quotes: str) -> str:
    """Return the text that makes `value` a part of a word, within these `quotes`.

    It is always quoted: a bare value could be a keyword, an assignment, or the number in
    front of a ``>``.
    """
    quoted = "'" + value.replace("'", "'\"'\"'") + "'"
    return quotes + quoted + quotes


class _DoubtError(Exception):
    """Nothing from here on takes a value; the text says why."""


class _Scanner:
    """Walks once through a script and notes for each character what surrounds it."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        # For each character its quotes, "", "'" or '"', or why no value can stand there.
        self._where = [PLAIN] * len(text)
        self._start = 0  # of the outermost construct
        self._depth = 0  # how many constructs of those that need their end found are open
        self._after_dollar: list[int] = []  # what stands behind a $ that names nothing
        self._here: list[tuple[str, bool, bool]] = []  # delimiter, quoted, tabs removed
        self._descriptor: int | None = None  # where the word behind a >& or <& may begin

    def places(self) -> list[str]:
        """Return the place of each character."""
        try:
            self._commands("")
        except _DoubtError as doubt:
            self._mark(self._start, len(self._text), str(doubt))
        for position in self._after_dollar:
            self._mark(position, position + 1, "right behind a $")
        return self._where

    def _mark(self, start: int, end: int, place: str) -> None:
        end = min(end, len(self._text))
        self._where[start:end] = [place] * (end - start)

    def _next_is(self, text: str) -> bool:
        return self._text.startswith(text, self._at)

    def _commands(self, closing: str) -> None:
        """Walk through commands, up to `closing` if it is one."""
        text = self._text
        in_word = False
        while self._at < len(text):
            if not closing:
                self._start = self._at
            at, char = self._at, text[self._at]
            if char == closing:
                return
            if char == "\\":
                continued = text[at + 1 : at + 2] == "\n"
                if continued and self._depth:
                    raise _DoubtError("behind a line that is continued within $(...)")
                in_word = in_word or not continued
                self._backslash()
            elif char in "'\"`$":
                in_word = self._quoting(char)
            elif char == "#" and not in_word:
                self._comment()
            elif char in " \t\n;&|<>()":
                if in_word or char not in " \t":
                    self._end_of_descriptor()
                self._operator(char)
                in_word = False
            else:
                if self._depth and not in_word and CASE.match(text, at):
                    raise _DoubtError("within or behind a 'case' in $(...)")
                if not in_word and BRACKET.match(text, at) and not GLOB.match(text, at):
                    raise _DoubtError("within or behind NAME[...]")  # a subscript is arithmetic
                in_word = True
                self._at += 1
        if closing:
            raise _DoubtError("behind a $( or ( that is never closed")
        self._end_of_descriptor()

    def _end_of_descriptor(self) -> None:
        """Refuse values in ``>&2``: bash expands what is no number twice."""
        if self._descriptor is not None:
            self._mark(self._descriptor, self._at, "behind >& or <&")
            self._descriptor = None

    def _quoting(self, char: str) -> bool:
        """Walk through a quotation or an expansion; return whether it is part of a word."""
        if char == "'":
            self._single()
        elif char == '"':
            self._double()
        elif char == "`":
            self._backticks()
        else:
            return self._dollar(quoted=False)
        return True

    def _backslash(self) -> None:
        self._mark(self._at + 1, self._at + 2, "right behind a backslash")
        self._at += 2

    def _single(self) -> None:
        end = self._text.find("'", self._at + 1)
        if end < 0:
            raise _DoubtError("within a ' that is never closed")
        self._no_here_document(self._at, end)
        self._mark(self._at + 1, end, SINGLE)
        self._at = end + 1

    def _double(self) -> None:
        start = self._at
        self._at += 1
        while self._at < len(self._text):
            char = self._text[self._at]
            if char == '"':
                self._no_here_document(start, self._at)
                self._at += 1
                return
            if char == "\\":
                self._mark(self._at, self._at + 1, DOUBLE)
                self._backslash()
            elif char == "`":
                self._backticks()
            elif char == "$":
                self._dollar(quoted=True)
            else:
                self._mark(self._at, self._at + 1, DOUBLE)
                self._at += 1
        raise _DoubtError('within a " that is never closed')

    def _no_here_document(self, start: int, end: int) -> None:
        """Doubt where a line ends within quotes while a here-document is to begin."""
        if self._here and "\n" in self._text[start:end]:
            raise _DoubtError("behind a here-document")

    def _backticks(self) -> None:
        start = self._at
        at = start + 1
        while self._text[at : at + 1] != "`":
            if at >= len(self._text):
                raise _DoubtError("within backticks that are never closed")
            at += 2 if self._text[at] == "\\" else 1
        # A quoted backtick ends it in some shells and not in others.
        if not BALANCED.fullmatch(self._text, start + 1, at):
            raise _DoubtError("within or behind backticks with a quote in them")
        self._no_here_document(start, at)
        self._mark(start, at + 1, "within backticks")
        self._at = at + 1

    def _dollar(self, *, quoted: bool) -> bool:
        """Walk through an expansion; return whether it is part of a word."""
        start = self._at
        if self._next_is("$\\\n") or self._next_is("$(\\\n"):
            raise _DoubtError("behind a $ at the end of a line")
        if self._next_is("$["):
            raise _DoubtError("within or behind $[...]")
        if self._next_is("$(("):
            self._at += 1
            self._arithmetic("$((...))")
            self._mark(start, self._at, "within $((...))")
        elif self._next_is("$(") and not quoted and not self._depth:
            if self._here or self._descriptor is not None:
                raise _DoubtError("behind a redirection with $(...)")
            self._at += 2  # commands like those around it
            return False
        elif self._next_is("$("):
            self._at += 2
            self._nested_commands()
            if quoted:
                self._mark(start, self._at, "within $(...) inside double quotes")
        elif self._next_is("${"):
            self._parameter(quoted=quoted)
            self._mark(start, self._at, "within ${...}")
        elif self._next_is("$'") and not quoted:
            self._ansi()
        elif name := NAME.match(self._text, start + 1):
            self._mark(start, name.end(), DOUBLE if quoted else PLAIN)
            self._mark(start + 1, name.end(), "right behind a $")
            self._at = name.end()
            # To bash, the second $ of "$$(" begins a command, to dash it does not.
            if name[0] == "$" and self._text[self._at : self._at + 1] in tuple("({["):
                raise _DoubtError("behind a $$ and a bracket")
        else:
            self._mark(start, start + 1, DOUBLE if quoted else PLAIN)
            self._at += 1
            if self._at < len(self._text):
                self._after_dollar.append(self._at)
        return True

    def _nested_commands(self) -> None:
        """Walk through commands up to the ``)`` that ends them."""
        self._depth += 1
        self._commands(")")
        self._depth -= 1
        self._at += 1

    def _ansi(self) -> None:
        """Walk through ``$'...'``, which not every shell has: both readings end alike."""
        start = self._at
        end = self._text.find("'", start + 2)
        escaped = re.compile(r"(?:[^'\\]|\\.)*", re.DOTALL).match(self._text, start + 2)
        if end < 0 or escaped is None or escaped.end() != end:
            raise _DoubtError("within or behind a $'...' with a quote in it")
        self._no_here_document(start, end)
        self._mark(start, end + 1, "within $'...'")
        self._at = end + 1

    def _parameter(self, *, quoted: bool) -> None:
        """Walk through ``${...}``; its own quotes mean the same everywhere if it has none."""
        start = self._at
        self._at += 2
        self._depth += 1
        if self._text[self._at : self._at + 1] in ("", " ", "\t", "\n", "|"):
            raise _DoubtError("within or behind ${ ...}")
        while self._at < len(self._text):
            char = self._text[self._at]
            if char == "}":
                self._at += 1
                self._depth -= 1
                self._no_here_document(start, self._at)
                return
            if quoted and char in "'\"\\`":
                raise _DoubtError("within or behind a ${...} with quotes inside double quotes")
            if char == "\\":
                self._backslash()
            elif char == "$":
                self._dollar(quoted=quoted)
            elif char in "'\"`":
                self._quoting(char)
            else:
                self._at += 1
        raise _DoubtError("within a ${ that is never closed")

    def _arithmetic(self, called: str) -> None:
        """Walk from ``((`` to its ``))``; what shells could read in two ways is in doubt."""
        opened = 0
        while self._at < len(self._text):
            char = self._text[self._at]
            if char in "'\"\\`#\n" or (self._next_is("<<") and called != "$((...))"):
                raise _DoubtError(f"within or behind {called} with quotes or commands in it")
            if char == "$":
                self._dollar(quoted=True)
                continue
            opened += (char == "(") - (char == ")")
            self._at += 1
            if opened == 0:
                return
            if opened == 1 and char == ")" and not self._next_is(")"):  # ((...) ...): commands
                raise _DoubtError(f"within or behind {called} with commands in it")
        raise _DoubtError(f"within {called} that is never closed")

    def _comment(self) -> None:
        before = self._text[self._at - 1 : self._at]
        if self._depth or before in ("(", ")", "<", ">", "|", "&"):
            raise _DoubtError("within or behind a comment")
        end = self._text.find("\n", self._at)
        end = len(self._text) if end < 0 else end
        self._mark(self._at, end, "within a comment")
        self._at = end

    def _operator(self, char: str) -> None:
        if char == "<" and self._next_is("<<<"):
            self._at += 3
        elif char == "<" and self._next_is("<<"):
            self._here_document()
        elif char in "<>" and self._text[self._at + 1 : self._at + 2] == "&":
            self._at += 2
            self._descriptor = self._at
        elif char in "<>(" and self._text.startswith("\\\n", self._at + 1):
            raise _DoubtError(f"behind a {char} at the end of a line")
        elif char == "(" and self._text[self._at - 1 : self._at] == "=":
            raise _DoubtError("within or behind NAME=(...)")  # which sh does not have
        elif char == "(" and self._next_is("(("):
            start = self._at
            self._arithmetic("((...))")
            self._mark(start, self._at, "within ((...))")
        elif char == "(" and self._depth:
            self._at += 1
            self._nested_commands()
        elif char == ")" and self._here:
            raise _DoubtError("behind a here-document")
        else:
            self._at += 1
            if char == "\n" and self._here:
                self._here_documents()

    def _here_document(self) -> None:
        """Take note of ``<<WORD``: what follows the end of the line belongs to it."""
        if self._depth:
            raise _DoubtError("within or behind a here-document in $(...)")
        head = HERE.match(self._text, self._at)
        if head is None:  # a name that would have to be understood
            raise _DoubtError("within or behind a here-document")
        self._mark(self._at, head.end(), "in the name of a here-document")
        bare, kept, tabs = head["bare"], head["kept"], bool(head["tabs"])
        self._here.append((bare or kept, bare is None, tabs))
        self._at = head.end()

    def _here_documents(self) -> None:
        """Walk through the here-documents that begin with this line."""
        for delimiter, quoted, tabs in self._here:
            start = self._at
            while True:
                end = self._text.find("\n", self._at)
                end = len(self._text) if end < 0 else end
                line = self._text[self._at : end]
                last = (line.lstrip("\t") if tabs else line) == delimiter
                if not last and not quoted and _may_go_on(line):
                    raise _DoubtError("within or behind a here-document with commands in it")
                self._at = min(end + 1, len(self._text))
                if last or end == len(self._text):
                    break
            self._mark(start, self._at, "within a here-document")
        self._here.clear()


def _may_go_on(line: str) -> bool:
    """Return whether what a line of a here-document begins may end behind that line."""
    rest = SIMPLE_EXPANSION.sub("", line)
    return line.endswith("\\") or "`" in rest or "$(" in rest or "${" in rest
