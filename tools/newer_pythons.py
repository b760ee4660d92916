"""Run the test suite on the Pythons of Debian's unstable, in a root made by debootstrap.

    sudo python3 tools/newer_pythons.py [PYTEST ARGUMENTS]

The root is a temporary folder; its mounts are in a namespace of their own, so nothing is left.
Both Pythons run at the same time. Exit status: 0 passed, 1 a test failed or a package could not
be installed, 77 the root could not be made (no debootstrap, no network, not root).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

TREE = Path(__file__).resolve().parent.parent
PYTHONS = ("3.14", "3.15")
SKIPPED = 77  # what automake's tests exit with
LEFT_OUT = (
    # They compare with what one release of OpenSSH's client does; unstable has another.
    "tests/unit/ssh/test_config.py::test_the_same_answers_as_openssh",
    "tests/unit/ssh/test_config.py::test_the_same_words_as_openssh",
    "tests/integration/ssh/test_host_keys.py::test_certificate_and_the_clients_verdict",
    "tests/integration/ssh/test_host_keys.py::test_known_hosts_and_the_clients_verdict",
    "tests/integration/ssh/test_keys_and_agents.py::test_whoever_logs_in_by_openssh_logs_in_here",
    # From Python 3.14 on an interrupt can come between the `__enter__` of a lock and its `with`
    # block; the lock is then held for ever.
    "tests/unit/api/test_batcher.py::test_an_interrupted_close_can_be_called_again",
)
PACKAGES = (
    *(f"python{version}-{part}" for version in PYTHONS for part in ("dev", "venv")),
    *("ca-certificates", "gcc", "git", "iproute2", "libc6-dev", "make", "procps"),
    *("csh", "dropbear-bin", "fish", "openssh-client", "openssh-server", "sudo", "zsh"),
)
# Inside the root. $1 is the Python's version, the rest are arguments of pytest.
SUITE = """
set -e
version=$1
shift
cp -r /tree "/tree-$version"
cd "/tree-$version"
"python$version" -m venv "/venv-$version"
python=/venv-$version/bin/python
"$python" -m pip -qq install --upgrade pip
"$python" -m pip -qq install --editable . --group test
exec "$python" -m pytest -n 2 --dist loadfile --no-loadscope-reorder -q "$@"
"""
# Outside of it, in the mount namespace.
ENTER = """
set -e
root=$1
shift
mount --bind "$root" "$root" # a mount point, since `ip netns` changes how / is shared
for place in proc sys dev; do
  mount --rbind "/$place" "$root/$place"
done
mount -t tmpfs tmpfs "$root/run"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
mkdir -p "$root/run/sshd"
exec chroot "$root" /usr/bin/env -i HOME=/root LANG=C.UTF-8 PATH="$PATH" TERM=dumb \
  NEED_HOSTS="$NEED_HOSTS" PIP_CERT=/etc/ssl/certs/ca-certificates.crt \
  PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore /bin/sh -c "$@"
"""


def mirror() -> str:
    """Return where this machine gets Debian's packages from."""
    words = ["apt-get", "indextargets", "--format", "$(SITE)", "Created-By: Packages"]
    listed = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    sites = listed.stdout.decode().split()
    return sites[0] if sites else ""


def make_root(root: Path) -> bool:
    """Install a minimal unstable Debian; return whether that went well."""
    words = ["debootstrap", "--variant=minbase", "--include=" + ",".join(PACKAGES), "sid"]
    log = root.with_name("debootstrap.log")
    with log.open("wb") as output:
        done = subprocess.run(
            [*words, str(root), mirror()], stdout=output, stderr=subprocess.STDOUT, check=False
        )
    if done.returncode != 0:
        sys.stderr.write("\n".join(log.read_text(errors="replace").splitlines()[-15:]) + "\n")
        return False
    for name in ("etc/resolv.conf", "etc/hosts", "etc/ssl/certs/ca-certificates.crt"):
        if Path("/", name).exists():
            shutil.copyfile(Path("/", name), root / name)
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=TREE,
        stdout=subprocess.PIPE,
        check=True,
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (TREE / name).is_file():  # not one that was removed and not yet committed
            target = root / "tree" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(TREE / name, target)
    return True


def run(
    root: Path, version: str, arguments: list[str], answers: dict[str, tuple[int, str]]
) -> None:
    """Run the suite on one Python; each line it prints begins with the version."""
    process = subprocess.Popen(
        [
            "unshare",
            "--mount",
            "sh",
            "-c",
            ENTER,
            "sh",
            str(root),
            SUITE,
            "sh",
            version,
            *arguments,
        ],
        env={"NEED_HOSTS": "", **os.environ},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert process.stdout is not None
    last = ""
    for line in process.stdout:
        text = line.decode(errors="replace").rstrip()
        last = text or last
        print(f"{version}: {text}", flush=True)
    answers[version] = process.wait(), last


def main() -> int:
    """Return the exit status."""
    if shutil.which("debootstrap") is None or os.geteuid() != 0:
        print("debootstrap and root are needed to make a root with newer Pythons", file=sys.stderr)
        return SKIPPED
    with tempfile.TemporaryDirectory(prefix="parallel_exec-newer-") as name:
        root = Path(name, "root")
        if not make_root(root):
            return SKIPPED
        answers: dict[str, tuple[int, str]] = {}
        threads = [
            threading.Thread(target=run, args=(root, version, sys.argv[1:], answers))
            for version in PYTHONS
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    print()
    passed = True
    for version in PYTHONS:
        status, summary = answers.get(version, (1, ""))
        passed = passed and status == 0
        print(f"Python {version}: {'passed' if status == 0 else f'FAILED (exit status {status})'}")
        print(summary, flush=True)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
