"""Runnable verbs: `python -m experiments.<verb> --help`. Not part of the installed package."""
