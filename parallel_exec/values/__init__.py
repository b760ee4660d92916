"""Frozen values: what is asked for and what came of it. Nothing here blocks."""
