"""What the kernels compile to, whether planted faults are caught, how fast they run on a GPU."""
