"""What the package costs and where others fail: `python -m benchmarks`, results in `results/`."""

import os

# Before PyTorch is imported: its profiler announces every start and stop.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
