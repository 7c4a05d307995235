"""Ours, the bare drivers and the peers at the same work, in one run: `nox -s bench`, or ``python -m benchmarks``."""
