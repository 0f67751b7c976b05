"""What every launch asks of Triton's compiler, whatever that does by itself."""

from typing import Any

# Multiplications and additions become one instruction. It is the default until Triton 3.9, which
# warns at the first launch of a process that in 3.10 it will not be.
LAUNCH: dict[str, Any] = {"enable_fp_fusion": True}
