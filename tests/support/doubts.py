"""What a run has noticed, and whether it was told."""

import warnings

from fastgradnorm import DoubtfulScoresWarning, GradNormScorer


def findings(model, loader, **options):
    """Kind to (level, message) of everything noticed; what was warned of is just what says so."""
    options = {"scheme": "entropy", "progress": False, **options}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        scores = GradNormScorer(model, **options).score(loader)
    told = [str(w.message) for w in caught if w.category is DoubtfulScoresWarning]
    scores = next(iter(scores.values())) if isinstance(scores, dict) else scores
    found = scores.provenance["findings"]
    assert sorted(told) == sorted(f["message"] for f in found if f["level"] == "warn")
    return {f["kind"]: (f["level"], f["message"]) for f in found}


def warned(model, loader, **options):
    """The kinds that were warned of."""
    found = findings(model, loader, **options)
    return {kind for kind, (level, _) in found.items() if level == "warn"}
