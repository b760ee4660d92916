"""What is said to the far side's shell: text in, text out, nothing here connects.

The line that the login shell gets is such that every shell (csh and fish too) reads it
alike. It starts ``/bin/sh``, which reads its orders as one line from standard input,
where no other user can see them. Orders without variables and secrets stand in the line
itself instead: that saves a round trip.

    login shell   exec /bin/sh -c 'IFS= read -r PX&&eval "$PX"' /bin/sh <nonce>
    orders        echo "<nonce> $$"          stdout: which process leads, before all else
                  export PARALLEL_EXEC_ID=<nonce>
                  export A='1';unset B       the environment, secrets included
                  cd -- '/dir'
                  echo "<nonce> ok">&2       stderr: everything is in place
                  exec 'program' 'argument'

`read` takes its line byte by byte, so what follows belongs to the command. Whatever a
login shell prints before the nonce is not the command's output.
"""

from __future__ import annotations

import math
import re
import secrets
from collections.abc import Sequence

from parallel_exec.errors import ConfigError
from parallel_exec.values.command import Command
from parallel_exec.values.secret import Hidden, reveal
from parallel_exec.values.streams import MERGED

__all__ = [
    "LINE",
    "OWN_SESSION",
    "Head",
    "end_script",
    "line_with",
    "new_nonce",
    "orders",
    "quote",
    "sudo_line",
]

_READ = 'IFS= read -r PX&&eval "$PX"'
# What its processes can be recognised by when another may have got their number.
MARK = "PARALLEL_EXEC_ID"

LINE = f"exec /bin/sh -c '{_READ}' /bin/sh"

# Dropbear starts commands in its own process group: they need a session of their own.
OWN_SESSION = f"command -v setsid >/dev/null&&exec setsid /bin/sh -c '{_READ}';{_READ}\n".encode()

# A longer line is handed over by `head -c`, since `read` asks the system for each byte.
LONGEST_LINE = 16384

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_WORD = re.compile(rb" ([a-z0-9]{1,10})\r?\n")  # a word of the orders, or a process id
LONGEST_WORD = 13  # with its blank and the end of its line
_NOT_ALIKE = re.compile(r"[\\!\n]")  # a backslash in fish, the others in csh
_PLAIN = re.compile(r"[A-Za-z0-9_@%+=:,./-]+\Z")


def new_nonce() -> str:
    """Return a word that no output contains by accident."""
    return f"PX{secrets.token_hex(8)}"


def quote(text: str) -> str:
    """Return `text` as one word of a shell line that has no line feed in it.

    Where it stands, ``$1`` must hold a line feed.
    """
    if _PLAIN.match(text):
        return text
    return "'" + text.replace("'", "'\"'\"'").replace("\n", "'\"$1\"'") + "'"


def orders(command: Command, nonce: str, *, stdin: bool, pty: bool, leads: bool) -> Hidden:
    """Return the orders that start `command`.

    Args:
        leads: Whether the shell that reads them shall say which process it is.
        stdin: Whether the command reads what follows; else it reads nothing.
        pty: Whether there is a terminal, whose modes were off until now.

    Raises:
        ConfigError: A variable has a name that no shell can export.
    """
    for name in command.env or {}:
        if not _NAME.match(name):
            raise ConfigError(f"env[{name!r}] cannot be set by a remote shell: not a shell name")
    # From here on there are plain secrets, and nothing that raises.
    parts = [f'echo "{nonce} $$"'] if leads else []
    # No variable of the orders' own is left when those of the command are set.
    parts.append(f'unset PX;set -- "${{IFS#??}}";export {MARK}={nonce}')
    if pty:
        parts.append(f'test -t 0||{{ echo "{nonce} tty";exit 127;}};stty sane')
    for name, value in (command.env or {}).items():
        parts.append(f"unset {name}" if value is None else f"export {name}={quote(reveal(value))}")
    failed = f'echo "{nonce} %s">&2;exit 127'
    if command.cwd is not None:
        where = quote(command.cwd if command.cwd.startswith("/") else f"./{command.cwd}")
        if command.cwd == "~" or command.cwd.startswith("~/"):
            where = f'"$HOME"/{quote(command.cwd[2:])}' if command.cwd[2:] else '"$HOME"'
        parts.append(f"cd -- {where} 2>/dev/null||{{ {failed % 'cwd'};}}")
    null = "" if stdin or pty else "exec </dev/null;"
    ready = f'{null}echo "{nonce} ok">&2'
    if command.stderr == MERGED:  # there, where the order is known
        ready += ";exec 2>&1"
    if command.shell:
        # The script is in no argv.
        parts.append(f"set -- {quote(command.script())}")
        parts.append(ready)
        parts.append('eval "shift;$1"')
    else:
        words = command.argv()
        program = quote(words[0])
        parts.append(f"command -v -- {program} >/dev/null||{{ {failed % 'program'};}}")
        parts.append(ready)
        parts.append("exec " + " ".join(map(quote, words)))
    data = ";".join(parts).encode("utf-8", "surrogateescape")
    return Hidden(_as_input(data))


def line_with(given: Hidden) -> str | None:
    """Return a line for the login shell that has the orders in it, if it may have them.

    sshd lets nothing be sent to a command before it has said that it runs, so orders over
    standard input cost a round trip. But a line is public, and shells differ in what
    they make of some characters between quotes: None then.
    """
    text = bytes(given.reveal()).decode("utf-8", "surrogateescape").rstrip("\n")
    if len(text) > LONGEST_LINE or _NOT_ALIKE.search(text):
        return None
    return "exec /bin/sh -c '" + text.replace("'", "'\"'\"'") + "'"


def _as_input(data: bytes) -> bytes:
    if len(data) <= LONGEST_LINE:
        return data + b"\n"
    return b'PX=$(head -c %d)&&eval "$PX"\n' % len(data) + data


def sudo_line(nonce: str, user: str | None, *, password: bool) -> bytes:
    """Return the first orders, that go on as another user by sudo.

    sudo asks with ``<nonce> sudo`` on stderr, and what it starts reads the real orders.
    Without a password it must not ask. ``-k`` is not used: it would ask again and
    again where a moment ago has been enough.
    """
    ask = f"-S -p '{nonce} sudo'" if password else "-n"
    who = f" -u {quote(user)}" if user is not None else ""
    return (
        f'echo "{nonce} $$";exec sudo {ask}{who} -- /bin/sh -c \'echo "{nonce} $$";{_READ}\'\n'
    ).encode()


class Head:
    """Finds the nonce's line in a stream and parts what came before from what follows.

    Attributes:
        word: What the line says; None as long as it has not come.
        junk: What came before it: a login shell's own talk.
    """

    __slots__ = ("_from", "_nonce", "_seen", "junk", "word")

    LONGEST = 1 << 20  # bytes of talk that are kept; the oldest are forgotten

    def __init__(self, nonce: str) -> None:
        self._nonce = nonce.encode()
        self._seen = bytearray()
        self._from = 0  # where the line may begin: what is before that is not searched again
        self.junk = b""
        self.word: str | None = None

    def feed(self, data: bytes) -> bytes | None:
        """Take more bytes; return those that follow the line, None while it is not there."""
        seen, nonce = self._seen, self._nonce
        seen += data
        searched = len(seen) - len(nonce) + 1
        start = seen.find(nonce, self._from)
        while start >= 0:
            # A terminal that echoes shows the orders too: their nonce is not followed so.
            found = _WORD.match(seen, start + len(nonce))
            if found is not None:
                self.junk = bytes(seen[:start])
                self.word = found[1].decode()
                rest = bytes(seen[found.end() :])
                self._seen = bytearray()
                return rest
            if start + len(nonce) + LONGEST_WORD > len(seen):  # the rest may be to come
                searched = min(searched, start)
            start = seen.find(nonce, start + 1)
        self._from = max(0, searched)
        if len(seen) > 2 * self.LONGEST:  # not at each byte
            gone = len(seen) - self.LONGEST
            del seen[:gone]
            self._from = max(0, self._from - gone)
        return None

    @property
    def pending(self) -> bytes:
        """What has come while the line has not."""
        return bytes(self._seen[-self.LONGEST :])

    def asks(self) -> bool:
        """Return whether sudo's question is the last thing that was said; forget it."""
        question = self._nonce + b" sudo"
        if not self._seen.endswith(question):
            return False
        del self._seen[-len(question) :]
        self._from = min(self._from, len(self._seen))
        return True


# Ending what was started. The processes are those of the sessions, of their groups, and
# the descendants of either, as the process table shows them: found before TERM, when
# they still have their parents, and remembered. The dead that nobody has reaped do not count.
# Where `ps` cannot be read, which shows in that it does not list the script itself, the
# groups are killed and nothing is said to be done. What the login shell's start-up files
# left running beside the script is ended with it: it would hold the channel.
_END = r"""
L=" %(leaders)s "
P=" "
find() {
ps -A -o pid= -o ppid= -o pgid= -o sess= -o stat= 2>/dev/null | awk -v l="$L" -v p="$P" -v me=$$ '
function led(q) { return index(l, " " q " ") > 0 }
{ pid[NR]=$1; up[$1]=$2; dead[$1]=($5 ~ /^Z/)
if (led($1) || led($3) || led($4) || index(p, " " $1 " ")) ours[$1]=1 }
END { if (!(me in up)) exit 3
do { more=0; for (i=1; i<=NR; i++) { q=pid[i]
if (!(q in ours) && (up[q] in ours)) { ours[q]=1; more=1 } } } while (more)
for (q in ours) if (led(q) && !dead[q]) printf "%%s ", q
for (q in ours) if (!led(q) && q!=me && q>1 && !dead[q]) printf "%%s ", q }'
}
look() { P=" $(find)" || blind; }
blind() { %(blind)s
echo "this host has no ps and awk that show its processes" >&2; leave 3; }
hit() { kill -$1 $P 2>/dev/null; }
leave() { trap '' TERM; kill -TERM -$$ 2>/dev/null; exit $1; }
look
%(sure)s
%(term)s
hit KILL
i=0
while look; test -n "${P# }"; do
hit KILL
i=$((i+1)); test $i -gt 100 && leave 1
sleep 0.02 2>/dev/null || sleep 1
done
leave 0
"""
_SURE = r"""
ours=
for p in $P; do
if grep -qs %(nonce)s /proc/$p/environ /proc/$p/cmdline; then ours=1; fi
done
test "$ours" || leave 0
"""
_TERM = r"""
hit TERM
hit CONT
i=0
while look; test -n "${P# }"; do
i=$((i+1)); test $i -gt %(steps)d && break
if test $i -le 10; then sleep 0.02 2>/dev/null || sleep 1
elif test $i -le 18; then sleep 0.1 2>/dev/null || sleep 1
else sleep 0.25 2>/dev/null || sleep 1; fi
done
"""


def end_script(
    leaders: Sequence[int], *, kill_after: float | None, nonce: str | None = None
) -> str:
    """Return a script that ends a command: exit status 0 once nothing of it is left.

    1 stands for what KILL does not end, 3 for a process table that cannot be read.

    Args:
        leaders: The processes that lead the command's sessions (with sudo, two).
        kill_after: Seconds between TERM and KILL; None for KILL at once.
        nonce: The command's, if its end may have been missed: then nothing is done
            unless a process of these sessions has it in its words or its environment,
            since their numbers may be others' by now.
    """
    term = ""
    if kill_after is not None:
        # Never less than `kill_after`; the looks at the process table come on top.
        quick = min(kill_after, 0.2) / 0.02
        middle = min(max(kill_after - 0.2, 0.0), 0.8) / 0.1
        slow = max(kill_after - 1.0, 0.0) / 0.25
        term = _TERM % {"steps": math.ceil(quick + middle + slow - 1e-9)}
    sure = "" if nonce is None else _SURE % {"nonce": nonce}
    # Numbers that may be others' by now are not killed unseen.
    blind = "" if nonce is not None else 'for l in $L; do kill -KILL "-$l" 2>/dev/null; done'
    numbers = " ".join(map(str, leaders))
    return _END % {"leaders": numbers, "sure": sure, "term": term, "blind": blind}
