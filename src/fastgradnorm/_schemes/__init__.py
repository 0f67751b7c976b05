"""Logits to cotangents, norms to scores."""
