"""OpenSSH's configuration: the same answers as OpenSSH's own."""

from __future__ import annotations

import logging
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from parallel_exec.environments.ssh import config as module
from parallel_exec.environments.ssh.config import matches, resolve
from parallel_exec.environments.ssh.destination import Destination
from parallel_exec.errors import ConfigError

needs_ssh = pytest.mark.skipif(
    shutil.which("ssh") is None, reason="needs OpenSSH's client: apt-get install openssh-client"
)


def write(folder: Path, text: str, name: str = "config") -> str:
    """Write a configuration file and return its path."""
    path = folder / name
    path.write_text(text)
    return str(path)


def test_the_first_value_stands(tmp_path: Path) -> None:
    """From the top; what the caller says comes before."""
    path = write(tmp_path, "Host web*\n Port 1000\nHost *\n Port 2000\n User all\n")
    found = resolve(Destination("web1"), path)
    assert (found.port, found.user) == (1000, "all")
    found = resolve(Destination("web1", "me", 3000), path)
    assert (found.port, found.user) == (3000, "me")


def test_include_stays_within_its_block(tmp_path: Path) -> None:
    """What it includes applies where it stands, and relative to the file's folder."""
    write(tmp_path, "Port 1\nHost b\n User in-b\n", "one.conf")
    path = write(tmp_path, "Host a\n Include *.conf\nHost *\n Port 2\n User out\n")
    assert resolve(Destination("a"), path).port == 1
    assert resolve(Destination("b"), path).port == 2
    assert resolve(Destination("b"), path).user == "out"


def test_match(tmp_path: Path) -> None:
    """Host after HostName, originalhost before; user; negation."""
    path = write(
        tmp_path,
        "Host alias\n HostName real.example\n"
        "Match host real.* !user root\n Port 1\n"
        "Match originalhost alias user root\n Port 2\n"
        "Match all\n Port 3\n",
    )
    assert resolve(Destination("alias", "me"), path).port == 1
    assert resolve(Destination("alias", "root"), path).port == 2
    assert resolve(Destination("other", "me"), path).port == 3


def test_quotes_tokens_and_lists(tmp_path: Path) -> None:
    """As ssh_config(5) has them."""
    path = write(
        tmp_path,
        'HostName=%h.example\nIdentityFile "/keys/a b/%r@%h"\nIdentityFile /keys/%%\n'
        "UserKnownHostsFile /a /b # where\nProxyJump me@one,two:22\nCiphers ^aes256-ctr\n"
        "StrictHostKeyChecking accept-new\nConnectTimeout 7\nServerAliveInterval 3\n"
        "HostKeyAlias known-as\nIdentitiesOnly yes\nHashKnownHosts yes\n",
    )
    found = resolve(Destination("web", "me"), path)
    assert found.host_name == "web.example"
    assert found.identity_files == ("/keys/a b/me@web.example", "/keys/%")
    assert found.user_known_hosts == ("/a", "/b")
    assert found.proxy_jump == ("me@one", "two:22")
    assert found.ciphers == "^aes256-ctr"
    assert (found.strict, found.connect_timeout, found.alive_interval) == ("accept-new", 7.0, 3.0)
    assert (found.host_key_alias, found.identities_only) == ("known-as", True)
    assert found.hash_known_hosts


def test_tokens_that_depend_on_other_settings(tmp_path: Path) -> None:
    """The alias of the host's key, and the way through jump hosts."""
    path = write(
        tmp_path,
        "HostKeyAlias known-as\nUserKnownHostsFile /kh/%k\nHostName real\n"
        "ProxyJump jump-%n,%h.jump:1%p\n",
    )
    found = resolve(Destination("web", "me"), path)
    assert found.user_known_hosts == ("/kh/known-as",)
    assert found.proxy_jump == ("jump-web", "real.jump:122")
    path = write(tmp_path, "UserKnownHostsFile /kh/%k\n", "without")
    assert resolve(Destination("web"), path).user_known_hosts == ("/kh/web",)


@pytest.mark.parametrize(
    ("text", "seconds"), [("7", 7), ("7s", 7), ("1m30s", 90), ("2H", 7200), ("1w1d", 691200)]
)
def test_times(tmp_path: Path, text: str, seconds: float) -> None:
    """As OpenSSH has them, with units."""
    path = write(tmp_path, f"ConnectTimeout {text}\nServerAliveInterval {text}\n")
    found = resolve(Destination("web"), path)
    assert (found.connect_timeout, found.alive_interval) == (seconds, seconds)


@pytest.mark.parametrize("text", ["-1", "1x", "m", "1.5", "99999999999"])
def test_times_that_are_none(tmp_path: Path, text: str) -> None:
    """An error that names the setting."""
    path = write(tmp_path, f"ConnectTimeout {text}\n")
    with pytest.raises(ConfigError, match="ConnectTimeout"):
        resolve(Destination("web"), path)


def test_the_first_of_proxy_jump_and_proxy_command_stands(tmp_path: Path) -> None:
    """As in OpenSSH."""
    path = write(tmp_path, "ProxyCommand nc %h %p\nProxyJump bastion\n")
    found = resolve(Destination("web"), path)
    assert (found.proxy_jump, found.proxy_command) == ((), "nc web 22")
    path = write(tmp_path, "ProxyJump bastion\nProxyCommand nc %h %p\n", "other")
    assert resolve(Destination("web"), path).proxy_command is None


def test_what_is_not_understood_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """In the log, with the place where it stands; what is misspelt too."""
    path = write(
        tmp_path,
        "Host *\n KnownHostsCommand /bin/x\n BindAddress 10.0.0.1\n PKCS11Provider /k\n"
        " HostNam typed.wrong\n ForwardAgent yes\n",
    )
    with caplog.at_level(logging.WARNING):
        found = resolve(Destination("web"), path)
    words = ["knownhostscommand", "bindaddress", "pkcs11provider", "hostnam", "forwardagent"]
    assert found.not_understood == tuple(
        f"{path}:{line}: {word} is not understood here" for line, word in enumerate(words, 2)
    )
    assert all(problem in caplog.text for problem in found.not_understood)


def test_what_asks_for_nothing_here_is_not_said(tmp_path: Path) -> None:
    """Terminals and tunnels, "no", and what the file itself says to ignore."""
    path = write(
        tmp_path,
        "IgnoreUnknown UseKey*,Other\nUseKeyring yes\nOther 1\nControlMaster auto\n"
        "ForwardAgent no\nSendEnv LANG LC_*\nGSSAPIAuthentication yes\n",
    )
    assert resolve(Destination("web"), path).not_understood == ()


@needs_ssh
def test_what_is_not_understood_is_said_of_the_clients_answer_too(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever evaluates the file, what is not done here is said."""
    path = write(tmp_path, "Match exec true\n BindAddress 10.0.0.1\n ForwardAgent no\n")
    with caplog.at_level(logging.WARNING):
        found = resolve(Destination("asked.example"), path)
    assert found.not_understood == (
        "bindaddress of the configuration of asked.example is not understood here",
    )
    assert found.not_understood[0] in caplog.text


def test_match_exec_without_a_client_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The block is passed over, and that is said."""
    monkeypatch.setattr(shutil, "which", lambda name: None)
    path = write(tmp_path, "Match exec true\n Port 1\nMatch all\n Port 2\n")
    found = resolve(Destination("web"), path)
    assert found.port == 2
    assert "Match exec" in found.not_understood[0]


@needs_ssh
def test_match_exec_is_asked_of_the_client(tmp_path: Path) -> None:
    """Its answer stands, and its defaults are not taken for wishes."""
    path = write(
        tmp_path, 'Match exec "test %h = web"\n Port 1\n IdentityFile /k\nHost *\n Port 2\n'
    )
    found = resolve(Destination("web"), path)
    assert (found.port, found.identity_files, found.ciphers) == (1, ("/k",), None)
    assert resolve(Destination("db"), path).port == 2
    assert not resolve(Destination("db"), path).explicit_keys


@pytest.mark.parametrize("text", ["Port x", "Port", 'User "a', "%%%"])
def test_broken_files_are_errors(tmp_path: Path, text: str) -> None:
    """Not passed over."""
    with pytest.raises(ConfigError):
        resolve(Destination("web"), write(tmp_path, text + "\n"))


def test_patterns() -> None:
    """Stars, question marks and negation, whatever the case."""
    assert matches(["web?", "!web3"], "WEB1")
    assert not matches(["web?", "!web3"], "web3")
    assert not matches(["!web3"], "web1")
    assert matches(["*"], "")


def test_no_files_at_all() -> None:
    """Defaults."""
    found = resolve(Destination("web"), "")
    assert (found.host_name, found.port, found.explicit_keys) == ("web", 22, False)


HOSTS = ["web1", "web2", "db.example", "a-b"]
PATTERNS = st.sampled_from(["*", "web?", "web1", "db.*", "!web2", "a-b", "*.example"])
SETTINGS = st.sampled_from(
    [
        *("Port 1022", "Port 1023", "User ann", "User bob", "HostName %h.lan", "HostName real"),
        *("ProxyJump hop", "ProxyJump none", "ProxyCommand nc %h %p", "IdentitiesOnly yes"),
        *("IdentityFile /k/one", "IdentityFile /k/two", "HostKeyAlias known", "ConnectTimeout 5"),
        *("ServerAliveInterval 9", "StrictHostKeyChecking accept-new", "StrictHostKeyChecking no"),
    ]
)
HEADS = st.one_of(
    st.lists(PATTERNS, min_size=1, max_size=3).map(lambda found: "Host " + " ".join(found)),
    st.lists(PATTERNS, min_size=1, max_size=2).map(lambda f: "Match host " + ",".join(f)),
    st.lists(PATTERNS, min_size=1, max_size=2).map(lambda f: "Match originalhost " + ",".join(f)),
    st.sampled_from(["Match user ann", "Match !user ann host *", "Match all", "Match localuser x"]),
)
FILES = st.lists(
    st.tuples(HEADS, st.lists(SETTINGS, min_size=1, max_size=4)), min_size=1, max_size=4
).map(lambda blocks: "".join(f"{head}\n" + "".join(f"  {s}\n" for s in b) for head, b in blocks))


@needs_ssh
@settings(max_examples=60, deadline=None)
@given(text=FILES, host=st.sampled_from(HOSTS), user=st.none() | st.just("ann"))
def test_the_same_answers_as_openssh(
    tmp_path_factory: pytest.TempPathFactory, text: str, host: str, user: str | None
) -> None:
    """Of every setting that is used, for files of all shapes."""
    path = write(tmp_path_factory.mktemp("config"), text)
    destination = Destination(host, user)
    asked = module._ask_openssh(destination, path)
    assert asked is not None
    theirs = module._interpret(destination, asked, [], asked=True)
    assert resolve(destination, path) == theirs


@needs_ssh
def test_a_client_that_refuses_a_file_is_an_error(tmp_path: Path) -> None:
    """With what it said."""
    path = write(tmp_path, "Match exec true\nNoSuchKeyword yes\n")
    with pytest.raises(ConfigError, match=r"(?i)nosuchkeyword"):
        resolve(Destination("web"), path)
    assert subprocess.run(["ssh", "-F", path, "-G", "x"], capture_output=True).returncode != 0
