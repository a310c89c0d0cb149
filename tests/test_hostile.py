"""What nobody should send, sent: see hostile/. The readers run in a process of their own, with a watch on its time and a limit on its memory."""

import io
import itertools
import json
import subprocess
import sys
import tarfile
from contextlib import suppress
from functools import cache, partial
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from capdec import shards
from capdec.caption import caption_files
from capdec.datasets.webdataset import WebDataset
from capdec.errors import DataError, ImageError, SettingError
from capdec.images import LONGEST_SIDE, open_image
from capdec.protocols import Decoding
from hostile import encoded, files, noise

READ_IMAGES = """
import faulthandler, json, pathlib, resource, signal, sys, warnings
from capdec.errors import ImageError
from capdec.images import LONGEST_SIDE, open_image
from hostile.images import images

warnings.simplefilter("ignore")
resource.setrlimit(resource.RLIMIT_DATA, (3 << 30, 3 << 30))
for number, case in enumerate(images()):
    pathlib.Path(sys.argv[1], f"{number:04d}.jpg").write_bytes(case.content)
    for at_most in (None, LONGEST_SIDE):
        faulthandler.dump_traceback_later(120, exit=True)
        signal.setitimer(signal.ITIMER_PROF, 20)  # seconds of work, which a busy machine does not lengthen; then the process ends
        try:
            photo = open_image(case.content, at_most=at_most)
            outcome = [photo.mode, *photo.size]
        except ImageError as error:
            outcome = str(error)
        print(json.dumps([case.name, case.good, outcome]), flush=True)
    faulthandler.cancel_dump_traceback_later()
    signal.setitimer(signal.ITIMER_PROF, 0)
"""


def in_a_process(program: str, *arguments: object) -> list[list]:
    """What it prints, a line each. A crash, a hang and an error that is none of ours end it: at the case behind the last that was printed."""
    command = [sys.executable, "-c", program, *map(str, arguments)]
    ran = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    outcomes = [json.loads(line) for line in ran.stdout.splitlines()]
    assert ran.returncode == 0, f"after {outcomes[-1:]}: {ran.stderr[-3000:]}"
    return outcomes


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> tuple[Path, list[list]]:
    folder = tmp_path_factory.mktemp("images")
    return folder, in_a_process(READ_IMAGES, folder)


def test_every_hostile_image_is_a_photo_or_one_line_that_says_why_not(images):
    _, outcomes = images
    assert len({name for name, *_ in outcomes}) == len(outcomes) // 2 > 500
    for name, good, outcome in outcomes:
        if isinstance(outcome, str):
            assert good is not True and "\n" not in outcome and len(outcome) < 700 and "MemoryError" not in outcome, (name, outcome)
        else:
            assert good is not False and outcome[0] == "RGB" and outcome[1] * outcome[2] <= 10**8, (name, outcome)


def test_hostile_images_are_captioned_or_lines_with_an_error(images, tiny_captioner):
    folder, outcomes = images
    paths = [str(path) for path in sorted(folder.iterdir())]
    records = list(caption_files(tiny_captioner, paths, Decoding("greedy", max_tokens=2), batch=16, workers=2))
    assert [record.path for record in records] == paths
    assert [record.error is None for record in records] == [not isinstance(outcome, str) for _, _, outcome in outcomes[1::2]]


# --- mutations


@st.composite
def mutated(draw, wholes: list[bytes]) -> bytes:
    """One of them with bytes flipped, cut out, doubled, and parts of another put in: more often near the start, where headers are."""
    content = bytearray(draw(st.sampled_from(wholes)))
    for _ in range(draw(st.integers(1, 6))):
        reach = draw(st.sampled_from([60, 600, len(content)]))
        start = draw(st.integers(0, max(0, min(reach, len(content)) - 1)))
        end = start + draw(st.sampled_from([1, 1, 2, 4, 16, 300]))
        other = draw(st.sampled_from(wholes))
        content[start:end] = draw(
            st.sampled_from([b"", bytes(content[start:end]) * 2, other[start:end], other[:60], bytes(end - start), b"\xff" * (end - start)])
            | st.binary(max_size=8)
        )
    return bytes(content)


@cache
def photos() -> list[bytes]:
    photo, moving = noise(30, 20), {"save_all": True, "append_images": [noise(30, 20).rotate(180)]}
    kinds = {"JPEG": {}, "PNG": {}, "WEBP": {}, "GIF": moving, "BMP": {}, "TIFF": moving, "PPM": {}, "AVIF": {}, "MPO": moving}
    plain = [encoded(photo, kind, **how) for kind, how in kinds.items()]
    special = [
        encoded(photo, "JPEG", progressive=True),
        encoded(photo.convert("P"), "PNG", transparency=1),
        encoded(photo, "WEBP", lossless=True, exif=b"Exif\0\0II\x2a\0\x08\0\0\0\0\0"),
        encoded(photo, "TIFF", compression="tiff_lzw"),
        encoded(photo.resize((16, 16)), "ICO", bitmap_format="bmp"),
    ]
    return plain + special


def opens_or_says_why_not(content: bytes) -> None:
    try:
        assert open_image(content, max_pixels=10**7, at_most=LONGEST_SIDE).mode == "RGB"
    except ImageError as error:
        assert "\n" not in str(error)


@pytest.mark.filterwarnings("ignore")  # Pillow's own
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.deferred(lambda: mutated(photos())))
def test_a_mutated_photo_opens_or_says_why_not(content):
    opens_or_says_why_not(content)


# --- files of bulk captioning


@pytest.fixture
def reader(tiny_captioner, tmp_path):
    """name, content -> the rows that bulk captioning makes of a file, or None where the run is refused before it begins."""
    pytest.importorskip("ray")
    from capdec import bulk
    from capdec.pieces import plan

    numbers = itertools.count()

    def read(name: str, content: bytes) -> list[dict] | None:
        folder = tmp_path / str(next(numbers))
        (folder / "captions").mkdir(parents=True)
        (folder / name).write_bytes(content)
        try:
            reading, pieces = plan([str(folder / name)], str(folder / "photos.parquet"), tiny_captioner.backbone.dim, rows=4)
        except (DataError, SettingError) as error:
            assert name in str(error)
            return None
        rows = []
        for piece in pieces:
            job = bulk.Job(str(folder), "tiny", "", reading, Decoding("greedy", max_tokens=2), 3, "float32")
            counts = bulk.caption_piece(tiny_captioner, piece, job)
            found = pq.read_table(folder / f"captions/{piece.number:06d}.parquet").to_pylist()
            assert counts == (len(found), sum(row["error"] is not None for row in found))
            rows += found
        return rows

    return read


@pytest.mark.parametrize("ending", ["tar", "npy", "safetensors", "parquet"])
def test_hostile_files_are_rows_with_an_error_or_refused_before_a_run(ending, reader, tmp_path):
    trap = tmp_path / "trap"
    made = {"tar": files.tars, "npy": partial(files.npys, str(trap)), "safetensors": files.safetensors, "parquet": files.parquets}
    cases = list(made[ending]())
    assert len({case.name for case in cases}) == len(cases) > 40
    for case in cases:
        rows = reader(f"hostile.{ending}", case.content)
        if case.good:
            assert rows is not None and not any("hostile" in row["key"] and "damaged" in (row["error"] or "") for row in rows), (case.name, rows)
        elif case.good is False and rows is not None:
            assert rows[-1]["error"] is not None and "hostile" in rows[-1]["error"], (case.name, rows)
        for row in rows or []:
            assert (row["caption"] is None) != (row["error"] is None) and "\n" not in (row["error"] or ""), (case.name, row)
    assert not trap.exists(), "a pickle was loaded"


def test_hostile_shards_are_read_or_refused_for_training(tmp_path):
    path = tmp_path / "hostile.tar"
    for case in files.tars():
        path.write_bytes(case.content)
        reads_or_says_why_not(path)


def reads_or_says_why_not(path: Path) -> None:
    try:
        for example in WebDataset(path):
            with suppress(ImageError):
                assert example.open_image is None or example.open_image().mode == "RGB"
    except DataError as error:
        assert path.name in str(error)


def whole_tars() -> list[bytes]:
    found = []
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w", format=form) as tar:
            for name in ("a.png", "a.json", f"{'b' * 60}/{'b' * 60}.png", "Ü.txt"):
                content = {"png": encoded(noise(3, 2), "PNG"), "json": b'{"caption": "a photo"}'}.get(name.rpartition(".")[2], b"a text")
                member = tarfile.TarInfo(name)
                member.size, member.mtime = len(content), 1e9 + 0.5
                tar.addfile(member, io.BytesIO(content))
        found.append(file.getvalue())
    return found


def with_right_checksums(tar: bytes) -> bytes:
    """A damaged header is seen by its checksum; a forged one has the right one."""
    blocks = [tar[start : start + 512] for start in range(0, len(tar), 512)]
    for number, block in enumerate(blocks):
        if block[257:262] == b"ustar":
            plain = block[:148] + b" " * 8 + block[156:]
            blocks[number] = block[:148] + b"%06o\0 " % sum(plain) + block[156:]
    return b"".join(blocks)


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(content=st.deferred(lambda: mutated(whole_tars())), forged=st.booleans())
def test_a_mutated_shard_is_read_or_says_why_not(tmp_path_factory, content, forged):
    path = tmp_path_factory.getbasetemp() / "mutated.tar"
    path.write_bytes(with_right_checksums(content) if forged else content)
    reads_or_says_why_not(path)


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    content=st.deferred(
        lambda: mutated([case.content for case in (*files.npys(""), *files.safetensors()) if case.good and len(case.content) < 2000])
    ),
    ending=st.sampled_from(["npy", "safetensors"]),
)
def test_a_mutated_matrix_is_read_or_says_why_not(tmp_path_factory, content, ending):
    path = tmp_path_factory.getbasetemp() / f"mutated.{ending}"
    path.write_bytes(content)
    with path.open("rb") as file:
        try:
            found = shards.matrix(file, path.name)
            rows = found.read(file, 0, found.rows, path.name)
            assert rows.shape == (found.rows, found.dim) and rows.nbytes <= 4 * len(content)
        except DataError as error:
            assert path.name in str(error)


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(content=st.deferred(lambda: mutated([files.table({"key": ["a", "b"], "embedding": [[1.0] * 4, [2.0] * 4]}, compression="none")])))
def test_mutated_parquet_is_read_or_says_why_not(content):
    try:
        opened = shards.parquet(io.BytesIO(content), "mutated")
        assume(opened.schema_arrow.names.count("embedding") == 1)
        for part in shards.batches(opened, "mutated", ["embedding"], range(opened.num_row_groups), 2):
            for vector in shards.vectors(part.column("embedding"), 4):
                assert vector is None or vector.shape == (4,)
    except DataError as error:
        assert "mutated" in str(error)
