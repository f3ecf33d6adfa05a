"""Data: text in, batches of numbers out. Imports numpy only."""
