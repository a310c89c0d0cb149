"""Captions for a million photos, or a hundred million stored embeddings: on one machine or on a Ray cluster, killed and started again at will.

A worker captions a piece of the input from its beginning, writes it under a temporary name and renames it. A piece that is there is never done
again, and one that is done twice comes out the same, so nothing else records who did what: the files are the record. Ray Data hands the pieces that
are not there yet to the workers, and to another where one dies.

DIR/manifest.json            what is captioned, by what and how: a run of anything else is refused
DIR/plan.parquet             the pieces, as the first run found them; photos.parquet beside it names those of a folder
DIR/captions/000000.parquet  key, caption, score, alternatives, error: a row for each photo or embedding
DIR/summary.json             counts and time; errors.jsonl beside it has the key of each row that failed, and why
"""

import fcntl
import itertools
import json
import logging
import math
import os
import re
import socket
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from capdec import __version__
from capdec.captioner import Captioner, embedded
from capdec.corpus import opened_photos
from capdec.errors import CapdecError, DataError, ImageError, MismatchError, MissingExtra, SettingError, brief, one_line
from capdec.files import as_text, exists, join, names_in, open_file, writing
from capdec.pieces import Photo, Piece, Reading, plan, read_photos, read_vectors
from capdec.progress import Progress
from capdec.protocols import Caption, Decoding

try:
    import pyarrow as pa
    import pyarrow.compute
    import pyarrow.parquet as pq
except ImportError as error:
    raise MissingExtra("pyarrow", "bulk", "captioning in bulk") from error

FORMAT = 1
CAPTION = pa.struct([("caption", pa.string()), ("score", pa.float32())])
SURE = pa.struct([("confidence", pa.float32()), ("unsure", pa.bool_())])
ROW = pa.schema([("key", pa.string()), *CAPTION, ("alternatives", pa.list_(CAPTION)), *SURE, ("error", pa.string())])
OBJECT_STORE = 150_000_000  # bytes; what passes through it are pieces' numbers, no photos
DEATHS = 3  # of workers at one piece; were there no end, a photo that kills its decoder would be tried for ever
PLACES = 10_000_000  # draws belong to a piece and a place in it


@dataclass(frozen=True)
class Job:
    """All that a worker has to know. `fingerprint` is the captioner's."""

    output: str
    captioner: str
    fingerprint: str
    reading: Reading
    decoding: Decoding
    batch: int
    dtype: str
    device: str = "cpu"
    threads: int = 1
    own_parts: bool = False


def bulk(
    inputs: Sequence[str],
    output: Path | str,
    captioner: str = "flickr",
    decoding: Decoding | None = None,
    *,
    column: str | None = None,
    key: str | None = None,
    rows: int | None = None,
    batch: int = 32,
    max_errors: int | None = None,
    address: str | None = None,
    workers: int | None = None,
    threads: int | None = None,
    device: str = "auto",
    dtype: str = "auto",
    own_parts: bool = False,
    shown: bool = True,
) -> dict[str, Any]:
    """Captions what is in `inputs` (folders, patterns or files: photos, .tar, .parquet, .npy, .safetensors; local, or of any file system that fsspec
    knows) into the folder `output`, and returns the summary that is written there.

    `rows` are those of an output file (a tar makes one of its own). `column` and `key` name columns that are not found by their usual names. After
    more than `max_errors` rows that failed it stops. `address` is a Ray cluster's; without one Ray is started here. A worker has a GPU, or `threads`
    cores where there are none.

    Raises DataError where there is nothing to caption, where too much failed and where a worker cannot go on; MismatchError where `output` is of
    another run; SettingError.
    """
    if not inputs or batch < 1 or (rows is not None and not 1 <= rows <= PLACES):
        raise SettingError(f"a run has inputs, batches of at least 1 and files of at least 1 row; {list(inputs)}, batch {batch}, rows {rows} came.")
    loaded = Captioner.load(captioner, own_parts=own_parts)
    loaded.check(decoding or loaded.decoding)
    if captioner not in embedded() and Path(captioner).is_dir():
        captioner = str(Path(captioner).absolute())  # a cluster's workers begin in another folder
    output = str(output).removeprefix("file://")  # of local files half of one would be seen under its name
    where = output if "://" in output else str(Path(output).absolute())
    sources = [one if "://" in one else str(Path(one).absolute()) for one in inputs]
    sure = loaded.confidence_for(decoding)
    asked = {
        "format_version": FORMAT, "inputs": sources, "captioner": loaded.fingerprint, "decoding": asdict(decoding or loaded.decoding), "batch": batch,
        "dtype": dtype, "asked": {"column": column, "key": key, "rows": rows}, "confidence": sure.fingerprint if sure else None,
    }  # fmt: skip
    with _alone(where):
        reading, pieces = _planned(where, asked, loaded.backbone.dim)
        job = Job(where, captioner, loaded.fingerprint, reading, decoding or loaded.decoding, batch, dtype, own_parts=own_parts)
        del loaded  # workers have their own
        return _run(job, pieces, max_errors, address, workers, threads, device, shown)


def _planned(output: str, asked: dict[str, Any], dim: int) -> tuple[Reading, list[Piece]]:
    """What the run that began here was to do, or what a new one is."""
    path = join(output, "manifest.json")
    if exists(path):
        with open_file(path) as file:
            manifest = json.load(file)
        changed = [
            f"{name} was {json.dumps(manifest.get(name))}, now {json.dumps(value)}" for name, value in asked.items() if manifest.get(name) != value
        ]
        if changed:
            raise MismatchError(f"{output} holds a run with something else ({'; '.join(changed)}). Name another folder, or delete this one.")
        with open_file(join(output, "plan.parquet")) as file:
            return Reading(**manifest["reading"]), [Piece(**row) for row in pq.read_table(file).to_pylist()]
    if names_in(join(output, "captions")):
        raise MismatchError(f"{output} holds captions, and no manifest.json that says of what. Name another folder.")
    reading, pieces = plan(asked["inputs"], join(output, "photos.parquet"), dim, **asked["asked"])
    with writing(join(output, "plan.parquet")) as temporary:
        pq.write_table(pa.Table.from_pylist([asdict(piece) for piece in pieces]), temporary)
    _write_json(
        path, {"capdec": __version__, **asked, "reading": asdict(reading), "pieces": len(pieces), "rows": sum(piece.rows for piece in pieces)}
    )
    return reading, pieces


def _run(
    job: Job, pieces: list[Piece], max_errors: int | None, address: str | None, workers: int | None, threads: int | None, device: str, shown: bool
) -> dict[str, Any]:
    began, done = time.monotonic(), _finished(job.output)
    before = count = sum(rows for rows, _ in done.values())
    failed = sum(errors for _, errors in done.values())
    todo = [piece for piece in pieces if piece.number not in done]
    known = all(piece.rows for piece in pieces)  # of tar shards only reading tells how many photos they hold
    total, start = (sum(piece.rows for piece in pieces), before) if known else (len(pieces), len(done))
    new = _through_ray(job, todo, address, workers, threads, device)
    with Progress("rows" if known else "shards", total, shown, start) as bar, closing(new):
        _stop_at(max_errors, failed, job.output)
        for number, (rows, wrong) in enumerate(new, start=len(done) + 1):
            count, failed = count + rows, failed + wrong
            rate = "" if known else f"{count:,} rows, {(count - before) / (time.monotonic() - began):.1f} rows/s, "
            bar.update(count if known else number, f"{rate}{failed:,} errors")
            _stop_at(max_errors, failed, job.output)
    seconds = time.monotonic() - began
    there = _finished(job.output)
    if missing := [piece.number for piece in pieces if piece.number not in there]:
        raise DataError(
            f"{len(missing):,} of {len(pieces):,} files that workers wrote are not in {job.output}/captions ({missing[0]:06d}.parquet is the first). "
            f"Name a folder that all machines share, or an object store."
        )
    errors = _write_errors(job.output, there)
    this_run = {"rows": count - before, "pieces": len(todo), "seconds": round(seconds, 1), "rows_per_second": round((count - before) / seconds, 2)}
    summary = {"rows": count, "captioned": count - failed, "errors": failed, "pieces": len(pieces), "this_run": this_run, "first_errors": errors}
    _write_json(join(job.output, "summary.json"), summary)
    return summary


def _stop_at(most: int | None, failed: int, output: str) -> None:
    if most is not None and failed > most:
        _write_errors(output, _finished(output))
        raise DataError(
            f"{failed:,} rows failed, and at most {most:,} may: {output}/errors.jsonl says which, and why. To go on, allow more (--max-errors)."
        )


def _through_ray(
    job: Job, pieces: list[Piece], address: str | None, workers: int | None, threads: int | None, device: str
) -> Generator[tuple[int, int], None, None]:
    """Rows and errors of each piece as it is finished."""
    if not pieces:
        return
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise MissingExtra("ray", "bulk", "captioning in bulk") from error
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would tell its makers
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # it warns of what every actor of Ray Data's does
    ours: dict[str, Any] = {"include_dashboard": False, "object_store_memory": OBJECT_STORE} if address is None else {}
    if ray.is_initialized():
        raise SettingError("Ray runs in this process already, and a run has its own: call ray.shutdown() first. `address` joins a cluster.")
    try:
        host, _, port = (address or "").removeprefix("ray://").rpartition(":")
        if port.isdigit():  # Ray would try for minutes
            socket.create_connection((host, int(port)), 10).close()
        ray.init(address or "local", log_to_driver=False, logging_level=logging.ERROR, **ours)
    except (OSError, OverflowError, ValueError) as error:
        raise SettingError(f"no Ray cluster answers at {address}: {brief(error)}. Start one (ray start --head), or leave the address out.") from error
    try:
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        job, count, share = _with_resources(job, machines, workers, threads, device)
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = context.print_on_execution_start = False
        # A block a piece. Telling which needs no core, for the workers may have them all; two at once, or Ray starts a process for each.
        told = ray.data.read_datasource(_datasource(pieces), num_cpus=0, concurrency=2, override_num_blocks=len(pieces))
        found = told.map_batches(
            Worker, fn_constructor_args=(job,), batch_size=1, compute=ray.data.ActorPoolStrategy(size=min(count, len(pieces))),
            num_cpus=job.threads, num_gpus=share, max_task_retries=DEATHS,
        )  # fmt: skip
        for row in found.iter_rows():
            if row["broken"]:
                raise DataError(f"a worker cannot go on: {row['broken']} What is finished is kept; mend that, and run the same again.")
            yield int(row["rows"]), int(row["errors"])
    except ray.exceptions.RayError as error:
        raise DataError(
            f"Ray broke off ({one_line(error)}). What is finished is kept; the same command goes on. If it ends so again, a file kills its "
            f"worker, or memory is short: of the first piece that is missing in {job.output}/captions, plan.parquet says what it is."
        ) from error
    finally:
        ray.shutdown()


def _datasource(pieces: list[Piece]) -> Any:
    """Ray Data's way to be given work little by little: a task a piece, which says no more than which."""
    from ray.data import Datasource, ReadTask
    from ray.data.block import BlockMetadata

    class Pieces(Datasource):
        def estimate_inmemory_data_size(self) -> int | None:
            return None

        def get_read_tasks(self, parallelism: int, per_task_row_limit: int | None = None, data_context: Any = None) -> list[Any]:
            about = BlockMetadata(num_rows=1, size_bytes=200, input_files=None, exec_stats=None)
            return [ReadTask(partial(_told, piece), about) for piece in pieces]

    return Pieces()


def _told(piece: Piece) -> list[Any]:
    return [pa.Table.from_pylist([asdict(piece)])]


def _with_resources(
    job: Job, machines: Sequence[Mapping[str, float]], workers: int | None, threads: int | None, device: str
) -> tuple[Job, int, float]:
    """The job with its device and threads, how many workers, and a worker's share of a GPU: several may have one together. A worker is on one
    machine. Raises SettingError for more than the machines have room for: Ray would wait for ever."""
    gpus = sum(int(machine.get("GPU", 0)) for machine in machines)
    on_gpus = gpus > 0 if device == "auto" else device == "cuda"
    if on_gpus and not gpus:
        raise SettingError("no GPU is on the machines that Ray has. Take device cpu, or start Ray where GPUs are.")
    sharing = math.ceil((workers or gpus) / gpus) if on_gpus else 0
    cores = [int(machine.get("CPU", 0)) for machine in machines]
    most = [int(machine.get("GPU", 0)) * sharing for machine in machines] if on_gpus else cores  # workers of each machine
    threads = threads or (max(1, min(each // many for each, many in zip(cores, most, strict=True) if many)) if on_gpus else 1)
    room = sum(min(each // threads, many) for each, many in zip(cores, most, strict=True))
    if not 1 <= (workers or 1) <= room:
        raise SettingError(f"{workers or 1} workers of {threads} threads were asked for, and Ray's machines have room for {room}. Take fewer.")
    return replace(job, device="cuda" if on_gpus else "cpu", threads=threads), workers or room, 1 / sharing if on_gpus else 0.0


class Worker:
    """What Ray keeps one of for each GPU or some cores: a captioner, loaded once, that does pieces. What goes wrong is told and not raised: Ray would
    hand on no more than the text of its traceback."""

    def __init__(self, job: Job):
        self.job = job
        self.captioner: Captioner | None = None

    def __call__(self, batch: Mapping[str, np.ndarray]) -> dict[str, list[Any]]:
        piece = Piece(**{name: values[0].item() if isinstance(values[0], np.generic) else values[0] for name, values in batch.items()})
        try:
            self.captioner = self.captioner or self._loaded()
            rows, errors = caption_piece(self.captioner, piece, self.job)
        except Exception as error:
            said = str(error) if isinstance(error, CapdecError) else f"{brief(error)}."
            return {"rows": [0], "errors": [0], "broken": [" ".join(said.split())]}
        return {"rows": [rows], "errors": [errors], "broken": [""]}

    def _loaded(self) -> Captioner:
        job = self.job
        if job.device == "cpu":
            torch.set_num_threads(job.threads)
        captioner = Captioner.load(job.captioner, job.device, own_parts=job.own_parts, dtype=job.dtype)
        if captioner.fingerprint != job.fingerprint:
            raise MismatchError(f"{job.captioner} is another captioner where a worker is than where the run was started. Put the same one there.")
        return captioner


def caption_piece(captioner: Captioner, piece: Piece, job: Job) -> tuple[int, int]:
    """Captions a piece, writes its file and returns its rows and how many failed. A file that is there is left: a worker may die between writing and
    telling. Raises OSError where it cannot be written."""
    path = join(job.output, f"captions/{piece.number:06d}.parquet")
    if exists(path):
        return _counts(path)
    keys: list[str] = []
    found: list[Caption | Exception] = []
    read = _vectors if job.reading.kind == "vectors" else _photos
    try:
        for some, results in read(captioner, piece, job):
            keys += some
            found += results
    except (DataError, OSError) as error:
        keys.append(piece.source)
        found.append(error if isinstance(error, DataError) else DataError(f"{piece.source} cannot be read: {brief(error)}"))
    errors = sum(isinstance(one, Exception) for one in found)
    table = pa.Table.from_pylist([_row(key, one) for key, one in zip(keys, found, strict=True)], ROW)
    with writing(path) as temporary:
        pq.write_table(table.replace_schema_metadata({"rows": str(len(found)), "errors": str(errors)}), temporary)
    return len(found), errors


def _photos(captioner: Captioner, piece: Piece, job: Job) -> Iterator[tuple[list[str], list[Any]]]:
    """Keys, and a caption or an error for each, batch by batch. Raises DataError or OSError behind the last one that could be read."""
    broken: list[DataError | OSError] = []

    def until_broken() -> Iterator[Photo]:
        try:
            yield from read_photos(piece, job.reading, job.batch)
        except (DataError, OSError) as error:
            broken.append(error)

    named, listed = itertools.tee(until_broken())
    done = piece.number * PLACES
    for opened in opened_photos((opener for _, opener in listed), captioner.backbone, job.batch, job.threads):
        images = [image for image in opened if not isinstance(image, ImageError)]
        captions = iter(captioner.caption(images, job.decoding, job.batch, start=done))
        done += len(images)
        keys = [key for key, _ in itertools.islice(named, len(opened))]
        yield keys, [image if isinstance(image, ImageError) else next(captions) for image in opened]
    if broken:
        raise broken[0]


def _vectors(captioner: Captioner, piece: Piece, job: Job) -> Iterator[tuple[list[str], list[Any]]]:
    """As `_photos`."""
    dim, done = captioner.backbone.dim, piece.number * PLACES
    for keys, rows in read_vectors(piece, job.reading, dim, job.batch):
        good = [row if row is not None and 1e-12 < np.linalg.norm(row) < np.inf else None for row in rows]
        kept = [row for row in good if row is not None]
        captions = iter(captioner.caption_embeddings(np.stack(kept), job.decoding, job.batch, start=done) if kept else ())
        done += len(kept)
        wrong = DataError(f"this embedding is missing, zero, not finite, or not {dim} numbers.")
        yield keys, [wrong if row is None else next(captions) for row in good]


def _row(key: str, found: Caption | Exception) -> dict[str, Any]:
    if isinstance(found, Exception):
        return {"key": as_text(key), "error": as_text(" ".join(str(found).split()))}
    alternatives = [{"caption": other.text, "score": other.score} for other in found.alternatives]
    sure = {} if found.confidence is None else {"confidence": found.confidence, "unsure": found.unsure}
    return {"key": as_text(key), "caption": found.text, "score": found.score, "alternatives": alternatives, **sure}


def _finished(output: str) -> dict[int, tuple[int, int]]:
    """Rows and errors of the pieces that are there."""
    folder = join(output, "captions")
    names = [name for name in names_in(folder) if re.fullmatch(r"\d{6,}\.parquet", name)]
    with ThreadPoolExecutor(16) as pool:
        counts = pool.map(_counts, (join(folder, name) for name in names))
        return {int(name.partition(".")[0]): counted for name, counted in zip(names, counts, strict=True)}


def _counts(path: str) -> tuple[int, int]:
    try:
        with open_file(path) as file:
            told = pq.read_schema(file).metadata
        return int(told[b"rows"]), int(told[b"errors"])
    except (pa.ArrowException, KeyError, TypeError) as error:
        raise DataError(f"{path} is not what a run writes ({brief(error)}). Delete it, and run the same again.") from error


def _write_errors(output: str, finished: Mapping[int, tuple[int, int]]) -> list[dict[str, str]]:
    """errors.jsonl, a line for each row that failed; the first ten are returned."""
    first: list[dict[str, str]] = []
    with writing(join(output, "errors.jsonl")) as temporary, temporary.open("w", encoding="utf-8") as lines:
        for number, (_, errors) in sorted(finished.items()):
            if errors:
                with open_file(join(output, f"captions/{number:06d}.parquet")) as file:
                    table = pq.read_table(file, columns=["key", "error"])
                failed = table.filter(pa.compute.is_valid(table["error"])).to_pylist()
                first += failed[: 10 - len(first)]
                lines.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in failed)
    return first


def _write_json(path: str, value: object) -> None:
    with writing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8", errors="backslashreplace")  # as JSON has it


@contextmanager
def _alone(output: str) -> Iterator[None]:
    """Two runs in one folder at once would do everything twice. Raises SettingError where another is at work; a run that was killed is not. On
    a file system of another kind nothing can be locked. What a killed run, or a killed worker of this one, left half-written is cleared away."""
    if "://" in output:
        yield
        return
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise SettingError(f"another run is at work in {output}. Wait for it, or name another folder.") from error
        _clear_halves(folder)
        yield
        _clear_halves(folder)


def _clear_halves(output: Path) -> None:
    for half in (*output.glob(".*.part"), *output.glob("captions/.*.part")):
        half.unlink(missing_ok=True)
