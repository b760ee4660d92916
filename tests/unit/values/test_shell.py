"""Where a template for the shell takes a value, and where it takes none."""

from __future__ import annotations

import re

import pytest

import parallel_exec as px
from parallel_exec.errors import ConfigError
from parallel_exec.values import shell


@pytest.mark.parametrize(
    "template",
    [
        "`echo {}`",
        'echo "`echo {}`"',
        'echo "$(echo {})"',
        "echo \"$(echo '{}')\"",
        "echo ${x:-{}}",
        "echo ${}",
        'echo "${x#{}}"',
        "echo $((1 + {}))",
        'echo "$(({}))"',
        "(({}))",
        "echo $'{}'",
        "echo $'\\'' {}",
        "cat <<EOF\n{}\nEOF\n",
        "cat <<'EOF'\n{}\nEOF\n",
        "cat <<-EOF\n\t{}\n\tEOF\n",
        "cat <<{}\n",
        "cat <<EOF\n$(echo\nEOF\n)\nEOF\necho {}",
        "# {}",
        "echo x # it's {}",
        "echo \\{}",
        'echo "\\{}"',
        "echo '{}",
        'echo "{}',
        "echo `echo {}",
        'echo "$(case a in a) echo "{}";; esac)" {}',
        'echo "$(echo # )\n)" {}',
        'echo "${x:-"}"}" {}',
        "echo >&{}",
        "echo 2>& '{}'",
        "a[{}]=1",
        'echo "$$(echo {} "`echo y`")"',
        'echo "$${x{}:-"d"}"',
        "a=({})",
        "a=([{}]=1)",
        "echo $[{}]",
        "echo $\\\n(echo {})",
    ],
)
def test_places_without_a_value(template: str) -> None:
    """They are refused with what to do in place of it, before anything runs."""
    template = template if "{}" in template else template + "{}"
    with pytest.raises(ConfigError) as caught:
        px.sh(template, *["value"] * template.count("{}"))
    assert "env={'NAME': value}" in str(caught.value)
    assert '"$NAME"' in str(caught.value)
    assert repr(template) in str(caught.value)


@pytest.mark.parametrize(
    ("template", "script"),
    [
        ("echo {}", "echo 'a b'"),
        ("echo x{}y", "echo x'a b'y"),
        ('echo "x{}y"', 'echo "x"\'a b\'"y"'),
        ("echo 'x{}y'", "echo 'x''a b''y'"),
        ("x=$(wc -l < {})", "x=$(wc -l < 'a b')"),
        ('echo "/tmp/x.$$" $$"x" {}', 'echo "/tmp/x.$$" $$"x" \'a b\''),
        ("echo \"$(date '+%s')\" {}", "echo \"$(date '+%s')\" 'a b'"),
        ("echo $((1 << 2)) ${x} $# $$ {}", "echo $((1 << 2)) ${x} $# $$ 'a b'"),
        ("# it's\necho {}", "# it's\necho 'a b'"),
        ("cat <<EOF\nit's\nEOF\necho {}", "cat <<EOF\nit's\nEOF\necho 'a b'"),
        ("cat <<EOF > {}\nit's\nEOF\n", "cat <<EOF > 'a b'\nit's\nEOF\n"),
        ("case {} in [a-z]*) exit 1;; esac", "case 'a b' in [a-z]*) exit 1;; esac"),
        ("[ {} = x ] && ls a[0-9]*", "[ 'a b' = x ] && ls a[0-9]*"),
        ("find . -exec rm \\{\\} \\; -o -name {}", "find . -exec rm \\{\\} \\; -o -name 'a b'"),
        ("echo {a,b} ${x} { {} ; }", "echo {a,b} ${x} { 'a b' ; }"),
    ],
)
def test_places_with_a_value(template: str, script: str) -> None:
    """Bare or within quotes, whatever stands before."""
    assert px.sh(template, "a b").script() == script


@pytest.mark.parametrize(
    ("template", "values", "message"),
    [
        ("cp {} {}", ("a",), "the template has 2 {} but 1 value was given"),
        ("cp {}", ("a", "b"), "the template has 1 {} but 2 values were given"),
        ("date", ("a",), "the template has 0 {} but 1 value was given"),
        ("cp {} {}", (), "the template has 2 {} but 0 values were given"),
    ],
)
def test_numbers_that_differ(template: str, values: tuple[str, ...], message: str) -> None:
    """The error has both numbers and the template."""
    with pytest.raises(ConfigError) as caught:
        px.sh(template, *values)
    assert str(caught.value) == f"{message}: {template!r}"


def test_secret_within_quotes_stays_one() -> None:
    """The quotes around it are closed within the part that is masked."""
    command = px.sh("login \"--password={}\" '{}'", px.Secret("it's"), "b")
    assert command.script() == "login \"--password=\"'it'\"'\"'s'\"\" '''b'''"
    assert "it's" not in str(command)
    assert "***" in str(command)


def test_scanner_takes_any_pattern() -> None:
    """It says for each placeholder what was found and where it stands."""
    text = "a {} '{.}' \"{1}\" `{2}` $%h %h"
    found = list(shell.scan(text, re.compile(r"\{[.0-9]?\}|%h")))
    assert [(place.found[0], place.quotes, place.refused) for place in found] == [
        ("{}", "", None),
        ("{.}", "'", None),
        ("{1}", '"', None),
        ("{2}", "", "within backticks"),
        ("%h", "", "right behind a $"),
        ("%h", "", None),
    ]
