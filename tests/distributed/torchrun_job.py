"""What each rank of a torchrun job does: every case, its scores or its error kept in a file."""

import contextlib
import io
import os
import signal
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler, SubsetRandomSampler

from fastgradnorm import GradNormScorer, RankFailedError, acquire, score_pool, store_sketches
from tests.support import pools


def orders():
    chosen = torch.Generator().manual_seed(7)  # the same on every rank
    loaders = {
        "backwards": pools.loader(sampler=list(range(30, 3, -2))),
        "repeats": pools.loader(batch_sampler=[[5, 4, 3], [2], [7, 7]], batch_size=1),
        "chosen": pools.loader(sampler=SubsetRandomSampler(range(3, 29), generator=chosen)),
        "batches": pools.loader(batch_sampler=[[i, i - 1] for i in range(36, 0, -2)], batch_size=1),
        "share": pools.loader(sampler=DistributedSampler(pools.Rows())),
        "workers": pools.loader(sampler=list(range(36, 0, -1)), num_workers=1),
    }
    scorer = GradNormScorer(pools.mlp())
    found = {name: scorer.score(loader) for name, loader in loaders.items()}
    part = GradNormScorer(pools.mlp(), subset=9)
    found["part"] = part.score(pools.loader())
    found["part of a choice"] = part.score(pools.loader(sampler=list(range(30, 3, -2))))
    return {name: (each.values, each.indices) for name, each in found.items()}


def sketches(folder):
    """A store of all, which one rank writes; and what a second call says."""
    store = store_sketches(pools.mlp(), pools.ragged(), Path(folder) / "sketches", 8)
    try:
        store_sketches(pools.mlp(), pools.ragged(), Path(folder) / "sketches", 8)
    except ValueError as error:
        return {"rows": store[:], "again": str(error)}


CHOICES = {
    "herding": {"labelled": [4, 30]},
    "bait": {"strategy": "bait", "labelled": {4: "a", 30: "b"}},
    "sketches": {"space": "sketch", "strategy": "sketch/predicted/all/lcmd"},
    "part": {"subset": 20, "labelled": list(range(0, 36, 3)), "strategy": "coreset"},
    "groups": {"groups": [i % 5 for i in range(37)], "max_per_group": 2, "strategy": "margin"},
    "random": {"strategy": "random", "seed": 3},
}


def chosen(folder, **options):
    """What each strategy chooses of a pool of uneven shares, and of a run that was stopped."""
    model = pools.mlp()
    found = {
        name: acquire(model, pools.loader(), 7, progress=False, **given, **options).indices
        for name, given in CHOICES.items()
    }
    found["ragged"] = acquire(
        model, pools.ragged(), 7, labelled=pools.inputs()[:9].split(4), progress=False, **options
    ).indices
    for attempt in range(2):
        data = pools.Rows(fails_at=None if attempt else 28)
        loader = DataLoader(data, pools.SIZE, collate_fn=pools.first_column)
        path = Path(folder) / "chosen.jsonl"
        with contextlib.suppress(OSError, RankFailedError):
            found["stopped"] = acquire(
                model, loader, 7, labelled=[4, 30], checkpoint=path, progress=False, **options
            ).indices
    return found


def whole_pools():
    """Pools that are shared; each must give the scores of one process."""

    def every_scheme():
        return score_pool(pools.mlp(), pools.loader(), scheme=pools.SCHEMES)

    def workers():
        return score_pool(pools.mlp(), pools.loader(num_workers=1))

    def inference_mode():
        with torch.inference_mode():
            return score_pool(pools.mlp(), pools.loader())

    def sampler():
        sampler = DistributedSampler(pools.Rows())  # shuffles, and pads to 38
        model = nn.parallel.DistributedDataParallel(pools.mlp())
        return score_pool(model, pools.loader(sampler=sampler))

    def standard_errors():
        found = GradNormScorer(pools.dense()).score(pools.ragged())
        return {"values": found.values, "errors": found.standard_error}

    def one_batch():
        found = GradNormScorer(pools.mlp()).score([pools.inputs()])
        return {"values": found.values, "names": found.provenance["parameters"]["names"]}

    def first_buffers():
        model = pools.normed(float(dist.get_rank()))
        scores = score_pool(model, pools.loader())
        assert model[1].running_mean.eq(dist.get_rank()).all(), "the caller's buffers have changed"
        return scores

    def progress():
        bar = io.StringIO()
        with contextlib.redirect_stderr(bar):
            score_pool(pools.mlp(), pools.loader(), progress=True)
        return bar.getvalue()

    def alone():
        mine = pools.inputs()[dist.get_rank() :: 2]
        return score_pool(pools.mlp(), [mine], distributed=False)

    def unequal():
        """Verification calls the model without its wrapper: no rank waits for another's batches."""
        rank, model = dist.get_rank(), nn.parallel.DistributedDataParallel(pools.mlp())
        mine = pools.inputs()[: 24 if rank == 0 else 3]
        scorer = GradNormScorer(model, distributed=False, verify="all")
        found = scorer.score(mine.split(4))
        return found.values, found.provenance["verified"]["scores"]

    def again():
        return {
            "iterated": score_pool(pools.mlp(), pools.streamed()),
            "unbatched": score_pool(pools.mlp(), pools.unbatched()),
            "ragged": score_pool(pools.mlp(), pools.ragged()),
            "stream": list(GradNormScorer(pools.mlp()).stream(pools.ragged())),
        }

    return [
        *(every_scheme, workers, inference_mode, sampler, standard_errors),
        *(one_batch, first_buffers, progress, alone, unequal, again, orders),
    ]


def failures():
    """Calls that must raise on every rank."""
    rank = dist.get_rank()

    def nan():
        rows = pools.inputs()
        rows[[3, 31]] = torch.nan
        score_pool(pools.mlp(), rows.split(pools.SIZE))

    def one_rank():
        dataset = pools.Rows(fails_at=26 if rank == 1 else None)
        score_pool(pools.mlp(), DataLoader(dataset, 5, collate_fn=pools.first_column))

    def other_model():
        score_pool(pools.mlp(seed=rank), pools.loader())

    def own_share():
        rows = pools.inputs()[rank:36:2]
        score_pool(pools.mlp(), DataLoader(pools.Rows(rows=rows), 5))

    def own_order():
        order = list(range(rank, pools.N)) + list(range(rank))
        score_pool(pools.mlp(), pools.loader(sampler=order))

    def own_length():
        score_pool(pools.mlp(), pools.inputs().split(5)[: 8 - 3 * rank])

    def shuffled():
        score_pool(pools.mlp(), pools.loader(shuffle=True))

    def own_labelled():
        acquire(pools.mlp(), pools.loader(), 7, labelled=[4, 30 + rank])

    def own_groups():
        groups = [f"video {i % (5 + rank)}" for i in range(37)]
        acquire(pools.mlp(), pools.loader(), 7, groups=groups, max_per_group=2)

    def own_k():
        acquire(pools.mlp(), pools.loader(), 7 + rank)

    def no_batch():
        score_pool(pools.mlp(), [])

    return [
        *(nan, one_rank, other_model, own_share, own_order, own_length),
        *(shuffled, no_batch, own_labelled, own_groups, own_k),
    ]


def killed():
    """Rank 1 is killed on the way."""

    def batches():
        for i, batch in enumerate(pools.inputs().split(5)):
            if dist.get_rank() == 1 and i == 5:
                os.kill(os.getpid(), signal.SIGKILL)
            yield batch

    return score_pool(pools.mlp(), batches())


def main(what, folder):
    dist.init_process_group("gloo")
    found = {}
    if what == "killed":
        found["killed"] = killed()
    else:
        for case in whole_pools():
            found[case.__name__] = case()
        found["sketches"] = sketches(folder)
        found["chosen"] = chosen(folder)
        for case in failures():
            try:
                found[case.__name__] = case()
            except Exception as error:
                told = {"type": type(error).__name__, "text": str(error)}
                told["is_value_error"] = isinstance(error, ValueError)
                found[case.__name__] = {**told, "indices": getattr(error, "indices", None)}
    torch.save(found, Path(folder) / f"{dist.get_rank()}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
