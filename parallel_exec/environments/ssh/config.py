"""OpenSSH's client configuration, as it applies to one destination.

The files are read and evaluated here, which costs a fifth of a millisecond a host
instead of the 5 to 10 of a process, and gives the same answers with and without an
OpenSSH client. `tests/unit/ssh/test_config.py` holds them to those of ``ssh -G``. What is
not done here is reported, and refused where the rest would mean something else.
"""

from __future__ import annotations

import functools
import logging
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from parallel_exec.environments.ssh import tokens
from parallel_exec.environments.ssh.config_file import matches
from parallel_exec.environments.ssh.destination import Destination, service
from parallel_exec.environments.ssh.evaluation import WITHIN_S, Evaluation, evaluate, local_user
from parallel_exec.errors import ConfigError
from parallel_exec.values.names import host_fault, user_fault

__all__ = ["HostConfig", "resolve"]

log = logging.getLogger("parallel_exec")

T = TypeVar("T")

UNDERSTOOD = {
    *("addressfamily", "canonicaldomains", "canonicalizefallbacklocal", "canonicalizehostname"),
    *("canonicalizemaxdots", "canonicalizepermittedcnames", "certificatefile", "ciphers"),
    "connecttimeout",
    *("globalknownhostsfile", "hashknownhosts", "hostkeyalgorithms", "hostkeyalias", "hostname"),
    *("identitiesonly", "identityagent", "identityfile", "ignoreunknown", "include"),
    *("kbdinteractiveauthentication", "kexalgorithms", "macs", "passwordauthentication"),
    *("port", "proxycommand", "proxyjump", "pubkeyauthentication", "revokedhostkeys"),
    *("serveralivecountmax", "serveraliveinterval", "stricthostkeychecking", "user"),
    *("tag", "userknownhostsfile"),
}
# All others have one value.
LISTS = {
    *("canonicaldomains", "canonicalizepermittedcnames", "globalknownhostsfile", "include"),
    "userknownhostsfile",
}
# These change whom we talk to or trust, how we log in or what a command can do, and are
# not done here: they are reported, like every word that is not known.
NOT_DONE = {
    *("bindaddress", "bindinterface", "forwardagent"),
    *("hostbasedauthentication", "kbdinteractivedevices", "knownhostscommand"),
    *("nohostauthenticationforlocalhost", "pkcs11provider", "preferredauthentications"),
    *("proxyusefdpass", "pubkeyacceptedalgorithms"),
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
    *("addkeystoagent", "batchmode"),
    *("casignaturealgorithms", "channeltimeout", "checkhostip", "clearallforwardings"),
    *("compression", "connectionattempts", "controlmaster", "controlpath", "controlpersist"),
    *("dynamicforward", "enableescapecommandline", "enablesshkeysign", "escapechar"),
    *("exitonforwardfailure", "fingerprinthash", "forkafterauthentication", "forwardx11"),
    *("forwardx11timeout", "forwardx11trusted", "gatewayports", "gssapiauthentication"),
    *("gssapiclientidentity", "gssapidelegatecredentials", "gssapikexalgorithms"),
    *("gssapikeyexchange", "gssapirenewalforcesrekey", "gssapiserveridentity", "gssapitrustdns"),
    *("hostbasedacceptedalgorithms", "ipqos", "localcommand"),
    *("localforward", "loglevel", "logverbose", "numberofpasswordprompts"),
    *("obscurekeystroketiming", "permitlocalcommand", "permitremoteopen", "rekeylimit"),
    *("remotecommand", "remoteforward", "requesttty", "sendenv", "sessiontype", "stdinnull"),
    *("streamlocalbindmask", "streamlocalbindunlink", "syslogfacility", "tcpkeepalive"),
    *("tunnel", "tunneldevice", "updatehostkeys", "usekeychain", "versionaddendum"),
    *("visualhostkey", "warnweakcrypto", "xauthlocation"),
}

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


def resolve(destination: Destination, config: str | None, within: float = WITHIN_S) -> HostConfig:
    """Return what applies to `destination`.

    Args:
        destination: Its user and port win over those of the files.
        config: A file; None for the user's and the system's; "" for none.
        within: Seconds for the commands of ``Match exec`` and for name servers.

    Raises:
        ConnectTimeoutError: They have not answered in time.
        ConfigError: `config` names a file that cannot be read, or a file has a value
            that cannot be used.
        ConnectError: A canonical name is wanted, and there is none.
    """
    made = interpret(evaluate(destination, config, within))
    for problem in made.not_understood:
        _report(problem)
    return made


@functools.lru_cache(maxsize=1024)
def _report(problem: str) -> None:
    log.warning("%s", problem)  # once a process, the cache sees to that


def _problems(found: Evaluation) -> tuple[str, ...]:
    """Return what is passed over; refuse what has more than one value and may not."""
    problems = []
    ignored = found.values.get("ignoreunknown", [""])[0].split(",")
    for keyword, line in found.lines.items():
        if keyword in MEANINGLESS:
            continue
        if keyword in UNDERSTOOD:
            if len(line.words) > 1 and keyword not in LISTS:
                raise ConfigError(f"{line.where}: {keyword} has more than one value")
            continue
        if keyword in NOT_DONE:
            passed = line.words[0].lower() in HARMLESS
        else:
            passed = matches(ignored, keyword)
        if not passed:
            problems.append(f"{line.where}: {keyword} is not understood here")
    return tuple(problems)


def interpret(found: Evaluation) -> HostConfig:
    """Return what the values mean.

    Raises:
        ConfigError: One of them cannot be used.
    """
    values = found.values
    destination = found.destination
    one = found.first

    def optional(keyword: str) -> str | None:
        value = values[keyword][0] if keyword in values else None
        return None if value is None or value.lower() == "none" else value

    user = one("user", local_user())
    port = _whole("Port", str(service(one("port", "22"))), 1, 65535)
    host_name = found.host_name()
    for setting, name, fault in (
        ("HostName", host_name, host_fault(host_name)),
        ("User", user, user_fault(user)),
    ):
        if fault is not None:
            raise ConfigError(
                f"{setting} of the SSH configuration of {destination} cannot be {name!r}:"
                f" {fault.what}"
            )
    key_alias = one("hostkeyalias", "").lower() or None
    known = tokens.known_tokens(
        alias=destination.host,
        host=host_name,
        user=user,
        port=port,
        key_alias=key_alias,
        local_user=local_user(),
    )

    def flag(keyword: str, default: bool, **more: bool) -> bool:
        return _choice(keyword, one(keyword, ""), default, FLAGS | more)

    def paths(keyword: str, default: Sequence[str]) -> tuple[str, ...]:
        given = values.get(keyword, default)
        return tuple(
            dict.fromkeys(tokens.path(keyword, path, known) for path in given if path != "none")
        )

    # OpenSSH obeys the one that comes first, but for a "ProxyJump none": that leaves a
    # ProxyCommand behind it alone, and "ProxyCommand none" is no way to any ProxyJump.
    ways = [keyword for keyword in values if keyword in ("proxycommand", "proxyjump")]
    jump = optional("proxyjump") if ways[:1] == ["proxyjump"] else None
    command = optional("proxycommand") if jump is None else None
    alive_count = one("serveralivecountmax", "3")
    return HostConfig(
        host_name=host_name,
        user=user,
        port=port,
        identity_files=paths("identityfile", DEFAULT_KEYS),
        explicit_keys="identityfile" in values,
        certificate_files=paths("certificatefile", ()),
        identities_only=flag("identitiesonly", False),
        identity_agent=_agent(values, known),
        proxy_jump=_hops(jump, known) if jump else (),
        proxy_command=tokens.for_shell("ProxyCommand", command, known, WAY) if command else None,
        user_known_hosts=()
        if optional("userknownhostsfile") is None and "userknownhostsfile" in values
        else paths("userknownhostsfile", DEFAULT_USER_KNOWN_HOSTS),
        global_known_hosts=tuple(
            path
            for path in values.get("globalknownhostsfile", DEFAULT_GLOBAL_KNOWN_HOSTS)
            if path != "none"
        ),
        revoked_host_keys=next(iter(paths("revokedhostkeys", ())), None),
        host_key_alias=key_alias,
        strict=_choice("stricthostkeychecking", one("stricthostkeychecking", ""), "yes", STRICT),
        hash_known_hosts=flag("hashknownhosts", False),
        connect_timeout=_seconds("ConnectTimeout", optional("connecttimeout")) or None,
        alive_interval=_seconds("ServerAliveInterval", optional("serveraliveinterval")),
        alive_count=_whole("ServerAliveCountMax", alive_count, 0, MOST),
        ciphers=optional("ciphers"),
        kex=optional("kexalgorithms"),
        macs=optional("macs"),
        host_key_algorithms=optional("hostkeyalgorithms"),
        address_family=_choice("addressfamily", one("addressfamily", ""), "any", FAMILIES),
        publickey=flag("pubkeyauthentication", True, unbound=True, **{"host-bound": True}),
        password=flag("passwordauthentication", True),
        keyboard_interactive=flag("kbdinteractiveauthentication", True),
        not_understood=_problems(found),
    )


FLAGS = {"yes": True, "true": True, "no": False, "false": False}
STRICT = {
    "yes": "yes",
    "true": "yes",
    "ask": "yes",
    "accept-new": "accept-new",
    "no": "no",
    "false": "no",
    "off": "no",
}
FAMILIES = {"any": "any", "inet": "inet", "inet6": "inet6"}
WAY = "hnpr"  # the tokens of ProxyCommand and ProxyJump
MOST = (1 << 31) - 1


def _choice(keyword: str, value: str, default: T, choices: Mapping[str, T]) -> T:
    if not value:
        return default
    if value.lower() not in choices:
        raise ConfigError(f"{keyword} of the SSH configuration cannot be {value!r}")
    return choices[value.lower()]


def _hops(text: str, known: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(hop.strip() for hop in tokens.fill_in("ProxyJump", text, known, WAY).split(","))


def _agent(values: Mapping[str, Sequence[str]], known: Mapping[str, str]) -> str | None:
    """Return the agent's socket: None for the environment's, "" for none at all."""
    if "identityagent" not in values:
        return None
    value = values["identityagent"][0]
    if value == "none":
        return ""
    if value == "SSH_AUTH_SOCK":
        return None
    if value.startswith("$") and not value.startswith("${"):
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", value[1:], re.ASCII):
            raise ConfigError(f"IdentityAgent of the SSH configuration cannot be {value!r}")
        return os.environ.get(value[1:], "")
    return tokens.path("IdentityAgent", value, known)


def _whole(name: str, value: str, low: int, high: int) -> int:
    # Digits in a bounded number: Python refuses to read thousands of them.
    number = int(value) if re.fullmatch(r"[0-9]{1,19}", value) else low - 1
    if not low <= number <= high:
        raise ConfigError(f"{name} of the SSH configuration cannot be {value!r}")
    return number


UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def _seconds(name: str, value: str | None) -> float | None:
    """Return a time like "90" or "1m30s" (sshd_config(5), "TIME FORMATS") in seconds."""
    if value is None:
        return None
    if re.fullmatch(r"([0-9]{1,19}[smhdw]?)+", value, re.IGNORECASE):
        parts = re.findall(r"([0-9]{1,19})([smhdw]?)", value.lower())
        total = sum(int(number) * UNITS[unit] for number, unit in parts)
        if total <= MOST:
            return float(total)
    raise ConfigError(f"{name} of the SSH configuration cannot be {value!r}")
