import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix

from fastgradnorm import score_pool, select
from tests.support import oracle
from tests.support.asserts import assert_close_relative

small_text = pytest.importorskip("small_text")

from small_text import PoolBasedActiveLearner  # noqa: E402
from small_text.integrations.pytorch.classifiers import KimCNNClassifier  # noqa: E402
from small_text.integrations.pytorch.datasets import (  # noqa: E402
    PytorchTextClassificationDataset,
)
from small_text.integrations.pytorch.models.kimcnn import KimCNN  # noqa: E402
from small_text.integrations.pytorch.query_strategies import strategies as theirs  # noqa: E402

from fastgradnorm.integrations.small_text import (  # noqa: E402
    ExpectedGradientLength,
    ExpectedGradientLengthLayer,
)

CLASSES, WORDS, LENGTH = 3, 30, 12


@pytest.fixture
def dataset():
    rng = np.random.default_rng(0)
    texts = [torch.from_numpy(rng.integers(1, WORDS, rng.integers(6, LENGTH))) for _ in range(24)]
    return PytorchTextClassificationDataset(
        [(text, int(text[0]) % CLASSES) for text in texts], None, target_labels=np.arange(CLASSES)
    )


@pytest.fixture
def clf():
    vectors = torch.randn(WORDS, 8)
    found = KimCNNClassifier(
        CLASSES, embedding_matrix=vectors, max_seq_len=LENGTH, out_channels=4, device="cpu"
    )
    found.model = KimCNN(
        WORDS, LENGTH, CLASSES, out_channels=4, embed_dim=8, embedding_matrix=vectors
    )
    return found


def inputs(clf, dataset, indices):
    return clf._create_collate_fn()([dataset.data[i] for i in indices])[0]


def query(strategy, clf, dataset, n=5, labeled=6):
    unlabeled = np.arange(labeled, len(dataset.data))
    return strategy.query(
        clf, dataset, unlabeled, np.arange(labeled), np.zeros(labeled, dtype=int), n=n
    )


@pytest.mark.slow
def test_selects_what_score_pool_selects(clf, dataset):
    clf.model.train()
    strategy = ExpectedGradientLength(CLASSES, batch_size=5, pbar=None)
    found = query(strategy, clf, dataset)
    scores = score_pool(clf.model, [inputs(clf, dataset, range(6, 24))], progress=False)
    assert found.tolist() == (select(scores, 5) + 6).tolist()
    assert np.allclose(strategy.scores_[6:], scores, rtol=1e-5)
    assert np.isnan(strategy.scores_[:6]).all()
    assert clf.model.training
    assert all(p.grad is None for p in clf.model.parameters())


@pytest.mark.slow
def test_layer_strategy_has_small_texts_own_scores(clf, dataset):
    """Theirs takes an L2 norm here, so that the two implementations referee each other."""
    own = theirs.ExpectedGradientLengthLayer(CLASSES, "fc", batch_size=7)
    own.device = "cpu"  # not an argument of theirs
    ours = ExpectedGradientLengthLayer(CLASSES, "fc", batch_size=7, pbar=None)
    expected, found = query(own, clf, dataset), query(ours, clf, dataset)
    assert_close_relative(
        torch.from_numpy(ours.scores_[6:]), torch.from_numpy(own.scores_[6:]), 1e-5
    )
    assert sorted(found.tolist()) == sorted(expected.tolist())


@pytest.mark.slow
def test_a_layer_whose_name_begins_like_another(clf, dataset):
    clf.model.fc2 = torch.nn.Linear(2, 2)

    def more(model):
        return model.fc2.weight.sum() * torch.arange(CLASSES)

    clf.model.register_forward_hook(lambda model, given, made: made + more(model))
    ours = ExpectedGradientLengthLayer(CLASSES, "fc", batch_size=7, pbar=None)
    query(ours, clf, dataset)
    batch = inputs(clf, dataset, range(6, 24))
    table = oracle.norms(clf.model, oracle.ones(batch))
    expected = table.scores("expected", keep=lambda name: name.startswith("fc."))
    assert_close_relative(torch.from_numpy(ours.scores_[6:]), expected, 1e-5)


@pytest.mark.slow
def test_theirs_is_an_l1_norm_and_ours_the_l2_norm(clf, dataset):
    own = theirs.ExpectedGradientLength(CLASSES, device="cpu")
    query(own, clf, dataset)
    ours = ExpectedGradientLength(CLASSES, pbar=None)
    query(ours, clf, dataset)
    batch = inputs(clf, dataset, range(6, 24))
    expected = oracle.scores(clf.model, oracle.ones(batch))
    assert_close_relative(torch.from_numpy(ours.scores_[6:]), expected, 1e-5)

    model = clf.model.eval()
    for i in range(6, 9):
        logits = model(inputs(clf, dataset, [i]))
        l1 = 0.0
        for c, p in enumerate(logits.softmax(-1)[0].tolist()):
            loss = torch.nn.functional.cross_entropy(logits, torch.tensor([c]))
            named = [p for p in model.parameters() if p.requires_grad]
            grads = torch.autograd.grad(loss, named, retain_graph=True)
            l1 += p * sum(float(g.abs().sum()) for g in grads)
        assert own.scores_[i] == pytest.approx(l1, rel=1e-4)


@pytest.mark.slow
def test_options_and_the_whole_pool(clf, dataset):
    strategy = ExpectedGradientLength(CLASSES, pbar=None, params="last_layer", scheme="entropy")
    found = query(strategy, clf, dataset)
    scores = score_pool(
        clf.model,
        [inputs(clf, dataset, range(6, 24))],
        params="last_layer",
        scheme="entropy",
        progress=False,
    )
    assert found.tolist() == (select(scores, 5) + 6).tolist()
    assert query(strategy, clf, dataset, n=18).tolist() == (select(scores, 18) + 6).tolist()


@pytest.mark.slow
@pytest.mark.parametrize("labeled", [6, 7, 14, 20, 23])
def test_a_query_for_all_that_is_left_is_best_first_and_scored(clf, dataset, labeled):
    """Also the last one of a loop, whose `scores_` were those of the query before."""
    strategy = ExpectedGradientLength(CLASSES, pbar=None)
    query(strategy, clf, dataset, n=1, labeled=2)
    left = 24 - labeled
    found = query(strategy, clf, dataset, n=left, labeled=labeled)
    scores = score_pool(clf.model, [inputs(clf, dataset, range(labeled, 24))], progress=False)
    assert found.tolist() == (select(scores, left) + labeled).tolist()
    assert np.isnan(strategy.scores_[:labeled]).all()
    assert np.allclose(strategy.scores_[labeled:], scores, rtol=1e-5)


@pytest.mark.slow
def test_inside_an_active_learner(clf, dataset):
    class Trained:
        """Hands out the classifier as it is: this is about querying."""

        def new(self):
            clf.fit = lambda *args, **kwargs: clf
            return clf

    strategy = ExpectedGradientLength(CLASSES, pbar=None)
    learner = PoolBasedActiveLearner(Trained(), strategy, dataset)
    learner.initialize_data(np.arange(6), np.zeros(6, dtype=int))
    seen = set(range(6))
    for _ in range(3):
        unlabeled = [i for i in range(24) if i not in seen]
        scores = score_pool(clf.model, [inputs(clf, dataset, unlabeled)], progress=False)
        expected = [unlabeled[i] for i in select(scores, 4).tolist()]
        found = learner.query(num_samples=4)
        assert found.tolist() == expected
        learner.update(np.zeros(4, dtype=int))
        seen |= set(expected)


def test_multi_label_data_an_untrained_model_and_wrong_options(clf, dataset):
    strategy = ExpectedGradientLength(CLASSES, pbar=None)
    with pytest.raises(RuntimeError, match="single-label"):
        strategy.query(clf, dataset, np.arange(24), np.arange(0), csr_matrix((0, 3)), n=2)
    with pytest.raises(TypeError, match=r"`scheme` must be one name"):
        ExpectedGradientLength(CLASSES, scheme=["entropy"])
    clf.model = None
    with pytest.raises(ValueError, match=r"`clf` must be trained"):
        query(strategy, clf, dataset)


@pytest.mark.slow
def test_a_transformer(dataset):
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=WORDS, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, num_labels=CLASSES, max_position_embeddings=LENGTH,
    )  # fmt: skip
    ids = torch.randint(1, WORDS, (9, LENGTH))
    mask = (torch.arange(LENGTH) < torch.randint(5, LENGTH, (9, 1))).long()

    class Transformer:
        """The parts of `TransformerBasedClassification` that are read, without a download."""

        model = transformers.BertForSequenceClassification(config)

        def _create_collate_fn(self):
            def collate(rows):
                return *(torch.stack(column) for column in zip(*rows, strict=True)), None, None

            return collate

    class Data:
        data = tuple(zip(ids, mask, strict=True))

    strategy = ExpectedGradientLength(CLASSES, batch_size=4, pbar=None)
    unlabeled = np.array([8, 1, 5, 0, 3, 7])
    found = strategy.query(Transformer(), Data(), unlabeled, np.arange(0), np.zeros(0), n=3)
    batch = {"input_ids": ids[unlabeled], "attention_mask": mask[unlabeled]}
    scores = score_pool(Transformer.model, [batch], progress=False)
    assert found.tolist() == unlabeled[select(scores, 3)].tolist()
    # Each of them, for the best few may be the same with the padding in.
    assert_close_relative(torch.from_numpy(strategy.scores_[unlabeled]), scores, 1e-5)
    assert np.isnan(strategy.scores_[[2, 4, 6]]).all()
