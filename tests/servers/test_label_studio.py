"""A campaign against a running Label Studio: answers come through its own API and export.

A tier of its own, `.ci/servers`, which starts the server and says where it is.
"""

import json
import os
import urllib.request
import warnings

import pytest

from fastgradnorm.active import label_studio_answers
from tests.support.campaigns import KEYS, ask, campaign

URL = os.environ.get("LABEL_STUDIO_URL")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(URL is None, reason="needs a running Label Studio: .ci/servers"),
]
CONFIG = """
<View><Text name="text" value="$text"/>
<Choices name="kind" toName="text"><Choice value="cat"/><Choice value="dog"/></Choices></View>
"""


def call(method, place, body=None):
    """What the server answers, from JSON."""
    request = urllib.request.Request(
        f"{URL}/api/{place}",
        None if body is None else json.dumps(body).encode(),
        {
            "Authorization": f"Token {os.environ['LABEL_STUDIO_USER_TOKEN']}",
            "Content-Type": "application/json",
        },
        method=method,
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.loads(answer.read() or b"null")


def choose(task, label):
    result = {
        "from_name": "kind",
        "to_name": "text",
        "type": "choices",
        "value": {"choices": [label]},
    }
    return call("POST", f"tasks/{task}/annotations", {"result": [result]})


@pytest.fixture
def project():
    made = call("POST", "projects", {"title": "campaign of a test", "label_config": CONFIG})
    yield made["id"]
    call("DELETE", f"projects/{made['id']}")


def exported(project):
    place = f"projects/{project}/export?exportType=JSON&download_all_tasks=true"
    return call("GET", place)


def imported(project, batch):
    """Task by key, in the order asked."""
    tasks = [
        {"data": {"text": f"about {key}", "key": key, "rank": row["rank"], "score": row["score"]}}
        for key, row in zip(batch.keys, batch.records, strict=True)
    ]
    place = f"projects/{project}/import?return_task_ids=true"
    ids = call("POST", place, tasks)["task_ids"]
    assert ids == sorted(ids)  # shown in this order: best first
    return dict(zip(batch.keys, ids, strict=True))


def told_by(project, batch):
    answers = label_studio_answers(exported(project))
    return {key: label for key, label in answers.items() if key in batch.keys}


def test_five_rounds_with_late_partial_skipped_and_corrected_answers(project, tmp_path):
    truth = {key: ("cat" if i % 3 else "dog") for i, key in enumerate(KEYS)}
    seen, corrected = [], {}
    for number in range(5):
        batch = ask(campaign(tmp_path), seed=number)
        assert not {*batch.keys} & {*seen}
        seen += batch.keys
        tasks = imported(project, batch)
        first, second, third, *others = batch.keys
        choose(tasks[first], "dog" if truth[first] == "cat" else "cat")  # corrected below
        call("POST", f"tasks/{tasks[second]}/annotations", {"result": [], "was_cancelled": True})
        campaign(tmp_path).tell(batch.id, told_by(project, batch))  # partial
        if number == 2:  # killed while it wrote
            with (tmp_path / "campaign.jsonl").open("ab") as file:
                file.write(b'{"event": "tell", "batch": 3, "answ')
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The last line of")
            again = ask(campaign(tmp_path))
        assert (again.id, again.keys) == (batch.id, batch.keys)
        assert {*again.waiting} == {third, *others}
        choose(tasks[first], truth[first])  # a second annotation, later
        corrected[first] = truth[first]
        for key in (third, *others):
            choose(tasks[key], truth[key])
        for _ in range(2):  # told twice
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="The last line of")
                campaign(tmp_path).tell(batch.id, told_by(project, batch))
        assert ask(campaign(tmp_path), 1, seed=number).id == batch.id + 1
        campaign(tmp_path).release(batch.id + 1)
    made = campaign(tmp_path)
    assert len({*seen}) == 25
    assert made.status().skipped == 5
    assert len(made.labelled) == 20
    assert all(label == truth[key] for key, label in made.labelled.items())
    assert corrected.items() <= made.labelled.items()
    tasks = exported(project)
    assert len(tasks) == 25
    assert label_studio_answers(tasks) == {**made.labelled, **dict.fromkeys(made._state().skipped)}
