"""Hosts that are reached by SSH, as users name them."""

from __future__ import annotations

from parallel_exec.api.environments import Runnable
from parallel_exec.environments.ssh import SSHBackend

__all__ = ["SSH"]


class SSH(SSHBackend, Runnable):
    __doc__ = SSHBackend.__doc__
