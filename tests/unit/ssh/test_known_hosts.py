"""The keys that hosts are known by."""

from __future__ import annotations

import base64
import hashlib
import logging
import struct
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest

from parallel_exec.environments.ssh.known_hosts import KnownHosts, fingerprint, hash_name
from parallel_exec.errors import HostKeyError

ROOT = Path(__file__).parents[3]
KIND = "ssh-ed25519"


def make(text: bytes, kind: str = KIND) -> bytes:
    """Return a key in the protocol's form, with something for its numbers."""
    parts = [kind.encode(), hashlib.sha256(text).digest()] + [b"more"] * (kind == "ssh-rsa")
    return b"".join(struct.pack(">I", len(part)) + part for part in parts)


KEY, OTHER = make(b"the key" * 5), make(b"another" * 5)


def line(names: str, key: bytes = KEY, kind: str = KIND, marker: str = "") -> str:
    """Return a line of a file."""
    return f"{marker}{names} {kind} {base64.b64encode(key).decode()} comment\n"


def verify(
    path: Path, host: str = "web", port: int = 22, key: bytes = KEY, **options: object
) -> None:
    """Ask whether the key is accepted."""
    settings: dict[str, object] = {
        "alias": None,
        "user_files": [str(path)],
        "global_files": [],
        "accept_new": False,
        "hash_names": False,
        **options,
    }
    known = settings.pop("known", None) or KnownHosts()
    known.verify(host, port, KIND, key, **settings)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("names", "host", "port"),
    [
        ("web", "WEB", 22),
        ("db,web,10.0.0.1", "web", 22),
        ("[web]:2222", "web", 2222),
        ("web", "web", 2222),
        ("*.lan", "web.lan", 22),
        ("w?b", "web", 22),
        ("[web]:*", "web", 2222),
        pytest.param(hash_name("web"), "web", 22, id="hashed"),
        pytest.param(hash_name("[web]:2222"), "web", 2222, id="hashed, with a port"),
        ("::1", "::1", 22),
    ],
)
def test_names_that_match(tmp_path: Path, names: str, host: str, port: int) -> None:
    """Plain, with a port, with wildcards, hashed; a name without port is good on any."""
    path = tmp_path / "known_hosts"
    path.write_text("# comment\n\n" + line(names))
    verify(path, host, port)
    with pytest.raises(HostKeyError):
        verify(path, host, port, key=OTHER)


@pytest.mark.parametrize(
    ("names", "host", "port"),
    [
        ("*.lan,!web.lan", "web.lan", 22),
        ("[web]:2222", "web", 22),
        pytest.param(hash_name("x"), "web", 22, id="hashed"),  # another salt each time
    ],
)
def test_names_that_do_not(tmp_path: Path, names: str, host: str, port: int) -> None:
    """The host is unknown then."""
    path = tmp_path / "known_hosts"
    path.write_text(line(names))
    with pytest.raises(HostKeyError, match="is unknown"):
        verify(path, host, port)


def test_changed_key_names_the_line(tmp_path: Path) -> None:
    """And both fingerprints; `accept_new` does not help."""
    path = tmp_path / "known_hosts"
    path.write_text("#\n" + line("web", OTHER))
    for accept_new in (False, True):
        with pytest.raises(HostKeyError, match="has changed") as caught:
            verify(path, accept_new=accept_new)
        for part in (f"{path}:2", fingerprint(KEY), fingerprint(OTHER)):
            assert part in str(caught.value)
    assert path.read_text() == "#\n" + line("web", OTHER)


def test_key_of_another_type_is_not_new(tmp_path: Path) -> None:
    """A host that is known is not asked for a weaker proof."""
    path = tmp_path / "known_hosts"
    path.write_text(line("web", make(b"other" * 5, "ssh-rsa"), kind="ssh-rsa"))
    with pytest.raises(HostKeyError, match="another type"):
        verify(path, accept_new=True)


def test_revoked_key_is_refused_whatever_else_says(tmp_path: Path) -> None:
    """For the hosts the line names."""
    path = tmp_path / "known_hosts"
    path.write_text(line("web") + line("*", marker="@revoked "))
    with pytest.raises(HostKeyError, match=r"revoked by .*known_hosts:2"):
        verify(path, accept_new=True)


def test_revoked_without_the_port(tmp_path: Path) -> None:
    """A line for the name alone also holds on other ports."""
    path = tmp_path / "known_hosts"
    path.write_text(line("[web]:2222") + line("web", marker="@revoked "))
    with pytest.raises(HostKeyError, match="revoked"):
        verify(path, port=2222)


def test_file_of_revoked_keys(tmp_path: Path) -> None:
    """RevokedHostKeys: what is in it is refused, whatever known_hosts says."""
    path, revoked = tmp_path / "known_hosts", tmp_path / "revoked"
    path.write_text(line("web"))
    revoked.write_text("# gone\n" + line("", OTHER).lstrip())
    verify(path, revoked_keys=str(revoked))
    with revoked.open("a") as file:
        file.write(line("").lstrip())
    with pytest.raises(HostKeyError, match=r"revoked by .*/revoked:3: SHA256:"):
        verify(path, revoked_keys=str(revoked))


@pytest.mark.parametrize("content", [None, b"SSHKRL\n\0\0\0\0\1"])
def test_file_of_revoked_keys_that_tells_nothing(tmp_path: Path, content: bytes | None) -> None:
    """Missing, or of a form that is not understood: no key is accepted, as OpenSSH does."""
    path, revoked = tmp_path / "known_hosts", tmp_path / "revoked"
    path.write_text(line("web"))
    if content is not None:
        revoked.write_bytes(content)
    with pytest.raises(HostKeyError, match="cannot be told"):
        verify(path, revoked_keys=str(revoked))


def test_authority_makes_no_key_known(tmp_path: Path) -> None:
    """A host without a certificate is unknown, and the error says whose it lacks."""
    path = tmp_path / "known_hosts"
    path.write_text(line("*", marker="@cert-authority "))
    with pytest.raises(HostKeyError, match=r"no certificate by the @cert-authority of .*:1"):
        verify(path)


@pytest.mark.parametrize(
    "text",
    [
        f"web {KIND} {base64.b64encode(make(b'x', 'ssh-rsa')).decode()}",
        f"web ssh-rsa {base64.b64encode(KEY).decode()}",
        f"web {KIND} !!!!",
        f"web {KIND} {base64.b64encode(KEY[:-3]).decode()}",
        f"web {KIND} {base64.b64encode(KEY + b'more').decode()}",
        f"web {KIND}",
        f"@strange web {KIND} {base64.b64encode(KEY).decode()}",
        f"|1|short|short {KIND} {base64.b64encode(KEY).decode()}",
        "web",
        "@revoked",
    ],
)
def test_lines_that_are_none(tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture) -> None:
    """They are reported, and make nothing known, nor revoked."""
    path = tmp_path / "known_hosts"
    path.write_text(f"#\n{text}\n")
    with caplog.at_level(logging.WARNING), pytest.raises(HostKeyError, match="is unknown"):
        verify(path)
    assert f"{path}:2 " in caplog.text
    path.write_text(f"{text}\n{line('web')}")
    verify(path)


def test_order_of_algorithms(tmp_path: Path) -> None:
    """Those of known keys come first, in our order and not in that of the file."""
    path = tmp_path / "known_hosts"
    ours = ["a-cert-v01@openssh.com", KIND, "ecdsa-sha2-nistp256", "rsa-sha2-512", "rsa-sha2-256"]

    def order() -> list[str]:
        return list(KnownHosts().algorithms("web", 22, None, [str(path)], ours))

    path.write_text("")
    assert order() == ours[1:]
    path.write_text(line("web", make(b"stale", "ssh-rsa"), "ssh-rsa"))
    assert order() == ["rsa-sha2-512", "rsa-sha2-256", KIND, "ecdsa-sha2-nistp256"]
    with path.open("a") as file:
        file.write(line("web"))
    assert order() == [KIND, "rsa-sha2-512", "rsa-sha2-256", "ecdsa-sha2-nistp256"]
    with path.open("a") as file:
        file.write(line("w*", marker="@cert-authority "))
    assert order() == [ours[0], KIND, "rsa-sha2-512", "rsa-sha2-256", "ecdsa-sha2-nistp256"]


def test_memory_of_a_large_file(tmp_path: Path) -> None:
    """A file takes at most three and a third of its own size at once, whatever is in it."""
    path = tmp_path / "known_hosts"
    kinds = {
        "plain": [line(f"host-{n}.example.com,10.0.{n >> 8}.{n & 255}") for n in range(20_000)],
        "hashed": [line(hash_name(f"host-{n}")) for n in range(20_000)],
    }
    for lines in kinds.values():
        path.write_text("".join(lines))
        tracemalloc.start()
        known = KnownHosts()
        found = known.find(["host-77.example.com", "host-77"], [str(path)])
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert len(found.known) == 1
        assert peak < path.stat().st_size * 10 / 3


def test_alias_replaces_the_name(tmp_path: Path) -> None:
    """Without the port."""
    path = tmp_path / "known_hosts"
    path.write_text(line("known-as"))
    verify(path, port=2222, alias="Known-As")


def test_file_is_read_once_and_again_when_it_changes(tmp_path: Path) -> None:
    """By whoever shares it."""
    path = tmp_path / "known_hosts"
    path.write_text("".join(line(f"host{n}") for n in range(1000)))
    known = KnownHosts()
    for n in range(100):
        verify(path, f"host{n}", known=known)
    assert known.reads == 1
    with path.open("a") as file:
        file.write(line("late"))
    verify(path, "late", known=known)
    assert known.reads == 2


def test_new_key_is_appended_after_an_unfinished_line(tmp_path: Path) -> None:
    """What was there stays as it is."""
    path = tmp_path / "known_hosts"
    path.write_text(line("db").rstrip("\n"))
    verify(path, port=2222, accept_new=True)
    assert path.read_text().startswith(line("db"))
    verify(path, port=2222)
    verify(path, "hidden", accept_new=True, hash_names=True)
    assert "hidden" not in path.read_text()
    verify(path, "hidden")


@pytest.mark.parametrize("name", ["*", "a,b", "w?b", "#web", "@revoked", "|1|x"])
def test_new_key_stands_for_its_host_alone(tmp_path: Path, name: str) -> None:
    """Whatever the host is called."""
    path = tmp_path / "known_hosts"
    verify(path, name, accept_new=True)
    verify(path, name)
    for other in ("a", "web"):
        with pytest.raises(HostKeyError, match="is unknown"):
            verify(path, other)


ADD = """
import base64, sys
from parallel_exec.environments.ssh.known_hosts import KnownHosts
key = base64.b64decode(sys.argv[3])
for n in range(int(sys.argv[2]), int(sys.argv[2]) + 25):
    KnownHosts().verify(
        f"host{n % 50}", 22, "ssh-ed25519", key, alias=None, user_files=sys.argv[1:2],
        global_files=[], accept_new=True, hash_names=False,
    )
"""


def test_many_processes_write_the_file(tmp_path: Path) -> None:
    """Every host once, every line whole."""
    path = tmp_path / "known_hosts"
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", ADD, str(path), str(n * 13), base64.b64encode(KEY)], cwd=ROOT
        )
        for n in range(4)
    ]
    assert [worker.wait() for worker in workers] == [0] * 4
    lines = path.read_text().splitlines()
    assert len(lines) == len({text.split()[0] for text in lines})
    assert all(text.split()[1:] == [KIND, base64.b64encode(KEY).decode()] for text in lines)


def test_file_that_cannot_be_written(tmp_path: Path) -> None:
    """The new key is not accepted without being remembered."""
    (tmp_path / "file").write_text("")
    with pytest.raises(HostKeyError, match="cannot be added"):
        verify(tmp_path / "file" / "known_hosts", accept_new=True)
