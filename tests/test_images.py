"""Every odd image here is made by Pillow or byte by byte, and every address is on a server of our own."""

import io
import struct
import subprocess
import sys
import threading
import time
import warnings
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from PIL import Image, ImageFile

from capdec.errors import ImageError
from capdec.images import find_images, open_batches, open_image, upright

RED, GREEN, WHITE = (255, 0, 0), (0, 128, 0), (255, 255, 255)


def encoded(image: Image.Image, kind: str, **settings) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **settings)
    return file.getvalue()


def noise(width: int = 120, height: int = 90) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def png_header(width: int, height: int, bits: int = 8, colour: int = 2, data: bytes = b"") -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def near(pixel: object, wanted: tuple[int, int, int], by: int = 6) -> bool:
    return all(abs(a - b) <= by for a, b in zip(pixel, wanted, strict=True))  # type: ignore[call-overload]


def refused(source, *words: str, **settings) -> str:
    with pytest.raises(ImageError) as caught:
        open_image(source, **settings)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 700
    for word in words:
        assert word in message, message
    return message


# --- what opens


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "ICO"])
def test_an_ordinary_photo_opens_from_a_path_a_string_and_bytes(tmp_path, kind):
    content = encoded(Image.new("RGB", (24, 16), RED), kind, **({"sizes": [(24, 16)]} if kind == "ICO" else {}))
    path = tmp_path / "photo"
    path.write_bytes(content)
    for source in (path, str(path), content):
        photo = open_image(source)
        assert type(photo) is Image.Image and photo.mode == "RGB" and photo.size == (24, 16)
        assert near(photo.getpixel((12, 8)), RED)


@pytest.mark.parametrize("kind", ["JPEG", "TIFF", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_taken_with_a_turned_camera_comes_upright(orientation, kind):
    upright = Image.new("RGB", (40, 24), WHITE)
    upright.paste(RED, (0, 0, 16, 8))
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # the transposition whose EXIF inverse is the orientation
    stored = upright.transpose(Image.Transpose(undo[orientation])) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    photo = open_image(encoded(stored, kind, exif=exif))
    assert photo.size == (40, 24)
    assert near(photo.getpixel((4, 3)), RED, 40) and near(photo.getpixel((36, 3)), WHITE, 40) and near(photo.getpixel((4, 20)), WHITE, 40)
    assert not photo.getexif(), "an orientation left behind would be undone twice"


@pytest.mark.filterwarnings("ignore")  # Pillow's own
def test_a_broken_exif_block_is_no_reason_to_refuse_a_photo():
    assert open_image(encoded(Image.new("RGB", (8, 8), RED), "JPEG", exif=b"Exif\0\0MM\0\x2a\xff\xff\xff\xff")).size == (8, 8)


def test_cmyk_is_not_inverted():
    content = encoded(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=95)  # cyan off, magenta and yellow full: red
    assert b"Adobe" in content, "Pillow writes the inverted form with Adobe's marker"
    assert near(open_image(content).getpixel((8, 8)), RED)
    assert near(open_image(encoded(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "TIFF")).getpixel((8, 8)), RED)


def test_palettes_open_with_and_without_transparency():
    palette = Image.new("P", (8, 8), 1)
    palette.putpalette([0, 0, 0, *RED, *GREEN])
    palette.paste(2, (0, 0, 4, 8))
    plain = open_image(encoded(palette, "PNG"))
    assert plain.getpixel((6, 4)) == RED and plain.getpixel((1, 4)) == GREEN
    for transparency in (2, bytes([255, 255, 0])):
        see_through = open_image(encoded(palette, "PNG", transparency=transparency))
        assert see_through.getpixel((6, 4)) == RED and see_through.getpixel((1, 4)) == WHITE
    assert open_image(encoded(palette, "GIF", transparency=2)).getpixel((1, 4)) == WHITE


def test_transparency_becomes_white():
    assert open_image(encoded(Image.new("RGBA", (4, 4), (0, 0, 0, 0)), "PNG")).getpixel((1, 1)) == WHITE
    assert near(open_image(encoded(Image.new("RGBA", (4, 4), (0, 0, 0, 128)), "PNG")).getpixel((1, 1)), (127, 127, 127), 1)
    assert open_image(encoded(Image.new("LA", (4, 4), (0, 0)), "PNG")).getpixel((1, 1)) == WHITE
    keyed = encoded(Image.new("RGB", (4, 4), RED), "PNG", transparency=RED)
    assert open_image(keyed).getpixel((1, 1)) == WHITE


def test_one_bit_images_open():
    photo = open_image(encoded(Image.new("1", (9, 9), 1), "PNG"))
    assert photo.getpixel((4, 4)) == WHITE


def test_sixteen_bit_grey_is_scaled_and_not_clipped():
    ramp = (np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)
    expected = np.arange(256).reshape(16, 16)
    for kind in ("PNG", "TIFF", "PPM"):
        photo = open_image(encoded(Image.fromarray(ramp), kind))
        assert np.array_equal(np.asarray(photo)[..., 0], expected), kind
    rows = b"".join(b"\0" + row.tobytes() for row in ramp.astype(">u2"))
    assert np.array_equal(np.asarray(open_image(png_header(16, 16, bits=16, colour=0, data=rows)))[..., 2], expected)


@pytest.mark.parametrize(
    ("levels", "expected"),
    [
        (np.array([[0.0, 0.5, 1.0]], np.float32), [0, 128, 255]),
        (np.array([[0.0, 100.0, 255.0]], np.float32), [0, 100, 255]),
        (np.array([[-2.0, 0.0, 2.0]], np.float32), [0, 128, 255]),
        (np.array([[np.nan, np.inf, 1.0]], np.float32), [0, 0, 255]),
        (np.array([[0, 100, 255]], np.int32), [0, 100, 255]),
        (np.array([[0, 32768, 65535]], np.int32), [0, 128, 255]),
        (np.array([[0, 500_000, 1_000_000]], np.int32), [0, 128, 255]),
        (np.array([[7, 7, 7]], np.int32), [7, 7, 7]),
        (np.array([[-7.0, -7.0, -7.0]], np.float32), [0, 0, 0]),
    ],
)
def test_deep_grey_of_32_bits_keeps_its_range(levels, expected):
    assert np.asarray(open_image(encoded(Image.fromarray(levels), "TIFF")))[0, :, 0].tolist() == pytest.approx(expected, abs=1)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "MPO", "TIFF"])
def test_an_animation_gives_its_first_frame(kind):
    frames = [Image.new("RGB", (16, 16), colour) for colour in (RED, GREEN, WHITE)]
    photo = open_image(encoded(frames[0], kind, save_all=True, append_images=frames[1:]))
    assert near(photo.getpixel((8, 8)), RED)


def test_a_photo_is_shrunk_to_the_longest_side_wanted_and_never_enlarged():
    content = encoded(noise(800, 400), "JPEG")
    assert open_image(content, at_most=100).size == (100, 50)
    assert open_image(content, at_most=2000).size == (800, 400)
    assert open_image(encoded(noise(80, 160), "PNG"), at_most=40).size == (20, 40)


def test_a_shrunk_jpeg_looks_like_the_full_one_shrunk():
    gradient = Image.linear_gradient("L").resize((1024, 1024)).convert("RGB")
    content = encoded(gradient, "JPEG", quality=95)
    full = np.asarray(open_image(content).resize((64, 64), Image.Resampling.BICUBIC), dtype=float)
    assert np.abs(np.asarray(open_image(content, at_most=64), dtype=float) - full).max() < 3


def test_a_jpeg_too_large_to_decode_whole_opens_where_a_small_one_is_wanted():
    content = encoded(Image.new("RGB", (4000, 3000), RED), "JPEG")
    refused(content, "4000 x 3000", "1,000,000", max_pixels=1_000_000)
    assert open_image(content, max_pixels=1_000_000, at_most=256).size == (256, 192)


# --- what is refused


def test_what_is_not_there_is_named(tmp_path):
    refused(tmp_path / "none.jpg", "none.jpg", "does not exist")
    refused(tmp_path, "is a folder")
    refused("", "an empty path", "does not exist")
    refused("a\0b.jpg", "does not exist")
    refused("x" * 5000, "does not exist")
    refused("line one\nline two.jpg", "line one line two.jpg")


def test_empty_and_foreign_files_are_named_for_what_they_are(tmp_path):
    (tmp_path / "empty.jpg").write_bytes(b"")
    refused(tmp_path / "empty.jpg", "empty.jpg", "is empty")
    refused(b"", "is empty")
    refused(b"hello, I am a text", "not an image")
    refused(b"<!DOCTYPE html><html></html>", "a web page")
    refused(b'<?xml version="1.0"?><svg/>', "SVG")
    refused(b"%PDF-1.7 ...", "a PDF")
    refused(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC", "pillow-heif")
    refused(b"\0\0\0\x18ftypisom\0\0\0\0isomiso2", "a video")
    refused(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "PostScript")  # Pillow would run Ghostscript


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_a_truncated_photo_is_reported_and_not_half_grey(kind, share):
    content = encoded(noise(), kind)
    refused(content[: int(len(content) * share)], "truncated or damaged")
    refused(content[: int(len(content) * share)], "truncated or damaged", at_most=16)


@pytest.mark.filterwarnings("ignore")  # Pillow's own
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "TIFF"])
def test_damage_anywhere_raises_image_error_or_nothing(kind):
    random = np.random.default_rng(1)
    whole = np.frombuffer(encoded(noise(30, 20), kind), dtype=np.uint8)
    for trial in range(60):
        damaged = whole.copy()
        reach = min(len(whole), 120) if trial % 2 else len(whole)
        damaged[random.integers(0, reach, 6)] = random.integers(0, 256, 6)
        try:
            assert open_image(damaged.tobytes()).mode == "RGB"
        except ImageError as error:
            assert "\n" not in str(error)


@pytest.mark.filterwarnings("ignore")  # Pillow's own
def test_a_bomb_is_refused_by_its_header_alone():
    started = time.perf_counter()
    refused(png_header(20_000, 10_000), "pixels")  # 200 megapixels in 70 bytes: beyond Pillow's own limit
    refused(png_header(12_000, 10_000), "12000 x 10000", "100,000,000", "max_pixels")  # within Pillow's limit, beyond ours
    assert time.perf_counter() - started < 1


def test_pixels_allowed_are_the_callers_choice():
    content = encoded(noise(40, 30), "PNG")
    assert open_image(content, max_pixels=1200).size == (40, 30)
    refused(content, "40 x 30", max_pixels=1199)


def test_pillows_globals_stay_as_they_were():
    before = (ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS, list(warnings.filters))
    refused(png_header(20_000, 10_000))
    open_image(encoded(noise(), "JPEG"), at_most=30)
    assert (ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS, list(warnings.filters)) == before


def test_opening_images_does_not_import_torch():
    program = "import sys, capdec.images; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


# --- addresses


@pytest.fixture
def server(monkeypatch) -> Iterator[Callable[[str], str]]:
    """path -> its address. /photo.png answers with a photo; /status/N with that status; the rest as named."""
    monkeypatch.setenv("no_proxy", "*")
    photo = encoded(Image.new("RGB", (12, 10), RED), "PNG")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            place = self.path.split("?")[0].strip("/")
            if place.startswith("status/"):
                self.send_error(int(place.split("/")[1]))
            elif place.startswith("to/"):
                self.send_response(302)
                self.send_header("Location", {"photo": "/photo.png", "ftp": "ftp://127.0.0.1/x.png", "file": "file:///etc/passwd"}[place[3:]])
                self.end_headers()
            elif place == "slow":
                self.send_response(200)
                self.end_headers()
                try:
                    for _ in range(100):
                        self.wfile.write(b".")
                        time.sleep(0.05)
                except OSError:
                    pass
            elif place == "silent":
                time.sleep(1.5)
            else:
                agent = self.headers["User-Agent"].startswith("capdec")
                body = {"endless": b"x" * 300_000, "page": b"<html></html>", "half.png": photo[:50]}.get(place, photo if agent else b"")
                self.send_response(200)
                self.send_header("Content-Length", str(len(photo) if place == "half.png" else len(body)))
                self.end_headers()
                self.wfile.write(body)

        def log_message(self, *_) -> None:
            """Quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        listening.daemon_threads = True
        threading.Thread(target=listening.serve_forever, args=(0.02,), daemon=True).start()
        yield lambda path: f"http://127.0.0.1:{listening.server_port}/{path}"
        listening.shutdown()


def test_a_photo_opens_from_its_address(server):
    for path in ("photo.png", "photo.png?size=large&x=%20", "to/photo", "mit leerzeichen und ü.png"):
        assert open_image(server(path)).getpixel((5, 5)) == RED


def test_an_address_that_fails_says_how(server):
    refused(server("status/404"), "404 Not Found", "status/404")
    refused(server("status/500"), "500")
    refused(server("page"), "a web page")
    refused(server("half.png"), "truncated")
    refused(server("endless"), "more than 1,000 bytes", max_bytes=1000)
    refused(server("slow"), "0.3 s", timeout=0.3)
    refused(server("silent"), timeout=0.2)
    refused("http://127.0.0.1:9/photo.png", "could not be fetched")
    refused("http://", "could not be fetched")
    refused("http://[::1/photo.png", "http://[::1/photo.png")


def test_only_http_is_fetched_also_behind_a_redirection(server):
    refused("file:///etc/passwd", "only http and https")
    refused("ftp://127.0.0.1/x.png", "only http and https")
    refused(server("to/ftp"), "could not be fetched")
    refused(server("to/file"), "could not be fetched")


# --- finding


@pytest.fixture
def album(tmp_path):
    for name in ("b.jpg", "a.PNG", "notes.txt", ".hidden.jpg", "sub/c.webp", "sub/deep/d.gif", ".thumbs/e.jpg", "odd[1].jpg", "empty/readme.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def found(album, *paths: str) -> list[str]:
    return [path.removeprefix(f"{album}/") for path in find_images(paths)]


def test_a_folder_means_the_images_below_it_in_order(album):
    assert found(album, str(album)) == ["a.PNG", "b.jpg", "odd[1].jpg", "sub/c.webp", "sub/deep/d.gif"]


def test_patterns_files_and_addresses_mix(album):
    assert found(album, f"{album}/**/*.*") == ["a.PNG", "b.jpg", "odd[1].jpg", "sub/c.webp", "sub/deep/d.gif"]
    assert found(album, f"{album}/*.jpg") == ["b.jpg", "odd[1].jpg"]
    assert found(album, f"{album}/odd[1].jpg", "https://example.org/a?b=*") == ["odd[1].jpg", "https://example.org/a?b=*"]


def test_what_matches_nothing_is_passed_on_and_fails_when_opened(album):
    missing = [f"{album}/none.jpg", f"{album}/*.heic", f"{album}/empty", f"{album}/notes.txt"]
    assert list(find_images(missing)) == missing
    for path in missing:
        refused(path, path)


def test_a_dash_reads_paths_from_standard_input(album, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{album}/b.jpg\r\n\n-\n{album}/sub\n"))
    assert found(album, "-", f"{album}/a.PNG") == ["b.jpg", "sub/c.webp", "sub/deep/d.gif", "a.PNG"]


def test_images_are_found_lazily():
    def endless() -> Iterator[str]:
        while True:
            yield "photo.jpg"

    assert next(find_images(endless())) == "photo.jpg"


@pytest.mark.parametrize("ahead", [0, 2])
def test_photos_are_opened_in_order_with_errors_in_their_place_and_no_further_ahead_than_said(ahead):
    asked = []

    def openers():
        for number in range(40):
            asked.append(number)
            content = b"no photo" if number == 5 else encoded(Image.new("RGB", (number + 1, 2)), "PNG")
            yield partial(open_image, content)

    batches = open_batches(openers(), 4, lambda photo: photo.resize((photo.width, 7)), ahead)
    first = next(batches)
    assert [photo.size for photo in first] == [(number, 7) for number in (1, 2, 3, 4)] and len(asked) == 4 * (1 + ahead)
    second = next(batches)
    assert isinstance(second[1], ImageError) and [second[place].width for place in (0, 2, 3)] == [5, 7, 8]
    assert sum(map(len, batches)) == 32
    assert list(open_batches([], 4)) == []


def test_a_photo_that_was_opened_before_keeps_what_is_known_of_it():
    photo = Image.new("RGB", (4, 3), RED)
    photo.info["comment"] = "mine"
    seen = upright(photo)
    assert seen is not photo and seen.info == {} and photo.info == {"comment": "mine"} and seen.tobytes() == photo.tobytes()
