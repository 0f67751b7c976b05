"""Products of gradients as packages for influence compute them, beside ours."""
