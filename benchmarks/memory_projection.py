"""DeCap's projection on a memory of captions: its time beside one whole softmax in float32 and beside faiss, and the memory it takes.

    python benchmarks/memory_projection.py [out.json]            temperature 0.01, rows of 512; faiss' row needs capdec[bench]

Rows lie like CLIP's texts: a mean cosine of a half, most of the rest in few directions, many captions of one thing. Queries are mixtures of four of
them and noise. Peak memory is what a process of its own grows by while rows are drawn and a bridge is restored and used on 32 queries.
"""

import multiprocessing
from typing import Any

import torch
import torch.nn.functional as F
from side_by_side import Way, best, compare, peak, report, with_threads
from torch import Tensor

from capdec.bridges.memory_projection import MemoryProjection
from capdec.protocols import Condition

try:
    import faiss
except ImportError:
    faiss = None

DIM, TEMPERATURE, CLOSE = 512, 0.01, 0.9999


def captions(count: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(DIM, DIM, generator=generator)).Q
    scale = F.normalize(1 / (1 + torch.arange(DIM) / 20), dim=0)
    things = torch.randn(max(1, count // 25), DIM, generator=generator)
    rows = torch.empty(count, DIM, dtype=torch.bfloat16)
    for part in rows.split(1_000):
        of = things[torch.randint(len(things), (len(part),), generator=generator)]
        told = (0.75 * of + 0.66 * torch.randn(part.shape, generator=generator)) * scale
        told[:, 0] += 1  # what all have in common
        part.copy_(F.normalize(told @ basis, dim=-1))
    return rows


def mixtures(rows: Tensor, count: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    shares = torch.rand(count, 4, 1, generator=generator)
    mixed = F.normalize((shares * rows[torch.randint(len(rows), (count, 4), generator=generator)].float()).sum(1), dim=-1)
    return F.normalize(mixed + 0.5 * F.normalize(torch.randn(mixed.shape, generator=generator), dim=-1), dim=-1)


def bridge(rows: Tensor, dtype: str) -> MemoryProjection:
    made = MemoryProjection(DIM, temperature=TEMPERATURE)
    made.dtype = dtype
    made.restore({"memory": rows})
    return made


def projected(made: MemoryProjection, queries: Tensor) -> Tensor:
    return made.from_image(Condition.of(queries), None).embeddings[:, 0]


def whole(queries: Tensor, every: Tensor) -> Tensor:
    return F.normalize((queries @ every.T / TEMPERATURE).softmax(-1) @ every, dim=-1)


def sought(index: Any, queries: Tensor, every: Tensor, count: int) -> Tensor:
    cosines, places = map(torch.from_numpy, index.search(queries.numpy(), count))
    some = zip((cosines / TEMPERATURE).softmax(-1), places, strict=True)
    return F.normalize(torch.stack([weights @ every[place] for weights, place in some]), dim=-1)


def taken(count: int) -> str:
    """In a process of its own, after a memory of 100 rows: what the libraries need is there before it is measured."""
    with torch.inference_mode():
        projected(bridge(captions(100), "bfloat16"), mixtures(captions(100), 32))
        before = peak()
        rows = captions(count)
        projected(bridge(rows, "bfloat16"), mixtures(rows, 32))
        return f"Ours takes {peak() - before:,.0f} MiB at most, of which {rows.nbytes / 2**20:,.0f} are the rows."


def measured(count: int, batch: int, note: str = "", seek: bool = False) -> dict[str, Any]:
    rows = captions(count)
    every, queries = rows.float(), mixtures(rows, batch)
    exact = whole(queries, every)
    made = {dtype: bridge(rows, dtype) for dtype in ("bfloat16", "float32")}
    near = {name: F.cosine_similarity(projected(one, queries), exact).min().item() for name, one in made.items()}
    assert near["bfloat16"] >= CLOSE and near["float32"] >= 1 - 1e-5, near

    ours = Way("ours, bfloat16", lambda: projected(made["bfloat16"], queries), batch, 4 * batch * count * DIM, rows.nbytes)
    plain = Way("ours, float32 (the default)", lambda: projected(made["float32"], queries), batch, ours.flops, rows.nbytes, "float32")
    names = [(threads, f"one softmax in float32, {threads} thread{'s' * (threads > 1)}") for threads in {1, torch.get_num_threads()}]
    softmax = best([Way(name, with_threads(lambda: whole(queries, every), threads), batch, ours.flops, 0, "float32") for threads, name in names])
    softmax.aim = 4 if batch == 32 and count == 500_000 else 0
    others = [plain, softmax]
    if seek and faiss is not None:
        index = faiss.IndexFlatIP(DIM)
        index.add(every.numpy())
        for found in (100, 1_000, 10_000, 50_000):
            if F.cosine_similarity(sought(index, queries, every, found), exact).min() >= CLOSE:
                others.append(Way(f"faiss flat, {found:,} nearest", lambda found=found: sought(index, queries, every, found), batch))
                break
        else:
            note += " faiss: even the 50,000 nearest are too few."
    elif seek:
        note += " faiss is not here."
    work = f"projection, {count:,} rows, {batch} at once"
    return compare(work, "query", ours, others, rounds=5, equal=f"cosine to the softmax at least {near['bfloat16']:.6f}", note=note)


def main() -> None:
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        sizes = {count: pool.apply(taken, (count,)) for count in (10_000, 50_000, 500_000)}
    rows = [measured(count, 32, note, seek=count == 500_000) for count, note in sizes.items()]
    rows += [measured(500_000, batch) for batch in (1, 256)]
    report(rows)
    for row in rows:
        print(f"{row['work']}: {row['equal']}. {row['note']}")


if __name__ == "__main__":
    with torch.inference_mode():
        main()
