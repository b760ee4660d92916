"""Values in shell templates: each arrives as it is, and none is ever executed."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest
from hypothesis import given, settings, strategies as st

import parallel_exec as px
from parallel_exec.errors import ConfigError

SHELLS = [path for path in map(shutil.which, ("sh", "dash", "bash")) if path is not None]

# Each writes a file, if it is executed, from whatever quotes it is in.
HOSTILE = [
    "$(: >canary)",
    "`: >canary`",
    "; : >canary; ",
    "\n: >canary\n",
    "'; : >canary; '",
    '"; : >canary; "',
    "'\"; : >canary; \"'",
    "\"'; : >canary; '\"",
    "\\'; : >canary; :'",
    "')`: >canary`",
    ") : >canary;(",
    ") ; : >canary #",
    "} ; : >canary; {",
    "a[$(: >canary)]",
    "\nEOF\n: >canary\n",
    "-n",
    "",
    "\\",
    "~",
    "*",
    "2",
    "if",
    "x=y",
]
VALUES = st.one_of(
    st.sampled_from(HOSTILE),
    st.lists(st.sampled_from([*HOSTILE, "'", '"', "\\", "`", "$", "a", " "]), max_size=6).map(
        "".join
    ),
    st.binary(max_size=20).map(lambda data: data.replace(b"\0", b"")),
    st.integers(),
)


def as_bytes(value: str | bytes | int) -> bytes:
    """Return what a command gets for a value."""
    return value if isinstance(value, bytes) else os.fsencode(str(value))


# Pieces of one word: what is written, and what it comes to, "{}" standing for a value.
PIECES = st.sampled_from(
    [
        ("{}", "{}"),
        ("a{}", "a{}"),
        ("{}=", "{}="),
        ("'{}'", "{}"),
        ("'a \" # $( {} ` {}'", 'a " # $( {} ` {}'),
        ('"{}"', "{}"),
        ('"it\'s {} $FIVE{}"', "it's {} 5{}"),
        ('"\\"{}\\""', '"{}"'),
        ('"$(echo "x)" \')\')"{}', "x) ){}"),
        ('"${FIVE}{}`echo x`"', "5{}x"),
        ("\\'{}\\\\{}", "'{}\\{}"),
        ("$FIVE{}", "5{}"),
        ("$((1 + (2)))'{}'", "3{}"),
        ('${FIVE:-"}\'"}{}', "5{}"),
        ("$(echo ')' # it's\n){}", "){}"),
        ("`echo '$x'`\"{}\"", "$x{}"),
        ("a#{}", "a#{}"),
        ("\\\n{}", "{}"),
        ("$(: {}; echo x)", "x"),
    ]
)
BEFORE = st.sampled_from(
    [
        "",
        "# it's \" a ` comment\n",
        "cat >/dev/null <<EOF\nit's $FIVE ${FIVE} $(echo x)\nEOF\n",
        "cat >/dev/null <<-'EOF' <<B\n\t$(it's `\n\tEOF\n\"\nB\n",
        "case a in (a) : ;; b) : ;; esac; ",
        'x=$(case a in a) echo ")" ;; esac); ',
        "if true; then\n:\nfi; ( : ) && ",
        "f() { :; }; f 2>/dev/null {} >/dev/null; ",
        'x={} y="{}"; export x; ',
        "{ :; } <<'a'\n\"\na\n",
    ]
)


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_values_arrive_as_one_argument(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """In every place that takes one, by every shell there is; nothing else is executed."""
    before = data.draw(BEFORE)
    words = data.draw(st.lists(st.lists(PIECES, min_size=1, max_size=3), min_size=1, max_size=3))
    template = (
        before
        + "printf '%s\\0' end"
        + "".join(" x" + "".join(written for written, _ in word) for word in words)
    )
    values = data.draw(
        st.lists(VALUES, min_size=template.count("{}"), max_size=template.count("{}"))
    )
    left = list(values[before.count("{}") :])
    wanted = [b"end"]
    for word in words:
        made = b"x"
        for written, meant in word:
            here = [as_bytes(left.pop(0)) for _ in range(written.count("{}"))]
            for n, part in enumerate(meant.encode().split(b"{}")):
                made += (here[n - 1] if n else b"") + part
        wanted.append(made)
    script = os.fsencode(px.sh(template, *values).script())
    folder = tmp_path_factory.mktemp("shell")
    for shell in SHELLS:
        done = subprocess.run(
            [shell, "-c", script], cwd=folder, env={**os.environ, "FIVE": "5"}, capture_output=True
        )
        assert done.stdout.split(b"\0")[:-1] == wanted, (shell, template, values, done.stderr)
        assert not os.listdir(folder), (shell, template, values)


SOUP = st.lists(
    st.one_of(
        st.just("{}"),
        st.sampled_from(
            [
                *("'", '"', "`", "\\", "$", "(", ")", "((", "))", "{", "}", "#", "\n", " ", ";"),
                *("$(", "$((", "${", "${x:-", "${x#", "$'", '$"', "$[", "]", "<<EOF", "\nEOF\n"),
                *("<<-'a'", "\na\n", "<<", "<", ">&2", "|", "&&", ":", "x", "x=", " case x in x) "),
                *(" esac", "\\\n", "!", "=", "a[", "]=", "if ", " then ", " fi", "[[ ", " ]]"),
                *("echo ", "1", "\t", "$x", "$#", "$$", "<(", "f() "),
            ]
        ),
    ),
    min_size=2,
    max_size=14,
).map("".join)


@settings(max_examples=250, deadline=None)
@given(template=SOUP.filter(lambda text: "{}" in text), value=st.sampled_from(HOSTILE[:15]))
def test_no_value_is_executed_in_any_template(
    tmp_path_factory: pytest.TempPathFactory, template: str, value: str
) -> None:
    """Whatever the template is: it is refused, or the value stays a value."""
    try:
        script = px.sh(template, *[value] * template.count("{}")).script()
    except ConfigError:
        return
    folder = tmp_path_factory.mktemp("shell")
    for shell in SHELLS:
        subprocess.run(
            [shell, "-c", script], cwd=folder, capture_output=True, stdin=subprocess.DEVNULL
        )
        assert not (folder / "canary").exists(), (shell, template, value)
