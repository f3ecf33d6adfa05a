"""Analyses of base, adapter and delta: arrays in, arrays out. Imports core and adapters only."""
