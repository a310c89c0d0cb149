"""The promises of `capdec bulk` and `capdec serve`, tried on the real processes: docs/reliability.md has what came of it.

    python benchmarks/reliability.py kills      20,000 photos, killed five times, beside an undisturbed run, row by row
    python benchmarks/reliability.py memory     10,000 and 100,000 photos: what all processes hold together
    python benchmarks/reliability.py faults     a full disk, a folder that may not be read, SIGTERM, a bad shard among good ones
    python benchmarks/reliability.py load       50 clients for a minute: latency, throughput, whose answer is whose, memory
    python benchmarks/reliability.py overload   twice as many requests as can be answered

Each prints what it found as JSON. The photos are crops of those that come with scikit-image; nothing else should run meanwhile. `faults` mounts a
small file system and changes user, for which it has to be root.
"""

import asyncio
import itertools
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from encoders import jpegs

COMMAND = [sys.executable, "-m", "capdec"]
GREEDY = ["--strategy", "greedy", "--captions", "1", "--rerank", "none"]
CLIENTS, WARM, SECONDS, KINDS = 50, 20, 60, 400  # KINDS: photos that differ


def many(folder: Path, number: int, bad: int = 0) -> Path:
    """So many photos, KINDS different ones under many names, and some that are none."""
    (folder / "different").mkdir(parents=True)
    different = jpegs(folder / "different", KINDS)
    (folder / "photos").mkdir()
    for place in range(number):
        path = folder / "photos" / f"{place:06d}.jpg"
        path.write_bytes(b"no photo") if bad and place % (number // bad) == 1 else path.hardlink_to(different[place % KINDS])
    return folder / "photos"


def below(pid: int) -> dict[int, str]:
    """The processes below one, with their names."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    names = {}
    for one in found - {pid}:
        try:
            names[one] = Path(f"/proc/{one}/cmdline").read_text().replace("\0", " ").strip()
        except OSError:
            continue
    return names


def held(pid: int) -> float:
    """MiB of a process and all below it; what they share counts once."""
    total = 0
    for one in (pid, *below(pid)):
        try:
            total += next(int(line.split()[1]) for line in Path(f"/proc/{one}/smaps_rollup").read_text().splitlines() if line.startswith("Pss:"))
        except (OSError, StopIteration):
            continue
    return total / 1024


@contextmanager
def watched(pid: int) -> Iterator[list[float]]:
    """What is held, twice a second."""
    seen: list[float] = []
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.5):
            seen.append(held(pid))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


def rows(output: Path) -> list[dict[str, Any]]:
    return [row for file in sorted(output.glob("captions/*.parquet")) for row in pq.read_table(file).to_pylist()]


def bulk(inputs: Path | str, output: Path, *more: str) -> list[str]:
    return [*COMMAND, "bulk", str(inputs), "--output", str(output), "--rows", "500", *more]


def kills(folder: Path) -> dict[str, Any]:
    photos, chance = many(folder, 20_000, bad=20), random.Random(0)
    began = time.monotonic()
    subprocess.run(bulk(photos, folder / "whole"), check=False, capture_output=True)
    undisturbed, killed = time.monotonic() - began, folder / "killed"
    told, began = [], time.monotonic()
    for turn in range(6):
        process = subprocess.Popen(bulk(photos, killed), stderr=subprocess.DEVNULL)
        before = len(list(killed.glob("captions/[0-9]*")))
        while process.poll() is None and turn < 5 and len(list(killed.glob("captions/[0-9]*"))) < before + 3:
            time.sleep(0.05)
        if turn < 5:
            time.sleep(chance.random() * 4)
            victims = [pid for pid, name in below(process.pid).items() if name.startswith("ray::MapWorker")]
            if turn % 2 and victims:
                os.kill(chance.choice(victims), signal.SIGKILL)
                time.sleep(3)
            process.kill()
            halves = len(list(killed.glob("captions/.*")))
            told.append({"killed": "a worker, then the driver" if turn % 2 else "the driver", "pieces": len(list(killed.glob("captions/[0-9]*"))),
                         "half-written": halves})  # fmt: skip
        process.wait()
        time.sleep(2)
    first, second = rows(folder / "whole"), rows(killed)
    return {
        "photos": len(first), "errors": sum(row["error"] is not None for row in first), "keys that come once": len({row["key"] for row in second}),
        "rows that differ from the undisturbed run": sum(one != other for one, other in itertools.zip_longest(first, second)),
        "seconds undisturbed": round(undisturbed), "seconds with five kills": round(time.monotonic() - began), "kills": told,
        "half-written files left": len(list(killed.rglob(".*.part"))),
    }  # fmt: skip


def memory(folder: Path) -> dict[str, Any]:
    found = {}
    for number in (10_000, 100_000):
        photos = many(folder / str(number), number)
        began = time.monotonic()
        process = subprocess.Popen(bulk(photos, folder / f"out-{number}", *GREEDY), stderr=subprocess.DEVNULL)
        with watched(process.pid) as seen:
            process.wait()
        seconds = time.monotonic() - began
        third = len(seen) // 3
        steady = [round(statistics.median(part)) for part in (seen[third : 2 * third], seen[2 * third :])]
        found[f"{number:,} photos"] = {
            "exit": process.returncode, "rows": sum(pq.read_metadata(file).num_rows for file in folder.glob(f"out-{number}/captions/*.parquet")),
            "seconds": round(seconds), "a second": round(number / seconds), "MiB at most": round(max(seen)),
            "MiB, median of the second third and of the last": steady,
        }  # fmt: skip
    return found


def faults(folder: Path) -> dict[str, Any]:
    photos, found = many(folder, 4000), {}
    small = folder / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=96k", "tmpfs", str(small)], check=True)
    try:
        done = subprocess.run(bulk(photos, small / "out"), capture_output=True, text=True, check=False)
        kept = len(list((small / "out").glob("captions/[0-9]*")))
        found["a disk that is full"] = {"exit": done.returncode, "said": done.stderr.strip().splitlines()[-1], "pieces kept": kept}
        subprocess.run(["mount", "-o", "remount,size=64m", str(small)], check=True)
        done = subprocess.run(bulk(photos, small / "out"), capture_output=True, text=True, check=False)
        found["and when it has room again"] = {
            "exit": done.returncode,
            "said": done.stderr.strip().splitlines()[-1],
            "rows": len(rows(small / "out")),
        }
    finally:
        subprocess.run(["umount", str(small)], check=True)
    secret = photos / "secret"
    secret.mkdir(mode=0o700)
    # everything is imported before, which may lie where nobody may read
    as_nobody = "import os, sys, fsspec, capdec.bulk as b; b.Captioner.load(); os.setuid(65534); from capdec.cli import main; main()"
    (folder / "no").mkdir(mode=0o777)
    for path in (folder, folder / "no"):
        path.chmod(0o777)
    done = subprocess.run([sys.executable, "-c", as_nobody, *bulk(photos, folder / "no")[3:]], capture_output=True, text=True, check=False)
    found["a folder that may not be read"] = {"exit": done.returncode, "said": done.stderr.strip().splitlines()[-1]}
    secret.rmdir()
    process = subprocess.Popen(bulk(photos, folder / "term"), stderr=subprocess.PIPE, text=True)
    while not list(folder.glob("term/captions/[0-9]*")):
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    asked = time.monotonic()
    process.communicate()
    found["SIGTERM"] = {
        "exit": process.returncode,
        "seconds": round(time.monotonic() - asked, 1),
        "pieces kept": len(list(folder.glob("term/captions/[0-9]*"))),
    }
    subprocess.run(bulk(photos, folder / "term"), capture_output=True, check=False)
    again = rows(folder / "term")
    found["and started again"] = {"rows": len(again), "keys": len({row["key"] for row in again})}
    (folder / "shards").mkdir()
    names = sorted(path.name for path in photos.iterdir())
    for shard in range(3):
        subprocess.run(
            ["tar", "-chf", str(folder / "shards" / f"{shard}.tar"), "-C", str(photos), *names[shard * 300 : shard * 300 + 300]], check=True
        )
    cut = folder / "shards" / "1.tar"
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    done = subprocess.run(bulk(folder / "shards", folder / "tars"), capture_output=True, text=True, check=False)
    wrong = [row["error"] for row in rows(folder / "tars") if row["error"]]
    found["a shard that is cut off"] = {
        "exit": done.returncode,
        "rows": len(rows(folder / "tars")),
        "errors": [error.replace(str(folder), "") for error in wrong],
    }
    return found


# --- the service


@contextmanager
def server(*more: str) -> Iterator[tuple[subprocess.Popen, int]]:
    process = subprocess.Popen([*COMMAND, "serve", "--port", "0", *more], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    port = int(process.stdout.readline().rpartition(":")[2])
    try:
        yield process, port
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def request(photo: bytes, name: str) -> bytes:
    """A whole POST of one photo, ready to be sent: clients are not to take the machine from the server."""
    edge = b"-" * 8 + b"edge"
    body = b"--" + edge + f'\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\nContent-Type: image/jpeg\r\n\r\n'.encode() + photo
    body += b"\r\n--" + edge + b"--\r\n"
    kind = f"Content-Type: multipart/form-data; boundary={edge.decode()}"
    return f"POST /v1/captions HTTP/1.1\r\nHost: here\r\n{kind}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, content: bytes) -> tuple[int, dict[str, str], dict[str, Any]]:
    writer.write(content)
    await writer.drain()
    head = (await reader.readuntil(b"\r\n\r\n")).decode().splitlines()
    headers = {key.lower(): value.strip() for key, _, value in (line.partition(":") for line in head[1:] if line)}
    return int(head[0].split()[1]), headers, json.loads(await reader.readexactly(int(headers["content-length"])))


def plain(folder: Path) -> tuple[dict[str, str], float]:
    """What each photo's caption is, and photos a second, in batches of the captioner's own (the best of three)."""
    from capdec import Captioner
    from capdec.caption import caption_files

    captioner = Captioner.load(dtype="float32")
    paths = sorted(map(str, (folder / "different").iterdir()))
    taken = []
    for _ in range(3):
        began = time.perf_counter()
        said = {Path(record.path).name: record.caption.text for record in caption_files(captioner, paths) if record.caption}
        taken.append(len(paths) / (time.perf_counter() - began))
    return said, max(taken)


def percent(values: list[float], share: float) -> float:
    return round(1000 * sorted(values)[min(len(values) - 1, int(share * len(values)))])


def load(folder: Path) -> dict[str, Any]:
    many(folder, 1)
    said, rate = plain(folder)
    requests = {name: request((folder / "different" / name).read_bytes(), name) for name in said}
    waits: list[float] = []
    wrong: list[str] = []

    async def client(port: int, number: int, end: float) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        chance = random.Random(number)
        while time.monotonic() < end:
            name = chance.choice([*said])
            began = time.monotonic()
            status, _, answer = await ask(reader, writer, requests[name])
            waits.append(time.monotonic() - began)
            if status != 200 or answer["results"][0]["name"] != name or answer["results"][0]["caption"] != said[name]:
                wrong.append(f"{status} {answer}")
        writer.close()

    async def clients(port: int, seconds: float) -> None:
        end = time.monotonic() + seconds
        await asyncio.gather(*(client(port, number, end) for number in range(CLIENTS)))

    with server("--dtype", "float32") as (process, port):
        asyncio.run(clients(port, WARM))
        warm = len(waits)
        waits.clear()
        with watched(process.pid) as seen:
            began = time.monotonic()
            asyncio.run(clients(port, SECONDS))
            seconds = time.monotonic() - began
    tenth = max(1, len(seen) // 10)
    return {
        "clients": CLIENTS, "seconds": round(seconds), "warm-up requests": warm, "answers": len(waits),
        "lost or mixed up": len(wrong), "first": wrong[:1], "ms p50": percent(waits, 0.5), "ms p99": percent(waits, 0.99),
        "a second": round(len(waits) / seconds, 1), "plain batches, a second": round(rate, 1),
        "share of the plain rate": round(len(waits) / seconds / rate, 2),
        "MiB in the first and the last tenth": [round(statistics.median(seen[:tenth])), round(statistics.median(seen[-tenth:]))],
    }  # fmt: skip


def overload(folder: Path) -> dict[str, Any]:
    many(folder, 1)
    said, rate = plain(folder)
    requests = [request((folder / "different" / name).read_bytes(), name) for name in said]
    served: list[float] = []
    refused: list[float] = []
    other: list[str] = []
    retry: set[str] = set()

    async def one(port: int, content: bytes) -> None:
        began = time.monotonic()
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            status, headers, answer = await ask(reader, writer, content)
            writer.close()
        except OSError as error:
            other.append(str(error))
            return
        if status == 429:
            retry.add(headers["retry-after"])
        {200: served, 429: refused}[status].append(time.monotonic() - began) if status in (200, 429) else other.append(str(answer))

    async def flood(port: int) -> None:
        """Requests come at their own pace, whatever becomes of those before."""
        tasks, began = [], time.monotonic()
        for number in range(int(2 * rate * 30)):
            await asyncio.sleep(max(0.0, began + number / (2 * rate) - time.monotonic()))
            tasks.append(asyncio.create_task(one(port, requests[number % len(requests)])))
        await asyncio.gather(*tasks)

    with server("--dtype", "float32", "--queue", "128", "--deadline", "10") as (_, port):
        asyncio.run(flood(port))
    return {
        "plain batches, a second": round(rate, 1), "asked, a second": round(2 * rate, 1), "asked": len(served) + len(refused) + len(other),
        "served": len(served), "served, ms p50 and p99 and at most": [percent(served, 0.5), percent(served, 0.99), percent(served, 1)],
        "deadline, ms": 10_000, "refused with 429": len(refused),
        "refused, ms p50 and p99": [percent(refused, 0.5), percent(refused, 0.99)] if refused else None,
        "Retry-After, seconds": sorted(retry), "otherwise": len(other), "first": other[:1],
    }  # fmt: skip


def main() -> None:
    tried: dict[str, Callable[[Path], dict[str, Any]]] = {"kills": kills, "memory": memory, "faults": faults, "load": load, "overload": overload}
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps({sys.argv[1]: tried[sys.argv[1]](Path(folder))}, indent=2))


if __name__ == "__main__":
    main()
