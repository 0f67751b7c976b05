"""What each process of `accelerate launch` does: scores of prepared loaders, kept in a file."""

import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.data_loader import DataLoaderDispatcher, DataLoaderShard, prepare_data_loader

from fastgradnorm import score_pool
from tests.support import pools


def main(folder):
    accelerator = Accelerator(cpu=True)
    assert accelerator.num_processes == 2
    model, shard, dispatched = accelerator.prepare(
        pools.mlp(accelerator.process_index), pools.loader(), pools.streamed()
    )
    assert isinstance(model, torch.nn.parallel.DistributedDataParallel)
    assert type(shard) is DataLoaderShard
    assert type(dispatched) is DataLoaderDispatcher
    iterated = prepare_data_loader(pools.streamed(), dispatch_batches=False)
    assert type(iterated.dataset).__name__ == "IterableDatasetShard"
    split = prepare_data_loader(pools.loader(batch_size=6), split_batches=True)
    found = {
        "shard": score_pool(model, shard, scheme=pools.SCHEMES),
        "dispatched": score_pool(model, dispatched),
        "iterated": score_pool(model, iterated),
        "split": score_pool(model, split),
        "padded": sum(len(batch) for batch in shard),
    }
    torch.save(found, Path(folder) / f"{accelerator.process_index}.pt")
    accelerator.end_training()


if __name__ == "__main__":
    main(*sys.argv[1:])
