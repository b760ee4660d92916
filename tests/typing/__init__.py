"""What type checkers make of the package: checked by `make types`, never run."""
