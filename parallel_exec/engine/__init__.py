"""The scheduler under everything that runs: the only place that knows a task's life."""
