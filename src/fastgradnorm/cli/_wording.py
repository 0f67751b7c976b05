"""What functions say, in the words of the command line: its options, and what Python alone has."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any

from fastgradnorm import Options

# Arguments of the functions, as they are called on the command line.
_OPTIONS = (
    "scheme", "loss", "target", "params", "rtol", "class_dim", "likelihood", "device", "labelled",
    "strategy", "space", "max_similarity", "batch_size",
)  # fmt: skip
_CALLED = {
    "pool": "POOL", "loader": "POOL", "model": "MODEL", "k": "K",
    "max_per_group": "--max-per-folder",
    **{name: f"--{name.replace('_', '-')}" for name in _OPTIONS},
}  # fmt: skip
# `checkpoint` and `seed` are options of some commands, which tell of them by themselves.
_IN_PYTHON = {each.name for each in fields(Options)} - {*_CALLED, "checkpoint", "seed"}

# What was told as a warning, by this run of the command line.
_TOLD: set[str] = set()

_FINDINGS = re.compile(r"; see \w+\['findings'\]")
_WRAPPED = re.compile(r"(?:\b([Pp])ass )?`forward=lambda model, batch: ([^`]+)`")
_QUOTED = re.compile(r"`([^`]+)`")
_ONE = r"(\w+)=('[^']*'|-?[\w.]+)"
_ASSIGNED = re.compile(rf"{_ONE}(, {_ONE})*")
_EACH = re.compile(_ONE)


def told_anew() -> None:
    """From here on nothing has been told."""
    _TOLD.clear()


def warning(message: str) -> str:
    """A warning as it is told, once."""
    _TOLD.add(message)
    return f"fastgradnorm: warning: {spoken(message)}"


def noticed(findings: Iterable[Mapping[str, Any]]) -> list[str]:
    """What no warning has told, a line each: what is merely worth knowing, or of an earlier run."""
    return [
        f"Noticed ({each['kind']}): {spoken(each['message'])}"
        for each in findings
        if each["message"] not in _TOLD
    ]


def summary(result: object) -> str:
    """A result in lines, without where Python finds what is told here below it."""
    return _FINDINGS.sub("", str(result))


def spoken(message: str) -> str:
    """The same message, where it names arguments with the options that they are here.

    `` `params='all', space='sketch'` `` becomes `` `--params=all --space=sketch` ``; what only the
    functions take is said to be theirs.
    """
    alone: dict[str, None] = {}

    def said(found: re.Match[str]) -> str:
        inside = found[1]
        if inside.startswith("params=lambda"):
            return "`--params` and a regular expression"
        if inside.startswith("forward="):
            alone["forward"] = None
        elif _ASSIGNED.fullmatch(inside):
            pairs = _EACH.findall(inside)
            if all(name in _CALLED for name, _ in pairs):
                told = (f"{_CALLED[name]}={value.strip(chr(39))}" for name, value in pairs)
                return f"`{' '.join(told)}`"
            alone.update({name: None for name, _ in pairs if name in _IN_PYTHON})
        elif inside in _CALLED:
            return f"`{_CALLED[inside]}`"
        elif inside in _IN_PYTHON and inside != "forward":  # modules have one, too
            alone[inside] = None
        return found[0]

    message = _WRAPPED.sub(_around, message)
    message = message.replace("one sample of the loader", "one sample of `loader`")
    return _QUOTED.sub(said, message) + "".join(map(_of_python, alone))


def _around(found: re.Match[str]) -> str:
    """What stands for `forward=lambda ...` here: a module that does the same, made by MODEL."""
    start, body = found[1], found[2].strip()
    returns = "" if body == "..." else f" that returns `{body}`"
    told = f"a module around the network{returns}"
    if start is None:
        return told
    return f"{'Let' if start == 'P' else 'let'} MODEL make {told}"


def _of_python(name: str) -> str:
    if name == "forward":
        return (
            " On the command line there is no `forward=`: let MODEL make a module that does it in "
            "its own."
        )
    return f" `{name}` is an option of the functions in Python, not of the command line."
