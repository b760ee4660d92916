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
        self._failed: set[bytes] = set()  # what the agent holds and did not sign for

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
        done: dict[bytes, set[bool]] = {}
        for identity in self._in_order():
            before = done.setdefault(identity.blob, set())
            # A file's own key takes the place of an agent that has failed to sign.
            if not before or (identity.by_agent not in before and identity.blob in self._failed):
                before.add(identity.by_agent)
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
        holder = self._holder(certificate)
        if holder is not None:
            yield self._by_agent(path, certificate.kind, certificate.blob, holder)
            if certificate.blob not in self._failed:
                return
        for file in self._files:
            sign = self._sign_with(file, certificate.key)
            if sign is not None:
                yield Identity(path, certificate.kind, certificate.blob, sign)
                return
        if holder is None:
            self._note(f"there is no key for {path}")

    def _held_of(self, file: _File) -> Iterator[Identity]:
        """Offer what the agent holds of a file."""
        assert self._held is not None
        held = self._held.get(file.blob)
        if held is not None:
            yield self._from_agent(held)
        certificate = file.certificate
        holder = self._holder(certificate) if certificate is not None else None
        if certificate is not None and holder is not None:
            name = file.path if file.kind.endswith(CERTIFICATE) else f"{file.path}{BESIDE}"
            yield self._by_agent(name, certificate.kind, certificate.blob, holder)

    def _holder(self, certificate: Certificate) -> bytes | None:
        """Return what the agent holds that signs for a certificate."""
        assert self._held is not None
        held = (blob for blob in (certificate.key, certificate.blob) if blob in self._held)
        return next(held, None)

    def _by_agent(self, name: str, kind: str, blob: bytes, holder: bytes) -> Identity:
        """Return what is offered as `blob` and signed by what the agent holds as `holder`."""
        agent = self._agent
        assert agent is not None

        def sign(data: bytes, algorithm: str, timeout: float) -> bytes:
            try:
                return agent.sign(holder, data, algorithm, timeout)
            except AgentError:
                self._failed.add(blob)
                raise

        return Identity(name, kind, blob, sign, by_agent=True)

    def _from_agent(self, held: Held) -> Identity:
        size = int.from_bytes(held.blob[:4], "big")
        kind = held.blob[4 : 4 + size].decode("ascii", "replace")
        return self._by_agent(f"agent key {kind}", kind, held.blob, held.blob)

    def _of_file(self, file: _File) -> Iterator[Identity]:
        assert self._held is not None
        certificate = file.certificate
        blobs = {file.blob} if certificate is None else {file.blob, certificate.blob}
        if file.blob in self._held and not blobs & self._failed:
            return  # the agent has it, and signs with it: nobody needs the passphrase
        if file.kind.endswith(CERTIFICATE):
            if certificate is None or self._holder(certificate) is None:
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
        yield Identity(
            file.path, key.kind, key.blob, lambda data, algorithm, _: key.sign(data, algorithm)
        )
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
