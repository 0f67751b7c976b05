"""What a model declares its outputs to be, beside what they are scored as."""

from fastgradnorm._model import Subject
from fastgradnorm._witness.findings import Finding

_WORDS = {
    "classes": "logits of classes that exclude each other",
    "labels": "logits of labels of their own",
    "values": "values of a regression",
}
_CURES = {
    "classes": "Leave `likelihood` at 'auto', or pass 'categorical'.",
    "labels": "Pass `likelihood='bernoulli'`, or 'categorical' if they are classes after all.",
    "values": "Score a classifier. If these are logits after all, say of what: "
    "`likelihood='categorical'` or 'bernoulli'.",
}


def declaration(subject: Subject, classes: int) -> list[Finding]:
    """Compares what the model says with the likelihood of its C logits."""
    declared, asked, used = subject.declared, subject.asked, subject.options.likelihood
    if declared is None:
        return []
    scored = "bernoulli" if used == "auto" and classes == 1 else used
    scored = "categorical" if scored == "auto" else scored
    if declared.meaning == "labels" and scored == "bernoulli" and asked == "auto" and classes > 1:
        return [
            Finding(
                "declared",
                f"Got {declared.source}: each of the {classes} logits was scored as a label of its "
                "own.",
                "note",
            )
        ]
    if asked != "auto" and not declared.sure:
        return []  # the caller's word against a guess
    fits = {"classes": "categorical", "labels": "bernoulli"}.get(declared.meaning)
    if fits == scored or (classes == 1 and declared.meaning != "values"):
        return []
    return [
        Finding(
            "declared",
            f"`model` declares its outputs to be {_WORDS[declared.meaning]}. Got {declared.source} "
            f"and {classes} outputs, which were scored as {_as(scored, classes)}. "
            f"{_CURES[declared.meaning]}",
        )
    ]


def _as(scored: str, classes: int) -> str:
    if scored == "bernoulli":
        return "a logit" if classes == 1 else "labels of their own"
    return "classes that exclude each other"
