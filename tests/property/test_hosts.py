"""Lists of hosts against ClusterShell's node sets, and there and back."""

from __future__ import annotations

from ClusterShell.NodeSet import NodeSet  # type: ignore[import-untyped]
from hypothesis import example, given, strategies as st

from parallel_exec.errors import ConfigError
from parallel_exec.values.hosts import HostSpec, fold, parse

literals = st.text("abx.-_", min_size=1, max_size=4).filter(lambda text: text[0] != "-")


@st.composite
def ranges(draw: st.DrawFn) -> str:
    """One range: a number, or two and perhaps a step; perhaps with zeros in front."""
    first = draw(st.integers(0, 120))
    last = first + draw(st.integers(0, 12))
    width = draw(st.sampled_from([0, 0, 2, 3, 4]))
    if width and width < len(str(last)):
        width = 0
    text = f"{first:0{width}}"
    if draw(st.booleans()):
        text += f"-{last:0{width}}"
        if draw(st.booleans()):
            text += f"/{draw(st.integers(1, 5))}"
    return text


brackets = st.lists(ranges(), min_size=1, max_size=3).map(lambda parts: f"[{','.join(parts)}]")


@st.composite
def patterns(draw: st.DrawFn) -> str:
    """One name with up to two brackets in it, each behind a literal."""
    text = draw(literals)
    for _ in range(draw(st.integers(0, 2))):
        text += draw(brackets) + draw(literals)
    return text


@st.composite
def lists(draw: st.DrawFn) -> str:
    """Names joined by commas, some of them taken away again."""
    text = draw(patterns())
    for pattern in draw(st.lists(patterns(), max_size=4)):
        text += draw(st.sampled_from(",,!")) + pattern
        if draw(st.booleans()):
            text += "!" + pattern.replace("[", "[0,")
    return text


numbers = st.builds("{:0{}}".format, st.integers(0, 120), st.integers(1, 4))
plain_names = st.lists(
    st.builds("{}{}{}".format, st.sampled_from(["web", "r", "10.0."]), numbers, st.just("n"))
    | st.builds("{}{}x{}".format, st.sampled_from(["web", "r"]), numbers, numbers),
    max_size=30,
)
names = st.builds(
    lambda user, host, port: HostSpec(user, host, port).name,
    st.none() | st.sampled_from(["joe", "u1"]),
    st.builds("{}{}".format, literals, numbers) | st.just("fe80::1"),
    st.none() | st.integers(1, 65535),
)


@given(lists())
@example("a[1,01,001]")
@example("a[08-11]!a[9-10]")
def test_a_list_names_what_clustershell_says(text: str) -> None:
    """Ranges, steps, zeros in front and ``!`` mean what they mean in ClusterShell."""
    hosts = [spec.name for spec in parse(text)]
    assert len(hosts) == len(set(hosts))
    assert set(hosts) == set(NodeSet(text))


@given(patterns(), patterns())
def test_excluding_is_clustershells_difference(text: str, exclude: str) -> None:
    """`exclude` leaves out what ClusterShell's ``-x`` does."""
    left = {spec.name for spec in parse(text, exclude=exclude)}
    assert left == set(NodeSet(text) - NodeSet(exclude))


same_stem = brackets.map("n{}".format)


@given(st.lists(same_stem, min_size=1, max_size=3), st.lists(same_stem, min_size=1, max_size=3))
@example(["n[01-12]"], ["n[5-11]", "n[03-04]"])
def test_excluding_takes_from_all_that_is_named(texts: list[str], exclude: list[str]) -> None:
    """Several lists, and several to leave out, that have hosts in common."""
    left = {spec.name for spec in parse(*texts, exclude=exclude)}
    assert left == set(NodeSet(",".join(texts)) - NodeSet(",".join(exclude)))


@given(plain_names)
@example(["web09", "web10", "web9"])
@example(["web00", "web0", "web000"])
def test_clustershell_reads_what_is_folded(given_names: list[str]) -> None:
    """A folded text names the same hosts in ClusterShell."""
    assert set(NodeSet(fold(given_names))) == set(given_names)


@given(st.lists(names, max_size=30))
def test_what_is_folded_reads_back(given_names: list[str]) -> None:
    """Folding and parsing lose no host and invent none."""
    text = fold(given_names)
    back = {spec.name for spec in parse(text)} if text else set()
    assert back == set(given_names)


@given(st.lists(st.text(max_size=8)))
def test_any_names_fold(given_names: list[str]) -> None:
    """Folding takes whatever names there are, in whatever order."""
    assert fold(given_names) == fold(sorted(given_names))


@given(st.text(st.sampled_from("aw01-3/,[]!@:% \t.x"), max_size=25) | st.text(max_size=10))
def test_any_text_is_read_or_refused(text: str) -> None:
    """No text ends in anything but hosts or a `ConfigError`, and hosts read back."""
    try:
        hosts = parse(text)
    except ConfigError:
        return
    for spec in hosts:
        assert parse(spec.name) == (spec,)
