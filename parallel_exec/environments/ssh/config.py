"""OpenSSH's client configuration, as it applies to one destination.

The files are read and evaluated here, which costs a fifth of a millisecond a host
instead of the 5 to 10 of a process. Where they hold something that only OpenSSH itself
can evaluate (``Match exec``, canonical names), the client is asked with ``ssh -G`` if
there is one; else the rest is used and what was not understood is reported.
`tests/unit/ssh/test_config.py` holds both ways to the same answers.
"""

from __future__ import annotations

import functools
import getpass
import glob
import logging
import os
import re
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from parallel_exec.environments.ssh.destination import Destination
from parallel_exec.errors import ConfigError

__all__ = ["HostConfig", "Line", "evaluate", "matches", "resolve"]

log = logging.getLogger("parallel_exec")

SYSTEM_CONFIG = "/etc/ssh/ssh_config"
MAX_DEPTH = 16  # of Include in Include, as in OpenSSH

# What a value may be made of, and which of those need more than is known here.
REPEATED = {"identityfile", "certificatefile"}
UNDERSTOOD = {
    *("addressfamily", "certificatefile", "challengeresponseauthentication", "ciphers"),
    "connecttimeout",
    *("globalknownhostsfile", "hashknownhosts", "hostkeyalgorithms", "hostkeyalias", "hostname"),
    *("identitiesonly", "identityagent", "identityfile", "ignoreunknown", "include"),
    *("kbdinteractiveauthentication", "kexalgorithms", "macs", "passwordauthentication"),
    *("port", "proxycommand", "proxyjump", "pubkeyauthentication", "revokedhostkeys"),
    *("serveralivecountmax", "serveraliveinterval", "stricthostkeychecking", "user"),
    "userknownhostsfile",
}
# These change whom we talk to or trust, how we log in or what a command can do, and are
# not done here: they are reported, like every word that is not known.
NOT_DONE = {
    *("bindaddress", "bindinterface", "forwardagent"),
    *("hostbasedauthentication", "kbdinteractivedevices", "knownhostscommand"),
    *("nohostauthenticationforlocalhost", "pkcs11provider", "preferredauthentications"),
    *("proxyusefdpass", "pubkeyacceptedalgorithms", "pubkeyacceptedkeytypes"),
    *("refuseconnection", "requiredrsasize", "securitykeyprovider", "setenv", "verifyhostkeydns"),
}
HARMLESS = {  # values of the above that ask for nothing
    "no",
    "none",
    "false",
    "internal",
}
# These are for terminals, tunnels and OpenSSH's own sharing, or choose what is chosen here
# by other means: commands are run the same without them.
MEANINGLESS = {
    *("addkeystoagent", "batchmode", "canonicaldomains", "canonicalizefallbacklocal"),
    *("canonicalizehostname", "canonicalizemaxdots", "canonicalizepermittedcnames"),
    *("casignaturealgorithms", "channeltimeout", "checkhostip", "clearallforwardings"),
    *("compression", "connectionattempts", "controlmaster", "controlpath", "controlpersist"),
    *("dynamicforward", "enableescapecommandline", "enablesshkeysign", "escapechar"),
    *("exitonforwardfailure", "fingerprinthash", "forkafterauthentication", "forwardx11"),
    *("forwardx11timeout", "forwardx11trusted", "gatewayports", "gssapiauthentication"),
    *("gssapiclientidentity", "gssapidelegatecredentials", "gssapikexalgorithms"),
    *("gssapikeyexchange", "gssapirenewalforcesrekey", "gssapiserveridentity", "gssapitrustdns"),
    *("hostbasedacceptedalgorithms", "hostbasedkeytypes", "ipqos", "localcommand"),
    *("localforward", "loglevel", "logverbose", "numberofpasswordprompts"),
    *("obscurekeystroketiming", "permitlocalcommand", "permitremoteopen", "rekeylimit"),
    *("remotecommand", "remoteforward", "requesttty", "sendenv", "sessiontype", "stdinnull"),
    *("streamlocalbindmask", "streamlocalbindunlink", "syslogfacility", "tag", "tcpkeepalive"),
    *("tunnel", "tunneldevice", "updatehostkeys", "usekeychain", "versionaddendum"),
    *("visualhostkey", "warnweakcrypto", "xauthlocation"),
}
ONLY_OPENSSH = {"canonicalizehostname"}
MATCH_HERE = {"all", "host", "originalhost", "user", "localuser"}

DEFAULT_KEYS = ("~/.ssh/id_rsa", "~/.ssh/id_ecdsa", "~/.ssh/id_ed25519")
DEFAULT_USER_KNOWN_HOSTS = ("~/.ssh/known_hosts", "~/.ssh/known_hosts2")
DEFAULT_GLOBAL_KNOWN_HOSTS = ("/etc/ssh/ssh_known_hosts", "/etc/ssh/ssh_known_hosts2")


@dataclass(frozen=True, slots=True)
class HostConfig:
    """What the configuration says about one destination.

    Attributes:
        host_name: The name or address to connect to.
        identity_files: Paths of private keys, in the order to try them.
        explicit_keys: Whether they were configured, and not OpenSSH's defaults.
        certificate_files: Paths of certificates for keys of these files or of the agent.
        proxy_jump: The hops, first one first.
        strict: "yes", "accept-new" or "no" (which adds new keys like accept-new;
            a changed key is refused whatever is configured).
        ciphers: The wanted ones, as configured with OpenSSH's "+", "-" and "^";
            None: ours.
        not_understood: One sentence for each thing that was passed over.
    """

    host_name: str
    user: str
    port: int
    identity_files: tuple[str, ...] = DEFAULT_KEYS
    explicit_keys: bool = False
    certificate_files: tuple[str, ...] = ()
    identities_only: bool = False
    identity_agent: str | None = None
    proxy_jump: tuple[str, ...] = ()
    proxy_command: str | None = None
    user_known_hosts: tuple[str, ...] = DEFAULT_USER_KNOWN_HOSTS
    global_known_hosts: tuple[str, ...] = DEFAULT_GLOBAL_KNOWN_HOSTS
    revoked_host_keys: str | None = None
    host_key_alias: str | None = None
    strict: str = "yes"
    hash_known_hosts: bool = False
    connect_timeout: float | None = None
    alive_interval: float | None = None
    alive_count: int = 3
    ciphers: str | None = None
    kex: str | None = None
    macs: str | None = None
    host_key_algorithms: str | None = None
    address_family: str = "any"
    publickey: bool = True
    password: bool = True
    keyboard_interactive: bool = True
    not_understood: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Line:
    """One setting of a file: where it stands, its keyword in small letters, its words."""

    where: str
    keyword: str
    words: tuple[str, ...]


@dataclass(slots=True)
class _Evaluation:
    """Values found so far; the first one for a keyword stands."""

    destination: Destination
    values: dict[str, list[str]]
    problems: list[str]
    needs_openssh: bool = False
    missing: str | None = None


def resolve(destination: Destination, config: str | None) -> HostConfig:
    """Return what applies to `destination`.

    Args:
        destination: Its user and port win over those of the files.
        config: A file; None for the user's and the system's; "" for none.

    Raises:
        ConfigError: `config` names a file that cannot be read, or a file has a value
            that cannot be used.
    """
    found = evaluate(destination, config)
    asked = None
    if found.needs_openssh:
        asked = _ask_openssh(destination, config)
        if asked is not None:
            found.values = asked
            # It knows its own words: only those that are not done here can be left.
            found.problems = [
                f"{keyword} of the configuration of {destination} is not understood here"
                for keyword, words in asked.items()
                if keyword in NOT_DONE and not _is_understood(keyword, words, [])
            ]
    made = _interpret(destination, found.values, found.problems, asked=asked is not None)
    for problem in made.not_understood:
        _report(problem)
    return made


@functools.lru_cache(maxsize=1024)
def _report(problem: str) -> None:
    log.warning("%s", problem)  # once a process, the cache sees to that


# Reading


def evaluate(destination: Destination, config: str | None) -> _Evaluation:
    """Return the values of the files that apply, without their meaning."""
    state = _Evaluation(destination, {}, [])
    if destination.user is not None:
        state.values["user"] = [destination.user]
    if destination.port is not None:
        state.values["port"] = [str(destination.port)]
    if config == "":
        return state
    if config is not None:
        path = os.path.expanduser(config)
        _apply(state, path, os.path.dirname(path), active=True, depth=0)
        if state.missing == path:
            raise ConfigError(f"config cannot be read: {config!r}")
        return state
    home = os.path.expanduser("~/.ssh")
    _apply(state, os.path.join(home, "config"), home, active=True, depth=0)
    _apply(state, SYSTEM_CONFIG, os.path.dirname(SYSTEM_CONFIG), active=True, depth=0)
    return state


def _apply(state: _Evaluation, path: str, base: str, *, active: bool, depth: int) -> None:
    """Take the values of one file that apply. `active`: whether the block around does."""
    if depth > MAX_DEPTH:
        raise ConfigError(f"{path}: more than {MAX_DEPTH} files include each other")
    lines = _read(path)
    if lines is None:
        state.missing = path
        return
    outer = active
    for line in lines:
        keyword, words = line.keyword, line.words
        if keyword == "host":
            active = outer and matches(words, state.destination.host)
        elif keyword == "match":
            active = outer and _match(state, line)
        elif not active:
            continue
        elif keyword == "include":
            for pattern in words:
                pattern = os.path.join(base, os.path.expanduser(pattern))
                for name in sorted(glob.glob(pattern)):
                    _apply(state, name, base, active=active, depth=depth + 1)
        elif keyword in REPEATED:
            state.values.setdefault(keyword, []).extend(words)
        elif keyword in ONLY_OPENSSH and words[0].lower() not in HARMLESS:
            state.needs_openssh = True
            state.problems.append(f"{line.where}: {keyword} needs an OpenSSH client to evaluate")
        elif keyword not in state.values:
            state.values[keyword] = list(words)
            if not _is_understood(keyword, words, state.values.get("ignoreunknown", [])):
                state.problems.append(f"{line.where}: {keyword} is not understood here")


def _is_understood(keyword: str, words: Sequence[str], ignored: Sequence[str]) -> bool:
    """Return whether a setting is done here, or asks for nothing that has to be."""
    if keyword in UNDERSTOOD or keyword in MEANINGLESS:
        return True
    if keyword in NOT_DONE:
        return words[0].lower() in HARMLESS
    return matches([word for text in ignored for word in text.split(",")], keyword)


def _match(state: _Evaluation, line: Line) -> bool:
    words = list(line.words)
    answer = True
    while words:
        criterion = words.pop(0)
        negated = criterion.startswith("!")
        criterion, equals, argument = criterion.lstrip("!").partition("=")
        criterion = criterion.lower()
        if criterion not in MATCH_HERE:
            if criterion not in ("canonical", "final") and not equals and words:
                words.pop(0)
            if answer:  # else it cannot change the answer
                state.needs_openssh = True
                state.problems.append(
                    f"{line.where}: 'Match {criterion}' needs an OpenSSH client to evaluate;"
                    " its block is passed over"
                )
                answer = False
            continue
        if criterion == "all":
            hit = True
        else:
            if not equals:
                if not words:
                    raise ConfigError(f"{line.where}: 'Match {criterion}' has no pattern")
                argument = words.pop(0)
            hit = matches(argument.split(","), _match_value(state, criterion))
        answer = answer and hit != negated
    return answer


def _match_value(state: _Evaluation, criterion: str) -> str:
    if criterion == "user":
        return state.values["user"][0] if "user" in state.values else local_user()
    if criterion == "localuser":
        return local_user()
    host = state.destination.host
    if criterion == "host" and "hostname" in state.values:
        return state.values["hostname"][0].replace("%h", host).replace("%%", "%").lower()
    return host.lower() if criterion == "host" else host


def matches(patterns: Sequence[str], name: str) -> bool:
    """Return whether a pattern with ``*`` and ``?`` matches and none with ``!`` does."""
    hit = False
    for pattern in patterns:
        if pattern.startswith("!"):
            if _pattern(pattern[1:].lower()).fullmatch(name.lower()):
                return False
        elif not hit and _pattern(pattern.lower()).fullmatch(name.lower()):
            hit = True
    return hit


@functools.lru_cache(maxsize=4096)
def _pattern(pattern: str) -> re.Pattern[str]:
    parts = (".*" if c == "*" else "." if c == "?" else re.escape(c) for c in pattern)
    return re.compile("".join(parts), re.DOTALL)


_files: dict[str, tuple[tuple[int, int, int], list[Line]]] = {}
_files_lock = threading.Lock()  # guards _files


def _after_fork_in_child() -> None:
    global _files_lock
    _files_lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork_in_child)


def _read(path: str) -> list[Line] | None:
    """Return the lines of a file, from memory if it has not changed; None without one."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    signature = (status.st_mtime_ns, status.st_size, status.st_ino)
    with _files_lock:
        known = _files.get(path)
    if known is not None and known[0] == signature:
        return known[1]
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            lines = list(_lines(path, file.read()))
    except OSError:
        return None
    with _files_lock:
        _files[path] = (signature, lines)
    return lines


def _lines(path: str, text: str) -> Iterator[Line]:
    for number, raw in enumerate(text.split("\n"), 1):
        stripped = raw.strip()
        if not stripped or stripped.startswith("#"):
            continue
        head = re.match(r"([A-Za-z0-9]+)\s*(?:=\s*|\s+|$)", stripped)
        where = f"{path}:{number}"
        if head is None:
            raise ConfigError(f"{where}: not a setting: {stripped!r}")
        keyword = head[1].lower()
        rest = stripped[head.end() :]
        # A command keeps its quotes; everything else is split into words.
        words = (rest,) if keyword in ("proxycommand", "localcommand") else _words(rest, where)
        if not words or words == ("",):
            raise ConfigError(f"{where}: {head[1]} has no value")
        yield Line(where, keyword, tuple(words))


def _words(text: str, where: str) -> tuple[str, ...]:
    words: list[str] = []
    word: list[str] | None = None
    quote = ""
    chars = iter(text)
    for char in chars:
        if char == "\\":
            following = next(chars, "")
            literal = following in ("'", '"', "\\") or (following == " " and not quote)
            word = [*(word or []), following if literal else char + following]
        elif quote:
            if char == quote:
                quote = ""
            else:
                word = [*(word or []), char]
        elif char in "'\"":
            quote = char
            word = word or []
        elif char.isspace():
            if word is not None:
                words.append("".join(word))
            word = None
        elif char == "#" and word is None:
            break
        else:
            word = [*(word or []), char]
    if quote:
        raise ConfigError(f"{where}: a quote is not closed")
    if word is not None:
        words.append("".join(word))
    return tuple(words)


# Asking OpenSSH


def _ask_openssh(destination: Destination, config: str | None) -> dict[str, list[str]] | None:
    """Return the output of ``ssh -G`` as values, or None if there is no client."""
    client = shutil.which("ssh")
    if client is None:
        return None
    argv = [client, "-G"]
    if config is not None:
        argv += ["-F", os.path.expanduser(config)]
    if destination.user is not None:
        argv += ["-l", destination.user]
    if destination.port is not None:
        argv += ["-p", str(destination.port)]
    answer = _ssh_g((*argv, "--", destination.host))
    defaults = _defaults(client)
    return {key: value for key, value in answer.items() if defaults.get(key) != value} | {
        key: answer[key] for key in ("hostname", "user", "port") if key in answer
    }


@functools.lru_cache(maxsize=8)
def _defaults(client: str) -> dict[str, list[str]]:
    """Return what the client says when it has no file: its defaults are not wishes."""
    return _ssh_g((client, "-F", "none", "-G", "--", "host.invalid"))


def _ssh_g(argv: tuple[str, ...]) -> dict[str, list[str]]:
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=30, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigError(f"'ssh -G' did not answer: {error}") from error
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip()
        raise ConfigError(f"'ssh -G' refused the configuration: {said}")
    values: dict[str, list[str]] = {}
    for line in done.stdout.decode(errors="surrogateescape").splitlines():
        keyword, _, rest = line.partition(" ")
        if keyword in REPEATED:
            values.setdefault(keyword, []).append(rest)
        elif keyword in ("userknownhostsfile", "globalknownhostsfile"):
            values[keyword] = rest.split()
        else:
            values[keyword] = [rest]
    return values


# Meaning


def _interpret(
    destination: Destination,
    values: dict[str, list[str]],
    problems: Sequence[str],
    *,
    asked: bool = False,
) -> HostConfig:
    problems = list(problems)

    def one(keyword: str, default: str) -> str:
        return values[keyword][0] if keyword in values else default

    def optional(keyword: str) -> str | None:
        value = values[keyword][0] if keyword in values else None
        return None if value is None or value.lower() == "none" else value

    def yes(keyword: str, default: bool) -> bool:
        return one(keyword, "yes" if default else "no").lower() in ("yes", "true", "ask")

    user = one("user", local_user())
    port = _whole("Port", one("port", "22"), 1, 65535)
    host_name = one("hostname", destination.host)
    if not asked:
        host_name = host_name.replace("%%", "\0").replace("%h", destination.host)
        host_name = host_name.replace("\0", "%")
    key_alias = optional("hostkeyalias")
    expand = _expander(destination.host, host_name, user, port, key_alias, problems)

    def paths(keyword: str, default: Sequence[str]) -> tuple[str, ...]:
        given = values.get(keyword, default)
        # A key that is named twice is tried once.
        return tuple(dict.fromkeys(expand(path) for path in given if path.lower() != "none"))

    alive = optional("serveraliveinterval")
    timeout = optional("connecttimeout")
    jump = optional("proxyjump")
    command = optional("proxycommand")
    if jump is not None and command is not None:
        # OpenSSH obeys the one that comes first.
        order = list(values)
        if order.index("proxycommand") < order.index("proxyjump"):
            jump = None
        else:
            command = None
    way = functools.partial(_way, destination.host, host_name, user, port)
    strict = one("stricthostkeychecking", "yes").lower()
    return HostConfig(
        host_name=host_name,
        user=user,
        port=port,
        identity_files=paths("identityfile", DEFAULT_KEYS),
        explicit_keys="identityfile" in values,
        certificate_files=paths("certificatefile", ()),
        identities_only=yes("identitiesonly", False),
        identity_agent=_agent(values, expand),
        proxy_jump=tuple(hop.strip() for hop in way(jump).split(",")) if jump else (),
        proxy_command=way(command) if command is not None else None,
        user_known_hosts=paths("userknownhostsfile", DEFAULT_USER_KNOWN_HOSTS),
        global_known_hosts=paths("globalknownhostsfile", DEFAULT_GLOBAL_KNOWN_HOSTS),
        revoked_host_keys=next(iter(paths("revokedhostkeys", ())), None),
        host_key_alias=key_alias,
        strict={"accept-new": "accept-new", "no": "no", "off": "no", "false": "no"}.get(
            strict, "yes"
        ),
        hash_known_hosts=yes("hashknownhosts", False),
        connect_timeout=_seconds("ConnectTimeout", timeout, 1) if timeout else None,
        alive_interval=_seconds("ServerAliveInterval", alive, 0) if alive else None,
        alive_count=_whole("ServerAliveCountMax", one("serveralivecountmax", "3"), 1, 1 << 31),
        ciphers=optional("ciphers"),
        kex=optional("kexalgorithms"),
        macs=optional("macs"),
        host_key_algorithms=optional("hostkeyalgorithms"),
        address_family=one("addressfamily", "any").lower(),
        publickey=one("pubkeyauthentication", "yes").lower() not in ("no", "false"),
        password=yes("passwordauthentication", True),
        keyboard_interactive=yes(
            "kbdinteractiveauthentication", yes("challengeresponseauthentication", True)
        ),
        not_understood=tuple(problems),
    )


def _expander(
    alias: str, host_name: str, user: str, port: int, key_alias: str | None, problems: list[str]
) -> Callable[[str], str]:
    """Return a function that fills in a path's tokens."""
    known = {
        "%": "%",
        "d": os.path.expanduser("~"),
        "h": host_name,
        "i": str(os.getuid()) if hasattr(os, "getuid") else "",
        "k": key_alias or alias,
        "n": alias,
        "p": str(port),
        "r": user,
        "u": local_user(),
    }

    def expand(path: str) -> str:
        def token(found: re.Match[str]) -> str:
            name = found[1]
            if name == "l":
                return socket.gethostname()
            if name == "L":
                return socket.gethostname().partition(".")[0]
            if name in known:
                return known[name]
            problems.append(f"the token %{name} in {path!r} is not understood here")
            return found[0]

        path = re.sub(r"%(.)", token, path) if "%" in path else path
        if "${" in path:
            path = re.sub(r"\$\{([^}]*)\}", lambda found: os.environ.get(found[1], ""), path)
        return os.path.expanduser(path)

    return expand


def _agent(values: dict[str, list[str]], expand: Callable[[str], str]) -> str | None:
    """Return the agent's socket: None for the environment's, "" for none at all."""
    if "identityagent" not in values:
        return None
    value = values["identityagent"][0]
    if value == "none":
        return ""
    if value == "SSH_AUTH_SOCK":
        return None
    return os.environ.get(value[1:], "") if value.startswith("$") else expand(value)


def _way(alias: str, host_name: str, user: str, port: int, text: str) -> str:
    """Fill in the tokens of a ProxyCommand or a ProxyJump."""
    tokens = {"%": "%", "h": host_name, "n": alias, "p": str(port), "r": user}
    return re.sub(r"%([%hnpr])", lambda found: tokens[found[1]], text)


def _whole(name: str, value: Any, low: int, high: int) -> int:
    try:
        number = int(value)
    except ValueError:
        number = low - 1
    if not low <= number <= high:
        raise ConfigError(f"{name} of the SSH configuration cannot be {value!r}")
    return number


UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def _seconds(name: str, value: str, low: int) -> float:
    """Return a time like "90" or "1m30s" (sshd_config(5), "TIME FORMATS") in seconds."""
    if re.fullmatch(r"(\d+[smhdw]?)+", value, re.ASCII | re.IGNORECASE):
        parts = re.findall(r"(\d+)([smhdw]?)", value.lower())
        value = str(sum(int(number) * UNITS[unit] for number, unit in parts))
    return float(_whole(name, value, low, 1 << 31))


@functools.lru_cache(maxsize=1)
def local_user() -> str:
    """Return the name of the user who runs this process."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return str(os.getuid())
