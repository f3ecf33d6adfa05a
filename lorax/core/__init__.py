"""The transform: paths, roles, rules, engine, report. Imports jax only."""
