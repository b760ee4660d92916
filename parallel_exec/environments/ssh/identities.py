"""Which keys and certificates are offered, in what order, and who signs with each.

OpenSSH's order: certificates that are configured; keys of the files that the agent holds;
the agent's others, unless only configured ones are wanted; then the files themselves. A
file's certificate comes after its key, so that one which the host does not take hides
nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from parallel_exec.environments.ssh.agent import Agent, AgentError, Held, socket_path
from parallel_exec.environments.ssh.config import HostConfig
from parallel_exec.environments.ssh.keys import (
    CERTIFICATE,
    Certificate,
    UnusableKeyError,
    load_certificate,
    load_key,
    parse_certificate,
    public_half,
)
from parallel_exec.environments.ssh.settings import Settings
from parallel_exec.environments.ssh.userauth import Identity

__all__ = ["Identities"]

AGENT_SHARE = 1 / 3  # of the time that is left, to say what it holds

Sign = Callable[[bytes, str, float], bytes]


@dataclass(frozen=True, slots=True)
class _File:
    """A key file: its public half, if that is known, and the certificate that goes with it."""

    path: str
    kind: str
    blob: bytes
    certificate: Certificate | None


class Identities:
    """What one login can offer.

    Args:
        note: Is given a sentence for each thing that cannot be used.
    """

    def __init__(
        self, settings: Settings, config: HostConfig, note: Callable[[str], object]
    ) -> None:
        self._passphrase = settings.passphrase
        self._paths = settings.identity_files or config.identity_files
        self._explicit = bool(settings.identity_files) or config.explicit_keys
        self._only_these = bool(settings.identity_files) or config.identities_only
        self._certificates = config.certificate_files
        self._note = note
        path = socket_path(config.identity_agent) if settings.agent else ""
        self._agent = Agent(path) if path else None
        self._held: dict[bytes, Held] | None = None
        self._files: list[_File] = []

    def close(self) -> None:
        """Close the connection to the agent."""
        if self._agent is not None:
            self._agent.close()

    def offered(self, left: Callable[[], float]) -> Iterator[Identity]:
        """Return what to offer, each once; a file is only decrypted when its turn comes.

        Args:
            left: Returns the seconds that are left for the login.
        """
        if self._held is None:
            self._held = self._ask_agent(left())
            self._files = [self._look_at(path) for path in self._paths]
        done: set[bytes] = set()
        for identity in self._in_order():
            if identity.blob not in done:
                done.add(identity.blob)
                yield identity

    def _in_order(self) -> Iterator[Identity]:
        assert self._held is not None
        for path in self._certificates:
            yield from self._configured(path)
        named = {file.blob for file in self._files if file.blob}
        for file in self._files:
            yield from self._held_of(file)
        for blob, held in self._held.items():
            certificate = parse_certificate(blob)
            if not self._only_these or (certificate is not None and certificate.key in named):
                yield self._from_agent(held)
        for file in self._files:
            yield from self._of_file(file)

    def _ask_agent(self, left: float) -> dict[bytes, Held]:
        if self._agent is None:
            return {}
        try:
            return {held.blob: held for held in self._agent.keys(left * AGENT_SHARE)}
        except AgentError as error:
            self._note(str(error))
            return {}

    def _look_at(self, path: str) -> _File:
        kind, blob = public_half(path) or ("", b"")
        if kind.endswith(CERTIFICATE):
            return _File(path, kind, blob, parse_certificate(blob))
        certificate = None
        # OpenSSH looks beside the keys only if no certificates are configured.
        if not self._certificates:
            certificate = self._certificate(f"{path}{BESIDE}", expected=False)
            if certificate is not None and blob and certificate.key != blob:
                self._note(f"{path}{BESIDE} is not for {path}")
                certificate = None
        return _File(path, kind, blob, certificate)

    def _certificate(self, path: str, *, expected: bool) -> Certificate | None:
        try:
            found = load_certificate(path)
        except FileNotFoundError:
            if expected:
                self._note(f"{path} does not exist")
            return None
        except UnusableKeyError as error:
            self._note(str(error))
            return None
        problem = found.date_problem()
        if problem is not None:  # the host decides, by its own clock
            self._note(f"{path} {problem}")
        return found

    def _configured(self, path: str) -> Iterator[Identity]:
        certificate = self._certificate(path, expected=True)
        if certificate is None:
            return
        sign = self._signer(certificate)
        if sign is None:
            for file in self._files:
                sign = self._sign_with(file, certificate.key)
                if sign is not None:
                    break
        if sign is None:
            self._note(f"there is no key for {path}")
            return
        yield Identity(path, certificate.kind, certificate.blob, sign)

    def _held_of(self, file: _File) -> Iterator[Identity]:
        """Offer what the agent holds of a file."""
        assert self._held is not None
        held = self._held.get(file.blob)
        if held is not None:
            yield self._from_agent(held)
        certificate = file.certificate
        sign = self._signer(certificate) if certificate is not None else None
        if certificate is not None and sign is not None:
            name = file.path if file.kind.endswith(CERTIFICATE) else f"{file.path}{BESIDE}"
            yield Identity(name, certificate.kind, certificate.blob, sign)

    def _signer(self, certificate: Certificate) -> Sign | None:
        """Return how the agent signs for a certificate, if it holds its key."""
        assert self._held is not None
        for blob in (certificate.key, certificate.blob):
            if blob in self._held:
                return self._agent_sign(blob)
        return None

    def _agent_sign(self, blob: bytes) -> Sign:
        agent = self._agent
        assert agent is not None
        return lambda data, algorithm, timeout: agent.sign(blob, data, algorithm, timeout)

    def _from_agent(self, held: Held) -> Identity:
        size = int.from_bytes(held.blob[:4], "big")
        kind = held.blob[4 : 4 + size].decode("ascii", "replace")
        return Identity(f"agent key {kind}", kind, held.blob, self._agent_sign(held.blob))

    def _of_file(self, file: _File) -> Iterator[Identity]:
        assert self._held is not None
        if file.blob in self._held:
            return  # the agent has it, and signs with it
        if file.kind.endswith(CERTIFICATE):
            if file.certificate is None or self._signer(file.certificate) is None:
                self._note(f"there is no key for {file.path}")
            return
        try:
            key = load_key(file.path, self._passphrase)
        except FileNotFoundError:
            if self._explicit:
                self._note(f"{file.path} does not exist")
            return
        except UnusableKeyError as error:
            self._note(str(error))
            return
        if key.blob in self._held:
            return
        yield Identity(
            file.path, key.kind, key.blob, lambda data, algorithm, _: key.sign(data, algorithm)
        )
        certificate = file.certificate
        if certificate is not None and certificate.key == key.blob:
            yield Identity(
                f"{file.path}{BESIDE}",
                certificate.kind,
                certificate.blob,
                lambda data, algorithm, _: key.sign(data, algorithm),
            )

    def _sign_with(self, file: _File, blob: bytes) -> Sign | None:
        """Return how a file's key signs, if it is the one that is meant."""
        if file.blob and file.blob != blob:
            return None
        try:
            key = load_key(file.path, self._passphrase)
        except (FileNotFoundError, UnusableKeyError):
            return None  # which is said when its own turn comes
        return (lambda data, algorithm, _: key.sign(data, algorithm)) if key.blob == blob else None


BESIDE = "-cert.pub"
