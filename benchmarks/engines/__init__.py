"""Other packages' squared per-sample gradient norms, each used as its documentation says."""

from benchmarks.engines.contract import Engine
from benchmarks.engines.hooked import backpack, opacus, opacus_ghost
from benchmarks.engines.jacobians import autogram_at_once, autogram_by_loss, nngeometry
from benchmarks.engines.transformed import expanded_weights, vmap_grad, vmap_vjp

__all__ = ["ENGINES", "Engine"]

ENGINES = (
    Engine("torch.func", "torch", "torch", {"vmap(grad)": vmap_grad, "vmap(vjp)": vmap_vjp}),
    Engine(
        "ExpandedWeights",
        "torch",
        "torch.nn.utils._expanded_weights",
        {"one forward pass": expanded_weights},
    ),
    Engine(
        "BackPACK BatchL2Grad",
        "backpack-for-pytorch",
        "backpack",
        {"one forward pass": lambda model: backpack("BatchL2Grad", "batch_l2", model)},
    ),
    Engine(
        "BackPACK BatchGrad",
        "backpack-for-pytorch",
        "backpack",
        {"one forward pass": lambda model: backpack("BatchGrad", "grad_batch", model)},
    ),
    Engine("Opacus hooks", "opacus", "opacus", {"a forward pass a class": opacus}),
    Engine("Opacus ghost", "opacus", "opacus", {"a forward pass a class": opacus_ghost}),
    Engine(
        "TorchJD autogram",
        "torchjd",
        "torchjd",
        {"a forward pass a class": autogram_by_loss, "all classes at once": autogram_at_once},
    ),
    Engine("nngeometry", "nngeometry", "nngeometry", {"Jacobian": nngeometry}),
)
