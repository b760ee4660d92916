"""The test suite; `make test` runs it on every Python that is installed."""
