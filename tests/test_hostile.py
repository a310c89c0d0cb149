"""What nobody should send, sent: see hostile/. The readers run in a process of their own, with a watch on its time and a limit on its memory."""

import json
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from capdec.caption import caption_files
from capdec.errors import ImageError
from capdec.images import LONGEST_SIDE, open_image
from capdec.protocols import Decoding
from hostile import encoded, noise

READ_IMAGES = """
import faulthandler, json, pathlib, resource, sys, warnings
from capdec.errors import ImageError
from capdec.images import LONGEST_SIDE, open_image
from hostile.images import images

warnings.simplefilter("ignore")
resource.setrlimit(resource.RLIMIT_DATA, (3 << 30, 3 << 30))
for number, case in enumerate(images()):
    pathlib.Path(sys.argv[1], f"{number:04d}.jpg").write_bytes(case.content)
    for at_most in (None, LONGEST_SIDE):
        faulthandler.dump_traceback_later(20, exit=True)
        try:
            photo = open_image(case.content, at_most=at_most)
            outcome = [photo.mode, *photo.size]
        except ImageError as error:
            outcome = str(error)
        print(json.dumps([case.name, case.good, outcome]), flush=True)
    faulthandler.cancel_dump_traceback_later()
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
