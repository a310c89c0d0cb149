"""Exact search among rows by cosine, and what follows from it. Queries and rows are unit length and go in chunks, so that memory stays bounded; rows
may be kept in bfloat16, and are compared in the queries' precision.

A row can be of a group (the photo it speaks of), and a query may say which group it must not see: its own, where it is to be told what others say.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

QUERIES, ROWS = 1_024, 16_384


def nearest(
    queries: Float[Tensor, "B D"],
    rows: Float[Tensor, "N D"],
    count: int,
    groups: Int[Tensor, "N"] | None = None,
    unseen: Int[Tensor, "B"] | None = None,
    chunk: int = ROWS,
) -> tuple[Float[Tensor, "B K"], Int[Tensor, "B K"]]:
    """Cosines and row numbers of the `count` nearest rows of each query, nearest first. Rows that a query must not see come last, at -inf."""
    found = []
    for some, hidden in _in_parts(queries, unseen):
        values, places = some.new_empty(len(some), 0), torch.empty(len(some), 0, dtype=torch.long, device=some.device)
        for at in range(0, len(rows), chunk):
            cosines = _cosines(some, rows, at, chunk, groups, hidden)
            here = torch.arange(at, at + cosines.shape[1], device=some.device).expand_as(cosines)
            values, best = torch.cat([values, cosines], 1).topk(min(count, values.shape[1] + cosines.shape[1]), dim=1)
            places = torch.cat([places, here], 1).gather(1, best)
        found.append((values, places))
    return torch.cat([values for values, _ in found]), torch.cat([places for _, places in found])


def soft_nearest(
    queries: Float[Tensor, "B D"],
    rows: Float[Tensor, "N D"],
    temperature: float,
    groups: Int[Tensor, "N"] | None = None,
    unseen: Int[Tensor, "B"] | None = None,
    chunk: int = ROWS,
) -> Float[Tensor, "B D"]:
    """The mean of all rows, each with weight softmax(cosine / temperature): DeCap's projection before it is brought to unit length. Exact: the
    softmax is summed chunk by chunk, against the highest cosine so far. Zero for a query that may see no row."""
    found = []
    for some, hidden in _in_parts(queries, unseen):
        highest, weight, total = some.new_full((len(some), 1), -torch.inf), some.new_zeros(len(some), 1), torch.zeros_like(some)
        for at in range(0, len(rows), chunk):
            logits = _cosines(some, rows, at, chunk, groups, hidden) / temperature
            before, highest = highest, torch.maximum(highest, logits.amax(1, keepdim=True))
            level = highest.clamp(min=torch.finfo(some.dtype).min)  # where nothing was seen yet
            logits, faded = (logits - level).exp(), (before - level).exp()
            weight = weight * faded + logits.sum(1, keepdim=True)
            total = total * faded + logits @ rows[at : at + chunk].to(some.dtype)
        found.append(total / weight.clamp(min=torch.finfo(some.dtype).tiny))
    return torch.cat(found)


def _in_parts(queries: Tensor, unseen: Tensor | None) -> list[tuple[Tensor, Tensor | None]]:
    """At least one part, which may be empty."""
    parts = queries.split(QUERIES)
    return list(zip(parts, unseen.split(QUERIES) if unseen is not None else [None] * len(parts), strict=True))


def _cosines(
    queries: Tensor, rows: Tensor, at: int, chunk: int, groups: Int[Tensor, "N"] | None, unseen: Int[Tensor, "B"] | None
) -> Float[Tensor, "B C"]:
    cosines = queries @ rows[at : at + chunk].to(queries.dtype).T
    if groups is not None and unseen is not None:
        cosines.masked_fill_(groups[at : at + chunk] == unseen.unsqueeze(1), -torch.inf)
    return cosines


def recall(images: Float[Tensor, "B D"], texts: Float[Tensor, "N D"], owners: Int[Tensor, "N"]) -> dict[str, float]:
    """Recall at 1, 5 and 10 in percent, both ways; text n belongs to image owners[n]. An image counts where any of its texts is found."""
    cosines = texts @ images.T  # (N, B)
    own = cosines.gather(1, owners[:, None])
    text_rank = (cosines > own).sum(1)  # how many images are nearer than the right one
    best = torch.full((len(images),), -torch.inf).scatter_reduce(0, owners, own.squeeze(1), "amax")
    image_rank = (best[:, None] < cosines.T).sum(1)
    scores = {}
    for name, rank in (("text_to_image", text_rank), ("image_to_text", image_rank)):
        for k in (1, 5, 10):
            scores[f"{name}_R@{k}"] = round(100 * (rank < k).float().mean().item(), 2)
    return scores
