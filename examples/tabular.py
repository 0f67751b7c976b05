"""A table of numbers and a pipeline of scikit-learn with a skorch net in it.

The command line takes a CSV as it is:

    fastgradnorm acquire my_model:make table.csv 20 --ids id
"""

import numpy as np
import torch
from sklearn.datasets import load_wine
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from skorch import NeuralNetClassifier
from torch import nn

from fastgradnorm import acquire, select
from fastgradnorm.integrations.skorch import score_skorch

torch.manual_seed(0)
X, y = load_wine(return_X_y=True)
order = np.random.default_rng(0).permutation(len(X))
X, y = X[order].astype(np.float32), y[order]
labelled, pool = np.arange(30), np.arange(30, 178)

net = NeuralNetClassifier(
    nn.Sequential(nn.Linear(13, 32), nn.ReLU(), nn.Linear(32, 3)),
    criterion=nn.CrossEntropyLoss,
    max_epochs=20,
    lr=0.1,
    train_split=None,
    verbose=0,
)
pipeline = make_pipeline(StandardScaler(), net)
pipeline.fit(X[labelled], y[labelled])

# Scores by gradient norm, of the pipeline as it is:
scores = score_skorch(pipeline, X[pool], progress=False)
print("highest:", pool[select(scores, 5)])

# Or which to label, over all rows: what the net is given, and what has labels already.
scaled = pipeline[:-1].transform(X)
chosen = acquire(net.module_, [scaled], 20, labelled=labelled)
print(chosen)
print("accuracy before:", pipeline.score(X[pool], y[pool]))
more = np.concatenate([labelled, chosen.indices.numpy()])
print("with 20 more labels:", pipeline.fit(X[more], y[more]).score(X[pool], y[pool]))
