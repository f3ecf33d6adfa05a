"""The parts of `python -m experiments.train`."""
