"""Figures, each drawn from metrics.jsonl alone."""
