"""Faults in the adapters to other frameworks."""
# ruff: noqa: E501 - texts as they stand in the files

from benchmarks.witness.fault import Fault

_SMALL_TEXT, _HUGGING = "integrations/small_text.py", "integrations/huggingface.py"
_SKACTIVEML, _LIGHTNING = "integrations/skactiveml.py", "integrations/lightning.py"
_RAY, _RECIPES = "integrations/ray_data.py", "integrations/recipes.py"

FAULTS = [
    Fault(
        _SMALL_TEXT, "mask ignored in one branch",
        "return model(batch[0], attention_mask=batch[1])", "return model(batch[0])",
        "transformers in small-text see padding",
    ),
    Fault(
        _SMALL_TEXT, "stale index",
        "self.scores_[unlabeled] = scores", "self.scores_[: len(scores)] = scores",
        "scores_ in small-text belong to other instances",
    ),
    Fault(
        _SMALL_TEXT, "wrong prefix",
        'return name.startswith(f"{layer_name}.")', "return name.startswith(layer_name)",
        "the layer strategy also counts layers whose name begins alike",
    ),
    Fault(
        _HUGGING, "dropped name",
        "yield {k: v for k, v in batch.items() if k not in self.label_names}", "yield dict(batch)",
        "labels by the trainer's own names are passed to the model",
    ),
    Fault(
        _HUGGING, "wrong order",
        "collate_fn=theirs.collate_fn,", "collate_fn=theirs.collate_fn, drop_last=trainer.args.dataloader_drop_last,",
        "with dataloader_drop_last the last samples have no score",
    ),
    Fault(
        _HUGGING, "option that does nothing",
        "scorer = GradNormScorer(model, **options)", "scorer = GradNormScorer(model)",
        "score_column ignores its options",
    ),
    Fault(
        _SKACTIVEML, "stale index",
        "found = chosen if mapping is None else mapping[chosen]", "found = chosen",
        "scikit-activeml's query names places among the candidates",
    ),
    Fault(
        _SKACTIVEML, "dropped guard",
        "        utilities[i, found[:i]] = np.nan\n", "        pass\n",
        "utilities of scikit-activeml still offer what was picked",
    ),
    Fault(
        _SKACTIVEML, "option that does nothing",
        '            "params": self.params,\n', "", "scikit-activeml's params has no effect",
    ),
    Fault(
        _LIGHTNING, "lost order",
        "order = np.array(sorted(found), dtype=np.int64)", "order = np.array(list(found), dtype=np.int64)",
        "Lightning's scores are in the order in which batches came",
    ),
    Fault(
        _LIGHTNING, "lost digits",
        "dtype=self._dtype, device=", "dtype=torch.float16, device=",
        "Lightning's scores are rounded to half precision",
    ),
    Fault(
        "integrations/skorch.py", "dropped guard",
        'if "forward" not in options:', "if False:",
        "probabilities of a skorch net are scored as logits",
    ),
    Fault(
        "integrations/baal.py", "lost order",
        "return np.concatenate([best, unknown]), scores", "return np.concatenate([unknown, best]), scores",
        "baal labels samples without a score first",
    ),
    Fault(
        _RAY, "option that does nothing",
        'on_nonfinite == "keep":\n            return', 'on_nonfinite != "keep":\n            return',
        "Ray's actors raise where NaN is to be kept, and pass it on where not",
    ),
    Fault(
        _RAY, "stale index",
        "{ids[bad].tolist()}", "{np.flatnonzero(bad).tolist()}",
        "NaN scores in Ray are told by places in the batch, not by ids",
    ),
    Fault(
        _RECIPES, "stale index",
        "np.asarray(np.asarray(unlabeled)[select(scores, n).numpy()])", "np.asarray(select(scores, n).numpy())",
        "DeepAL labels other samples than were chosen",
    ),
    Fault(
        _RECIPES, "stale index",
        "return best, scores.numpy()[best]", "return best, scores.numpy()[: len(best)]",
        "modAL is told the scores of other samples",
    ),
    Fault(
        _RECIPES, "option that does nothing",
        'options = {"device": self.device, **self.args.get("gradnorm", {})}', 'options = {"device": self.device}',
        "options of DISTIL's strategy have no effect",
    ),
    Fault(
        "integrations/skorch.py", "dropped guard",
        "if labelled and isinstance(dataset, Dataset) and dataset.y is None:", "if False:",
        "losses are of zeros that skorch makes up as labels",
    ),
]  # fmt: skip
