"""One module of the package at a time, with fakes, and without waiting."""
