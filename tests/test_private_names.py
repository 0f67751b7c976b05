"""Every private name of PyTorch stands in a file for such, and here with its reason."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
KERNELS = "kernels/fastgradnorm_kernels"
# By file: what it has, and what for. A name that goes, or a new one, changes this table.
NAMES = {
    f"{KERNELS}/functorch.py": {
        "_functorch": "the module that has what follows",
        "maybe_current_level": "where a light function is",
        "is_functorch_wrapped_tensor": "what kind of wrapper a tensor has",
        "is_batchedtensor": "likewise",
        "is_gradtrackingtensor": "likewise",
        "maybe_get_level": "which transform a wrapper belongs to",
        "maybe_get_bdim": "where the samples lie in memory",
        "get_unwrapped": "what light functions compute on",
        "unwrap_if_dead": "wrappers of transforms that have ended are none",
        "_add_batch_dim": "what light functions return",
        "_unwrap_for_grad": "one level of derivatives, in light functions",
        "_wrap_for_grad": "likewise",
        "get_single_level_autograd_function_allowed": "light functions are applied at one level",
        "set_single_level_autograd_function_allowed": "likewise",
        "_SingleLevelFunction": "the base of light functions",
        "_DisableFuncTorch": "light functions compute as if outside of transforms",
        "_C": "the module that has some of these",
    },
    f"{KERNELS}/operators.py": {
        "mkldnn._linear_pointwise": "oneDNN's product, where PyTorch takes MKL's",
        "_foreach_mul": "a model's buffers copied by one launch",
        "aten._scaled_dot_product_flash_attention_for_cpu": "attention of samples and cotangents",
        "aten._scaled_dot_product_flash_attention_for_cpu_backward": "its pull-back",
        "aten._scaled_dot_product_efficient_attention": "the same on CUDA",
        "aten._scaled_dot_product_efficient_attention_backward": "its pull-back",
        "aten._scaled_dot_product_flash_attention": "the same on CUDA in half precision",
        "aten._scaled_dot_product_flash_attention_backward": "its pull-back",
        "native_group_norm": "a group norm and its statistics, of all samples",
        "aten.native_group_norm_backward": "its pull-back",
        "aten.native_batch_norm_backward": "sums for a batch norm's scale and shift, in one pass",
        "aten.max_pool*d_with_indices": "a max pool of all samples",
        "aten.max_pool*d_with_indices_backward": "its pull-back",
        "aten.convolution_backward": "the pull-back of a convolution, without a copied input",
    },
    f"{KERNELS}/checkpoints.py": {
        "CheckpointFunction": "checkpointed blocks run once",
        "_checkpoint_without_reentrant_generator": "likewise",
        "_checkpoint_without_reentrant_generator_impl": "likewise, from 2.14",
    },
    f"{KERNELS}/switches.py": {
        "_C": "the module that has `DisableTorchFunction`, with which no mode looks on",
        "_weight_norm": "weight normalisation is opened for its parameters' sake",
        "_pack_padded_sequence": "packed sequences, which `vmap` does not run, are cut instead",
        "_pad_packed_sequence": "likewise",
        "_nn": "has what `pad_sequence` calls",
        "_make_dual": "derivatives of forward mode that a model has traced are noticed",
        "_orig_mod": "a compiled model is scored as what it was compiled from",
        "_backward_hooks": "those of the caller's parameters do not run in verification",
        "_backward_pre_hooks": "hooks of modules, which no transform runs, are told by name",
        "_forward_hooks": "hooks that come while a pool is scored are told",
        "_forward_pre_hooks": "likewise",
        "_global_forward_hooks": "hooks of all modules that come between calls are noticed",
        "_global_forward_pre_hooks": "likewise",
        "_version": "parameters that a model changes in place are noticed",
        "_cache_enabled": "parametrized tensors are made anew",
    },
    "src/fastgradnorm/_operations/operators.py": {
        "_ops": "the module that has the kinds of operators",
        "_C": "the module that has what follows: functions with the arguments of their operators",
        "_nn": "those of layers",
        "_linalg": "likewise",
        "_special": "likewise",
        "_fft": "likewise",
        "_qualified_op_name": "by which an operator finds its function",
        "_overloadname": "likewise",
        "_schema": "losses with a reduction are told by it",
        "_local_scalar_dense": "an operator that exported programs call, as `Tensor.item`",
        "_native_batch_norm_legit_no_training": "likewise, as a batch norm",
        "native_group_norm": "likewise, as a group norm",
    },
    "src/fastgradnorm/_pool/functions.py": {
        "_orig_mod": "a compiled function or module is what it was compiled from",
        "_torchdynamo_orig_callable": "likewise",
    },
    # No public module flattens nested inputs as `torch.func` does, with the node types that other
    # libraries register there. It stands or falls with `torch.func` itself.
    "_pytree": {"_pytree": "samples within nested inputs"},
}
# What begins with an underscore and is not PyTorch's.
OTHERS = {
    "_replace": "of named tuples",
    "_create_collate_fn": "small-text's",
    "_effective_forward_outputs": "scikit-activeml's",
    "_STATUS_ALLOC_FAILED": "in messages of cuBLAS",
    "_exit": "`os._exit`, which is documented",
    "_fastgradnorm_copied": "ours",
}
UNDOCUMENTED = {"native_group_norm", "CheckpointFunction"}


def files():
    return [p for root in ("src", "kernels") for p in (ROOT / root).rglob("*.py")]


def is_private(name):
    return name.isidentifier() and name.strip("_") != "" and name[0] == "_" and name[:2] != "__"


def own(trees):
    """Names with an underscore that our files define, at any depth."""
    found = set()
    for tree in trees.values():
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                found.add(node.name)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                found.add(node.id)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                found.add(node.attr)
    return found


def operator(base, name):
    """`torch.ops.aten` and a name, as `aten.name`."""
    return f"{ast.unparse(base).removeprefix('torch.ops.')}.{name}"


def pattern(node):
    """A string, with a star for what is filled in."""
    return "".join(p.value if isinstance(p, ast.Constant) else "*" for p in node.values)


def names(tree):
    """Every private name that a file reads: attributes, imports, and what `getattr` is given."""
    filled = {id(p) for n in ast.walk(tree) if isinstance(n, ast.JoinedStr) for p in n.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            base = ast.unparse(node.value)
            if base in ("torch.ops.aten", "torch.ops.mkldnn"):
                yield operator(node.value, node.attr)
            elif base not in ("self", "cls"):
                yield from told([node.attr], always=base == "_functorch")
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "getattr":
            base, name = node.args[:2]
            if isinstance(name, ast.JoinedStr) and ast.unparse(base).startswith("torch.ops."):
                yield operator(base, pattern(name))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "torch":
            yield from told([*node.module.split("."), *(alias.name for alias in node.names)])
        elif isinstance(node, ast.Import):
            modules = [a.name.split(".") for a in node.names]
            yield from told([part for parts in modules if parts[0] == "torch" for part in parts])
        elif (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and id(node) not in filled
        ):
            yield from told([node.value])


def told(candidates, always=False):
    return [c for c in candidates if always or c in UNDOCUMENTED or is_private(c)]


@pytest.mark.slow
def test_every_private_name_is_in_its_file_and_has_a_reason():
    trees = {p: ast.parse(p.read_text()) for p in files()}
    ours = own(trees)
    found = {}
    for path, tree in trees.items():
        place = path.relative_to(ROOT).as_posix()
        for name in names(tree):
            if name in OTHERS or (name in ours and not any(name in t for t in NAMES.values())):
                continue
            found.setdefault("_pytree" if name == "_pytree" else place, set()).add(name)
    assert found == {place: {*table} for place, table in NAMES.items()}


@pytest.mark.parametrize("root", ["src", "kernels", "tests", "benchmarks", "docs"])
def test_functorch_is_named_in_one_file(root):
    allowed = {ROOT / KERNELS / "functorch.py", Path(__file__)}
    for path in (ROOT / root).rglob("*.py"):
        named = re.search(r"\btorch\._functorch|_C\._functorch", path.read_text())
        assert named is None or path in allowed, f"{path} names {named[0]}"
