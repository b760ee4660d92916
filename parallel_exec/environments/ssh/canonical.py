"""Canonical names of hosts: ssh_config(5), CanonicalizeHostname and what belongs to it."""

from __future__ import annotations

import ipaddress
import socket
import time
from collections.abc import Mapping, Sequence

from parallel_exec.environments.ssh import names
from parallel_exec.environments.ssh.config_file import matches
from parallel_exec.errors import ConfigError, ConnectError

__all__ = ["canonical"]


Values = Mapping[str, Sequence[str]]


def canonical(host: str, values: Values, *, direct: bool, within: float) -> str:
    """Return the full name of `host`, or `host` itself where none is wanted.

    Args:
        host: The name, after HostName.
        values: The settings that apply.
        direct: Whether it is connected to without a proxy or jump hosts.
        within: Seconds for the name servers to answer, all in all.

    Raises:
        ConfigError: A setting has an unusable value.
        ConnectError: The name is in none of the domains, and must be.
    """
    wanted = _one(values, "canonicalizehostname", "no").lower()
    if wanted not in ("yes", "no", "always", "true", "false"):
        raise ConfigError(f"CanonicalizeHostname of the SSH configuration cannot be {wanted!r}")
    if wanted in ("no", "false") or (not direct and wanted != "always"):
        return host
    if host.endswith("."):
        return host.rstrip(".")
    if _is_address(host):
        return str(ipaddress.ip_address(host))
    deadline = time.monotonic() + within
    domains = [name for name in values.get("canonicaldomains", ()) if name.lower() != "none"]
    dots = _one(values, "canonicalizemaxdots", "1")
    if not dots.isascii() or not dots.isdigit():
        raise ConfigError(f"CanonicalizeMaxDots of the SSH configuration cannot be {dots!r}")
    if host.count(".") <= int(dots):
        for domain in domains:
            full = f"{host}.{domain}"
            name = _look_up(f"{full}.", deadline)
            if name is not None:
                return _followed(full, name, values)
        if _one(values, "canonicalizefallbacklocal", "yes").lower() in ("no", "false"):
            raise ConnectError(
                f"the name {host} does not resolve in {' or '.join(domains) or 'any domain'}"
            )
    if _rules(values):
        name = _look_up(host, deadline)
        if name is not None:
            return _followed(host, name, values)
    return host


def _one(values: Values, keyword: str, default: str) -> str:
    return values[keyword][0] if keyword in values else default


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _look_up(name: str, deadline: float) -> str | None:
    """Return the name that DNS has for `name`, or None if it does not resolve."""
    try:
        left = max(0.0, deadline - time.monotonic())
        found = names.addresses(name, None, 0, within=left, flags=socket.AI_CANONNAME)
    except (OSError, UnicodeError, ConnectError):
        return None
    return found[0][3].rstrip(".").lower() or name.rstrip(".")


def _rules(values: Values) -> list[tuple[list[str], list[str]]]:
    rules = []
    for rule in values.get("canonicalizepermittedcnames", ()):
        if rule.lower() != "none":
            source, colon, target = rule.partition(":")
            if not colon:
                raise ConfigError(
                    f"CanonicalizePermittedCNAMEs of the SSH configuration cannot be {rule!r}"
                )
            rules.append((source.split(","), target.split(",")))
    return rules


def _followed(host: str, name: str, values: Values) -> str:
    """Return `name`, which `host` is an alias of, where that may be followed."""
    for source, target in _rules(values):
        if matches(source, host) and matches(target, name):
            return name
    return host
