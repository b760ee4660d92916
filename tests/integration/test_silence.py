"""What a callback of the user's raises is not silent: it is on standard error of a plain script,
and on the log where the program has set logging up.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

CALLS = {
    "on_outcome": "px.all_settled(['true'], on_outcome=boom)",
    "on_event": "px.all_settled(['true'], on_event=boom)",
    "on_event, wrong arity": "px.all_settled(['true'], on_event=lambda: None)",
    "progress": "px.all_settled(['true'], progress=boom)",
    "on_stdout": "px.run('echo 1', on_stdout=boom)",
    "on_stderr": "px.run('echo 1 >&2', on_stderr=boom)",
    "classify": "px.all_settled(['true'], concurrency=px.AIMDController(classify=boom))",
    "classify, a typo": (
        "px.all_settled(['true'], concurrency=px.AIMDController(classify=lambda o: 'overlaod'))"
    ),
    "classify, used directly": "px.AIMDController(classify=boom).run(int)",
    "a limit": (
        "px.all_settled([int], concurrency=type('L', (px.ConcurrencyLimiter,),"
        " {'_returned': boom})(2))"
    ),
    "a future's callback": (
        "pool = px.ParallelExecutor(1); pool.submit(int).add_done_callback(boom); pool.shutdown()"
    ),
    "a token's callback": "token = px.CancelToken(); token.on_cancel(boom); token.cancel()",
}
SCRIPT = """
import logging, sys
import parallel_exec as px

def boom(*args):
    raise LookupError("a typo of mine")

{setup}
{call}
print("done")
"""
WANTED = {
    "on_event, wrong arity": "TypeError",
    "classify, a typo": "overlaod",
}


def said(call: str, setup: str = "") -> tuple[str, str]:
    """Return what a script that makes the call prints on stdout and stderr."""
    script = SCRIPT.format(setup=setup, call=call)
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout, done.stderr


@pytest.mark.parametrize("name", CALLS)
def test_a_plain_script_shows_what_a_callback_raised(name: str) -> None:
    """The traceback is on standard error, and the call goes on."""
    out, err = said(CALLS[name])
    assert out == "done\n"
    assert WANTED.get(name, "LookupError: a typo of mine") in err
    if name not in WANTED:
        assert 'File "<string>"' in err


SET_UP = {
    "to standard output": "logging.basicConfig(stream=sys.stdout, format='%(levelname)s')",
    "silenced by its level": "logging.getLogger('parallel_exec').setLevel(logging.CRITICAL)",
}


@pytest.mark.parametrize("name", ["on_outcome", "on_stdout", "classify", "a limit"])
def test_a_program_that_has_set_logging_up_finds_it_there_alone(name: str) -> None:
    """Once, where its handlers put it; one that wants to hear nothing hears nothing."""
    out, err = said(CALLS[name], SET_UP["to standard output"])
    assert "ERROR" in out
    assert "LookupError: a typo of mine" in out
    assert err == ""
    assert said(CALLS[name], SET_UP["silenced by its level"]) == ("done\n", "")


def test_a_closed_standard_error_costs_nothing() -> None:
    """Where nobody can be told, the call goes on all the same."""
    out, _ = said(CALLS["on_outcome"], "sys.stderr.close()")
    assert out == "done\n"
    out, _ = said(CALLS["on_stdout"], "sys.stderr = None")
    assert out == "done\n"
