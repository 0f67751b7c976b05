"""What an H100 could do at best, by counting alone: operations and bytes of a score, per sample.

    python -m benchmarks bounds

Counted on the CPU from one sample of each model: a forward pass with frozen parameters, plain
pull-backs to the input, and the norm products in the form of fewest operations. Two counts of
bytes: `fused`, where products (convolutions, matrix products, attention) read their operands and
write their results once and everything between them is free, and `dispatched`, where every
operator of PyTorch reads its inputs and writes its outputs once, as plain PyTorch does. In both,
norm products read activations and output gradients once more; parameters are shared by the batch
and cost nothing; the rates are the data sheet's. No implementation with these pull-backs is faster
than `fused`; one that fuses nothing is not faster than `dispatched`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from benchmarks import floor
from benchmarks.cases import TINY, Case
from benchmarks.gpu.large_models import LARGE
from benchmarks.provenance import RESULTS, provenance, store
from benchmarks.setting import Setting

CLASSES = 10
# H100 SXM5 80 GB, dense products: operations and bytes a second. [NVIDIA data sheet]
RATES = {"float32": 66.9e12, "tf32": 494.7e12, "bf16": 989.4e12}
BANDWIDTH = 3.35e12
ITEMSIZE = {"float32": 4, "tf32": 4, "bf16": 2}
GOAL = 10_000  # ResNet-18 images a second

_ATEN = torch.ops.aten
_FLASH = _ATEN._scaled_dot_product_flash_attention_for_cpu
_FLASH_BACK = _ATEN._scaled_dot_product_flash_attention_for_cpu_backward
_PRODUCTS = (
    *("mm", "addmm", "bmm", "baddbmm", "convolution", "convolution_backward", "linear"),
    *("_scaled_dot_product_flash_attention_for_cpu", "mkldnn_convolution", "mkldnn_linear"),
    "_scaled_dot_product_flash_attention_for_cpu_backward",
)


def _attention(query: Any, key: Any, value: Any, *rest: Any, **more: Any) -> int:
    return int(sdpa_flop_count(query, key, value))


def _attention_back(grad: Any, query: Any, key: Any, value: Any, *rest: Any, **more: Any) -> int:
    return int(sdpa_backward_flop_count(grad, query, key, value))


class Elements(TorchDispatchMode):
    """Numbers that operators read and write: of all of them, and of products alone."""

    def __init__(self, shared: set[int]) -> None:
        super().__init__()
        self._shared = shared  # addresses of parameters and buffers
        self.dispatched = self.fused = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        out = function(*args, **(kwargs or {}))
        view = any(r.alias_info and not r.alias_info.is_write for r in function._schema.returns)
        if not view:
            count = self._count((args, kwargs)) + self._count(out)
            self.dispatched += count
            name = function._schema.name.partition("::")[2]
            self.fused += count if name in _PRODUCTS else 0
        return out

    def _count(self, tree: Any) -> int:
        tensors = {id(t): t for t in tree_leaves(tree) if isinstance(t, torch.Tensor)}
        own = [t for t in tensors.values() if t.is_floating_point()]
        return sum(t.numel() for t in own if t.untyped_storage().data_ptr() not in self._shared)


def _counted(model: nn.Module, run: Callable[[], Any]) -> dict[str, int]:
    shared = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    elements = Elements(shared)
    mapping = {_FLASH: _attention, _FLASH_BACK: _attention_back}
    with FlopCounterMode(display=False, custom_mapping=mapping) as flops, elements:
        run()
    return {
        "flops": flops.get_total_flops(),
        "fused": elements.fused,
        "dispatched": elements.dispatched,
    }


def count(setting: Setting) -> dict[str, dict[str, float]]:
    """Operations and numbers moved per sample: of a forward pass, a pull-back, and all norms."""
    model = setting.model
    model.requires_grad_(False)
    source = setting.batch
    if setting.case.embeddings is not None:
        ids = source["input_ids"]
        source = model.get_submodule(setting.case.embeddings)(ids).detach()
    leaf = source.detach().requires_grad_()

    def logits() -> Any:
        if setting.case.embeddings is None:
            return model(leaf)
        rest = {name: tensor for name, tensor in setting.batch.items() if name != "input_ids"}
        return model(inputs_embeds=leaf, **rest).logits

    kept: list[Any] = []
    forward = _counted(model, lambda: kept.append(logits()))
    cotangent = torch.ones_like(kept[0])
    pull = _counted(model, lambda: torch.autograd.grad(kept[0], leaf, cotangent))
    model.requires_grad_(True)
    flops = floor.norm_flops(model, setting.batch, CLASSES)
    inputs, outputs = _read_by_norms(setting)
    read = {"flops": flops, "fused": inputs + CLASSES * outputs}
    found = {"forward": forward, "pull": pull, "norms": read | {"dispatched": read["fused"]}}
    per = {name: {k: v / setting.samples for k, v in each.items()} for name, each in found.items()}
    per["norms"]["flops"] = float(flops)  # of one sample already
    return per


def _read_by_norms(setting: Setting) -> tuple[int, int]:
    """Inputs and outputs of the layers with parameters, in numbers: what norms must read."""
    sizes = [0, 0]

    def note(module: nn.Module, given: Any, output: Any) -> None:
        if next(module.parameters(recurse=False), None) is not None:
            sizes[0] += sum(t.numel() for t in given if isinstance(t, torch.Tensor))
            sizes[1] += output.numel() if isinstance(output, torch.Tensor) else 0

    hooks = [module.register_forward_hook(note) for module in setting.model.modules()]
    setting.forward()
    for hook in hooks:
        hook.remove()
    return sizes[0], sizes[1]


def bound(per: dict[str, dict[str, float]], mode: str) -> dict[str, Any]:
    """Samples a second of the expected score at most, and what binds it."""
    times = {"forward": 1, "pull": CLASSES, "norms": 1}
    total = {k: sum(n * per[part][k] for part, n in times.items()) for k in per["forward"]}
    products = total["flops"] / RATES[mode]
    found: dict[str, Any] = {"gflops": total["flops"] / 1e9}
    for kind in ("fused", "dispatched"):
        size = total[kind] * ITEMSIZE[mode]
        memory = size / BANDWIDTH
        found[kind] = {
            "megabytes": size / 1e6,
            "samples_per_second": 1 / max(products, memory),
            "bound_by": "products" if products > memory else "memory",
        }
    return found


def rows(cases: list[Case]) -> list[dict[str, Any]]:
    """One row a model and mode."""
    found = []
    for case in cases:
        per = count(Setting(case, CLASSES, 1))
        title = {"case": case.title, "counts": per}
        found += [{**title, "mode": mode, **bound(per, mode)} for mode in RATES]
    return found


def verdict(found: list[dict[str, Any]]) -> str:
    """Whether the goal for ResNet-18 in bf16 can be met, and what it takes."""
    row = next(
        (r for r in found if r["case"].startswith("ResNet-18") and r["mode"] == "bf16"), None
    )
    if row is None:
        return "ResNet-18 was not counted"
    most = {k: row[k]["samples_per_second"] for k in ("fused", "dispatched")}
    text = ", ".join(f"{k} {v:,.0f}/s (by {row[k]['bound_by']})" for k, v in most.items())
    if most["dispatched"] >= GOAL:
        return f"{GOAL:,} images/s is possible without fusing anything: {text}"
    if most["fused"] >= GOAL:
        return f"{GOAL:,} images/s needs operators between products to be fused: {text}"
    return f"{GOAL:,} images/s is not possible with these pull-backs: {text}"


def main(folder: Path | None = RESULTS, tiny: bool = False) -> int:
    """Counts, prints and stores."""
    found = rows([TINY] if tiny else list(LARGE.values()))
    head = f"{'MB fused':>9} {'/s':>9}   {'MB all':>9} {'/s':>9}  (by products, by memory)"
    print(f"{'model':<24} {'mode':<8} {'GFLOP':>9}  {head}")
    for row in found:
        sides = "  ".join(
            f"{each['megabytes']:9.1f} {each['samples_per_second']:9.0f} {each['bound_by'][:1]}"
            for each in (row["fused"], row["dispatched"])
        )
        print(f"{row['case']:<24} {row['mode']:<8} {row['gflops']:9.2f}  {sides}")
    told = verdict(found)
    print(told)
    if folder is not None:
        assumptions = " ".join((__doc__ or "").split())
        facts = {"rates": RATES, "bandwidth": BANDWIDTH, "classes": CLASSES}
        document = {"provenance": provenance(), "assumptions": assumptions, **facts}
        print(f"written: {store('bounds', document | {'verdict': told, 'rows': found}, folder)}")
    return 0
