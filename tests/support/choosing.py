"""Selection strategies as loops that are slow and plain."""

import torch


def lcmd(points, labelled, count):
    """Positions, in order: of the largest cluster around what is chosen, the farthest point."""
    x, centers, chosen = points.double(), list(labelled.double()), []
    for _ in range(count):
        sq = torch.stack([(x - c).square().sum(1) for c in centers], 1)
        nearest, place = sq.min(1)
        sizes = torch.stack([nearest[place == c].sum() for c in range(len(centers))])
        inside = torch.where(place == sizes.argmax(), nearest, -1.0)
        chosen.append(int(inside.argmax()))
        centers.append(x[chosen[-1]])
    return chosen
