"""The parts of `python -m experiments.analyse`."""
