"""The projection on a memory of 500,000 x 512: how much memory it takes, and its time beside one whole softmax in float32 and beside top-k.

    python benchmarks/memory_projection.py            random unit rows, 256 queries, temperature 0.01

Memory is the growth of the process' greatest resident size while a captioner's bridge is restored and used, the rows themselves included.
"""

import resource
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

from capdec.bridges.memory_projection import MemoryProjection
from capdec.protocols import Condition

ROWS, DIM, QUERIES, TEMPERATURE, ROUNDS = 500_000, 512, 256, 0.01, 3


def resident() -> float:
    """GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    generator = torch.Generator().manual_seed(0)
    queries = Condition.of(F.normalize(torch.randn(QUERIES, DIM, generator=generator), dim=-1))
    bridges = {name: MemoryProjection(DIM, temperature=TEMPERATURE, top_k=top_k) for name, top_k in (("exact", 0), ("top 1,000", 1000))}
    tiny = MemoryProjection(DIM, temperature=TEMPERATURE)
    tiny.restore({"memory": F.normalize(torch.randn(10, DIM), dim=-1).bfloat16()})
    tiny.from_image(queries, None)  # what the libraries need is there before it is measured

    before = resident()
    rows = torch.empty(ROWS, DIM, dtype=torch.bfloat16)
    for part in rows.split(10_000):
        part.copy_(F.normalize(torch.randn(part.shape, generator=generator), dim=-1))
    for bridge in bridges.values():
        bridge.restore({"memory": rows})
    for name, bridge in bridges.items():
        bridge.from_image(queries, None)
        print(f"{name}: {resident() - before:.2f} GiB at most until here, of which {rows.nbytes / 2**30:.2f} are the rows")

    def whole() -> torch.Tensor:
        every = rows.float()
        return F.normalize((queries.embeddings[:, 0] @ every.T / TEMPERATURE).softmax(-1) @ every, dim=-1)

    ways: dict[str, Callable[[], torch.Tensor]] = {
        "one whole softmax": whole,
        "exact": lambda: bridges["exact"].from_image(queries, None).embeddings[:, 0],
        "top 1,000": lambda: bridges["top 1,000"].from_image(queries, None).embeddings[:, 0],
    }
    found = {name: way() for name, way in ways.items()}
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            times[name].append(time.perf_counter() - start)
    for name in ways:
        apart = (found[name] - found["one whole softmax"]).norm(dim=-1).max().item()
        ratio = statistics.median(times["one whole softmax"]) / statistics.median(times[name])
        print(f"{name}: {statistics.median(times[name]):.2f} s, {ratio:.2f} x as fast as the whole softmax, at most {apart:.1e} from it")
    print(f"One whole softmax took {resident() - before:.2f} GiB.")


if __name__ == "__main__":
    main()
