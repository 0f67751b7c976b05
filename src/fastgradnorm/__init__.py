"""Per-sample gradient norms of PyTorch classifiers: which unlabelled samples to label next."""

from fastgradnorm_kernels import KernelError

from fastgradnorm._acquire import acquire
from fastgradnorm._directions import gradient_dots, mean_gradient
from fastgradnorm._engine import Explanation
from fastgradnorm._errors import (
    ArgumentError,
    ArgumentTypeError,
    BatchDependenceWarning,
    CoverageError,
    DoubtfulScoresWarning,
    NonFiniteScoreError,
    RankFailedError,
    SlowPathWarning,
    UnsupportedModelError,
    UntestedVersionWarning,
    VerificationError,
)
from fastgradnorm._explained import explain_gradients
from fastgradnorm._gather import score_and_predict
from fastgradnorm._model import meaning_of_loss
from fastgradnorm._naive import naive_score_pool
from fastgradnorm._operations import Rule, register_rule
from fastgradnorm._options import Options
from fastgradnorm._results import PoolScores, Selection
from fastgradnorm._schemes import LABELLED_SCHEMES, SCHEMES, LabelledScheme, Scheme
from fastgradnorm._scorer import GradNormScorer, score_pool
from fastgradnorm._selection import select
from fastgradnorm._sketches import (
    SketchStore,
    gradient_sketch,
    sketch_dots,
    sketch_errors,
    store_sketches,
)
from fastgradnorm._version import __version__

__all__ = [
    "LABELLED_SCHEMES",
    "SCHEMES",
    "ArgumentError",
    "ArgumentTypeError",
    "BatchDependenceWarning",
    "CoverageError",
    "DoubtfulScoresWarning",
    "Explanation",
    "GradNormScorer",
    "KernelError",
    "LabelledScheme",
    "NonFiniteScoreError",
    "Options",
    "PoolScores",
    "RankFailedError",
    "Rule",
    "Scheme",
    "Selection",
    "SketchStore",
    "SlowPathWarning",
    "UnsupportedModelError",
    "UntestedVersionWarning",
    "VerificationError",
    "__version__",
    "acquire",
    "explain_gradients",
    "gradient_dots",
    "gradient_sketch",
    "mean_gradient",
    "meaning_of_loss",
    "naive_score_pool",
    "register_rule",
    "score_and_predict",
    "score_pool",
    "select",
    "sketch_dots",
    "sketch_errors",
    "store_sketches",
]
