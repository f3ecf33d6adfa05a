"""The parts of `python -m experiments.sweep`."""
