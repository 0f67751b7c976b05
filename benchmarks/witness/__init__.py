"""Faults planted in the package, one at a time: what the tests and verification make of them."""
