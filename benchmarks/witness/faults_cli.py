"""Faults in the command line."""
# ruff: noqa: E501 - texts as they stand in the files

from benchmarks.witness.fault import Fault

_GIVEN, _REPORT, _SCORE = "cli/_given.py", "cli/_report.py", "cli/_score.py"
_RESUMING = "cli/_resuming.py"

FAULTS = [
    Fault(
        _RESUMING, "option that does nothing",
        "    if not resume:\n        forget(place)\n", "",
        "--no-resume is refused by the old checkpoint, or goes on from it",
    ),
    Fault(
        _SCORE, "option that does nothing",
        "loader = given.loader(workers)", "loader = given.loader()",
        "--workers has no effect",
    ),
    Fault(
        _RESUMING, "forgotten case",
        '_FILES = ("", ".bin", ".labelled", ".labelled.bin")', '_FILES = ("", ".bin")',
        "what was kept of labelled samples stays on the disk",
    ),
    Fault(
        "cli/_acquire.py", "option that does nothing",
        "            checkpoint=place,\n", "", "acquire begins anew where it was stopped",
    ),
    Fault(
        "cli/_campaign.py", "option that does nothing",
        "                checkpoint=place,\n", "", "ask begins anew where it was stopped",
    ),
    Fault(
        "cli/_wording.py", "forgotten case",
        "        elif inside in _CALLED:\n            return f\"`{_CALLED[inside]}`\"\n", "",
        "errors name arguments that the command line has not",
    ),
    Fault(
        _GIVEN, "option that does nothing",
        '        "likelihood": likelihood,\n', "", "--likelihood has no effect",
    ),
    Fault(
        _SCORE, "dropped guard",
        "[value if k else None for value, k in", "[value for value, k in",
        "the file tells a class of samples whose outputs are NaN",
    ),
    Fault(
        _SCORE, "wrong constant",
        '"on_nonfinite": "warn"', '"on_nonfinite": "raise"',
        "one NaN ends the command without scores",
    ),
    Fault(
        _GIVEN, "option that does nothing",
        '        "class_dim": class_dim,\n', "", "--class-dim has no effect: scores over the wrong dimension",
    ),
    Fault(
        _GIVEN, "option that does nothing",
        '        "rtol": rtol,\n', "", "--rtol has no effect: exact, slow, no standard errors",
    ),
    Fault(
        _GIVEN, "option that does nothing",
        '        "scheme": scheme,\n', "", "--scheme has no effect",
    ),
    Fault(
        _GIVEN, "option that does nothing",
        '        "params": _parameters(params, loaded.model),\n', "", "--params has no effect",
    ),
    Fault(
        _GIVEN, "option that does nothing",
        '        "skip_bad": skip_bad,\n', "", "--skip-bad has no effect",
    ),
    Fault(
        _GIVEN, "option that does nothing",
        '        "image_size": image_size,\n', "", "--image-size has no effect",
    ),
    Fault(
        _GIVEN, "option that does nothing",
        "return Given(loaded.model, origin, found, options, batch_size, opening)", "return Given(loaded.model, origin, found, options, 32, opening)",
        "--batch-size has no effect",
    ),
    Fault(
        _GIVEN, "option that does nothing",
        "            loaded.model.to(device)\n", "            pass\n", "--device has no effect",
    ),
    Fault(
        _REPORT, "lost order",
        "order[::-1][:shown]", "order[:shown][::-1]",
        "of more than 20 samples the page's least valuable are the most valuable backwards",
    ),
    Fault(
        _REPORT, "wrong constant",
        "tenth = max(1, len(order) // 10)", "tenth = max(1, len(order))",
        "the page says that the highest tenth holds all of the score",
    ),
    Fault(
        _REPORT, "swapped names",
        "_formula(scores.provenance['scheme'])", "_formula('expected')",
        "the page gives the formula of another scheme",
    ),
    Fault(
        "cli/_select.py", "option that does nothing",
        "strategy=strategy, seed=seed)  # type", "strategy=strategy)  # type",
        "select --seed has no effect",
    ),
    Fault(
        "cli/_select.py", "option that does nothing",
        "strategy=strategy, seed=seed)  # type", "seed=seed)  # type",
        "select --strategy has no effect",
    ),
    Fault(
        "cli/_bench.py", "option that does nothing",
        "return naive_score_pool(model, batches, **exact)", "return naive_score_pool(model, batches)",
        "bench compares with the loop over other options",
    ),
    Fault(
        "cli/_bench.py", "option that does nothing",
        "for _ in range(repeats)]", "for _ in range(1)]", "bench --repeats has no effect",
    ),
    Fault(
        "cli/_explain.py", "option that does nothing",
        ".explain(batch, measure=measure)", ".explain(batch)", "explain --measure has no effect",
    ),
    Fault(
        "cli/_pool.py", "swapped axis",
        "            array = array.transpose(0, 3, 1, 2)\n", "            array = array.transpose(0, 3, 2, 1)\n",
        "pictures in arrays are scored with height and width exchanged",
    ),
    Fault(
        "cli/_pool.py", "forgotten in one branch",
        "Arrays(arrays, known, transform, told_of, kept)", "Arrays(arrays, known)",
        "rows of arrays are scored without the transform of the model's function",
    ),
    Fault(
        "cli/_table_pool.py", "forgotten in one branch",
        "Arrays({\"table\": table}, labels, transform, names if id_key else (), whole)", "Arrays({\"table\": table}, labels)",
        "rows of tables are scored without the transform of the model's function",
    ),
    Fault(
        "cli/_samples.py", "shared state",
        "own = {name: value.clone() for name, value in row.items()}", "own = dict(row)",
        "a transform that writes into its row changes the pool for the next pass",
    ),
    Fault(
        "cli/_tokenizing.py", "dropped guard",
        "for token in tokenizer.get_vocab()) < 2", "for token in tokenizer.get_vocab()) < 0",
        "a folder without a tokenizer is scored by an empty one",
    ),
    Fault(
        "cli/_table_pool.py", "lost order",
        "names = [names[row] for row in whole]", "names = names[: len(whole)]",
        "where rows were left out samples have the names of others",
    ),
    Fault(
        "cli/_placing.py", "wrong set",
        "if path not in own)", "if path in own)",
        "what was just copied is told as of an earlier round",
    ),
    Fault(
        "cli/_files.py", "wrong sort",
        'return float("nan") if value in (None, "") else float(value)', 'return 0.0 if value in (None, "") else float(value)',
        "select may choose samples whose score is NaN",
    ),
    Fault(
        "cli/_classes.py", "dropped guard",
        "    if not page:\n", "    if False:\n",
        "names of classes that no page has are read for nothing",
    ),
    Fault(
        "cli/_classes.py", "dropped option",
        "for column in seen for each in column", "for column in [*seen][:1] for each in column",
        "a class that only comes second needs no name, until the page fails",
    ),
]  # fmt: skip
