"""Adapters to other frameworks, one a file; each imports its framework when it is used."""
