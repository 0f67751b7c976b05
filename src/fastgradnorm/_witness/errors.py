"""What is raised where plain autograd has something else."""

from fastgradnorm._errors import VerificationError


def disagreement(sample: int, told: str, missing: bool) -> VerificationError:
    """Of one sample, in words; `missing`: the engine has zero in place of another gradient."""
    error = VerificationError(
        f"The engine disagrees with plain autograd on sample {sample}: {told}. Please report this "
        "with the layer's definition; `naive_score_pool` gives correct scores meanwhile."
    )
    error.missing = missing
    return error
