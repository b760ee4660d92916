"""Tools that follow a process: a debugger keeps its breakpoints, valgrind goes on."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from parallel_exec.environments.local import spawn
from tests.integration.processes import ROOT

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or spawn.fast is None, reason="there is no extension here"
)
CODE = """
import parallel_exec as px
from parallel_exec.environments.local import spawn
print(px.run("echo fine").text(), end="")
try: px.run("sleep 1000", timeout=0.1)
except px.errors.CommandTimeoutError: print("ended")
print(spawn.way(), flush=True)
"""


def printed(*words: str, **variables: str) -> list[str]:
    """Run a program; return the lines that it prints."""
    done = subprocess.run(
        words,
        env={**os.environ, "PYTHONPATH": str(ROOT), **variables},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=110,
    )
    return done.stdout.splitlines()


@pytest.mark.skipif(shutil.which("valgrind") is None, reason="needs valgrind")
def test_under_valgrind_commands_start_by_popen(tmp_path: Path) -> None:
    """It ends at a child that shares its parent's memory."""
    program = tmp_path / "program.py"
    program.write_text(CODE)
    words = ["valgrind", "-q", "--tool=none", "--trace-children=no", sys.executable, str(program)]
    lines = printed(*words, PYTHONMALLOC="malloc")
    own = [line for line in lines if not line.startswith(("==", "--"))]  # the rest is valgrind's
    assert own == ["fine", "ended", "popen"]


@pytest.mark.skipif(shutil.which("gdb") is None, reason="needs gdb")
def test_under_a_debugger_breakpoints_stay(tmp_path: Path) -> None:
    """It takes them out of the memory of a child, and puts them back after a vfork."""
    program = tmp_path / "program.py"
    program.write_text(CODE + "import os\nos.getpgid(0)\nprint('over', flush=True)\n")
    script = tmp_path / "commands"
    script.write_text(
        "set breakpoint pending on\nset confirm off\nset pagination off\n"
        "set debuginfod enabled off\nhandle all nostop noprint pass\nbreak getpgid\n"
        "run\ncontinue\n"
    )
    words = ["gdb", "-nx", "-batch", "-x", str(script), "--args", sys.executable, str(program)]
    text = "\n".join(printed(*words))
    assert "vfork\n" in text, text
    assert text.index("vfork\n") < text.index("Breakpoint 1, "), text
    assert text.index("Breakpoint 1, ") < text.index("over"), text


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs a C compiler")
def test_a_kernel_that_gives_no_pidfd_keeps_its_standard_input(tmp_path: Path) -> None:
    """Before Linux 5.2 `clone` ignores that it is to give one: nothing is taken for it."""
    source, library = tmp_path / "old.c", tmp_path / "old.so"
    source.write_text(
        """
        #define _GNU_SOURCE
        #include <dlfcn.h>
        #include <sched.h>
        #include <stdarg.h>
        #include <sys/types.h>
        int clone(int (*fn)(void *), void *stack, int flags, void *arg, ...)
        {
            static int (*real)(int (*)(void *), void *, int, void *, ...);
            va_list list;
            va_start(list, arg);
            pid_t *parent = va_arg(list, pid_t *);
            void *tls = va_arg(list, void *);
            pid_t *child = va_arg(list, pid_t *);
            va_end(list);
            if (!real)
                real = dlsym(RTLD_NEXT, "clone");
            return real(fn, stack, flags & ~0x1000, arg, parent, tls, child);
        }
        """
    )
    command = ["gcc", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"]
    subprocess.run(command, check=True)
    program = tmp_path / "program.py"
    program.write_text(
        "import os\nbefore = os.fstat(0)\n" + CODE + "print(before == os.fstat(0))\n"
    )
    lines = printed(sys.executable, str(program), LD_PRELOAD=str(library))
    assert lines == ["fine", "ended", "popen", "True"]
