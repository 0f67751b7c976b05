"""One batch to scores."""
