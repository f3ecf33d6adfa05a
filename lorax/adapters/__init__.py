"""Adapters: one method a file. Imports core only."""
