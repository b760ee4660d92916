"""Commands on this machine."""

from parallel_exec.environments.local.backend import LocalBackend

__all__ = ["LocalBackend"]
