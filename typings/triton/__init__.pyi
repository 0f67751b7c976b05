"""Triton as those who launch kernels see it, for basedpyright.

Triton's own annotations say that a launch is a call of the function under `jit`: they know neither
`num_warps` nor that a launch takes numbers where the kernel says `tl.constexpr`. mypy reads none.
"""

from typing import Any

from triton import language as language

def jit(function: Any = ..., **options: Any) -> Any: ...
def cdiv(dividend: int, divisor: int) -> int: ...
def next_power_of_2(number: int) -> int: ...
def __getattr__(name: str) -> Any: ...
