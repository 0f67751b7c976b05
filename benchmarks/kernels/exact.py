"""Times whole passes in exact float32 by each way to multiply it, side by side, on a GPU.

    python -m benchmarks.kernels.exact                     # ResNet-18, ViT-B/16 and BERT-base
    python -m benchmarks.kernels.exact --only vit --seconds 60
    python -m benchmarks.kernels.exact --dry               # a small model, interpreted

One line a model and way: samples a second, and the largest difference of a score from the plain
autograd loop's in float64. The best way is then written into `fastgradnorm_kernels._backends`.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

WAYS = ("ieee", "bf16x6", "tf32x3")
MODELS = {"resnet18": 256, "vit_b": 16, "bert128": 16}
CHECKED = 4  # samples that are compared with float64
ROUNDS = 3


@contextmanager
def exact_products(way: str) -> Iterator[None]:
    """Norms multiply float32 in this way where TF32 is not asked for; put back at the end."""
    from fastgradnorm_kernels import _backends

    before = _backends._EXACT
    _backends._EXACT = way
    try:
        yield
    finally:
        _backends._EXACT = before


def lines(name: str, samples: int, ways: tuple[str, ...], device: str, dry: bool) -> Iterator[str]:
    """All ways of one model, timed in turn."""
    from benchmarks import timing
    from benchmarks.cases import first
    from benchmarks.gpu.large_models import case
    from benchmarks.setting import Setting
    from fastgradnorm import naive_score_pool

    setting = Setting(case(name, dry), 10, samples, device)
    few = min(CHECKED, samples)
    exact = setting.exact(few)
    runs, clocks, errors = {}, {}, {}
    for way in ways:
        with exact_products(way):
            runs[way] = setting.stream(backend="triton")
            scores = runs[way]()[:few].double()
            errors[way] = float(((scores - exact).abs() / exact).amax())
            clocks[way] = [timing.clocked(runs[way], device)]
    for _ in range(0 if dry else ROUNDS):
        for way in ways:
            with exact_products(way):
                clocks[way].append(timing.clocked(runs[way], device))
    plain = naive_score_pool(setting.model, [first(setting.batch, few)]).double()
    own = float(((plain - exact).abs() / exact).amax())
    for way in ways:
        each = statistics.median(clocks[way])
        yield (
            f"{name} batch {samples} {way}: {samples / each:.1f}/s, {1e3 * each:.1f} ms, "
            f"error {errors[way]:.1e} (autograd in float32 {own:.1e})"
        )


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kernels.exact")
    parser.add_argument("--dry", action="store_true")
    parser.add_argument("--only", default="", help="names of models that contain this")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    parser.add_argument("--seconds", type=float, default=120, help="no model begins later")
    options = parser.parse_args(argv)
    if options.dry:  # before the kernels are imported; bfloat16 is not interpreted
        os.environ["TRITON_INTERPRET"] = "1"
    import torch

    torch.backends.cudnn.allow_tf32 = False
    device = "cpu" if options.dry else "cuda"
    started = time.monotonic()
    models = {"resnet18": 2} if options.dry else MODELS
    for name, samples in models.items():
        if options.only not in name:
            continue
        if time.monotonic() - started > options.seconds:
            print(f"out of time: {name}")
            continue
        ways = tuple(w for w in options.ways if not (options.dry and w == "bf16x6"))
        for line in lines(name, samples, ways, device, options.dry):
            print(line, flush=True)
    print(f"{time.monotonic() - started:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
