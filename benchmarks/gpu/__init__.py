"""What is to be known of a GPU, in one command of eight minutes: `python -m benchmarks gpu`."""
