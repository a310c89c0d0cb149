"""Exact nearest rows by cosine, and what follows from them. Rows are unit length; memory stays bounded because queries go in chunks."""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def nearest(
    queries: Float[Tensor, "B D"], rows: Float[Tensor, "N D"], count: int, chunk: int = 256
) -> tuple[Float[Tensor, "B K"], Int[Tensor, "B K"]]:
    """Cosines and row numbers of the `count` nearest rows of each query, nearest first."""
    found = [torch.topk(queries[start : start + chunk] @ rows.T, min(count, len(rows)), dim=-1) for start in range(0, max(1, len(queries)), chunk)]
    return torch.cat([values for values, _ in found]), torch.cat([indices for _, indices in found])


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
