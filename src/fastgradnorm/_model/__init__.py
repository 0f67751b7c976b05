"""The caller's model and batches, watched while it runs."""
