"""Disk: adapters saved and loaded."""
