"""A pool: which samples, on which ranks, resumed from where."""
