"""Text from adapted programs. Imports jax, numpy and lorax.core; has never heard of a model."""
