"""Lists of hosts as text: ``web[01-20,31],root@db1:2222!web07`` and files of them.

The language is that of ClusterShell's node sets, without its groups:

- names stand apart by commas or blanks; ``!`` takes the next one away from what stands
  before it;
- ``[01-20,31]`` counts, keeping the zeros in front; ``[0-10/2]`` counts in steps; with
  several brackets in a name, each combines with each;
- ``user@`` and ``:port`` go with every host of the name. An IPv6 address stands alone or,
  with a port, in brackets: ``root@[fe80::1]:22``. A colon tells it from a range.

What an argument or a line holds is read by itself, then put behind what was there.
"""

from __future__ import annotations

import ipaddress
import itertools
import math
import os
import re
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from parallel_exec.errors import ConfigError
from parallel_exec.values import checks
from parallel_exec.values.names import user_fault

__all__ = ["MAX_HOSTS", "HostSpec", "fold", "parse", "parse_file"]

MAX_HOSTS = 100_000  # a mistyped range shall be an error, not a full memory

MAX_DIGITS = 18
NAME = re.compile(r"(?:\[[^\[\]]*\]|[^\s,!\[\]])+")  # one name, up to the next separator
BRACKETS = re.compile(r"\[([^\[\]]*)\]")
NUMBERS = re.compile(rf"(?<![0-9])([0-9]{{1,{MAX_DIGITS}}})(?![0-9])")
RANGE = re.compile(r"\s*([0-9]+)(?:\s*-\s*([0-9]+)(?:\s*/\s*([0-9]+))?)?\s*")
WORD = re.compile(r"""(?:"[^"]*"|'[^']*'|[^\s"'])+""")  # one word of a host file
KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
HOST_SIGNS = "-._+"
NOT_IN_USERS = "[]:"  # besides what no user may have

Key = tuple[str | None, str, int | None]


@dataclass(frozen=True, slots=True)
class HostSpec:
    """One host, as a list names it.

    Attributes:
        user: The user to log in as, or None where the list names none.
        host: The host's name or address, without brackets.
        port: The port, or None.
        options: What else its line in a host file says: pairs of key and value.
    """

    user: str | None
    host: str
    port: int | None
    options: tuple[tuple[str, str], ...] = field(default=(), repr=False)  # passwords, too

    @property
    def name(self) -> str:
        """The host as text: ``user@host:port``, without the parts that are None."""
        host = self.host
        if self.port is not None:
            host = f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"
        return host if self.user is None else f"{self.user}@{host}"

    @property
    def key(self) -> Key:
        """What makes it a host of its own in a list."""
        return (self.user, self.host, self.port)


def parse(
    *texts: str,
    files: str | os.PathLike[str] | Iterable[str | os.PathLike[str]] = (),
    exclude: str | Iterable[str] = (),
) -> tuple[HostSpec, ...]:
    """Return the hosts that `texts` and `files` name, each once, in order of first mention.

    Args:
        *texts: Lists of hosts; see the module.
        files: The path of a host file, or several; see `parse_file`.
        exclude: A list, or several, of hosts to leave out. A name without a user or a
            port leaves out the host with any.

    Raises:
        ConfigError: A text or a file cannot be understood, there are more than
            `MAX_HOSTS` names, or a host is named twice with different options. The
            message has the place.
    """
    hosts: dict[Key, HostSpec] = {}
    for text in texts:
        source = _Source(text, "hosts")
        _merge(hosts, _read(source).values(), source)
    if not isinstance(files, str | os.PathLike | Iterable):
        raise checks.refuse("files", files, "a path or several")
    for path in [files] if isinstance(files, str | os.PathLike) else files:
        _merge(hosts, parse_file(path), _Source("", f"the host file {os.fspath(path)!r}"))
    left_out: dict[Key, HostSpec] = {}
    if not isinstance(exclude, Iterable):
        raise checks.refuse("exclude", exclude, "a string or several")
    for text in [exclude] if isinstance(exclude, str) else exclude:
        source = _Source(text, "exclude")
        _merge(left_out, _read(source).values(), source)
    return tuple(_without(hosts, left_out).values())


def parse_file(path: str | os.PathLike[str]) -> tuple[HostSpec, ...]:
    """Return the hosts that a file names, one line for each name: ``host key=value ...``.

    The name may be a list of hosts without blanks; the options are for all of them.
    ``user`` and ``port`` become those of the host. Quotes keep blanks in a value. A word
    that starts with ``#`` begins a comment.

    Raises:
        ConfigError: The file cannot be read or understood, or names one host twice with
            different options. The message has the path, line and position, and never
            the value of an option, which may be a secret.
    """
    path = os.fspath(path)
    try:
        with open(path, encoding="utf-8-sig") as file:
            lines = file.read().split("\n")
    except (OSError, ValueError) as error:
        raise ConfigError(f"the host file {path!r} cannot be read: {error}") from error
    hosts: dict[Key, HostSpec] = {}
    for number, line in enumerate(lines, 1):
        words = _words(line, f"{path}, line {number}")
        if words:
            if "=" in words[0].text:
                raise words[0].error(0, "a line must start with a host", quote=False)
            options = _options(words[1:])
            named = _read(words[0]).values()
            _merge(hosts, [_with_options(spec, options, words[0]) for spec in named], words[0])
    return tuple(hosts.values())


def fold(names: Iterable[str]) -> str:
    """Return host names in short: ``web[01-20,31],db1``; `parse` gives them back.

    **Ordering**: by name, whatever the order of `names`. A name that is no host's stands
    as it is.
    """
    rows: dict[tuple[tuple[str, ...], str, str], list[tuple[str, ...]]] = {}
    for name in dict.fromkeys(names):
        before, host, after = _around_host(name)
        pieces = NUMBERS.split(host) if host else [name]
        pattern = (tuple(pieces[::2]), before, after)
        rows.setdefault(pattern, []).append(tuple(pieces[1::2]))
    folded = []
    for pattern in sorted(rows):
        literals, before, after = pattern
        for box in _boxes(rows[pattern]):
            numbers = [*map(_fold_numbers, box), ""]
            host = "".join(itertools.chain(*zip(literals, numbers, strict=True)))
            folded.append(before + host + after)
    return ",".join(folded)


@dataclass(frozen=True)
class _Source:
    """A piece of text and where it comes from, for errors.

    Attributes:
        text: The text.
        where: What it is called.
        offset: How many characters stand before it in its line.
    """

    text: str
    where: str
    offset: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.text, str):
            raise checks.refuse(self.where, self.text, "a string")

    def error(self, position: int, what: str, *, quote: bool = True) -> ConfigError:
        """Return an error about the character at `position`."""
        message = f"{self.where}, character {self.offset + position + 1}: {what}"
        if quote:
            start, end = max(0, position - 40), position + 40
            shown = "..." * (start > 0) + self.text[start:end] + "..." * (end < len(self.text))
            message += f", in {shown!r}"
        return ConfigError(message)


def _read(source: _Source) -> dict[Key, HostSpec]:
    """Return what one text names, with its ``!`` applied."""
    hosts: dict[Key, HostSpec] = {}
    count = 0
    for operator, start, end in _names(source):
        user, host_start, host_end, port = _parts(source, start, end)
        address = _address(source, host_start, host_end)
        choices = [[address]] if address else _choices(source, host_start, host_end)
        count += math.prod(map(len, choices))
        if count > MAX_HOSTS:
            raise source.error(start, f"{count:,} hosts so far, more than {MAX_HOSTS:,}")
        named = {}
        for parts in itertools.product(*choices):
            spec = HostSpec(user, "".join(parts), port)
            named[spec.key] = spec
        if operator == "!":
            hosts = _without(hosts, named)
        else:
            hosts.update(named)  # one that is there keeps its place
    return hosts


def _merge(hosts: dict[Key, HostSpec], more: Iterable[HostSpec], source: _Source) -> None:
    """Put those of `more` behind `hosts` that are not in it."""
    for spec in more:
        if hosts.setdefault(spec.key, spec).options != spec.options:
            raise source.error(0, f"{spec.name} was named before, with other options")
    if len(hosts) > MAX_HOSTS:
        raise source.error(0, f"{len(hosts):,} hosts so far, more than {MAX_HOSTS:,}")


def _without(hosts: dict[Key, HostSpec], taken: Container[Key]) -> dict[Key, HostSpec]:
    """Return `hosts` without those in `taken`, which may leave user and port open."""

    def stays(user: str | None, host: str, port: int | None) -> bool:
        keys = ((user, host, port), (user, host, None), (None, host, port), (None, host, None))
        return not any(key in taken for key in keys)

    return {key: spec for key, spec in hosts.items() if stays(*key)}


def _names(source: _Source) -> Iterator[tuple[str, int, int]]:
    """Yield for each name its operator, ``,`` or ``!``, and where it starts and ends."""
    text = source.text
    position = 0
    operator = "start"
    while True:
        while position < len(text) and text[position].isspace():
            position += 1
        if position == len(text):
            break
        sign = text[position]
        if sign in ",!":
            if operator:
                raise source.error(position, f"a host is missing before {sign!r}")
            operator = sign
            position += 1
            continue
        match = NAME.match(text, position)
        if match is None:
            raise source.error(position, _bracket_fault(text, position))
        yield ("!" if operator == "!" else ","), position, match.end()
        operator = ""
        position = match.end()
    if operator:
        raise source.error(position, "a host is missing at the end")


def _bracket_fault(text: str, position: int) -> str:
    if text[position] == "]":
        return "']' without a '[' before it"
    if text.find("[", position + 1) < text.find("]", position):
        return "'[' with another '[' inside"
    return "'[' without a ']' after it"


def _parts(source: _Source, start: int, end: int) -> tuple[str | None, int, int, int | None]:
    """Return the user, where the host starts and ends, and the port."""
    text = source.text
    user = None
    at = text.rfind("@", start, end)
    if at >= 0:
        user = text[start:at]
        _check_user(source, start, at)
        start = at + 1
    if text.startswith("[", start, end) and ":" in text[start : text.index("]", start)]:
        host_end = text.index("]", start) + 1
        if host_end < end and text[host_end] != ":":
            raise source.error(host_end, "only a port may follow an address in brackets")
    else:
        colons = text.count(":", start, end)
        host_end = text.index(":", start) if colons == 1 else end
    if host_end == start:
        raise source.error(start, "a host is missing")
    if host_end == end:
        return user, start, host_end, None
    digits = text[host_end + 1 : end]
    if not _is_number(digits) or len(digits) > 5 or not 1 <= int(digits) <= 65535:
        raise source.error(host_end + 1, "a port must be a number from 1 to 65535")
    return user, start, host_end, int(digits)


def _check_user(source: _Source, start: int, end: int) -> None:
    if start == end:
        raise source.error(start, "a user is missing before '@'")
    for position in range(start, end):
        sign = source.text[position]
        if sign in NOT_IN_USERS:
            # What follows a colon is a password, most likely: not to be shown.
            raise source.error(position, f"a user cannot have {sign!r}", quote=sign != ":")
    fault = user_fault(source.text[start:end])
    if fault is not None:
        raise source.error(start + fault.at, fault.what)


def _address(source: _Source, start: int, end: int) -> str | None:
    """Return the IPv6 address that stands there, in its shortest form, if one does."""
    text = source.text[start:end]
    if text.startswith("[") and text.endswith("]"):
        text = text[1:-1]
    if ":" not in text or "[" in text:
        return None
    address, _, zone = text.partition("%")
    try:
        shortest = str(ipaddress.IPv6Address(address))
    except ValueError:
        raise source.error(start, f"{text!r} is no IPv6 address") from None
    if "%" in text and not re.fullmatch(r"[A-Za-z0-9._-]+", zone):
        raise source.error(start, f"{zone!r} is no zone of an IPv6 address")
    return f"{shortest}%{zone}" if zone else shortest


def _choices(source: _Source, start: int, end: int) -> list[Sequence[str]]:
    """Return what each part of a name can be, to be combined."""
    if source.text[start] == "-":
        raise source.error(start, "a host cannot start with '-'")
    choices: list[Sequence[str]] = []
    position = start
    for match in BRACKETS.finditer(source.text, start, end):
        choices.append([_literal(source, position, match.start())])
        choices.append(_counted(source, match.start(1), match.end(1)))
        position = match.end()
    choices.append([_literal(source, position, end)])
    return choices


def _literal(source: _Source, start: int, end: int) -> str:
    for position in range(start, end):
        sign = source.text[position]
        if not sign.isalnum() and sign not in HOST_SIGNS:
            raise source.error(position, f"a host cannot have {sign!r}")
    return source.text[start:end]


def _counted(source: _Source, start: int, end: int) -> Sequence[str]:
    """Return the numbers between two brackets, zeros in front kept."""
    numbers: list[str] = []
    position = start
    for part in source.text[start:end].split(","):
        match = RANGE.fullmatch(part)
        if match is None:
            what = f"{part!r} is no number or range" if part.strip() else "a number is missing"
            raise source.error(position, what)
        if max(map(len, match.groups(""))) > MAX_DIGITS:
            raise source.error(position, f"a number has more than {MAX_DIGITS} digits")
        first, last = match[1], match[2] or match[1]
        width = 0 if _plain(first, last) else len(first)
        if width and len(last) != width:
            raise source.error(position, f"the numbers of {part!r} differ in their zeros in front")
        step = int(match[3] or 1)
        if step == 0:
            raise source.error(position, f"the step of {part!r} must be at least 1")
        counted = range(int(first), int(last) + 1, step)
        if not counted:
            raise source.error(position, f"{part!r} runs backwards")
        if len(numbers) + len(counted) > MAX_HOSTS:
            what = f"{len(numbers) + len(counted):,} numbers, more than {MAX_HOSTS:,}"
            raise source.error(position, what)
        numbers += [f"{number:0{width}}" for number in counted]
        position += len(part) + 1
    return numbers


def _plain(*numbers: str) -> bool:
    """Return whether none of `numbers` has a zero in front."""
    return not any(len(number) > 1 and number[0] == "0" for number in numbers)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _words(line: str, where: str) -> list[_Source]:
    """Split a line of a host file into words, up to a comment; quotes stay."""
    words: list[_Source] = []
    position = 0
    while True:
        while position < len(line) and line[position].isspace():
            position += 1
        if position == len(line) or line[position] == "#":
            return words
        match = WORD.match(line, position)
        end = position if match is None else match.end()
        if end < len(line) and line[end] in "\"'":
            raise _Source(line, where).error(end, "a quote that is never closed", quote=False)
        words.append(_Source(line[position:end], where, position))
        position = end


def _options(words: list[_Source]) -> dict[str, str]:
    options: dict[str, str] = {}
    for word in words:
        key, equals, value = word.text.partition("=")
        if not equals or not KEY.fullmatch(key):
            raise word.error(0, "an option must look like key=value", quote=False)
        if key in options:
            raise word.error(0, f"{key} was given before", quote=False)
        options[key] = re.sub(r"""(["'])(.*?)\1""", r"\2", value)
    return options


def _with_options(spec: HostSpec, options: dict[str, str], source: _Source) -> HostSpec:
    """Return `spec` with the options of its line; ``user`` and ``port`` have own fields."""
    if not options:
        return spec
    rest = dict(options)
    user, port = rest.pop("user", None), rest.pop("port", None)
    for name, given, option in (("user", spec.user, user), ("port", spec.port, port)):
        if given is not None and option is not None:
            raise source.error(0, f"the {name} is given twice, before the host and as an option")
    if user is not None:
        _check_user(_Source(user, f"{source.where}, user"), 0, len(user))
        spec = replace(spec, user=user)
    if port is not None:
        if not _is_number(port) or len(port) > 5 or not 1 <= int(port) <= 65535:
            raise source.error(0, f"port must be a number from 1 to 65535, not {port!r}")
        spec = replace(spec, port=int(port))
    return replace(spec, options=tuple(rest.items()))


def _around_host(name: str) -> tuple[str, str, str]:
    """Split a name around the host in which numbers may be folded; "" if there is none."""
    source = _Source(name, "name")
    try:
        [(_, start, end)] = _names(source)
        _, start, end, _ = _parts(source, start, end)
        if "[" in name or ":" in name[start:end]:
            return "", "", ""
        _choices(source, start, end)
    except ValueError:
        return "", "", ""
    return name[:start], name[start:end], name[end:]


Box = tuple[frozenset[str], ...]


def _boxes(rows: list[tuple[str, ...]]) -> list[Box]:
    """Cover `rows` of numbers, and nothing else, by few products of sets.

    Greedy: boxes that differ in one axis only become one, until none do. Not always the
    fewest, which would be hard to find.
    """
    boxes: list[Box] = [tuple(frozenset((number,)) for number in row) for row in rows]
    before = 0
    while len(boxes) != before:
        before = len(boxes)
        for axis in reversed(range(len(boxes[0]))):
            joined: dict[tuple[Box, Box], set[str]] = {}
            for box in boxes:
                joined.setdefault((box[:axis], box[axis + 1 :]), set()).update(box[axis])
            boxes = [(*left, frozenset(on), *right) for (left, right), on in joined.items()]
    return sorted(boxes, key=lambda box: [min((int(n), len(n)) for n in on) for on in box])


def _fold_numbers(numbers: frozenset[str]) -> str:
    """Return numbers as a bracket with ranges; one number as itself."""
    if len(numbers) == 1:
        return next(iter(numbers))
    # 10 continues 09 if there are zeros in front of two digits, else it continues 9.
    padded = {len(number) for number in numbers if not _plain(number)}
    widths = {number: len(number) if len(number) in padded else 0 for number in numbers}
    runs: list[list[str]] = []
    for number in sorted(numbers, key=lambda number: (widths[number], int(number))):
        last = runs[-1][-1] if runs else None
        if last and widths[last] == widths[number] and int(last) + 1 == int(number):
            runs[-1].append(number)
        else:
            runs.append([number])
    return f"[{','.join(r[0] if len(r) == 1 else f'{r[0]}-{r[-1]}' for r in runs)}]"
