"""The parts of `python -m experiments.report`."""
