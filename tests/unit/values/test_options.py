"""Options that do not exist, and how tools see those that do."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest

import parallel_exec as px
from parallel_exec.errors import ConfigError

face: Any = px  # what is wrong here is not for type checkers


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: face.run("true", shell=True), "run has no option shell= (given True): a string"),
        (lambda: face.submit("true", text=True), "submit has no option text= (given True): output"),
        (lambda: face.Command("true", capture_output=1), "Command has no option capture_output="),
        (lambda: face.sh("true", labell="x"), "sh has no option labell= (given 'x'): did you mean"),
        (lambda: face.run("true", user="me"), "run has no option user= (given 'me'): log in with"),
        (lambda: face.run("true", hosts="a"), "px.hosts(hosts).run(...)"),
        (lambda: face.all([], max_workers=3), "all has no option max_workers= (given 3): use"),
        (
            lambda: face.race(["true"], timeouts=3),
            "did you mean timeout=?",
        ),
        (lambda: face.as_completed([], n_jobs=2), "as_completed has no option n_jobs="),
        (lambda: face.parallel_map(len, [], n_jobs=2), "parallel_map has no option n_jobs="),
        (lambda: face.parallel_reduce(max, [1], chunksize=2), "did you mean chunk_size=?"),
        (lambda: face.parallel_map(len, [], retries=2), "use retry="),
        (lambda: face.ParallelExecutor(n_jobs=2), "ParallelExecutor has no option n_jobs="),
        (lambda: face.Retry(tries=3), "Retry has no option tries= (given 3): use atte"),
        (lambda: face.SSH("a", key_filename="k"), "SSH has no option key_filename= (given 'k')"),
        (lambda: face.RateLimiter(1, seconds=1), "RateLimiter has no option seconds="),
        (lambda: face.VisualProgress(3, desc="x"), "VisualProgress has no option desc="),
        (
            lambda: face.LoadBalancer([len]).execute_many([], zzz=1),
            "execute_many has no option",
        ),
        (
            lambda: face.ParallelExecutor(1).execute_with_errors([], n_jobs=1),
            "execute_with_errors has no option n_jobs=",
        ),
        (
            lambda: face.ParallelExecutor(1).execute_with_retry([], retries=2),
            "execute_with_retry has no option retries=",
        ),
        (lambda: face.hosts("a", usr=1), "hosts has no option usr= (given 1): did you mean user="),
        (lambda: face.hosts("a", files="x"), "did you mean file=?"),
        (lambda: face.hosts("a", pasword="y"), "hosts has no option pasword= (given ***): did you"),
        (lambda: face.Group(["a"], usr=1), "Group has no option usr= (given 1): did you mean user"),
        (lambda: face.Group([]).run("x", wave=[1]), "Group.run has no option wave= (given [1]): d"),
        (lambda: face.Group([]).run("x", max_workers=1), "use concurrency="),
        (lambda: face.Group([]).map(len, wavs=[1]), "Group.map has no option wavs= (given [1]): d"),
        (lambda: face.Group([]).put("a", "b", preserv=1), "did you mean preserve=?"),
        (lambda: face.Group([]).get("a", "b", progres=1), "Group.get has no option progres="),
    ],
)
def test_an_unknown_option_names_the_function_and_the_right_option(
    call: Callable[[], object], said: str
) -> None:
    """The error has the function that the user called, the value, and what to write."""
    with pytest.raises(ConfigError) as caught:
        call()
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "function",
    [
        *(px.run, px.submit, px.sh, px.Command),
        *(px.all, px.all_settled, px.any, px.race, px.as_completed, px.fast_fail, px.fail_safe),
        *(px.parallel_map, px.parallel_imap, px.parallel_filter, px.parallel_for_each),
        *(px.parallel_reduce, px.LoadBalancer.execute_many, px.RoundRobinDistributor.distribute),
        *(px.ParallelExecutor.execute_with_errors, px.AIMDController.execute),
        *(px.SSH, px.ParallelExecutor, px.Retry, px.hosts, px.Group),
        *(px.Group.run, px.Group.map, px.Group.put, px.Group.get),
        *(px.Local.run, px.SSH.submit, px.Local.command),
    ],
)
def test_signatures_show_the_options(function: Callable[..., Any]) -> None:
    """`help()` and editors see each option by its name; nothing hides behind ``**options``."""
    parameters = inspect.signature(function).parameters.values()
    assert [each.name for each in parameters if each.kind is each.VAR_KEYWORD] == []


def test_a_signature_has_the_defaults_that_hold() -> None:
    """What is shown is what is used."""
    shown = inspect.signature(px.run).parameters
    assert shown["kill_after"].default == px.Command("true").kill_after
    assert shown["encoding"].default == px.Command("true").encoding
    assert inspect.signature(px.all).parameters["concurrency"].default == px.DEFAULT_CONCURRENCY
    assert inspect.signature(px.Group.map).parameters["concurrency"].default == 64


@pytest.mark.parametrize("function", [px.hosts, px.Group])
def test_the_options_of_hosts_are_those_of_ssh(function: Callable[..., Any]) -> None:
    """A name and a default are the same wherever hosts are named."""
    of_ssh = inspect.signature(px.SSH).parameters
    shown = inspect.signature(function).parameters
    known = [name for name in of_ssh if name not in ("self", "destination")]
    assert {name: shown[name].default for name in known} == {
        name: of_ssh[name].default for name in known
    }
    assert set(shown) - set(known) <= {"texts", "file", "exclude", "environments"}


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: px.AIMDController(20), "initial must be between min_limit (1) and max_limit (10)"),
        (lambda: px.AIMDController(1, 5, 3), "max_limit must be a whole number of at least 5"),
        (lambda: px.AIMD(20), "initial must be between min_limit (1) and max_limit (10), not 20"),
        (lambda: px.all([], concurrency=2**70), "concurrency must be a whole number of at most"),
        (lambda: px.parallel_map(len, [], 2**70), "concurrency must be a whole number of at most"),
        (lambda: px.ConcurrencyLimiter(2**64), "limit must be a whole number of at most"),
        (lambda: face.ConcurrencyLimiter(1).run("true"), "fn must be a function without arguments"),
        (lambda: px.run("a\0b"), r"command must be free of NUL bytes, not 'a\x00b'"),
    ],
)
def test_errors_speak_of_what_the_user_wrote(call: Callable[[], object], said: str) -> None:
    """The parameter is the one that was written, and the value stands beside it."""
    with pytest.raises(ConfigError) as caught:
        call()
    assert said in str(caught.value)
