"""Tests of the engine, with a clock that stands still."""
