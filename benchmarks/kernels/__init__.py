"""What the kernels compile to, whether planted faults are caught, and how fast they run on a GPU."""
