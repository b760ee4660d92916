"""The places where commands run; nothing else touches a process or a socket."""
