import errno
import io
import json
import os
import random
import signal
import subprocess
import sys
import tarfile
import time
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.numpy import save_file

from capdec import bulk as module
from capdec import pieces as pieces_module
from capdec.bulk import Job, Worker, bulk, caption_piece
from capdec.captioner import Captioner
from capdec.errors import DataError, MismatchError, SettingError
from capdec.pieces import Reading, plan
from capdec.protocols import Decoding

SHORT = Decoding("greedy", max_tokens=6)


@pytest.fixture
def captioner(tmp_path, tiny_captioner) -> str:
    tiny_captioner.save(tmp_path / "captioner")
    return str(tmp_path / "captioner")


def photo(number: int) -> bytes:
    content = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 255, (12, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(content, "PNG")
    return content.getvalue()


def folder_of(path: Path, count: int, bad: tuple[int, ...] = ()) -> str:
    path.mkdir()
    for number in range(count):
        (path / f"{number:04d}.png").write_bytes(b"no photo" if number in bad else photo(number))
    return str(path)


def tar_of(path: Path, files: dict[str, bytes]) -> str:
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return str(path)


def without_ray(inputs: list[str], output: Path, captioner: Captioner, decoding: Decoding = SHORT, **asked) -> list[dict]:
    """What the workers do, piece after piece in this process."""
    (output / "captions").mkdir(parents=True)
    reading, pieces = plan(inputs, str(output / "photos.parquet"), captioner.backbone.dim, **asked)
    job = Job(str(output), "", captioner.fingerprint, reading, decoding, batch=4, dtype="float32")
    for piece in pieces:
        caption_piece(captioner, piece, job)
    return captions_in(output)


def captions_in(output: Path) -> list[dict]:
    return [row for file in sorted((output / "captions").glob("*.parquet")) for row in pq.read_table(file).to_pylist()]


def test_a_folder_becomes_a_row_for_each_photo_and_a_bad_one_only_an_error(tmp_path, tiny_captioner):
    folder = folder_of(tmp_path / "photos", 11, bad=(3, 7))
    rows = without_ray([folder], tmp_path / "out", tiny_captioner, rows=4)
    assert [row["key"] for row in rows] == [f"{number:04d}.png" for number in range(11)]
    assert [row["error"] is not None for row in rows] == [number in (3, 7) for number in range(11)]
    good = [Path(folder, f"{number:04d}.png") for number in range(11) if number not in (3, 7)]
    said = tiny_captioner.caption(good, SHORT)
    assert [row["caption"] for row in rows if row["error"] is None] == [caption.text for caption in said]
    assert len(list((tmp_path / "out" / "captions").iterdir())) == 3


def test_photos_of_one_name_in_several_folders_have_keys_of_their_own(tmp_path, tiny_captioner):
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("a", "b"):
        folder_of(photos / name, 1)
    for number, inputs in enumerate(([str(photos / "*" / "*.png")], [str(photos / "a"), str(photos / "b")], [str(photos)])):
        keys = [row["key"] for row in without_ray(inputs, tmp_path / f"out{number}", tiny_captioner)]
        assert keys == ([f"{photos}/{name}/0000.png" for name in "ab"] if number == 1 else ["a/0000.png", "b/0000.png"])


def test_alternatives_are_kept_with_their_scores(tmp_path, tiny_captioner):
    folder = folder_of(tmp_path / "photos", 3)
    decoding = Decoding(max_tokens=6, beams=3, captions=3)
    rows = without_ray([folder], tmp_path / "out", tiny_captioner, decoding)
    for row, caption in zip(rows, tiny_captioner.caption(sorted(Path(folder).iterdir()), decoding), strict=True):
        assert [other["caption"] for other in row["alternatives"]] == [other.text for other in caption.alternatives]
        assert row["score"] == pytest.approx(caption.score, abs=1e-4) and len(row["alternatives"]) == 2


def test_tar_shards_are_read_and_a_broken_one_loses_only_what_is_behind_its_break(tmp_path, tiny_captioner):
    tar_of(tmp_path / "a.tar", {"1.png": photo(1), "1.json": b"{}", "2.json": b"{}", "x/3.jpg": photo(3), "4.webp": b"broken"})
    whole = Path(tar_of(tmp_path / "b.tar", {f"{number}.png": photo(number) for number in range(10, 16)})).read_bytes()
    (tmp_path / "b.tar").write_bytes(whole[:3500])
    (tmp_path / "c.tar").write_bytes(b"no tar at all" * 100)
    rows = without_ray([str(tmp_path / "*.tar")], tmp_path / "out", tiny_captioner)
    told = {row["key"]: row["error"] for row in rows}
    assert told["1"] is None and told["x/3"] is None and told["10"] is None
    assert "no photo is with json" in told["2"] and "not an image" in told["4"]
    assert "truncated or damaged" in told[str(tmp_path / "b.tar")] or "cannot be read" in told[str(tmp_path / "b.tar")]
    assert "cannot be read as a tar" in told[str(tmp_path / "c.tar")]


def test_a_folder_of_img2dataset_gives_its_tars_and_not_what_stands_beside_them(tmp_path, tiny_captioner):
    (tmp_path / "in").mkdir()
    tar_of(tmp_path / "in" / "00000.tar", {"000000001.jpg": photo(1)})
    pq.write_table(pa.table({"key": ["000000001"], "url": ["https://example.org"]}), tmp_path / "in" / "00000.parquet")
    (tmp_path / "in" / "00000_stats.json").write_text("{}")
    assert [row["key"] for row in without_ray([str(tmp_path / "in")], tmp_path / "out", tiny_captioner)] == ["000000001"]


def test_a_shard_that_is_named_twice_is_captioned_once_and_what_a_killed_plan_left_not_at_all(tmp_path, tiny_captioner):
    output = tmp_path / "in" / "out"
    output.mkdir(parents=True)
    for path in (tmp_path / "in" / "a.parquet", output / "photos.parquet", output / "plan.parquet"):
        pq.write_table(pa.table({"key": ["a"], "jpg": [photo(1)]}), path)
    rows = without_ray([str(tmp_path / "in"), str(tmp_path / "in" / "*.parquet")], output, tiny_captioner)
    assert [row["key"] for row in rows] == ["a"]


def test_parquet_holds_photos_as_bytes_as_paths_or_as_datasets_do(tmp_path, tiny_captioner):
    folder_of(tmp_path / "photos", 3)
    ways = {
        "bytes": pa.table({"key": ["a", "b", "c"], "jpg": [photo(0), None, b"broken"]}),
        "paths": pa.table({"image_path": ["photos/0000.png", "photos/0001.png", "nowhere.png"], "caption": ["x"] * 3}),
        "structs": pa.table({"image": [{"bytes": photo(0), "path": None}, {"bytes": None, "path": "photos/0001.png"}, None]}),
    }
    for name, table in ways.items():
        path = str(tmp_path / f"{name}.parquet")
        pq.write_table(table, path)
        rows = without_ray([path], tmp_path / name, tiny_captioner)
        assert rows[0]["error"] is None and rows[2]["error"] is not None and len(rows) == 3, name
        assert rows[0]["caption"] == tiny_captioner.caption([tmp_path / "photos" / "0000.png"], SHORT)[0].text
    assert [row["key"] for row in captions_in(tmp_path / "bytes")] == ["a", "b", "c"]
    assert [row["key"] for row in captions_in(tmp_path / "structs")] == [f"structs.parquet:{row}" for row in range(3)]


@pytest.mark.parametrize("kind", ["npy", "half", "safetensors", "bfloat16", "parquet"])
def test_stored_embeddings_are_captioned_and_unusable_ones_are_errors(tmp_path, tiny_captioner, kind):
    vectors = np.random.default_rng(0).normal(size=(10, 16)).astype(np.float32)
    vectors[4, 3], vectors[6] = np.nan, 0
    if kind in ("npy", "half"):
        np.save(tmp_path / "e.npy", vectors.astype(np.float16 if kind == "half" else np.float32))
    elif kind == "safetensors":
        save_file({"embeddings": vectors}, tmp_path / "e.safetensors")
    elif kind == "bfloat16":
        from safetensors.torch import save_file as save

        save({"embeddings": torch.from_numpy(vectors).bfloat16()}, tmp_path / "e.safetensors")
    else:
        pq.write_table(pa.table({"id": range(10), "embedding": list(vectors)}), tmp_path / "e.parquet", row_group_size=3)
    path = next(str(file) for file in tmp_path.glob("e.*"))
    rows = without_ray([path], tmp_path / "out", tiny_captioner, rows=4)
    assert [row["error"] is None for row in rows] == [row not in (4, 6) for row in range(10)]
    good = [row for row in range(10) if row not in (4, 6)]
    stored = {"half": np.float16(vectors), "bfloat16": torch.from_numpy(vectors).bfloat16().float().numpy()}.get(kind, vectors)
    said = tiny_captioner.caption_embeddings(stored[good], SHORT)
    assert [row["caption"] for row in rows if row["error"] is None] == [caption.text for caption in said]
    assert rows[9]["key"] == ("9" if kind == "parquet" else f"{Path(path).name}:9")


@pytest.mark.parametrize("group", [100, 23, 7, 3])
def test_large_row_groups_are_shared_among_pieces(tmp_path, tiny_captioner, group):
    vectors = np.random.default_rng(0).normal(size=(100, 16)).astype(np.float32)
    path = str(tmp_path / "e.parquet")
    pq.write_table(pa.table({"id": range(100), "embedding": list(vectors)}), path, row_group_size=group)
    _, pieces = plan([path], str(tmp_path / "list"), 16, rows=5)
    assert [row for piece in pieces for row in range(piece.start, piece.stop)] == list(range(100))
    assert all(piece.rows == piece.stop - piece.start <= 9 for piece in pieces)
    rows = without_ray([path], tmp_path / "out", tiny_captioner, rows=5)
    assert [row["key"] for row in rows] == [str(number) for number in range(100)]
    assert [row["caption"] for row in rows] == [caption.text for caption in tiny_captioner.caption_embeddings(vectors, SHORT)]


def test_embeddings_with_addresses_beside_them_are_captioned_without_fetching_photos(tmp_path, tiny_captioner):
    vectors = np.random.default_rng(0).normal(size=(3, 16)).astype(np.float32)
    path = str(tmp_path / "e.parquet")
    pq.write_table(pa.table({"url": [f"none://{row}" for row in range(3)], "embedding": list(vectors)}), path)
    rows = without_ray([path], tmp_path / "out", tiny_captioner)
    assert [(row["key"], row["error"]) for row in rows] == [(f"none://{row}", None) for row in range(3)]


def test_clip_retrievals_folder_gives_image_embeddings_under_the_names_of_its_metadata(tmp_path, tiny_captioner):
    for name in ("img_emb", "text_emb", "metadata"):
        (tmp_path / "in" / name).mkdir(parents=True)
    vectors = np.random.default_rng(0).normal(size=(7, 16)).astype(np.float16)
    np.save(tmp_path / "in" / "img_emb" / "img_emb_0.npy", vectors)
    np.save(tmp_path / "in" / "text_emb" / "text_emb_0.npy", vectors[:3])
    names = [f"photo {row}" if row != 2 else None for row in range(7)]
    pq.write_table(pa.table({"caption": ["x"] * 7, "image_path": names}), tmp_path / "in" / "metadata" / "metadata_0.parquet", row_group_size=2)
    rows = without_ray([str(tmp_path / "in")], tmp_path / "out", tiny_captioner, rows=3)
    assert [row["key"] for row in rows] == [name or "img_emb_0.npy:2" for name in names]


def test_rows_of_files_of_one_name_in_several_folders_have_keys_of_their_own(tmp_path, tiny_captioner):
    for name in ("train", "test"):
        (tmp_path / "in" / name).mkdir(parents=True)
        pq.write_table(pa.table({"jpg": [photo(1)]}), tmp_path / "in" / name / "0000.parquet")
    rows = without_ray([str(tmp_path / "in")], tmp_path / "out", tiny_captioner)
    assert [row["key"] for row in rows] == ["test/0000.parquet:0", "train/0000.parquet:0"]


def test_what_cannot_be_read_at_all_is_one_row_that_says_so(tmp_path, tiny_captioner):
    np.save(tmp_path / "wide.npy", np.ones((3, 5), np.float32))
    np.save(tmp_path / "objects.npy", np.array([{"code": "to run"}], dtype=object), allow_pickle=True)
    (tmp_path / "short.npy").write_bytes((tmp_path / "wide.npy").read_bytes()[:-4])
    (tmp_path / "x.npy").write_bytes(b"")
    (tmp_path / "link.npy").symlink_to(tmp_path / "nowhere.npy")
    rows = without_ray([str(tmp_path / "*.npy")], tmp_path / "out", tiny_captioner)
    told = {Path(row["key"]).name: row["error"] for row in rows}
    assert "width 5" in told["wide.npy"] and "gives 16" in told["wide.npy"]
    assert "link.npy cannot be read: FileNotFoundError" in told["link.npy"]
    assert "ends after" in told["short.npy"] and "no matrix" in told["x.npy"] and "object" in told["objects.npy"]


def test_a_worker_that_cannot_write_says_so_and_leaves_nothing_half_written(tmp_path, captioner, monkeypatch):
    reading, pieces = plan([folder_of(tmp_path / "photos", 3)], str(tmp_path / "out" / "photos.parquet"), 16)
    fingerprint = Captioner.load(captioner).fingerprint

    def full(table, path):
        Path(path).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pq, "write_table", full)
    told = {name: np.array([value]) for name, value in asdict(pieces[0]).items()}
    for known, message in ((fingerprint, "No space left on device"), ("another", "is another captioner where a worker is")):
        worker = Worker(Job(str(tmp_path / "out"), captioner, known, reading, SHORT, 4, "float32"))
        assert message in worker(told)["broken"][0]
    assert [path.name for path in (tmp_path / "out").rglob("*") if path.is_file()] == ["photos.parquet"]


def test_a_source_that_changed_since_the_run_began_is_an_error(tmp_path, tiny_captioner):
    path = Path(tar_of(tmp_path / "a.tar", {"1.png": photo(1)}))
    reading, pieces = plan([str(path)], str(tmp_path / "list"), 16)
    path.write_bytes(path.read_bytes() + b"\0" * 512)
    job = Job(str(tmp_path / "out"), "", "", reading, SHORT, 4, "float32")
    assert caption_piece(tiny_captioner, pieces[0], job) == (1, 1)
    assert "when the run began" in captions_in(tmp_path / "out")[0]["error"]


@pytest.mark.parametrize("ending", ["npy", "parquet"])
def test_a_file_that_could_not_be_read_when_the_run_began_is_not_passed_over_when_it_can(tmp_path, tiny_captioner, ending):
    vectors = np.ones((3, 16), np.float32)
    for name in ("a", "kept"):
        np.save(tmp_path / f"{name}.npy", vectors)
        pq.write_table(pa.table({"embedding": list(vectors)}), tmp_path / f"{name}.parquet")
    (tmp_path / f"b.{ending}").symlink_to(tmp_path / "late")
    reading, pieces = plan([str(tmp_path / f"{name}.{ending}") for name in "a"] + [str(tmp_path / f"b*.{ending}")], str(tmp_path / "list"), 16)
    (tmp_path / "late").write_bytes((tmp_path / f"kept.{ending}").read_bytes())
    job = Job(str(tmp_path / "out"), "", "", reading, SHORT, 4, "float32")
    assert [caption_piece(tiny_captioner, piece, job) for piece in pieces] == [(3, 0), (1, 1)]
    assert "can be now" in captions_in(tmp_path / "out")[-1]["error"]


def test_a_piece_that_is_there_is_not_done_again(tmp_path, tiny_captioner, monkeypatch):
    folder = folder_of(tmp_path / "photos", 3, bad=(1,))
    before = without_ray([folder], tmp_path / "out", tiny_captioner)
    reading, pieces = plan([folder], str(tmp_path / "out" / "photos.parquet"), 16)
    monkeypatch.setattr(tiny_captioner, "caption", None)
    assert caption_piece(tiny_captioner, pieces[0], Job(str(tmp_path / "out"), "", "", reading, SHORT, 4, "float32")) == (3, 1)
    assert captions_in(tmp_path / "out") == before


def test_sampled_captions_differ_from_piece_to_piece_and_come_again(tmp_path, tiny_captioner):
    (tmp_path / "photos").mkdir()
    for number in range(8):
        (tmp_path / "photos" / f"{number}.png").write_bytes(photo(0))
    nucleus = Decoding("nucleus", max_tokens=8, top_p=1.0)
    first, again = (without_ray([str(tmp_path / "photos")], tmp_path / name, tiny_captioner, nucleus, rows=2) for name in ("a", "b"))
    assert first == again and len({row["caption"] for row in first}) > 4


@pytest.mark.parametrize(
    ("files", "asked", "message"),
    [
        ({}, {}, "nothing to caption"),
        ({"a.png": photo(1), "b.tar": b"x"}, {}, "several kinds"),
        ({"a.parquet": {"text": ["x"]}}, {}, "Say which with --column"),
        ({"a.parquet": {"jpg": [b"x"]}}, {"column": "png"}, "no column 'png'. It has: jpg"),
        ({"a.parquet": {"jpg": [b"x"]}}, {"key": "name"}, "no column 'name'"),
        ({"a.parquet": {"jpg": pa.array([], pa.binary())}}, {}, "has no rows"),
    ],
)
def test_an_input_that_cannot_be_planned_is_refused_before_anything_is_done(tmp_path, files, asked, message):
    (tmp_path / "in").mkdir()
    for name, content in files.items():
        if isinstance(content, bytes):
            (tmp_path / "in" / name).write_bytes(content)
        else:
            pq.write_table(pa.table(content), tmp_path / "in" / name)
    with pytest.raises((DataError, SettingError), match=message):
        plan([str(tmp_path / "in")], str(tmp_path / "list.parquet"), 16, **asked)


def test_a_path_that_is_not_there_or_of_an_unknown_kind_is_an_error(tmp_path):
    with pytest.raises(DataError, match="is not there"):
        plan([str(tmp_path / "nowhere")], str(tmp_path / "list"), 16)
    with pytest.raises(SettingError, match="no file system that is known"):
        plan(["strange://bucket/a.tar"], str(tmp_path / "list"), 16)


def test_a_file_system_whose_package_is_missing_names_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(SettingError, match="pip install s3fs"):
        plan(["s3://bucket/a.tar"], str(tmp_path / "list"), 16)


def test_names_that_are_no_text_are_shown_and_end_no_run(tmp_path, tiny_captioner):
    (tmp_path / "in").mkdir()
    tar_of(tmp_path / "in" / "a.tar", {"1.\udcff": b"x", "\udce9.png": photo(1)})
    tar_of(tmp_path / "in" / os.fsdecode(b"\xe9.tar"), {"2.png": photo(2)})
    rows = without_ray([str(tmp_path / "in")], tmp_path / "out", tiny_captioner)
    assert [row["key"] for row in rows] == ["1", r"\xe9", str(tmp_path / "in" / r"\xe9.tar")]
    assert [row["error"] is None for row in rows] == [False, True, False] and r"\xff" in rows[0]["error"]


def test_two_colons_in_a_name_are_a_name(tmp_path, tiny_captioner):
    tar_of(tmp_path / "a::b.tar", {"1.png": photo(1)})
    (tmp_path / "a").write_bytes(b"another file")
    assert [row["error"] for row in without_ray([str(tmp_path / "a::b.tar")], tmp_path / "out", tiny_captioner)] == [None]


def test_a_remote_file_system_is_read_and_written_too(tmp_path, tiny_captioner):
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.pipe({f"/in/deep/{number}.png": photo(number) for number in range(3)} | {"/in/.hidden/x.png": b"", "/in/bad.png": b"no photo"})
    reading, pieces = plan(["memory://in"], "memory://out/photos.parquet", 16)
    job = Job("memory://out", "", "", reading, SHORT, 4, "float32")
    assert [caption_piece(tiny_captioner, piece, job) for piece in pieces] == [(4, 1)]
    with memory.open("/out/captions/000000.parquet") as file:
        assert [row["key"] for row in pq.read_table(file).to_pylist()] == ["bad.png", "deep/0.png", "deep/1.png", "deep/2.png"]


def test_a_remote_folder_that_may_not_be_listed_is_not_left_out_in_silence(tmp_path, monkeypatch):
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.pipe({"/shut/a.png": photo(1), "/shut/below/b.png": photo(2)})
    listed = type(memory).ls

    def refused(self, path, **asked):
        if path.endswith("below"):
            raise PermissionError("below")
        return listed(self, path, **asked)

    monkeypatch.setattr(type(memory), "ls", refused)
    with pytest.raises(DataError, match="memory://shut cannot be listed: PermissionError"):
        plan(["memory://shut"], str(tmp_path / "list"), 16)


def test_what_others_wrote_into_a_remote_folder_is_seen(monkeypatch):
    import fsspec

    from capdec.files import names_in

    memory = fsspec.filesystem("memory")
    memory.pipe({"/kept/1": b""})
    listed, cache = type(memory).ls, {}
    monkeypatch.setattr(type(memory), "ls", lambda self, path, **asked: cache.setdefault(path, listed(self, path, **asked)))  # as s3fs does
    monkeypatch.setattr(type(memory), "invalidate_cache", lambda self, path=None: cache.clear())
    assert names_in("memory://kept") == ["1"]
    memory.pipe({"/kept/2": b""})
    assert names_in("memory://kept") == ["1", "2"]


def command(inputs: str, output: Path, captioner: str, *more: str) -> list[str]:
    words = [sys.executable, "-m", "capdec", "bulk", inputs, "--output", str(output), "--captioner", captioner, "--strategy", "greedy"]
    return [*words, "--rerank", "none", "--max-tokens", "6", "--rows", "5", "--batch", "4", "--workers", "2", "--dtype", "float32", *more]


def family(pid: int) -> dict[int, str]:
    """The processes below one, and what each calls itself."""
    parents, names = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            names[int(folder.name)] = (folder / "cmdline").read_text().replace("\0", " ")
        except (OSError, ValueError):
            continue
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return {one: names[one] for one in found - {pid} if one in names}


def alive(pids) -> list[int]:
    return [pid for pid in pids if Path(f"/proc/{pid}").exists() and "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()]


def test_killed_anywhere_and_started_again_every_row_comes_once_and_as_if_undisturbed(tmp_path, captioner):
    photos = folder_of(tmp_path / "photos", 700, bad=(17, 100))
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    done = subprocess.run(command(photos, whole, captioner), capture_output=True, text=True, timeout=180)
    assert done.returncode == 1, done.stderr  # two photos failed
    assert "698 captioned, 2 failed" in done.stderr
    chance, kills = random.Random(0), []
    for last in (False, False, False, True):
        process = subprocess.Popen(command(photos, killed, captioner), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        enough = len(list(killed.glob("captions/[0-9]*.parquet"))) + chance.randint(1, 20)
        while process.poll() is None and len(list(killed.glob("captions/[0-9]*.parquet"))) < enough:
            time.sleep(0.02)
        time.sleep(chance.random() * 0.1)
        below = {pid: name for pid, name in family(process.pid).items() if "Agent" not in name}  # of Ray's own, which end later
        os.kill(chance.choice([pid for pid, name in below.items() if name.startswith("ray::MapWorker")]), signal.SIGKILL)
        kills.append("worker")
        if last:  # the run goes on without it
            break
        time.sleep(chance.random())
        process.kill()
        kills.append("driver")
        process.communicate()
        waited = time.monotonic() + 60
        while alive(below) and time.monotonic() < waited:
            time.sleep(0.1)
        assert not alive(below), "processes outlive the run"
    _, told = process.communicate(timeout=180)
    assert process.returncode == 1 and "698 captioned, 2 failed" in told, told
    assert (kills.count("driver"), kills.count("worker")) == (3, 4)
    assert captions_in(killed) == captions_in(whole)
    assert json.loads((killed / "summary.json").read_text())["rows"] == 700
    assert [json.loads(line)["key"] for line in (killed / "errors.jsonl").read_text().splitlines()] == ["0017.png", "0100.png"]
    assert not list(killed.rglob(".*.part"))


def test_another_setting_or_captioner_in_the_same_folder_is_refused_and_too_many_errors_stop_a_run(tmp_path, captioner, tiny_captioner):
    photos = folder_of(tmp_path / "photos", 12, bad=(0, 1, 2))
    done = subprocess.run(command(photos, tmp_path / "out", captioner, "--max-errors", "2"), capture_output=True, text=True, timeout=180)
    assert done.returncode == 2 and "3 rows failed, and at most 2 may" in done.stderr, done.stderr
    assert len((tmp_path / "out" / "errors.jsonl").read_text().splitlines()) == 3
    asked = {"rows": 5, "batch": 4, "dtype": "float32"}
    with pytest.raises(MismatchError, match="decoding was"):
        bulk([photos], tmp_path / "out", captioner, Decoding("greedy", max_tokens=7), **asked)
    with torch.no_grad():
        next(tiny_captioner.decoder.parameters()).add_(1)
    tiny_captioner.save(captioner)
    with pytest.raises(MismatchError, match="captioner was"):
        bulk([photos], tmp_path / "out", captioner, SHORT, **asked)


def test_what_a_killed_worker_left_half_written_is_gone_when_the_run_ends(tmp_path, captioner, monkeypatch):
    half = tmp_path / "out" / "captions" / ".000000.parquet.killed.part"

    def run(*_):
        half.parent.mkdir(exist_ok=True)
        half.write_bytes(b"PAR1")
        return {}

    monkeypatch.setattr(module, "_run", run)
    bulk([folder_of(tmp_path / "photos", 1)], tmp_path / "out", captioner, SHORT)
    assert half.parent.is_dir() and not half.exists()


def test_workers_are_told_of_captioner_and_output_by_whole_paths(tmp_path, captioner, monkeypatch):
    seen = []
    monkeypatch.setattr(module, "_run", lambda job, *_: seen.append((job.captioner, job.output)) or {})
    monkeypatch.chdir(tmp_path)
    bulk([folder_of(tmp_path / "photos", 1)], f"file://{tmp_path}/out", Path(captioner).name, SHORT)
    assert seen == [(captioner, str(tmp_path / "out"))]


@pytest.mark.parametrize("step", ["photos.parquet", "plan.parquet", "manifest.json"])
def test_killed_while_it_plans_it_plans_again(tmp_path, captioner, monkeypatch, step):
    photos, planned, killed = folder_of(tmp_path / "photos", 5), [], False
    write = module.writing

    @contextmanager
    def until(path):
        nonlocal killed
        if Path(path).name == step and not killed:
            killed = True
            raise KeyboardInterrupt
        with write(path) as temporary:
            yield temporary

    for place in (module, pieces_module):
        monkeypatch.setattr(place, "writing", until)
    monkeypatch.setattr(module, "_run", lambda job, pieces, *_: planned.append(pieces) or {})
    with pytest.raises(KeyboardInterrupt):
        bulk([photos], tmp_path / "out", captioner, SHORT, rows=2)
    for _ in range(2):
        bulk([photos], tmp_path / "out", captioner, SHORT, rows=2)
    assert planned[0] == planned[1] and [piece.rows for piece in planned[0]] == [2, 2, 1]


def test_errors_of_earlier_starts_count(tmp_path, captioner, tiny_captioner, monkeypatch):
    def here(job, pieces, *_):
        yield from (caption_piece(tiny_captioner, piece, job) for piece in pieces)

    monkeypatch.setattr(module, "_through_ray", here)
    asked = {"inputs": [folder_of(tmp_path / "photos", 6, bad=(0, 3, 4))], "output": tmp_path / "out", "captioner": captioner, "decoding": SHORT}
    for most, failed, there in ((0, 1, 1), (0, 1, 1), (1, 3, 2), (2, 3, 2)):
        with pytest.raises(DataError, match=f"{failed} rows failed, and at most {most} may"):
            bulk(**asked, rows=3, max_errors=most, shown=False)
        assert len(list((tmp_path / "out" / "captions").iterdir())) == there
    summary = bulk(**asked, rows=3, max_errors=3, shown=False)
    assert (summary["rows"], summary["captioned"], summary["errors"]) == (6, 3, 3)


def test_a_cluster_that_is_not_there_is_a_setting_error(tmp_path, captioner):
    with pytest.raises(SettingError, match=r"no Ray cluster answers at 127\.0\.0\.1:1"):
        bulk([folder_of(tmp_path / "photos", 1)], tmp_path / "out", captioner, SHORT, address="127.0.0.1:1", shown=False)


KILLER = """import os, signal
from capdec.protocols import Supervision

class Killer:
    supervision = Supervision(0)
    def __init__(self, dim): ...
    def fit(self, corpus, images=None): ...
    def from_text(self, condition, generator): return condition
    def from_image(self, condition, generator): os.kill(os.getpid(), signal.SIGKILL)
    def tensors(self): return {}
    def restore(self, tensors): ...
"""


def test_what_kills_every_worker_that_comes_to_it_ends_the_run(tmp_path, captioner):
    (tmp_path / "killer.py").write_text(KILLER)
    config = json.loads(Path(captioner, "config.json").read_text())
    config["bridges"].append(f"{tmp_path}/killer.py:Killer")
    Path(captioner, "config.json").write_text(json.dumps(config))
    photos = folder_of(tmp_path / "photos", 3)
    done = subprocess.run(command(photos, tmp_path / "out", captioner, "--own-parts"), capture_output=True, text=True, timeout=180)
    assert done.returncode == 2 and "a file kills its worker" in done.stderr, done.stderr


def test_two_runs_do_not_work_in_one_folder_at_once(tmp_path, captioner):
    with module._alone(str(tmp_path / "out")), pytest.raises(SettingError, match="another run is at work"):
        bulk([str(tmp_path)], tmp_path / "out", captioner)


def test_what_workers_wrote_on_disks_of_their_own_is_missed(tmp_path, captioner, monkeypatch):
    def elsewhere(job, pieces, *_):
        yield from ((piece.rows, 0) for piece in pieces)

    monkeypatch.setattr(module, "_through_ray", elsewhere)
    photos = folder_of(tmp_path / "photos", 5)
    with pytest.raises(DataError, match=r"2 of 2 files that workers wrote are not in .*000000.parquet is the first.*all machines share"):
        bulk([photos], tmp_path / "out", captioner, SHORT, rows=3, shown=False)
    assert not (tmp_path / "out" / "summary.json").exists()


NO_GPU, TWO_GPUS = {"CPU": 8.0}, {"CPU": 16.0, "GPU": 2.0}


@pytest.mark.parametrize(
    ("machines", "workers", "threads", "device", "became"),
    [
        ([NO_GPU], None, None, "auto", ("cpu", 1, 8, 0.0)),
        ([NO_GPU, {"CPU": 3.0}], None, 2, "auto", ("cpu", 2, 5, 0.0)),
        ([NO_GPU], 3, None, "cpu", ("cpu", 1, 3, 0.0)),
        ([TWO_GPUS], None, None, "auto", ("cuda", 8, 2, 1.0)),
        ([{"CPU": 64.0}, TWO_GPUS, TWO_GPUS], None, None, "auto", ("cuda", 8, 4, 1.0)),  # the first one's cores are beside no GPU
        ([TWO_GPUS], 3, None, "cuda", ("cuda", 4, 3, 0.5)),
        ([TWO_GPUS], None, None, "cpu", ("cpu", 1, 16, 0.0)),
    ],
)
def test_workers_fit_on_single_machines(machines, workers, threads, device, became):
    job = Job("out", "", "", Reading("tar"), SHORT, 4, "float32")
    job, count, share = module._with_resources(job, machines, workers, threads, device)
    assert (job.device, job.threads, count, share) == became


@pytest.mark.parametrize(
    ("machines", "workers", "threads", "device"),
    [([NO_GPU], 9, None, "auto"), ([NO_GPU, NO_GPU], None, 12, "auto"), ([NO_GPU], None, None, "cuda"), ([TWO_GPUS], 2, 16, "auto")],
)
def test_workers_for_which_there_is_no_room_are_refused_since_ray_would_wait_for_ever(machines, workers, threads, device):
    job = Job("out", "", "", Reading("tar"), SHORT, 4, "float32")
    with pytest.raises(SettingError, match=r"room for|no GPU"):
        module._with_resources(job, machines, workers, threads, device)
