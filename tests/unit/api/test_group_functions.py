"""What a group runs on its hosts: text, words, commands, mappings, functions; and who is in it."""

from __future__ import annotations

import io
import pickle
import threading
from typing import Any

import pytest

import parallel_exec as px
from parallel_exec.errors import ConfigError, ConnectError, RunFailedError
from parallel_exec.testing import FakeEnvironment, FakeReply


def fakes(*names: str) -> px.Group:
    """Return environments that answer every command with its own words."""
    return px.Group(FakeEnvironment(lambda command: str(command), name=name) for name in names)


def started(group: px.Group) -> list[list[str]]:
    """Return what each member was given to run."""
    members: Any = group
    return [member.commands for member in members]


# What runs


def test_text_has_the_name_of_the_host() -> None:
    """Wherever it stands; words and commands are taken as they are."""
    group = fakes("web1", "ann@web2:22")
    group.run('echo {host} "/srv/{host}" $(cat {host})')
    group.run(["echo", "{host}"])
    group.run(px.Command("echo {host}"))
    group.run({"web1": "echo {host}", "ann@web2:22": ["x"]})
    assert started(group) == [
        ['echo web1 "/srv/web1" $(cat web1)', "echo '{host}'", "echo {host}", "echo web1"],
        [
            'echo ann@web2:22 "/srv/ann@web2:22" $(cat ann@web2:22)',
            "echo '{host}'",
            "echo {host}",
            "x",
        ],
    ]


@pytest.mark.parametrize(
    "name", ["[fe80::1]:22", r"CORP\ann@web1", "if", "2", "a b", "x;id", "$(id)"]
)
def test_a_name_is_one_word_whatever_is_in_it(name: str) -> None:
    """In no quotes and in both kinds; where nothing keeps it together it is refused."""
    members = px.Group([FakeEnvironment(lambda command: str(command), name=name)])
    text = "printf '<%s>' {host} '{host}' \"{host}\" a{host}b"
    members.run(text)
    out = px.run(members[0].commands[0]).text()
    assert out == f"<{name}><{name}><{name}><a{name}b>"
    with pytest.raises(ConfigError, match="within backticks"):
        members.run("echo `ls {host}`")


def test_a_function_gives_commands() -> None:
    """A Command or words, for each host; it is called in the calling thread."""
    group = fakes("a", "b")
    threads = []

    def command(host: Any) -> Any:
        threads.append(threading.current_thread())
        return px.sh("echo {}", host.name) if host.name == "a" else ("echo", host.name)

    assert group.run(command).ok
    assert started(group) == [["echo 'a'"], ["echo b"]]
    assert set(threads) == {threading.current_thread()}


@pytest.mark.parametrize("returned", ["echo text", b"echo", None, 7])
def test_a_function_that_returns_no_command_fails_for_its_host(returned: Any) -> None:
    """Plain text above all: it may be an output, and would be run. The error names both ways
    out.
    """
    group = fakes("a", "b")
    outcomes = group.run(lambda host: returned if host.name == "a" else ["true"])
    assert [outcome.status for outcome in outcomes] == ["rejected", "fulfilled"]
    assert isinstance(outcomes["a"].reason, ConfigError)
    for words in ("px.sh", "px.Command", "Group.map", " for a"):
        assert words in str(outcomes["a"].reason)
    assert started(group) == [[], ["true"]]


def test_the_output_of_a_host_is_never_run() -> None:
    """A function that runs something itself, and returns what it said."""
    group = fakes("a")
    (outcome,) = group.run(lambda host: host.run("uptime").text())
    assert isinstance(outcome.reason, ConfigError)
    assert started(group) == [["uptime"]]


def test_a_function_that_raises_rejects_its_host_only() -> None:
    """With what it has raised; the others run."""
    group = fakes("a", "b", "c")
    roles = {"a": 1, "c": 3}
    outcomes = group.run(lambda host: ["role", str(roles[host.name])])
    assert [outcome.status for outcome in outcomes] == ["fulfilled", "rejected", "fulfilled"]
    assert isinstance(outcomes["b"].reason, KeyError)
    assert "(b)" in outcomes["b"].label
    with pytest.raises(KeyboardInterrupt):
        group.run(interrupt)


def interrupt(host: object) -> list[str]:
    raise KeyboardInterrupt


def test_map_calls_a_function_for_each_host() -> None:
    """Any Python; what it returns is the value; one that raises fails for its host alone."""
    group = fakes("web1", "web2", "db1")

    def release(host: Any) -> str:
        if host.name == "db1":
            raise ValueError("not there")
        return str(host.run("uptime").text() + host.run("date").text())

    outcomes = group.map(release)
    assert isinstance(outcomes, px.HostOutcomes)
    assert outcomes["web2"].value == "uptimedate"
    assert isinstance(outcomes["db1"].reason, ValueError)
    assert outcomes["web1"].label.endswith("release(web1)")
    assert [host.name for host in outcomes.failed] == ["db1"]
    assert "web[1-2] (2 hosts):\nuptimedate" in outcomes.report()


def test_map_takes_the_options_of_many() -> None:
    """Limits by host hold, and failures stop the rest."""
    group = fakes("a", "b", "c")
    made: list[str] = []

    def limit(name: Any) -> px.ConcurrencyLimiter:
        made.append(name)
        return px.ConcurrencyLimiter(1)

    assert group.map(lambda host: host.name, concurrency=px.PerHost(limit)).ok
    assert sorted(made) == ["a", "b", "c"]
    outcomes = group.map(lambda host: 1 // 0, concurrency=1, max_failures=0)
    assert [outcome.status for outcome in outcomes] == ["rejected", "skipped", "skipped"]


@pytest.mark.parametrize("fn", ["uptime", None, ["uptime"]])
def test_map_takes_functions_only(fn: Any) -> None:
    """Commands go to run."""
    with pytest.raises(ConfigError, match="fn"):
        fakes("a").map(fn)


async def coroutine(host: object) -> None:
    """Nothing that a thread could run."""


def test_map_refuses_coroutine_functions() -> None:
    """Nobody would run them."""
    with pytest.raises(ConfigError, match="fn"):
        fakes("a").map(coroutine)


# Who is in it


def test_groups_are_made_of_names() -> None:
    """Options are for those; environments have their own."""
    group = px.Group(["web1", "ann@web2:22", "[fe80::1]:22"], config=False, max_sessions=3)
    assert [host.name for host in group] == ["web1", "ann@web2:22", "[fe80::1]:22"]
    assert "max_sessions=3" in repr(group["web1"])
    own = FakeEnvironment(name="own")
    assert px.Group([own, "web1"], config=False)["own"] is own


@pytest.mark.parametrize(
    ("members", "named"),
    [
        ("web1", "'web1'"),
        (b"web1", "b'web1'"),
        (5, "5"),
        (["web[1-3]"], "px.hosts"),
        (["web1,web2"], "px.hosts"),
        (["web1", 7], "7"),
        (["web1", "web1"], "'web1'"),
        ([None], "None"),
        (["web 1"], "web 1"),
        ({"web1": None}, "web1"),
    ],
)
def test_what_no_group_can_be_made_of_is_refused(members: Any, named: str) -> None:
    """The error shows what was given; ranges belong to px.hosts."""
    with pytest.raises(ConfigError) as caught:
        px.Group(members)
    assert named in str(caught.value)


def test_an_option_that_run_does_not_have_is_refused_by_name() -> None:
    """With the right one, of a command or of many; where it runs is the group's to say."""
    group = fakes("a")
    options: list[Any] = [{"chek": False}, {"max_workers": 3}, {"environment": px.Local()}]
    for option, right in zip(options, ("check", "concurrency", "Group.run has no"), strict=True):
        with pytest.raises(ConfigError, match=right):
            group.run("x", **option)
    assert started(group) == [[]]


def test_options_without_a_name_are_refused() -> None:
    """They would do nothing."""
    with pytest.raises(ConfigError, match="user is an option of SSH"):
        px.Group([FakeEnvironment(name="a")], user="ann")


def test_hosts_takes_lists_with_ranges() -> None:
    """Beside texts."""
    group = px.hosts(["web[1-2]", "db1"], "extra", config=False)
    assert [host.name for host in group] == ["web1", "web2", "db1", "extra"]
    with pytest.raises(ConfigError, match="7"):
        px.hosts(["web1", 7])  # type: ignore[list-item]


def test_user_and_port_complete_the_destination() -> None:
    """What it says itself wins; the name stays as it was given; a copy by pickle is alike."""
    group: Any = px.hosts("web1,ann@web2,web3:2222", user="joe", port=22, config=False)
    assert [host.name for host in group] == ["web1", "ann@web2", "web3:2222"]
    where = [str(host.settings.destination) for host in group]
    assert where == ["joe@web1:22", "ann@web2:22", "joe@web3:2222"]
    again = pickle.loads(pickle.dumps(group["web1"]))
    assert again.settings == group["web1"].settings == px.SSH("joe@web1:22", config=False).settings


@pytest.mark.parametrize(
    "options",
    [
        {"user": ""},
        {"user": 7},
        {"user": "a;b"},
        {"user": "-x"},
        {"port": 0},
        {"port": 65536},
        {"port": "22"},
        {"port": True},
    ],
)
def test_users_and_ports_that_cannot_be_are_refused(options: Any) -> None:
    """By name, before anything connects, also where the destination has its own."""
    (name,) = options
    for destination in ("web1", "ann@web1:22"):
        with pytest.raises(ConfigError, match=name):
            px.SSH(destination, **options)


# sudo


def test_this_machine_refuses_sudo() -> None:
    """At every door, before anything runs; False as well, since it means nothing here."""
    doors: list[Any] = [
        lambda: px.run("true", sudo=True),
        lambda: px.submit("true", sudo="ann"),
        lambda: px.Local().command("true", sudo=True),
        lambda: px.Group([px.Local()]).run("true", sudo=False),
        lambda: px.all([px.Command("true", sudo=True)]),
    ]
    for door in doors:
        with pytest.raises(ConfigError, match="sudo="):
            door()


@pytest.mark.parametrize("sudo", ["", 1, "a;b", "-u"])
def test_sudo_is_a_switch_or_a_user(sudo: Any) -> None:
    """Nothing else."""
    with pytest.raises(ConfigError, match="sudo"):
        px.Command("true", sudo=sudo)


# What is heard of it


def test_the_error_of_a_group_says_which_hosts() -> None:
    """Folded by what happened to them; each error has a note of its own host."""
    members = [FakeEnvironment({"x": ConnectError("no route")}, name=f"web{n}") for n in (1, 2, 3)]
    members += [FakeEnvironment({"x": FakeReply(exit_code=1)}, name="db1")]
    members += [FakeEnvironment({"x": "fine"}, name="db2")]
    outcomes = px.Group(members).run("x")
    with pytest.raises(RunFailedError) as caught:
        outcomes.raise_for_failures()
    assert str(caught.value) == (
        "4 of 5 hosts failed: web[1-3] rejected: ConnectError; db1 rejected: CommandFailedError"
    )
    notes = [error.__notes__ for error in caught.value.exceptions]
    assert notes == [["host web1: x"], ["host web2: x"], ["host web3: x"], ["host db1: x"]]
    px.Group([members[-1]]).run("x").raise_for_failures()


def test_the_error_of_many_hosts_is_short() -> None:
    """However they are called."""
    group = fakes(*(f"{'n' * 40}{n}x{n * 7}" for n in range(500)))
    with pytest.raises(RunFailedError) as caught:
        group.map(lambda host: 1 // 0).raise_for_failures()
    assert "500 of 500 hosts failed" in str(caught.value)
    assert len(str(caught.value)) < 2000


def test_lines_are_heard_with_the_name_of_the_host() -> None:
    """Of both streams; a command's own callback gets the line alone."""
    group = px.Group([named_local("a"), named_local("b")])
    out: list[Any] = []
    err: list[Any] = []
    own: list[Any] = []
    say = lambda name, line: out.append((name, line))  # noqa: E731
    group.run("echo one; echo two >&2", on_stdout=say, on_stderr=lambda *heard: err.append(heard))
    assert sorted(out) == [("a", "one"), ("b", "one")]
    assert sorted(err) == [("a", "two"), ("b", "two")]
    group.run(px.Command("echo own", on_stdout=own.append))
    assert own == ["own", "own"]
    with pytest.raises(ConfigError, match="on_stderr"):
        group.run("true", on_stderr=5)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="live"):
        group.run("true", live="yes")  # type: ignore[arg-type]


def named_local(name: str) -> px.Local:
    """Return this machine under another name."""
    made: px.Local = type("Named", (px.Local,), {"name": name})()
    return made


def test_live_prints_whole_lines_with_the_name_of_the_host(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Each to its stream, escaped; they are captured all the same, and heard as well."""
    group = px.Group([named_local(f"web{n}") for n in range(4)])
    heard: list[Any] = []
    script = "for i in 1 2 3; do printf 'part '; printf '\\033[31m%s\\n' $i; done; echo bad >&2"
    outcomes = group.run(script, live=True, on_stderr=lambda *line: heard.append(line))
    printed = capsys.readouterr()
    lines = [f"web{n}: part \\x1b[31m{i}" for n in range(4) for i in (1, 2, 3)]
    assert sorted(printed.out.splitlines()) == lines
    assert sorted(printed.err.splitlines()) == [f"web{n}: bad" for n in range(4)]
    assert len(heard) == 4
    assert outcomes["web0"].result().lines()[0] == "part \x1b[31m1"


def test_live_lines_stand_above_the_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bar is taken away for each and drawn again."""
    drawn = io.StringIO()
    monkeypatch.setattr("sys.stderr", drawn)
    monkeypatch.setattr("sys.stdout", drawn)
    bar = px.VisualProgress(2, file=drawn, enabled=True)
    px.Group([named_local("a"), named_local("b")]).run("echo hi", live=True, progress=bar)
    for line in ("\ra: hi\n", "\rb: hi\n"):
        assert line in drawn.getvalue()


# The report


def report(**said: Any) -> str:
    """Return the report of hosts that answer as given."""
    members = px.Group(FakeEnvironment({"x": reply}, name=name) for name, reply in said.items())
    return members.run("x", check=False).report()


def test_a_lone_host_is_named_in_its_error() -> None:
    """``{host}`` stands only where several are folded."""
    assert report(db1=ConnectError("db1: no route")) == (
        "db1 rejected: ConnectError: db1: no route\n"
    )
    both = report(db1=ConnectError("db1: no route"), db2=ConnectError("db2: no route"))
    assert both == "db[1-2] (2 hosts) rejected: ConnectError: {host}: no route\n"


def test_outputs_that_differ_by_the_name_alone_are_folded() -> None:
    """The name is a word, not a part of one; the others are compared without theirs."""
    text = report(
        web1="web1 up\nload 1\nok\n",
        web2="web2 up\nload 1\nok\n",
        web3="web3 up\nload 9\nok\n",
    )
    assert text == (
        "web[1-2] (2 hosts):\n{host} up\nload 1\nok\n\n"
        "web3, unlike web[1-2]:\n--- web[1-2]\n+++ web3\n@@ -1,3 +1,3 @@\n"
        " {host} up\n-load 1\n+load 9\n ok\n"
    )
    assert report(a="cat a\n", b="cbt b\n").count("cat a\n") == 1


def test_a_host_that_says_host_is_not_taken_for_one_that_says_its_name() -> None:
    """A literal ``{host}`` is another answer."""
    assert "(2 hosts)" not in report(web1="web1\n", web2="{host}\n")


def test_the_name_without_user_and_port_counts_too() -> None:
    """As ``hostname`` prints it."""
    members = px.Group(
        FakeEnvironment({"x": f"{host}.example.com\n"}, name=f"ann@{host}:22")
        for host in ("web1", "web2")
    )
    assert members.run("x").report() == "ann@web[1-2]:22 (2 hosts):\n{host}.example.com\n"


def test_the_report_is_fit_for_a_terminal() -> None:
    """Escapes are shown, tabs stay, lines and answers are cut; errors are one line."""
    text = report(
        a="\x1b[2Jcol1\tcol2\n" + "x" * 5000 + "\n",
        b="y\n" * 200_000,
        c=ConnectError("no\nway\x07"),
    )
    assert "\\x1b[2Jcol1\tcol2" in text
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) == 2000
    assert "... and 300,000 more characters" in text
    assert text.endswith("c rejected: ConnectError: no\\nway\\x07\n")
