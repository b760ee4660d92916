"""The one place that imports paramiko, so that `Any` ends here.

With it comes cryptography, which reads the key files that paramiko cannot. paramiko ships
no types, and what is built on it uses its internals: `INTERNALS` says which. They are the
same from 3.5 to 5.1, the tests run against the ends, and a paramiko without one of them
fails `tests/unit/ssh/test_border.py` before it fails a user.
"""

from __future__ import annotations

import warnings
from typing import Any

with warnings.catch_warnings():
    # paramiko before 4 imports ciphers that cryptography means to drop.
    warnings.simplefilter("ignore")
    import paramiko as _paramiko
    import paramiko.auth_handler as _auth_handler
    import paramiko.buffered_pipe as _buffered_pipe
    import paramiko.common as _common
    import paramiko.packet as _packet
    from cryptography.hazmat.primitives import serialization as _serialization

__all__ = [
    "INTERNALS",
    "auth_handler",
    "buffered_pipe",
    "common",
    "packet",
    "paramiko",
    "serialization",
]

paramiko: Any = _paramiko
auth_handler: Any = _auth_handler
buffered_pipe: Any = _buffered_pipe
common: Any = _common
packet: Any = _packet
serialization: Any = _serialization

# The private names of paramiko's classes that are called or overridden: in `packets`,
# in `connection`, `sending` and `pool`, in `channel`, and in `userauth`.
INTERNALS: dict[str, tuple[str, ...]] = {
    "Packetizer": (
        "_Packetizer__aead_in",
        "_Packetizer__block_engine_in",
        "_Packetizer__closed",
        "_Packetizer__iv_in",
        "_Packetizer__mac_size_in",
        "_Packetizer__received_bytes",
        "_Packetizer__received_packets",
        "_Packetizer__sequence_number_in",
        "_Packetizer__write_lock",
        "_inc_iv_counter",
        "_trigger_rekey",
    ),
    "Transport": (
        "_active_check_timeout",
        "_auth_trigger",
        "_channel_counter",
        "_channel_handler_table",
        "_channels",
        "_cipher_info",
        "_filter_algorithm",
        "_kex_info",
        "_key_info",
        "_log",
        "_mac_info",
        "_negotiate_keys",
        "_next_channel",
        "_parse_channel_open_failure",
        "_parse_channel_open_success",
        "_parse_debug",
        "_parse_disconnect",
        "_parse_newkeys",
        "_preferred_ciphers",
        "_preferred_compression",
        "_preferred_kex",
        "_preferred_keys",
        "_preferred_macs",
        "_send_kex_init",
        "_send_message",
        "_send_user_message",
        "_unlink_channel",
        "_verify_key",
    ),
    "Channel": (
        "_check_add_window",
        "_close_internal",
        "_feed",
        "_feed_extended",
        "_handle_close",
        "_handle_eof",
        "_handle_request",
        "_log",
        "_request_failed",
        "_request_success",
        "_set_closed",
        "_set_remote_channel",
        "_set_transport",
        "_set_window",
        "_unlink",
        "_window_adjust",
    ),
    "AuthHandler": (
        "_parse_service_accept",
        "_parse_userauth_banner",
        "_parse_userauth_failure",
        "_parse_userauth_info_request",
        "_parse_userauth_success",
    ),
}
