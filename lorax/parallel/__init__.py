"""Parallel: one program over many devices and processes. Imports core only."""
