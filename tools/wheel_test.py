"""Build the sdist and from it the wheel, install the wheel in a clean place, use it there.

A flat layout hides packaging mistakes: in the tree the package is importable whatever the
wheel holds. So everything here happens in a temporary folder. Run by the Python of an
environment with the `test` group, which has `build`.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

TREE = Path(__file__).resolve().parent.parent

TRY = """
import sys
from importlib import metadata, resources
import parallel_exec as px

assert px.__file__.startswith(sys.prefix), px.__file__
assert resources.files(px).joinpath("py.typed").is_file()
result = px.run(["echo", "from the wheel"])
assert result.text() == "from the wheel\\n", result
assert [each.text() for each in px.all(["echo 1", "echo 2"])] == ["1\\n", "2\\n"]
print("parallel_exec", metadata.version("parallel_exec"), "works from its wheel")
"""


def main() -> int:
    """Return 0 if the wheel works."""
    with tempfile.TemporaryDirectory(prefix="parallel_exec-wheel-") as name:
        place = Path(name)
        run(sys.executable, "-m", "build", "--outdir", str(place / "dist"), str(TREE), quiet=True)
        (wheel,) = (place / "dist").glob("*.whl")
        print("built", wheel.name)
        run(sys.executable, "-m", "venv", str(place / "venv"))
        python = str(place / "venv" / "bin" / "python")
        pip = [python, "-m", "pip", "-qq", "--disable-pip-version-check"]
        run(*pip, "install", str(wheel))
        run(*pip, "check", quiet=True)
        run(python, "-I", "-W", "error", "-c", TRY, cwd=place)
    return 0


def run(*command: str, quiet: bool = False, cwd: Path = TREE) -> None:
    """Run a command; what a quiet one prints is shown only if it fails."""
    output = subprocess.PIPE if quiet else None
    done = subprocess.run(command, cwd=str(cwd), stdout=output, stderr=subprocess.STDOUT)
    if done.returncode != 0:
        sys.stderr.write(done.stdout.decode(errors="replace") if done.stdout else "")
        sys.exit(f"{command[:4]} failed with {done.returncode}")


if __name__ == "__main__":
    sys.exit(main())
