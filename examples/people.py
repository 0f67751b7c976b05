"""People in the loop with Label Studio: tasks out, its export in, over days and processes.

Of the server nothing but two files is seen here: `tasks.json`, which Label Studio imports, and its
JSON export of all tasks. For images put an address that its browser can open under `"image"`.
"""

import json
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import TensorDataset

from fastgradnorm.active import Campaign, label_studio_answers

torch.manual_seed(0)
x = torch.randn(200, 8)
truth = ["cat" if value > 0 else "dog" for value in x.sum(1).tolist()]
keys = [f"photo-{i:03}.jpg" for i in range(len(x))]  # of samples, whatever their order tomorrow
NAMES = ["cat", "dog"]


def train(pairs):
    """A model of what is labelled so far; of nothing, one with random weights."""
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))
    if pairs:
        places = torch.tensor([place for place, _ in pairs])
        labels = torch.tensor([NAMES.index(label) for _, label in pairs])
        optimizer = torch.optim.Adam(model.parameters(), 1e-2)
        for _ in range(50):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[places]), labels).backward()
            optimizer.step()
    return model


def annotate(tasks):
    """Stands for the people and the server's export: one task is skipped, one left for later."""
    told = []
    for number, task in enumerate(tasks):
        choice = truth[keys.index(task["data"]["key"])]
        result = [{"type": "choices", "value": {"choices": [choice]}}]
        annotation = {"result": result, "updated_at": "2026-01-01T10:00:00Z"}
        if number == 0:
            annotation = {"result": [], "was_cancelled": True}
        told.append({"id": number, **task, "annotations": [] if number == 1 else [annotation]})
    return told


for day in range(3):
    campaign = Campaign("labels", TensorDataset(x), keys)  # another process, each day
    batch = campaign.ask(15, train(campaign.training_set()), seed=0)
    # Label Studio shows tasks in the order in which they came: best first.
    tasks = []
    for key, row in zip(batch.keys, batch.records, strict=True):
        data = {"image": f"/photos/{key}", "key": key, "rank": row["rank"], "score": row["score"]}
        tasks.append({"data": data})
    Path("tasks.json").write_text(json.dumps(tasks))

    export = annotate(json.loads(Path("tasks.json").read_text()))  # from the server, by its API
    campaign.tell(batch, label_studio_answers(export))
    waiting = campaign.ask(15, None).waiting  # the same batch: one of it has no answer yet
    print(f"day {day}: waits for {waiting}")
    campaign.release(batch)  # whoever is left may be asked again
    print(campaign.status())
