"""OpenSSH's configuration: the same answers as OpenSSH's own."""

from __future__ import annotations

import logging
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from parallel_exec.environments.ssh.config import HostConfig, interpret, resolve
from parallel_exec.environments.ssh.config_file import matches
from parallel_exec.environments.ssh.destination import Destination
from parallel_exec.environments.ssh.evaluation import Evaluation
from parallel_exec.errors import ConfigError, ConnectError

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


def test_include_stays_within_its_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it includes applies where it stands, relative to ``~/.ssh`` as in OpenSSH."""
    (tmp_path / ".ssh").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / ".ssh", "Port 1\nHost b\n User in-b\n", "one.conf")
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


@pytest.mark.parametrize("client", [True, False])
def test_match_exec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, client: bool) -> None:
    """Its command is run with its tokens, whether there is an OpenSSH client or not."""
    if not client:
        monkeypatch.setenv("PATH", "/no/such/folder")
    path = write(
        tmp_path,
        'Host *\n User me\nMatch exec "[ %h.%p.%r.%n = real.22.me.web ]"\n Port 1\n'
        'Match !exec "exit 0"\n User never\n'
        f'Match user root exec "echo >{tmp_path}/ran"\n Port 9\nHost *\n Port 2\n',
    )
    text = Path(path).read_text()
    Path(path).write_text("Host web\n HostName real\n" + text)
    assert resolve(Destination("web"), path).port == 1
    found = resolve(Destination("db"), path)
    assert (found.port, found.user, found.explicit_keys) == (2, "me", False)
    assert not (tmp_path / "ran").exists()  # what cannot change the answer is not run


def test_final_pass(tmp_path: Path) -> None:
    """Where it is asked for, the files are read again, with the host's final name."""
    path = write(
        tmp_path,
        "Host web\n User first\nMatch final host real\n Port 5\nMatch canonical\n User second\n"
        "Host real\n IdentityFile /k\nMatch !final\n ConnectTimeout 3\nHost *\n HostName REAL\n",
    )
    found = resolve(Destination("web"), path)
    assert (found.user, found.port, found.host_name) == ("first", 5, "real")
    assert (found.identity_files, found.connect_timeout) == (("/k",), 3)


def test_canonical_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A short name is looked for in each domain; an alias is followed where it may be."""
    known = {"web.b.example.": "real.b.example", "db.b.example.": "real.elsewhere"}

    def look_up(name: str, *others: object) -> list[Any]:
        if name not in known:
            raise socket.gaierror
        return [(0, 0, 0, known[name], ())]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    path = write(
        tmp_path,
        "CanonicalizeHostname yes\nCanonicalDomains a.example b.example\n"
        "CanonicalizePermittedCNAMEs *.b.example:*.b.example\n"
        "Host real.b.example\n User final\nHost jumped\n ProxyJump x\n"
        "Host local-only\n CanonicalizeFallbackLocal no\n",
    )
    found = resolve(Destination("web"), path)
    assert (found.host_name, found.user) == ("real.b.example", "final")
    assert resolve(Destination("db"), path).host_name == "db.b.example"
    for name in ("none", "web.b.example.com", "10.0.0.1", "jumped"):
        assert resolve(Destination(name), path).host_name == name
    assert resolve(Destination("dot.example.org."), path).host_name == "dot.example.org"
    with pytest.raises(ConnectError, match="local-only does not resolve"):
        resolve(Destination("local-only"), path)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("Port 0", "Port"),
        ("Port no-such-service", "Port"),
        ("Port 22 23", "more than one"),
        ("IdentityFile /a /b", "more than one"),
        ("IdentitiesOnly maybe", "identitiesonly"),
        ("StrictHostKeyChecking later", "stricthostkeychecking"),
        ("AddressFamily ipx", "addressfamily"),
        ("ServerAliveCountMax -1", "ServerAliveCountMax"),
        ("ServerAliveCountMax " + "9" * 5000, "ServerAliveCountMax"),
        ("ConnectTimeout " + "9" * 5000, "ConnectTimeout"),
        ("HostName %n", "HostName"),
        ("UserKnownHostsFile /k/%C", "userknownhostsfile"),
        ("IdentityFile /k/${NO_SUCH_NAME}", "NO_SUCH_NAME is not set"),
        ("IdentityAgent ${NO_SUCH_NAME}/agent", "NO_SUCH_NAME is not set"),
        ("IdentityAgent $a-b", "IdentityAgent"),
        ("ProxyCommand nc %h %x", "ProxyCommand"),
        ("ProxyJump %d", "ProxyJump"),
        ("Match localnetwork 10.0.0.0/8\n Port 1", "localnetwork"),
        ('Match exec "echo %Z"\n Port 1', "Match exec"),
        ("HostName x;y", "HostName"),
        ("HostName -x", "HostName"),
        ("User $(x)", "User"),
    ],
)
def test_values_that_cannot_be_used(tmp_path: Path, text: str, named: str) -> None:
    """They are errors that name the setting, and do not become something else."""
    with pytest.raises(ConfigError, match=named):
        resolve(Destination("web"), write(tmp_path, text + "\n"))


def test_agent_by_a_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a part of the path, or as all of it."""
    monkeypatch.setenv("FOLDER", "/run/x")
    for text, socket_path in (
        ("${FOLDER}/%r.sock", "/run/x/me.sock"),
        ("$FOLDER", "/run/x"),
        ("$NO_SUCH_NAME", ""),
        ("none", ""),
        ("SSH_AUTH_SOCK", None),
    ):
        path = write(tmp_path, f"User me\nIdentityAgent {text}\n", "agent" + text[:3])
        assert resolve(Destination("web"), path).identity_agent == socket_path


def test_none_is_a_way_too(tmp_path: Path) -> None:
    """As in OpenSSH: "ProxyCommand none" is one, "ProxyJump none" leaves a command alone."""
    path = write(
        tmp_path,
        "Host bastion\n ProxyCommand none\nHost direct proxied\n ProxyJump none\n"
        "Host proxied\n ProxyCommand nc %h %p\nHost *\n ProxyJump bastion\n",
    )
    ways = {
        "bastion": ((), None),
        "direct": ((), None),
        "proxied": ((), "nc proxied 22"),
        "web": (("bastion",), None),
    }
    for name, way in ways.items():
        found = resolve(Destination(name), path)
        assert (found.proxy_jump, found.proxy_command) == way


def test_case_of_patterns(tmp_path: Path) -> None:
    """Host has the case of its pattern, Match host has none, Match user has."""
    path = write(
        tmp_path,
        "Host Web\n Port 1\nMatch host WEB user Me\n Port 2\nMatch originalhost WEB\n Port 3\n",
    )
    assert resolve(Destination("Web"), path).port == 1
    assert resolve(Destination("web", "Me"), path).port == 2
    assert resolve(Destination("web", "me"), path).port == 3


def test_file_that_others_can_change_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The user's own file, and what it includes: they can have commands in them."""
    (tmp_path / ".ssh").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    own = Path(write(tmp_path / ".ssh", "Port 7\nInclude more\n"))
    more = Path(write(tmp_path / ".ssh", "User me\n", "more"))
    assert resolve(Destination("web"), None).user == "me"
    for file in (more, own):
        file.chmod(0o664)
        with pytest.raises(ConfigError, match="can be changed by other users"):
            resolve(Destination("web"), None)
        file.chmod(0o644)


PLACES = ["'%h'", '"%h"', "%h", "x%h", '"a b"%h']
NO_PLACES = ["`echo %h`", '"$(echo %h)"', "$'%h'", "\\%h", "# %h", "${x:-%h}"]


@pytest.mark.parametrize("place", PLACES)
def test_tokens_reach_a_shell_as_one_word(tmp_path: Path, place: str) -> None:
    """Also a user with signs in it that some users need, within whatever quotes."""
    path = write(tmp_path, f"ProxyCommand printf '%%s|' {place.replace('%h', '%r')} %p\n")
    command = resolve(Destination("web", "DOMAIN\\u$HOME*"), path).proxy_command
    assert command is not None
    said = subprocess.run(["/bin/sh", "-c", command], capture_output=True, text=True).stdout
    word = place.replace("%h", "DOMAIN\\u$HOME*").replace('"', "").replace("'", "")
    assert said == f"{word}|22|"


@pytest.mark.parametrize("place", NO_PLACES)
def test_tokens_where_no_quotes_help(tmp_path: Path, place: str) -> None:
    """A name that is only a name is put in as OpenSSH does; any other is refused."""
    path = write(tmp_path, f"ProxyCommand x {place.replace('%h', '%r')}\n")
    found = resolve(Destination("web", "me"), path)
    assert found.proxy_command == f"x {place}".replace("%h", "me")
    with pytest.raises(ConfigError, match="could become code"):
        resolve(Destination("web", "a$b"), path)


HOSTS = ["web1", "web2", "db.example", "a-b", "Web1", "WEB2"]
PATTERNS = st.sampled_from(
    ["*", "web?", "web1", "db.*", "!web2", "a-b", "*.example", "Web1", "W*", "*.lan", "real"]
)
SETTINGS = st.sampled_from(
    [
        *("Port 1022", "Port 1023", "Port ssh", "Port=0443", "User ann", "User bob", "User Ann"),
        *("HostName %h.lan", "HostName REAL", "HostName real # not", "HostName 10.0.0.%%"),
        *("ProxyJump hop", "ProxyJump none", "ProxyJump a@hop:ssh,two", "ProxyCommand nc %h %p"),
        *("ProxyCommand none", "ProxyCommand sh -c 'nc \"%h\" %p' # x", "IdentitiesOnly yes"),
        *(
            "IdentitiesOnly NO",
            "IdentityFile /k/one",
            "IdentityFile /k/two",
            'IdentityFile "/k/a b"',
        ),
        *("IdentityFile ${X_FOLDER}/%r-%h", "IdentityFile /k/one", "IdentityFile none"),
        *("IdentityAgent ${X_FOLDER}/x", "IdentityAgent none", "IdentityAgent SSH_AUTH_SOCK"),
        *("IdentityAgent $X_FOLDER", 'IdentityAgent "/a b/%n"', "HostKeyAlias Known"),
        *("ConnectTimeout 5", "ConnectTimeout 0", "ConnectTimeout 1m", "ConnectTimeout none"),
        *("ServerAliveInterval 9", "ServerAliveInterval 0", "ServerAliveInterval none"),
        *("ServerAliveCountMax 0", "ServerAliveCountMax 5", "StrictHostKeyChecking accept-new"),
        *("StrictHostKeyChecking no", "StrictHostKeyChecking ask", "StrictHostKeyChecking OFF"),
        *('UserKnownHostsFile "/k h/a" /b', "UserKnownHostsFile none", "UserKnownHostsFile /%k"),
        *("GlobalKnownHostsFile /g", 'GlobalKnownHostsFile "/g h" /%h', "HashKnownHosts yes"),
        *("RevokedHostKeys /r", "Ciphers aes256-ctr", "MACs hmac-sha1,hmac-sha2-256"),
        *("KexAlgorithms curve25519-sha256", "HostKeyAlgorithms ssh-ed25519", "AddressFamily Inet"),
        *("PubkeyAuthentication no", "PasswordAuthentication no", "PubkeyAuthentication unbound"),
        *("ChallengeResponseAuthentication no", "KbdInteractiveAuthentication yes"),
        *("CertificateFile /c", "Include x_included", "Include /no/such/*", "Compression yes"),
    ]
)
HEADS = st.one_of(
    st.lists(PATTERNS, min_size=1, max_size=3).map(lambda found: "Host " + " ".join(found)),
    st.lists(PATTERNS, min_size=1, max_size=2).map(lambda f: "Match host " + ",".join(f)),
    st.lists(PATTERNS, min_size=1, max_size=2).map(lambda f: "Match originalhost " + ",".join(f)),
    st.sampled_from(
        [
            *("Match user ann", "Match !user ann host *", "Match all", "Match localuser x"),
            *(
                "Match final",
                "Match !final",
                "Match canonical",
                "Match final all",
                "Match user Ann",
            ),
            *('Match exec "test %h = real"', "Match exec true", 'Match !exec "test %n = web1"'),
            *('Match host web* exec "test %p%r = 1022ann"', "Match exec false user ann"),
        ]
    ),
)
FILES = st.lists(
    st.tuples(HEADS, st.lists(SETTINGS, min_size=1, max_size=5)), min_size=1, max_size=4
).map(lambda blocks: "".join(f"{head}\n" + "".join(f"  {s}\n" for s in b) for head, b in blocks))


def asked(path: str, host: str, user: str | None) -> Evaluation | None:
    """Return what the OpenSSH client says applies; None if it refuses the file."""
    login = [] if user is None else ["-l", user]
    done = subprocess.run(
        ["ssh", "-G", "-F", path, *login, "--", host],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        return None
    found = Evaluation(Destination(host, user), host)
    for line in done.stdout.splitlines():
        keyword, _, rest = line.partition(" ")
        value = rest.replace("%", "%%") if keyword == "hostname" else rest
        found.values.setdefault(keyword, []).append(value)
    return found


def as_text(found: HostConfig) -> dict[str, object]:
    """Return the settings in a form in which the client's answers can be compared."""
    shown = {name: getattr(found, name) for name in HostConfig.__slots__}
    del shown["not_understood"], shown["explicit_keys"]
    shown["alive_interval"] = shown["alive_interval"] or None  # 0 is the client's default
    for name in ("user_known_hosts", "global_known_hosts"):  # blanks are not told apart there
        shown[name] = " ".join(shown[name])
    return shown


@needs_ssh
@pytest.mark.parametrize("client", [True, False])
@settings(max_examples=60, deadline=None)
@given(text=FILES, host=st.sampled_from(HOSTS), user=st.sampled_from([None, "ann", "Ann"]))
def test_the_same_answers_as_openssh(
    tmp_path_factory: pytest.TempPathFactory, text: str, host: str, user: str | None, client: bool
) -> None:
    """Of every setting that is used, for files of all shapes, with and without a client."""
    path = write(tmp_path_factory.mktemp("config"), text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("X_FOLDER", "/x folder")
        theirs = asked(path, host, user)
        empty = asked("none", "x", None)
        assert empty is not None
        if not client:
            patch.setenv("PATH", "/no/such/folder")
        try:
            ours = resolve(Destination(host, user), path)
        except ConfigError:
            assert theirs is None
            return
    assert theirs is not None
    # Its defaults are not wishes: what has a default there is compared where it was set.
    unset = {k: v for k, v in empty.values.items() if k not in ("hostname", "user", "port")}
    theirs.values = {k: v for k, v in theirs.values.items() if unset.get(k) != v}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("X_FOLDER", "/x folder")
        expected = as_text(interpret(theirs))
    assert as_text(ours) == expected


SIGNS = st.sampled_from(
    [
        '"',
        "'",
        "\\",
        " ",
        "\t",
        "#",
        "=",
        "a",
        "/b",
        ",",
        "\\ ",
        '\\"',
        "\\'",
        "\\\\",
        '"a b"',
    ]
)


@needs_ssh
@settings(max_examples=60, deadline=None)
@given(
    keyword=st.sampled_from(["UserKnownHostsFile", "GlobalKnownHostsFile", "HostKeyAlias"]),
    separator=st.sampled_from([" ", "=", "\t", " = "]),
    text=st.lists(SIGNS, min_size=1, max_size=6).map("".join),
)
def test_the_same_words_as_openssh(
    tmp_path_factory: pytest.TempPathFactory, keyword: str, separator: str, text: str
) -> None:
    """Quotes, backslashes, blanks and comments part a value as there, if both take it."""
    path = tmp_path_factory.mktemp("config") / "config"
    path.write_text(f"{keyword}{separator}{text}\n", newline="")
    theirs = asked(str(path), "web", None)
    try:
        ours = resolve(Destination("web"), str(path))
    except ConfigError:
        return
    if theirs is not None:
        said = {
            "UserKnownHostsFile": " ".join(ours.user_known_hosts),
            "GlobalKnownHostsFile": " ".join(ours.global_known_hosts),
            "HostKeyAlias": ours.host_key_alias,
        }[keyword]
        shown = theirs.values.get(keyword.lower(), [None])[0]
        assert dict.fromkeys((said or "").split()) == dict.fromkeys((shown or "").split())


def test_user_in_the_command_of_match_exec(tmp_path: Path) -> None:
    """It is one word there, whatever is in it, and is executed nowhere."""
    path = write(
        tmp_path,
        f"User a$(x)b\nMatch exec \"echo '%r' >{tmp_path}/said\"\n Port 7\n",
    )
    with pytest.raises(ConfigError):
        resolve(Destination("web"), path)
    user = "DOMAIN\\u$HOME*"
    assert resolve(Destination("web", user), path).port == 7
    assert (tmp_path / "said").read_text() == f"{user}\n"
