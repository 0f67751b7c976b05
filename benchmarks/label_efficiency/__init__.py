"""Does scoring by gradient norm save labels? `python -m benchmarks label-efficiency TASK`."""
