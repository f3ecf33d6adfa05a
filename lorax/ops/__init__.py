"""Which transforms does random projection rest on? Hadamard, permutation, sparse product, Fastfood.

Pure functions of arrays, each with the adjoint that JAX would not find, or not as fast. Imports
core for its errors alone.
"""
