"""Verification by the caller's own model, called as they call it; what the numbers say."""
