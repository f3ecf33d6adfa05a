"""Experiment configs: each file has `get_config(arg="")` and says what it costs and should give."""
