"""Tests of lists of hosts: what a text names, and what is said of one that cannot be read."""

from __future__ import annotations

import pickle
import tracemalloc
from pathlib import Path

import pytest

from parallel_exec.errors import ConfigError
from parallel_exec.values.hosts import MAX_HOSTS, HostSpec, fold, parse, parse_file


def names(*texts: str, exclude: str | tuple[str, ...] = ()) -> list[str]:
    return [spec.name for spec in parse(*texts, exclude=exclude)]


def written(folder: Path, text: str) -> Path:
    path = folder / "hosts"
    path.write_text(text, encoding="utf-8")
    return path


# Names and ranges


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("web1", ["web1"]),
        ("db.example.org", ["db.example.org"]),
        ("a,b", ["a", "b"]),
        (" a , b ", ["a", "b"]),
        ("a b\n c", ["a", "b", "c"]),
        ("web[1-3]", ["web1", "web2", "web3"]),
        ("web[08-11,31]", ["web08", "web09", "web10", "web11", "web31"]),
        ("web[8-11]", ["web8", "web9", "web10", "web11"]),
        ("web[1,01,001]", ["web1", "web01", "web001"]),
        ("web[0-10/4]", ["web0", "web4", "web8"]),
        ("web[00-10/5]", ["web00", "web05", "web10"]),
        ("web[ 1 - 2, 4 ]", ["web1", "web2", "web4"]),
        ("rack[1-2]node[3-4]", ["rack1node3", "rack1node4", "rack2node3", "rack2node4"]),
        ("n[1-2].dc[1-1]", ["n1.dc1", "n2.dc1"]),
        ("10.0.0.[9-10]", ["10.0.0.9", "10.0.0.10"]),
        ("[1-2]", ["1", "2"]),
        ("a[1-2][3-4]", ["a13", "a14", "a23", "a24"]),
        ("münchen[1-2]", ["münchen1", "münchen2"]),
    ],
)
def test_a_text_names_hosts(text: str, expected: list[str]) -> None:
    """Ranges count as in ClusterShell; names stand apart by commas or blanks."""
    assert names(text) == expected


def test_several_texts_are_one_list() -> None:
    """Texts are read one after the other; no text names no host."""
    assert names("web[1-2]", "db1,db2") == ["web1", "web2", "db1", "db2"]
    assert names() == []


def test_a_host_is_named_once_where_it_came_first() -> None:
    """Duplicates go, the order of the first mention stays."""
    assert names("b,a[2-3]", "a[1-3],b") == ["b", "a2", "a3", "a1"]


def test_order_is_as_written_not_sorted() -> None:
    """A range that stands first comes first."""
    assert names("web[5-6,1-2]") == ["web5", "web6", "web1", "web2"]


# User, port, IPv6


@pytest.mark.parametrize(
    ("text", "user", "host", "port"),
    [
        ("root@web1", "root", "web1", None),
        ("web1:2222", None, "web1", 2222),
        ("root@web1:65535", "root", "web1", 65535),
        ("DOMAIN\\joe@web1", "DOMAIN\\joe", "web1", None),
        ("joe@example.org@web1", "joe@example.org", "web1", None),
        ("::1", None, "::1", None),
        ("root@::1", "root", "::1", None),
        ("[::1]", None, "::1", None),
        ("[::1]:22", None, "::1", 22),
        ("root@[2001:DB8:0:0::1]:22", "root", "2001:db8::1", 22),
        ("root@[fe80::1%eth0]:22", "root", "fe80::1%eth0", 22),
    ],
)
def test_user_and_port_stand_around_the_host(
    text: str, user: str | None, host: str, port: int | None
) -> None:
    """A user, a port and an IPv6 address are told apart."""
    assert parse(text) == (HostSpec(user, host, port),)


def test_user_and_port_go_with_every_host_of_a_range() -> None:
    """What stands around a range is every host's."""
    assert names("joe@web[1-2]:22,db1") == ["joe@web1:22", "joe@web2:22", "db1"]


def test_a_host_with_another_user_or_port_is_another() -> None:
    """Only what is equal in all three is a duplicate."""
    assert len(parse("web1,joe@web1,web1:22,joe@web1:22,joe@web1:22")) == 4


@pytest.mark.parametrize("text", ["web1", "joe@web1:22", "::1", "joe@[::1]:22", "joe@fe80::1%lo"])
def test_a_name_can_be_read_again(text: str) -> None:
    """The name of a host gives the same host."""
    (spec,) = parse(text)
    assert parse(spec.name) == (spec,)


# Leaving out


@pytest.mark.parametrize(
    ("text", "exclude", "expected"),
    [
        ("web[1-4]", "web[2-3]", ["web1", "web4"]),
        ("web[1-4]", ("web1", "web2,web4"), ["web3"]),
        ("web[1-2]", "db1", ["web1", "web2"]),
        ("web[1-2]", "web[1-2]", []),
        ("joe@web1:22,web2", "web1", ["web2"]),
        ("joe@web1,ann@web1", "joe@web1", ["ann@web1"]),
        ("web1:22,web1:23", "web1:23", ["web1:22"]),
        ("joe@web1:22", "joe@web1", []),
        ("web1", "joe@web1", ["web1"]),
        ("[::1]:22", "0::1", []),
    ],
)
def test_excluded_hosts_are_left_out(
    text: str, exclude: str | tuple[str, ...], expected: list[str]
) -> None:
    """An excluded name without user or port leaves out the host with any."""
    assert names(text, exclude=exclude) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("web[1-4]!web[2-3]", ["web1", "web4"]),
        ("web[1-4] ! web1 ! web2", ["web3", "web4"]),
        ("web1!web1,web2", ["web2"]),
        ("web1!web1,web1", ["web1"]),
        ("joe@web[1-2]!web2", ["joe@web1"]),
    ],
)
def test_an_exclamation_mark_takes_away(text: str, expected: list[str]) -> None:
    """It takes away the next name from what stands before it."""
    assert names(text) == expected


def test_an_exclamation_mark_reaches_no_other_text() -> None:
    """Each text is read by itself."""
    assert names("web[1-2]", "db[1-2]!web1!db1") == ["web1", "web2", "db2"]


# What cannot be read


@pytest.mark.parametrize(
    ("text", "position", "what"),
    [
        ("", 1, "missing"),
        ("  ", 3, "missing"),
        ("a,,b", 3, "missing before ','"),
        ("a,", 3, "missing at the end"),
        ("!a", 1, "missing before '!'"),
        ("a!,b", 3, "missing before ','"),
        ("a[", 2, "without a ']'"),
        ("a[1-2", 2, "without a ']'"),
        ("a1]", 3, "without a '['"),
        ("a[1[2]]", 2, "another '['"),
        ("a[]", 3, "a number is missing"),
        ("a[1,,2]", 5, "a number is missing"),
        ("a[x]", 3, "'x' is no number"),
        ("a[1,x]", 5, "'x' is no number"),
        ("a[-1]", 3, "no number"),
        ("a[1-]", 3, "no number"),
        ("a[²]", 3, "no number"),
        ("a[3-1]", 3, "backwards"),
        ("a[1-3/0]", 3, "step"),
        ("a[01-100]", 3, "zeros"),
        ("a[1-01]", 3, "zeros"),
        (f"a[{'9' * 19}]", 3, "digits"),
        ("a[1-2]/3", 7, "'/'"),
        ("a&b", 2, "'&'"),
        ("$(id)", 1, "'$'"),
        ("web1=2", 5, "'='"),
        ("-oProxyCommand", 1, "start with '-'"),
        ("-joe@web1", 1, "start with '-'"),
        ("a\0b", 2, "have '\\x00'"),
        ("@web1", 1, "a user is missing"),
        ("joe@", 5, "a host is missing"),
        ("joe@[", 5, "a host is missing"),
        ("joe@:22", 5, "a host is missing"),
        ("u[1-2]@web1", 2, "a user cannot have '['"),
        ("web1:", 6, "a port"),
        ("web1:0", 6, "a port"),
        ("web1:65536", 6, "a port"),
        ("web1:ssh", 6, "a port"),
        ("web1:+22", 6, "a port"),
        ("web1:[1-2]", 6, "a port"),
        ("1:2:3", 1, "no IPv6 address"),
        ("a:b@c", 2, "a user cannot have ':'"),
        ("[::1]x", 6, "only a port"),
        ("[::1]:", 7, "a port"),
        ("fe80::1%", 1, "no zone"),
        ("fe80::1%a/b", 1, "no zone"),
    ],
)
def test_an_error_says_where_and_what(text: str, position: int, what: str) -> None:
    """A text that cannot be read is refused with its position."""
    with pytest.raises(ConfigError) as caught:
        parse("good1", text)
    message = str(caught.value)
    assert f"character {position}: " in message
    assert what in message
    assert repr(text) in message or ":" in text


def test_a_long_text_is_shown_around_the_error() -> None:
    """The message stays short and holds what is wrong."""
    text = ",".join(f"web{number}" for number in range(1000)) + ",b&d," + "x" * 1000
    with pytest.raises(ConfigError, match=r"'\.\.\..*b&d.*\.\.\.'") as caught:
        parse(text)
    assert len(str(caught.value)) < 200


def test_a_password_before_the_host_is_not_shown() -> None:
    """``user:password@host`` is refused without repeating the password."""
    with pytest.raises(ConfigError) as caught:
        parse("joe:hunter2@web1")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "a[1-100001]",
        "a[1-999999999999999999]",
        "a[1-1000]b[1-1000]c[1-1000]",
        "a[1-60000],b[1-60000]",
        "a!b[1-100001]",
    ],
)
def test_too_many_hosts_are_refused_before_they_are_made(text: str) -> None:
    """A mistyped range costs neither time nor memory."""
    tracemalloc.start()
    try:
        with pytest.raises(ConfigError, match="more than 100,000"):
            parse(text)
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()


def test_too_many_hosts_in_several_texts_are_refused() -> None:
    """The bound is on the whole list."""
    with pytest.raises(ConfigError, match="more than 100,000"):
        parse("a[1-60000]", "b[1-60000]")


def test_as_many_hosts_as_allowed_are_read() -> None:
    """The bound itself is within."""
    assert len(parse(f"a[1-{MAX_HOSTS}]")) == MAX_HOSTS


@pytest.mark.parametrize("value", [None, 7, True, b"web1", ["web1"]])
def test_what_is_no_text_is_refused(value: object) -> None:
    """Only strings are lists of hosts; the value is named."""
    with pytest.raises(ConfigError, match="must be a string"):
        parse(value)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="exclude must be a string"):
        parse("web1", exclude=[value])  # type: ignore[list-item]


def test_excluding_what_is_no_list_is_refused() -> None:
    """`exclude` is a string or several."""
    with pytest.raises(ConfigError, match="exclude must be a string or several, not 7"):
        parse("web1", exclude=7)  # type: ignore[arg-type]


def test_a_spec_pickles_and_is_a_key() -> None:
    """Specs cross processes and serve as keys."""
    (spec,) = parse("joe@web1:22")
    assert {pickle.loads(pickle.dumps(spec)): 1}[spec] == 1


# Files


def test_a_file_names_a_host_a_line(tmp_path: Path) -> None:
    """Comments, blank lines, options, quotes and ranges are understood."""
    path = written(
        tmp_path,
        """\
# the front
web[1-2] user=deploy port=2222   # a comment

\tjoe@db1 identity_file="/keys/my key" sudo='a "b"'
db2
::1 proxy=a=b
""",
    )
    assert parse_file(path) == (
        HostSpec("deploy", "web1", 2222),
        HostSpec("deploy", "web2", 2222),
        HostSpec("joe", "db1", None, (("identity_file", "/keys/my key"), ("sudo", 'a "b"'))),
        HostSpec(None, "db2", None),
        HostSpec(None, "::1", None, (("proxy", "a=b"),)),
    )


def test_line_ends_of_windows_and_a_byte_order_mark_are_no_matter(tmp_path: Path) -> None:
    """A file from elsewhere reads the same."""
    path = tmp_path / "hosts"
    path.write_bytes(b"\xef\xbb\xbfweb1 port=22\r\nweb2\r\n")
    assert [spec.name for spec in parse_file(path)] == ["web1:22", "web2"]


def test_a_hash_within_a_word_is_no_comment(tmp_path: Path) -> None:
    """Only a word that starts with one begins a comment."""
    (spec,) = parse_file(written(tmp_path, "web1 label=a#b #c d"))
    assert spec.options == (("label", "a#b"),)


def test_a_host_with_the_same_options_again_is_a_duplicate(tmp_path: Path) -> None:
    """Saying the same twice does no harm."""
    assert len(parse_file(written(tmp_path, "web[1-2] a=b\nweb1 a=b\n"))) == 2


@pytest.mark.parametrize(
    ("text", "where", "what"),
    [
        ("web1\nweb[2", "line 2, character 4: ", "without a ']'"),
        ("web1\n\n  b&d", "line 3, character 4: ", "'&'"),
        ("web1 web2", "line 1, character 6: ", "key=value"),
        ("web1 =x", "line 1, character 6: ", "key=value"),
        ("web1 a=1 a=2", "line 1, character 10: ", "a was given before"),
        ("web1 a='b", "line 1, character 8: ", "quote"),
        ("port=22", "line 1, character 1: ", "start with a host"),
        ("web1 port=ssh", "line 1", "port must be"),
        ("web1:22 port=23", "line 1", "the port is given twice"),
        ("joe@web1 user=ann", "line 1", "the user is given twice"),
        ("web1 user=", "line 1", "user is missing"),
        ("web1 user=-l", "line 1", "start with '-'"),
        ("web1 a=b\nweb1 a=c", "line 2", "web1 was named before, with other options"),
        ("web1 a=b\nweb1", "line 2", "other options"),
    ],
)
def test_an_error_in_a_file_says_the_line(tmp_path: Path, text: str, where: str, what: str) -> None:
    """What is wrong in a file is told with path, line and position."""
    path = written(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        parse_file(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert where in message
    assert what in message


@pytest.mark.parametrize(
    "text", ["web1 password=hunter2 x", "web1 password='hunter2", "password=hunter2 web1"]
)
def test_an_error_in_a_file_shows_no_option(tmp_path: Path, text: str) -> None:
    """An option may be a secret, so no message repeats one."""
    with pytest.raises(ConfigError) as caught:
        parse_file(written(tmp_path, text))
    assert "hunter2" not in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """A missing file, a directory and bytes that are no text are told with the path."""
    garbage = tmp_path / "garbage"
    garbage.write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "none", tmp_path, garbage):
        with pytest.raises(ConfigError, match="cannot be read") as caught:
            parse_file(path)
        assert str(path) in str(caught.value)
        assert caught.value.__cause__ is not None


# Folding


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([], ""),
        (["web1"], "web1"),
        (["db1", "web2", "web1", "web3"], "db1,web[1-3]"),
        (["web1", "web3", "web10", "web9"], "web[1,3,9-10]"),
        (["web08", "web09", "web10"], "web[08-10]"),
        (["web9", "web10", "web09"], "web[9,09-10]"),
        (["web1", "web1"], "web1"),
        (["r1n1", "r1n2", "r2n1", "r2n2"], "r[1-2]n[1-2]"),
        (["r1n1", "r1n2", "r2n1"], "r1n[1-2],r2n1"),
        (["10.0.0.9", "10.0.0.10"], "10.0.0.[9-10]"),
        (["joe@web1:22", "joe@web2:22", "web1"], "web1,joe@web[1-2]:22"),
        (["::1", "::2", "[::1]:22"], "::1,::2,[::1]:22"),
        (["local", "no host, 1", "no host, 2"], "local,no host, 1,no host, 2"),
        (["1", "2"], "[1-2]"),
        ([f"a{'1' * 20}", f"a{'1' * 19}2"], f"a{'1' * 20},a{'1' * 19}2"),
    ],
)
def test_names_fold(given: list[str], expected: str) -> None:
    """Numbers become ranges, zeros kept; what is no host's name stands as it is."""
    assert fold(given) == expected
    assert fold(reversed(given)) == expected


def test_many_names_fold_into_one() -> None:
    """A whole grid is one name."""
    text = "rack[1-20]node[001-100]"
    assert fold(spec.name for spec in parse(text)) == text
