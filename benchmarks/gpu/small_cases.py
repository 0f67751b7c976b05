"""One small case a kernel and dtype, for compute-sanitizer to watch."""

import sys
import traceback

import torch

from benchmarks.gpu.kernel_cases import cases


def main() -> int:
    """Runs them all; 1 if one raised."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        from tests.support.interpreter import search_once_a_launch

        search_once_a_launch()
    failed = 0
    for case in cases(device, dry=True):
        name = f"{case.operation}, {case.shape}, {case.dtype}, {case.precision}"
        try:
            case.kernel(*case.make())
            if device.type == "cuda":
                torch.cuda.synchronize()
        except Exception:
            failed = 1
            print(f"{name} raised\n{traceback.format_exc()}", flush=True)
        else:
            print(f"{name}: done", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
