"""What a product's innermost loop is made of, from its machine code: loads and integers beside it.

A matrix instruction is counted by the products of 16 x 8 by 16 that a warp has a share of: Ampere's
does one of them, Hopper's, which four warps give together, as many as its shape says.
"""

import re
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import triton

# Of the address arithmetic and the counting.
_INTEGERS = (
    *("IMAD", "IADD", "IADD3", "LEA", "IABS", "VIADD", "VIADDMNMX", "VIMNMX", "IMNMX", "ISETP"),
    *("LOP3", "SHF", "SHL", "SHR", "SEL", "UIADD3", "ULEA", "ULOP3", "USHF", "UIMAD", "USEL"),
    "UISETP",
)
_INTEGER = re.compile(rf"^(?:@!?U?P\w+ )?(?:{'|'.join(_INTEGERS)})\b")
_MATRIX = re.compile(r"\b(HG?MMA)\.(\d+x\d+x\d+|\d+)")
_LOADS = re.compile(r"\bLDG(?:STS)?\.E[\w.]*")
_ALONE = 16 * 8 * 16  # products
_MOST = 4  # integer instructions a matrix instruction


@dataclass
class Loop:
    """One loop, as it was compiled.

    Attributes:
        matrix: Products of 16 x 8 by 16 of one warp.
        integer: Instructions on integers.
        loads: From memory, by their bits.
    """

    matrix: float
    integer: int
    loads: dict[str, int]


def loops(cubin: bytes) -> list[Loop]:
    """Innermost loops with matrix instructions."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "nvdisasm"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [tool, "-c", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    labels, lines = dict[str, int](), list[str]()
    for line in text.splitlines():
        if found := re.match(r"\s*(\.L_x_\d+):", line):
            labels[found[1]] = len(lines)
        elif found := re.search(r"/\*[0-9a-f]{4,}\*/\s+(.*?);", line):
            lines.append(found[1].strip())
    spans = []
    for end, line in enumerate(lines):
        back = re.search(r"BRA.*?`\((\.L_x_\d+)\)", line)
        start = end + 1 if back is None else labels.get(back[1], end + 1)
        if start <= end and any(map(_MATRIX.search, lines[start : end + 1])):
            spans.append((start, end))
    innermost = [
        (a, b) for a, b in spans if not any(a <= c <= d <= b and (a, b) != (c, d) for c, d in spans)
    ]
    return [_loop(lines[start : end + 1]) for start, end in innermost]


def _loop(lines: list[str]) -> Loop:
    loads = Counter(_bits(each[0]) for each in map(_LOADS.search, lines) if each)
    matrix = sum(_alone(each[1], each[2]) for each in map(_MATRIX.search, lines) if each)
    return Loop(matrix, sum(bool(_INTEGER.match(line)) for line in lines), dict(loads))


def _bits(load: str) -> str:
    width = re.search(r"\.(128|64|U16|S16|U8|S8)\b", load)
    return width[1].lstrip("US") if width else "32"


def _alone(kind: str, shape: str) -> float:
    if kind == "HMMA":  # 16816 and 1688: the depth last
        return {"16816": 1.0, "1688": 0.5, "1684": 0.25}[shape]
    m, n, k = map(int, shape.split("x"))
    return m // 4 * n * k / _ALONE


def problems(found: list[Loop]) -> list[str]:
    """What keeps matrix units waiting, of operands that can be loaded by whole vectors."""
    said = [] if found else ["no loop of matrix instructions"]
    for loop in found:
        if set(loop.loads) != {"128"}:
            said.append(f"loads in a loop of products are narrow: {loop.loads}")
        if loop.integer > _MOST * loop.matrix:
            said.append(
                f"{loop.integer} integer instructions for {loop.matrix:g} matrix instructions"
            )
    return said
