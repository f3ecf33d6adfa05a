"""Benchmarks: every speed or memory claim comes from here, as ratios taken side by side."""
