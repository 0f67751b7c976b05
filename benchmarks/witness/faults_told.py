"""Faults in what is told, and in what is kept quiet: each mend taken out, each bound moved."""

from benchmarks.witness.fault import Fault

_SCORES, _INPUTS, _NUMBERS = "_witness/scores.py", "_witness/inputs.py", "_witness/numbers.py"
_BY_SAMPLE, _IMAGES = "integrations/_by_sample.py", "cli/_images.py"
_DECLARED = "_model/declared.py"
_QUIET, _ALARM = "nobody is told", "false alarm"


FAULTS = [
    Fault(
        _BY_SAMPLE, "lost order",
        "values[indices] = scores.values", "values[:] = scores.values[: len(values)]",
        "scores of a skorch net whose loader shuffles are in the order of the loader",
    ),
    Fault(
        _BY_SAMPLE, _QUIET,
        "if len(indices.unique()) < size:", "if False:",
        "samples that a net leaves out get scores that were never made",
    ),
    Fault(
        "_model/sizes.py", _QUIET,
        "if isinstance(raw, PackedSequence):", "if False:",
        "the entries of a packed sequence are taken for samples",
    ),
    Fault(
        "_operations/recurrent.py", "dropped guard",
        "    if not isinstance(args[3], bool):  # packed", "    if False:  # packed",
        "packed sequences within a model are unrolled as if they were padded ones",
    ),
    Fault(
        _IMAGES, _QUIET,
        "if image.mode in _UNBOUNDED:", "if False:",
        "images of 32 bits are read as white",
    ),
    Fault(
        _IMAGES, "wrong unit",
        'if image.mode in _GREY_16 or (image.mode == "I" and image.format in ("PNG", "PPM")):',
        'if image.mode in _GREY_16 and image.format == "TIFF":',
        "grey images of 16 bits in PNG files are refused, or read as white",
    ),
    Fault(
        _IMAGES, "wrong unit",
        'if image.mode in _GREY_16 or image.mode == "I":', "if False:",
        "grey images of 16 bits are white where they are resized",
    ),
    Fault(
        _SCORES, _QUIET,
        "if zeros > _NEARLY_ZERO * len(finite):", "if False:",
        "scores that are zero for nearly all samples are returned without a word",
    ),
    Fault(
        _SCORES, _QUIET,
        "high - low < _FLAT * middle:", "False:",
        "scores that are one and the same are returned without a word",
    ),
    Fault(
        _SCORES, _QUIET,
        "if count < _NEARLY_ALL * total or certainty < _CERTAIN:", "if True:",
        "a model that is sure of one class for all samples is scored without a word",
    ),
    Fault(
        _SCORES, _ALARM,
        "_NEARLY_ALL, _CERTAIN, _MANY, _CLASSES = 0.99, 0.9, 64, 3",
        "_NEARLY_ALL, _CERTAIN, _MANY, _CLASSES = 0.6, 0.9, 64, 3",
        "a class that two thirds of a pool have is called doubtful",
    ),
    Fault(
        _SCORES, _ALARM,
        "_NEARLY_ALL, _CERTAIN, _MANY, _CLASSES = 0.99, 0.9, 64, 3",
        "_NEARLY_ALL, _CERTAIN, _MANY, _CLASSES = 0.99, 0.0, 64, 3",
        "models that are not trained yet, and predict one class, are called doubtful",
    ),
    Fault(
        _SCORES, _ALARM,
        "_NEARLY_ALL, _CERTAIN, _MANY, _CLASSES = 0.99, 0.9, 64, 3",
        "_NEARLY_ALL, _CERTAIN, _MANY, _CLASSES = 0.99, 0.9, 4, 3",
        "a few samples of one class are called doubtful",
    ),
    Fault(
        _SCORES, _ALARM,
        "_NEARLY_ALL, _CERTAIN, _MANY, _CLASSES = 0.99, 0.9, 64, 3",
        "_NEARLY_ALL, _CERTAIN, _MANY, _CLASSES = 0.99, 0.9, 64, 2",
        "a detector of something rare, of two classes, is called doubtful",
    ),
    Fault(
        _SCORES, _ALARM,
        "_FLAT, _FEW = 1e-4, 16", "_FLAT, _FEW = 0.2, 16",
        "scores that differ by a tenth are called flat",
    ),
    Fault(
        _SCORES, _ALARM,
        "_FLAT, _FEW = 1e-4, 16", "_FLAT, _FEW = 1e-4, 2",
        "a few samples that are alike are called doubtful",
    ),
    Fault(
        _SCORES, _ALARM,
        "_NEARLY_ZERO = 0.9", "_NEARLY_ZERO = 0.4",
        "a pool half of which a model is certain of is called doubtful",
    ),
    Fault(
        _INPUTS, _QUIET,
        "_TOO_LARGE = 25.0", "_TOO_LARGE = 25e8",
        "images that lack their normalisation are scored without a word",
    ),
    Fault(
        _INPUTS, _ALARM,
        "_TOO_LARGE = 25.0", "_TOO_LARGE = 3.0",
        "a data set a little brighter than that of training is called wrongly prepared",
    ),
    Fault(
        _INPUTS, _QUIET,
        "_TOO_FLAT = 1 / 12", "_TOO_FLAT = 0.0",
        "images that are normalised twice are scored without a word",
    ),
    Fault(
        _INPUTS, _ALARM,
        "_TOO_FLAT = 1 / 12", "_TOO_FLAT = 0.5",
        "images of little contrast are called wrongly prepared",
    ),
    Fault(
        _INPUTS, _ALARM,
        "_FEW = 8 ", "_FEW = 1 ",
        "a sample of little variance is called wrongly prepared",
    ),
    Fault(
        _INPUTS, _ALARM,
        "_FEW_STEPS = 10 ", "_FEW_STEPS = 1 ",
        "what a model has barely begun to learn is taken for what it was trained on",
    ),
    Fault(
        _NUMBERS, _QUIET,
        "if squashed or by_hand or _bounded(z, operations):", "if by_hand:",
        "probabilities of a sigmoid are scored as logits, without a word",
    ),
    Fault(
        _NUMBERS, _ALARM,
        "_NEAR, _EACH = 0.05, 8", "_NEAR, _EACH = 0.5, 1",
        "logits that happen to lie within [0, 1] are called probabilities",
    ),
    Fault(
        _NUMBERS, _ALARM,
        "if operations and operations[0].startswith(_LINEAR):", "if False:",
        "logits of a linear layer that lie within [0, 1] are called probabilities",
    ),
    Fault(
        _DECLARED, _QUIET,
        '_LOSS_NAMES = ("criterion", "loss", "loss_fn", "loss_func", "loss_function", "objective")',
        '_LOSS_NAMES = ("criterion", "loss_fn", "loss_func", "objective")',
        "a regression whose model holds its loss as `loss` is scored without a word",
    ),
    Fault(
        _DECLARED, _ALARM,
        "if meaning and name in _LOSS_NAMES]", "if meaning]",
        "a loss of something else that a model holds is taken for its own",
    ),
]  # fmt: skip
