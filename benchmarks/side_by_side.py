"""How benchmarks are run: ways of doing one thing, side by side, beside what the machine can do at most.

Every way is warmed up once; then come rounds, in each of which every way runs once, so that whatever else this machine does falls on all of them
alike. Given are the minimum and the median of the rounds, and ratios of these. Ceilings are measured in the same process: the rate of the largest
matrix products, by type, and the rate at which memory is read.
"""

import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@dataclass
class Way:
    """One way to do the work. A call makes `units` of it (captions, photos), for which the model's mathematics asks `flops` in `dtype`, and reading
    its weights `bytes`; with `aim`, ours is to be so many times as fast."""

    name: str
    run: Callable[[], Any]
    units: float = 1
    flops: float = 0
    bytes: float = 0
    dtype: str = "bfloat16"
    aim: float = 0
    rounds: list[float] = field(default_factory=list)
    """Seconds a unit."""


def seconds(run: Callable[[], Any]) -> float:
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def with_threads(run: Callable[[], Any], count: int) -> Callable[[], Any]:
    """`run` on so many threads of torch's."""

    def limited() -> Any:
        before = torch.get_num_threads()
        torch.set_num_threads(count)
        try:
            return run()
        finally:
            torch.set_num_threads(before)

    return limited


def best(ways: Sequence[Way]) -> Way:
    """The fastest of several settings of one way, each warmed up and tried twice."""
    for way in ways:
        way.run()
    return min(ways, key=lambda way: min(seconds(way.run), seconds(way.run)) / way.units)


def compare(work: str, unit: str, ours: Way, others: Sequence[Way], rounds: int = 5, equal: str = "", note: str = "") -> dict[str, Any]:
    """Runs the rounds and returns a row of the table. `equal` says what was asserted of the outputs before."""
    ways = [ours, *others]
    for way in ways:
        way.run()
    for _ in range(rounds):
        for way in ways:
            way.rounds.append(seconds(way.run) / way.units)
    limits = ceilings()
    row: dict[str, Any] = {"work": work, "unit": unit, "rounds": rounds, "equal": equal, "note": note, "ways": []}
    for way in ways:
        low, middle = min(way.rounds), statistics.median(way.rounds)
        found = {"name": way.name, "minimum": low, "median": middle, "seconds": way.rounds, "aim": way.aim}
        if way is not ours:
            found |= {"ratio_of_minima": low / min(ours.rounds), "ratio_of_medians": middle / statistics.median(ours.rounds)}
        if way.flops:
            found["of_matrix_rate"] = way.flops / way.units / low / limits[way.dtype]
        if way.bytes:
            found["of_memory_rate"] = way.bytes / way.units / low / limits["memory"]
        row["ways"].append(found)
    return row


_CEILINGS: dict[str, float] = {}


def ceilings() -> dict[str, float]:
    """What this machine reaches at most: FLOP/s of square products by type, bytes/s read from memory. Measured once a process."""
    if not _CEILINGS:
        with torch.inference_mode():
            for name in ("float32", "bfloat16"):
                _CEILINGS[name] = max(_product(size, getattr(torch, name)) for size in (1024, 2048, 4096))
            many = torch.ones(2**28 // 4, device=DEVICE)  # 256 MiB
            _CEILINGS["memory"] = many.nbytes / min(seconds(many.sum) for _ in range(8))
    return _CEILINGS


def _product(size: int, dtype: torch.dtype) -> float:
    left, right = (torch.randn(size, size, device=DEVICE).to(dtype) for _ in range(2))

    def run() -> Tensor:
        return left @ right

    run()
    return 2 * size**3 / min(seconds(run) for _ in range(8))


def machine() -> dict[str, Any]:
    model = next((line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), platform.processor())
    flags = next((line.split() for line in _lines("/proc/cpuinfo") if line.startswith("flags")), [])
    about = {
        "processor": model, "threads": torch.get_num_threads(), "amx": "amx_bf16" in flags, "avx512_bf16": "avx512_bf16" in flags,
        "torch": torch.__version__, "device": torch.cuda.get_device_name() if DEVICE == "cuda" else "cpu",
    }  # fmt: skip
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, cwd=Path(__file__).parent, check=False)
    return {**about, "commit": commit.stdout.strip(), "time": time.strftime("%Y-%m-%d %H:%M", time.gmtime())}


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).is_file() else []


def peak() -> float:
    """MiB: the greatest resident size of this process so far, or on a GPU what was allocated there."""
    if DEVICE == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    known = next((line.split()[1] for line in _lines("/proc/self/status") if line.startswith("VmHWM")), None)  # rusage's begins at the parent's
    return int(known) / 2**10 if known else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def report(rows: Sequence[dict[str, Any]]) -> None:
    """Called once at the end of a benchmark: prints the rows, and writes them to the file named on the command line, if one is."""
    whole = {"machine": machine(), "ceilings": ceilings(), "rows": list(rows)}
    print(table(rows))
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(json.dumps(whole, indent=1) + "\n")


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown."""
    lines = [
        "| work | way | a second, best (median) | ours is faster by, best (median) | aim | of the machine's limit |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        for place, way in enumerate(row["ways"]):
            limits = [f"{100 * way[key]:.0f} % {name}" for key, name in (("of_matrix_rate", "matrix"), ("of_memory_rate", "memory")) if key in way]
            ratio = f"{way['ratio_of_minima']:.2f} ({way['ratio_of_medians']:.2f})" if "ratio_of_minima" in way else ""
            rate = f"{1 / way['minimum']:,.4g} ({1 / way['median']:,.4g}) {row['unit']}"
            aim = f"{way['aim']:g}" if way["aim"] else ""
            lines.append(f"| {row['work'] if not place else ''} | {way['name']} | {rate} | {ratio} | {aim} | {', '.join(limits)} |")
    return "\n".join(lines)
