"""What a product's innermost loop is made of, from its machine code: loads and integers beside it.

A matrix instruction is counted by the products of 16 x 8 by 16 that a warp has a share of: Ampere's
does one of them, Hopper's, which four warps give together, as many as its shape says.
"""

import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import triton

# Of the address arithmetic and the counting.
_INTEGERS = (
    *("IMAD", "IADD", "IADD3", "LEA", "IABS", "VIADD", "VIADDMNMX", "VIMNMX", "IMNMX", "ISETP"),
    *("LOP3", "SHF", "SHL", "SHR", "SEL", "UIADD3", "ULEA", "ULOP3", "USHF", "UIMAD", "USEL"),
    "UISETP",
)
_INTEGER = re.compile(rf"^(?:@!?U?P\w+ )?(?:{'|'.join(_INTEGERS)})\b")
_MATRIX = re.compile(r"\b(?:(HG?MMA)\.(\d+x\d+x\d+|\d+)|UTC\w*MMA\b)")
_LOADS = re.compile(r"\bLDG(?:STS)?\.E[\w.]*")
_ALONE = 16 * 8 * 16  # products
_MOST = 4  # integer instructions a matrix instruction
_VECTOR = 16  # bytes
_DEEP = 32  # bytes of each operand's rows that one of Blackwell's data-centre instructions takes


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


def loops(cubin: bytes, whole: float = 0.0) -> list[Loop]:
    """Innermost loops with matrix instructions.

    Args:
        cubin: The binary.
        whole: A warp's share of an instruction that makes a product of the whole tile: its text
            does not say how large that is.
    """
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
    # Waits that are tried again stand behind everything, and jump back into the loop they are of.
    natural = [(a, b) for a, b in innermost if not any(c < a <= d < b for c, d in innermost)]
    return [_loop(lines[start : end + 1], whole) for start, end in natural]


def of_launch(cubin: bytes, arguments: dict[str, Any], warps: int) -> list[Loop]:
    """Those of a kernel that was compiled for these arguments."""
    if "BLOCK_M" in arguments:
        rows, columns = arguments["BLOCK_M"], arguments["BLOCK_O"]
    elif "PART_O" in arguments:
        rows, columns = arguments["PART_O"], arguments["BLOCK_I"]
    else:
        rows = columns = arguments["BLOCK_T"]
    split = arguments.get("PRECISION") == "bf16x6"
    itemsize = 2 if split or "BLOCK_M" in arguments else arguments["x_ptr"].element_size()
    return loops(cubin, rows * columns * (_DEEP // itemsize) / _ALONE / warps)


def _loop(lines: list[str], whole: float) -> Loop:
    loads = Counter(_bits(each[0]) for each in map(_LOADS.search, lines) if each)
    found = [each for each in map(_MATRIX.search, lines) if each]
    matrix = sum(_alone(each[1], each[2]) if each[1] else whole for each in found)
    return Loop(matrix, sum(bool(_INTEGER.match(line)) for line in lines), dict(loads))


def _bits(load: str) -> str:
    width = re.search(r"\.(128|64|U16|S16|U8|S8)\b", load)
    return width[1].lstrip("US") if width else "32"


def _alone(kind: str, shape: str) -> float:
    if kind == "HMMA":  # 16816 and 1688: the depth last
        return {"16816": 1.0, "1688": 0.5, "1684": 0.25}[shape]
    m, n, k = map(int, shape.split("x"))
    return m // 4 * n * k / _ALONE


@dataclass(frozen=True)
class Excuse:
    """Loops that are not within the bounds, and how far they may be beyond.

    Attributes:
        name: What they are products of.
        integers: Most integer instructions a matrix instruction.
        loads: Widths of loads in bits.
        why: What keeps them from it.
        holds: Whether a launch is one, by its arguments and compute capability.
    """

    name: str
    integers: float
    loads: frozenset[str]
    why: str
    holds: Callable[[dict[str, Any], int], bool]


def _is_tf32(arguments: dict[str, Any]) -> bool:
    return arguments.get("PRECISION") == "tf32" and arguments["x_ptr"].element_size() == 4


def _is_direct(arguments: dict[str, Any]) -> bool:
    return "PART_O" in arguments


_WHOLE = frozenset({"128"})
EXCUSED = (
    Excuse(
        "direct norms of 16 rows",
        24.0,
        _WHOLE | {"64"},
        "of grouped convolutions with few outputs a tile has a fourth of the products, or less, "
        "for the same addresses of inputs: what bounds them is memory",
        lambda arguments, arch: _is_direct(arguments) and arguments["BLOCK_O"] <= 16,
    ),
    Excuse(
        "norms in TF32 on data-centre Blackwell GPUs",
        12.0,
        _WHOLE | {"32"},
        "matrix instructions take TF32 numbers only where those that are summed are neighbours: "
        "each is moved by itself, as on Hopper before direct norms were made of several products; "
        "there was no such GPU to see whether these pay there, too",
        lambda arguments, arch: arch == 100 and _is_tf32(arguments),
    ),
    Excuse(
        "direct norms of convolutions by 64 rows on data-centre Blackwell GPUs",
        5.0,
        _WHOLE,
        "each warp counts for the few products that are its share",
        lambda arguments, arch: (
            arch == 100
            and _is_direct(arguments)
            and not arguments["PLAIN"]
            and arguments["BLOCK_O"] == 64
        ),
    ),
    Excuse(
        "direct norms in TF32 by tiles smaller than 128 x 128",
        7.0,
        _WHOLE,
        "TF32 numbers are twice as long, so that each vector of them, whose position is counted "
        "on, is for half the products",
        lambda arguments, arch: (
            _is_tf32(arguments)
            and _is_direct(arguments)
            and arguments["BLOCK_O"] * arguments["BLOCK_I"] < 128 * 128
        ),
    ),
    Excuse(
        "ghost norms in TF32 whose gradients have positions last",
        4.5,
        _WHOLE | {"32"},
        "a step's outputs are far apart in memory, and matrix instructions of Hopper take TF32 "
        "numbers only where they are neighbours: each is moved by itself",
        lambda arguments, arch: (
            _is_tf32(arguments)
            and not _is_direct(arguments)
            and "BLOCK_M" not in arguments
            and bool(arguments["POSITIONS_LAST"])
        ),
    ),
)


def is_bound(arguments: dict[str, Any]) -> bool:
    """Whether loops of these arguments are to be within the bounds: on matrix units, by vectors.

    Products of `"tf32x3"` nobody asks for.
    """
    if "BLOCK_M" in arguments:
        return bool(arguments["VECTOR"] == _VECTOR // 2)
    itemsize = arguments["x_ptr"].element_size()
    on_units = itemsize == 2 or arguments["PRECISION"] in ("tf32", "bf16x6")
    return on_units and min(arguments["VECTOR_X"], arguments["VECTOR_G"]) * itemsize == _VECTOR


def excuse(arguments: dict[str, Any], arch: int) -> Excuse | None:
    """The one that holds for a launch."""
    return next((each for each in EXCUSED if each.holds(arguments, arch)), None)


def problems(found: list[Loop], excused: Excuse | None = None) -> list[str]:
    """What keeps matrix units waiting, of operands that can be loaded by whole vectors."""
    most, widths = (excused.integers, excused.loads) if excused else (_MOST, _WHOLE)
    said = [] if found else ["no loop of matrix instructions"]
    for loop in found:
        if not set(loop.loads) <= widths or not loop.loads:
            said.append(f"loads in a loop of products are narrow: {loop.loads}")
        if loop.integer > most * loop.matrix:
            said.append(
                f"{loop.integer} integer instructions for {loop.matrix:g} matrix instructions"
            )
    return said
