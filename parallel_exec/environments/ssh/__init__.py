"""Hosts that are reached by SSH; the only importers of paramiko."""

from parallel_exec.environments.ssh.environment import SSHBackend

__all__ = ["SSHBackend"]
