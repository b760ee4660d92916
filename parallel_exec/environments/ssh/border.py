"""The one place that imports paramiko, so that `Any` ends here.

With it comes cryptography, which reads the key files that paramiko cannot. paramiko ships
no types, and what is built on it in `connection` and `channel` uses its
internals: those are the same from 3.5 to 5.1, and the tests run against the ends.
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

__all__ = ["auth_handler", "buffered_pipe", "common", "packet", "paramiko", "serialization"]

paramiko: Any = _paramiko
auth_handler: Any = _auth_handler
buffered_pipe: Any = _buffered_pipe
common: Any = _common
packet: Any = _packet
serialization: Any = _serialization
