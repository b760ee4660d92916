"""A filter that takes system calls away, as a container's does: text for a program's beginning."""

from __future__ import annotations

CALLS = {
    "x86_64": {
        "clone": 56,
        "close_range": 436,
        "eventfd2": 290,
        "memfd_create": 319,
        "pidfd_open": 434,
        "pidfd_send_signal": 424,
        "waitid": 247,
    },
    "aarch64": {
        "clone": 220,
        "close_range": 436,
        "eventfd2": 19,
        "memfd_create": 279,
        "pidfd_open": 434,
        "pidfd_send_signal": 424,
        "waitid": 95,
    },
}

DENY = """
def deny(error, *numbers):
    # From now on these system calls fail with `error`, here and in all that is started.
    import ctypes, struct
    load, equals, answer = 0x20, 0x15, 0x06  # of the filter's machine
    rules = [struct.pack("=HBBI", load, 0, 0, 0)]  # the number of the call
    for number in numbers:
        rules.append(struct.pack("=HBBI", equals, 0, 1, number))
        rules.append(struct.pack("=HBBI", answer, 0, 0, 0x00050000 | error))
    rules.append(struct.pack("=HBBI", answer, 0, 0, 0x7FFF0000))
    code = ctypes.create_string_buffer(b"".join(rules))
    program = struct.pack("HxxxxxxP", len(rules), ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
    assert libc.prctl(22, 2, program, 0, 0) == 0, ctypes.get_errno()  # PR_SET_SECCOMP
"""
