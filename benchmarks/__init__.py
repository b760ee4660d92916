"""Benchmarks: ours and theirs, interleaved in one run. ``python -m benchmarks --help``.

A benchmark is a module of this package with a function ``comparisons(quick)``.
"""
