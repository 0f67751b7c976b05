"""What the package costs and where others fail: `python -m benchmarks`, results in `results/`."""
