"""Training: losses, the pure step, the loop around it, metrics on disk."""
