"""`pytest benchmarks --benchmark-only`: the kernels have commands of their own."""

collect_ignore = ["kernels"]
