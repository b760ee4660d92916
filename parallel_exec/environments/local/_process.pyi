def probe(waiting: bool, /) -> bool: ...
def spawn(
    files: tuple[bytes, ...],
    argv: list[str],
    envp: tuple[bytes, ...],
    cwd: bytes | None,
    stdin: int,
    stdout: int,
    stderr: int,
    waiting: bool,
    /,
) -> tuple[int, int, int, int, int]: ...
def drain(stdout: int, stderr: int, /) -> tuple[bytes, bytes, int]: ...
def collect(
    pid: int, pidfd: int, stdout: int, stderr: int, /
) -> tuple[int | None, bytes, bytes, int]: ...
def tidy() -> bool: ...
