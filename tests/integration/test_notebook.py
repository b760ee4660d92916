"""In a notebook: a real kernel that runs cells, is interrupted, is killed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.integration.processes import Nap, Script, eventually, python

# What stands between a user and a kernel.
NOTEBOOK = """
import json
from jupyter_client.manager import start_new_kernel

manager, client = start_new_kernel(kernel_name="python3")

def show():
    # Wait until the cell has ended, and print what it showed.
    shown = []
    while True:
        message = client.get_iopub_msg(timeout=60)
        kind, content = message["msg_type"], message["content"]
        if kind == "status" and content["execution_state"] == "idle":
            break
        shown.append([kind, content])
    print(json.dumps(shown))

try:
{steps}
finally:
    client.stop_channels()
    manager.shutdown_kernel(now=True)
"""


@contextmanager
def notebook(folder: Path, *steps: str) -> Iterator[Script]:
    """Do `steps` with a kernel, in another process."""
    body = "".join(f"    {step}\n" for step in steps)
    with python(folder, NOTEBOOK.replace("{steps}", body)) as script:
        yield script


def run(cell: str) -> str:
    """Return the step that begins a cell."""
    return f"client.execute({cell!r})"


def shown(script: Script) -> dict[str, Any]:
    """Return what a cell showed, by kind; of several of a kind, the last."""
    return dict(json.loads(script.line()))


def test_a_cell_shows_a_bar_and_the_outcomes(tmp_path: Path) -> None:
    """Progress is a widget, the outcomes are the value of the cell."""
    cell = (
        "import parallel_exec as px\n"
        "px.all_settled(['echo ok', 'exit 3'], progress=True).rejected[0].reason.result.exit_code"
    )
    with notebook(tmp_path, run(cell), "show()") as script:
        seen = shown(script)
    assert "application/vnd.jupyter.widget-view+json" in seen["display_data"]["data"]
    assert seen["execute_result"]["data"]["text/plain"] == "3"


def test_interrupting_a_cell_ends_its_commands(nap: Nap, tmp_path: Path) -> None:
    """The interrupt of the kernel is Ctrl-C: the commands end, the kernel goes on."""
    go = tmp_path / "go"
    cell = f"import parallel_exec as px\npx.all(['exec {nap}'] * 3)"
    after = "px.run('echo still here').text()"
    steps = (
        run(cell),
        f"while not os.path.exists({str(go)!r}): time.sleep(0.02)",
        "manager.interrupt_kernel()",
        "show()",
        run(after),
        "show()",
    )
    with notebook(tmp_path, *steps) as script:
        nap.wait_for(3)
        go.touch()
        assert shown(script)["error"]["ename"] == "KeyboardInterrupt"
        assert nap.sleepers() == []
        assert shown(script)["execute_result"]["data"]["text/plain"] == repr("still here\n")


def test_what_a_cell_left_in_the_background_ends_with_the_kernel(nap: Nap, tmp_path: Path) -> None:
    """A kernel that is killed leaves no command behind."""
    go = tmp_path / "go"
    steps = (
        run(f"import parallel_exec as px\nfuture = px.submit('exec {nap}')"),
        "show()",
        f"while not os.path.exists({str(go)!r}): time.sleep(0.02)",
        "manager.signal_kernel(signal.SIGKILL)",
    )
    with notebook(tmp_path, *steps) as script:
        assert "error" not in shown(script)
        nap.wait_for(1)
        go.touch()
        eventually(lambda: not nap.sleepers(), "the end of the command")
