def spawn(
    files: tuple[bytes, ...],
    argv: tuple[bytes, ...],
    envp: tuple[bytes, ...],
    cwd: bytes | None,
    stdin: int,
    stdout: int,
    stderr: int,
    /,
) -> tuple[int, int, int, int, int]: ...
def drain(stdout: int, stderr: int, /) -> tuple[bytes, bytes, int]: ...
def reap(pid: int, pidfd: int, /) -> tuple[int | None, bool]: ...
