"""For tests: an environment that runs nothing, and a clock that stands still.

A fake environment takes the place of a real one in the code under test::

    from parallel_exec.testing import FakeEnvironment, FakeReply

    web = FakeEnvironment({"uptime": "up 3 days", "reboot": FakeReply(exit_code=1)})
    assert web.run("uptime").text() == "up 3 days"
    assert web.commands == ["uptime"]
"""

from parallel_exec.api.fakes import FakeClock, FakeEnvironment, FakeReply

__all__ = ["FakeClock", "FakeEnvironment", "FakeReply"]
