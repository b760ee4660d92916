"""Tests with real children, real signals and a look at the process table."""
