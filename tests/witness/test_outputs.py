"""Another output than the one that was meant, and parameters that it leaves out."""

from collections import OrderedDict, namedtuple

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fastgradnorm import DoubtfulScoresWarning, UnsupportedModelError, score_pool
from tests.support import oracle
from tests.support.asserts import assert_close_relative
from tests.support.cases import Custom, linear, perturb
from tests.support.doubts import findings, warned


def model(forward, **more):
    modules = {"body": linear(6, 8), "head": linear(8, 3), **more}
    return perturb(Custom(lambda m, x: forward(m, x, torch.tanh(m.body(x))), **modules))


def pool(samples=5):
    return [torch.randn(samples, 6)]


FEATURES_FIRST = {
    "tuple": model(lambda m, x, h: (h, m.head(h))),
    "list": model(lambda m, x, h: [h, m.head(h)]),
    "three": model(lambda m, x, h: (h, 2 * h, m.head(h))),
    "through more layers": model(lambda m, x, h: (h, m.head(m.mid(h))), mid=linear(8, 8)),
    "maps": model(lambda m, x, h: (h[..., None], m.head(h))),
    "frozen head": model(lambda m, x, h: (h, m.head(h))),
    "namedtuple without names of logits": model(
        lambda m, x, h: namedtuple("Out", ["features", "scores"])(h, m.head(h))
    ),
}
FEATURES_FIRST["frozen head"].head.requires_grad_(False)


@pytest.mark.parametrize("name", FEATURES_FIRST)
def test_features_first_are_refused_by_name(name):
    with pytest.raises(UnsupportedModelError, match=r"logits first.*features.*forward="):
        score_pool(FEATURES_FIRST[name], pool(), progress=False)


@pytest.mark.parametrize("name", ["tuple", "list", "three", "frozen head"])
def test_what_is_advised_scores_the_logits(name):
    first = FEATURES_FIRST[name]
    place = 2 if name == "three" else 1
    x = pool()
    scores = score_pool(first, x, progress=False, forward=lambda model, batch: model(batch)[place])
    kept = (lambda n: "head" not in n) if name == "frozen head" else (lambda n: True)
    table = oracle.norms(first, oracle.ones(x[0]), call=lambda m, s: m(s)[place])
    assert_close_relative(scores, table.scores("expected", "global", kept), 1e-5)


LOSS_FIRST = {
    "entropy": lambda z: -(z.softmax(-1) * z.log_softmax(-1)).sum(-1),
    "of the predicted class": lambda z: F.cross_entropy(z, z.argmax(-1), reduction="none"),
    "energy": lambda z: -z.logsumexp(-1),
    "confidence": lambda z: z.softmax(-1).amax(-1),
    "margin, a column": lambda z: z[:, :1] - z[:, 1:2],
}


@pytest.mark.parametrize("name", LOSS_FIRST)
def test_a_number_made_of_the_logits_is_no_logit(name):
    loss = LOSS_FIRST[name]

    def forward(m, x, h):
        z = m.head(h)
        return loss(z), z

    with pytest.raises(UnsupportedModelError, match=r"looks like a loss.*forward="):
        score_pool(model(forward), pool(), progress=False)


OTHER_HEADS = {
    "two heads": model(lambda m, x, h: (m.head(h), m.other(h)), other=linear(8, 4)),
    "decoder": model(lambda m, x, h: (m.head(h), m.decode(h)), decode=linear(8, 6)),
    "refined": model(lambda m, x, h: (m.head(h), m.more(m.head(h))), more=linear(3, 3)),
    "list of three": model(
        lambda m, x, h: [m.head(h), m.a(h), m.b(h)], a=linear(8, 3), b=linear(8, 2)
    ),
    "weight of its own": model(
        lambda m, x, h: (m.head(h), F.linear(h, m.w.weight)), w=linear(8, 2, bias=False)
    ),
}


@pytest.mark.parametrize("name", OTHER_HEADS)
def test_further_heads_that_do_not_count_are_named_once(name):
    found = findings(OTHER_HEADS[name], [torch.randn(3, 6) for _ in range(3)])
    level, message = found["another output"]
    assert level == "warn" and "count as zero" in message
    assert "forward=" in message
    assert found["parameters left out"][0] == "note"  # of the same, and told once


NO_HEAD = {
    "features returned": model(lambda m, x, h: h),
    "normalised": model(lambda m, x, h: F.normalize(h, dim=-1)),
    "two layers left out": model(lambda m, x, h: h, last=linear(8, 2)),
    "maps": Custom(lambda m, x: m.body(x[:, None]), body=nn.Conv1d(1, 8, 3), head=linear(8, 3)),
    "maps to be flattened": Custom(
        lambda m, x: m.body(x[:, None]), body=nn.Conv1d(1, 5, 3), head=linear(20, 3)
    ),
    "tokens": Custom(
        lambda m, x: m.body(x[..., None]).transpose(1, 2), body=linear(1, 8), head=linear(8, 3)
    ),
    "called and thrown away": model(lambda m, x, h: (m.head(h), h)[1]),
    "detached": model(lambda m, x, h: h + m.head(h).detach().sum(-1, True)),
}


@pytest.mark.parametrize("name", NO_HEAD)
def test_a_head_that_takes_no_part_is_named_once(name):
    found = findings(NO_HEAD[name], [torch.randn(3, 6) for _ in range(3)])
    level, message = found["parameters left out"]
    assert level == "warn" and "`head.weight`" in message and "count as zero" in message


ORDINARY = {
    "(logits, features)": model(lambda m, x, h: (m.head(h), h)),
    "(logits, attention)": model(lambda m, x, h: (m.head(h), h.softmax(-1), x)),
    "(logits, loss)": model(lambda m, x, h: (m.head(h), m.head(h).logsumexp(-1))),
    "(logit, features)": model(lambda m, x, h: (m.one(h)[:, 0], h), one=linear(8, 1)),
    "(logit, probabilities)": model(
        lambda m, x, h: (z := m.one(h), torch.cat([1 - z.sigmoid(), z.sigmoid()], 1)),
        one=linear(8, 1),
    ),
    "(logits, probabilities)": model(lambda m, x, h: (m.head(h), m.head(h).softmax(-1))),
    "(logits, input)": model(lambda m, x, h: (m.head(h), x)),
    "(logits, None, number)": model(lambda m, x, h: (m.head(h), None, 3)),
    "one in a tuple": model(lambda m, x, h: (m.head(h),)),
    "pooler not used": model(lambda m, x, h: m.head(h), body=linear(6, 8)),
}


@pytest.mark.parametrize("name", ORDINARY)
def test_ordinary_outputs_are_silent(name):
    assert not warned(ORDINARY[name], pool(20))


class TestNamed:
    """Outputs with names: the logits are taken, what else there is is a note at most."""

    @pytest.mark.parametrize("field", ["logits", "out"])
    @pytest.mark.parametrize("place", [0, 1])
    def test_fields_of_a_namedtuple(self, field, place):
        names = [field, "features"] if place == 0 else ["features", field]
        kind = namedtuple("Out", names)

        def forward(m, x, h):
            return kind(*((m.head(h), h) if place == 0 else (h, m.head(h))))

        named, x = model(forward), pool()
        plain = perturb(
            Custom(lambda m, x: m.head(torch.tanh(m.body(x))), body=named.body, head=named.head)
        )
        plain.load_state_dict(named.state_dict())
        assert not warned(named, x)
        expected = oracle.scores(named, oracle.ones(x[0]), call=lambda m, s: m(s)[place])
        assert_close_relative(score_pool(named, x, progress=False), expected, 1e-5)

    @pytest.mark.parametrize("auxiliary", [True, False])
    def test_mappings(self, auxiliary):
        def forward(m, x, h):
            out = OrderedDict(features=h, out=m.head(h))
            if auxiliary:
                out["aux"] = m.aux(h)
            return out

        named = model(forward, aux=linear(8, 3))
        found = findings(named, pool())
        assert {k: level for k, (level, _) in found.items()} == {"parameters left out": "note"}
        assert "`aux.weight`" in found["parameters left out"][1]

    def test_mappings_without_logits_are_refused(self):
        for names in (["pred"], ["prediction", "features"], ["logit"]):
            with pytest.raises(UnsupportedModelError, match=r"must return logits.*forward="):
                score_pool(
                    model(lambda m, x, h, names=names: dict.fromkeys(names, m.head(h))), pool()
                )


def test_what_is_left_out_in_the_middle_is_a_note():
    middle = Custom(
        lambda m, x: m.head(torch.tanh(m.body(x))),
        body=linear(6, 8), pooler=linear(8, 8), head=linear(8, 3),
    )  # fmt: skip
    found = findings(perturb(middle), pool())
    level, message = found["parameters left out"]
    assert level == "note" and "2 of 6" in message and "`pooler.weight`" in message


@pytest.mark.parametrize("how", ["frozen", "chosen", "forward"])
def test_what_the_caller_has_said_is_no_reason_to_warn(how):
    options = {}
    headless = model(lambda m, x, h: h)
    if how == "frozen":
        headless.head.requires_grad_(False)
    elif how == "chosen":
        options["params"] = lambda name, p: name.startswith("body")
    else:
        options["forward"] = lambda model, batch: model(batch)
    assert not warned(headless, pool(20), **options)


def test_what_fits_nothing_that_was_scored_is_a_note():
    """A projection for a loss of its own, layers that are kept for later."""
    more = model(
        lambda m, x, h: m.head(h), project=linear(8, 4), later=nn.LSTM(2, 2), norm=nn.LayerNorm(3)
    )
    more.raw = nn.Parameter(torch.ones(5))
    found = findings(more, pool(20))
    assert found["parameters left out"][0] == "note"


@pytest.mark.slow
def test_an_early_exit_is_no_missing_head():
    """What the first sample leaves out may count for others."""

    def forward(m, x):
        h = torch.tanh(m.body(x))
        return m.first(h) if x[0, 0] > 0 else m.last(torch.tanh(m.more(h)))

    early = perturb(
        Custom(forward, body=linear(6, 8), first=linear(8, 3), more=linear(8, 8), last=linear(8, 3))
    )
    x = torch.randn(8, 6)
    x[:, 0] = torch.tensor([1.0, -1, 1, -1, 1, -1, 1, 1])
    assert not warned(early, [x])


def test_a_warning_is_a_warning_of_its_own_class():
    with pytest.warns(DoubtfulScoresWarning, match="as a head does"):
        score_pool(model(lambda m, x, h: h), pool(), progress=False)
    assert issubclass(DoubtfulScoresWarning, UserWarning)
