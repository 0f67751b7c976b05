"""Scores out: kept, exported, selected from."""
