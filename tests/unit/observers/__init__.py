"""Tests of those who hear events."""
