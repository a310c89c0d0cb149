"""Safe opening of images: any file, address or bytes become an upright 8-bit RGB photo, or one ImageError that says why not.

What is refused: what Pillow cannot read (and the formats in it that run other programs, such as EPS), what is cut short, what has more pixels than
allowed, which the header tells before anything is decoded, and what keeps a decoder busy out of all proportion to them (`PIECES, SCANS, SLOW`).
JPEG 2000 is not read: 92 bytes made its decoder take 1.7 GB a megapixel. What is not known: whether the middle of a JPEG is damaged, for decoders
fill it in.
"""
# os.path answers False where Path raises (a name too long, a folder that may not be read), so:
# ruff: noqa: PTH110, PTH112, PTH113, PTH118, PTH207

import glob
import io
import itertools
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image, ImageFile, TiffImagePlugin, UnidentifiedImageError

from capdec.errors import AddressError, ImageError, one_line

FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "AVIF", "HEIF", "ICO")  # HEIF: where a plugin is
LONGEST_SIDE = 1024
"""Pixels; more than any backbone looks at."""

PIECES, SCANS, SLOW = 100_000, 100, 50
"""How much work the pixels allowed are worth: strips or tiles of a TIFF, scans of a progressive JPEG (10 are usual; a smaller one may have more), and
the factor by which fewer pixels are allowed where Pillow decodes in Python."""

SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".avif", ".heic", ".heif", ".ico"),
)
Opened = TypeVar("Opened")
UPRIGHT = {  # EXIF orientation -> what undoes it
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def open_image(
    source: str | Path | bytes,
    max_pixels: int = 100_000_000,
    at_most: int | None = None,
    max_bytes: int = 50_000_000,
    timeout: float = 20.0,
    public_only: bool = False,
) -> Image.Image:
    """An upright RGB photo from a file, an http(s) address or the bytes themselves; transparency turns white, an animation gives its first frame.

    `at_most` is the longest side wanted: a larger photo is shrunk, and a JPEG then decoded at 1/2, 1/4 or 1/8, which costs little. `max_bytes` and
    `timeout` (seconds) hold for addresses. An address is fetched wherever it points, your own network included; with `public_only`, for a service
    that takes those of strangers, only from ports 80 and 443 of hosts whose every address is one of the public internet, also behind a redirection.

    Raises ImageError, in one line, and nothing else; AddressError where an address could not be fetched.
    """
    name = f"the image of {len(source)} bytes" if isinstance(source, bytes) else one_line(source) or "an empty path"
    try:
        if isinstance(source, str) and "://" in source:
            source = _download(source, name, max_bytes, timeout, public_only)
        if isinstance(source, bytes):
            return _decode(io.BytesIO(source), name, max_pixels, at_most)
        if os.path.isdir(source):
            raise ImageError(f"{name} is a folder, and no image was found in it. An image ends in .jpg, .png, .webp or the like.")
        if not os.path.isfile(source):
            raise ImageError(f"{name} does not exist, or is no file. Check the path.")
        with open(source, "rb") as file:
            return _decode(file, name, max_pixels, at_most)
    except ImageError:
        raise
    except PermissionError as error:
        raise ImageError(f"{name} may not be read by this user. Check its permissions.") from error
    except Exception as error:  # Pillow's readers raise anything on a damaged file: OSError, SyntaxError, struct.error, MemoryError...
        raise ImageError(f"{name} is truncated or damaged ({one_line(error) or type(error).__name__}). Copy or download it again.") from error


def open_batches(
    openers: Iterable[Callable[[], Opened]],
    batch: int,
    fit: Callable[[Opened], Opened] | None = None,
    ahead: int = 2,
    workers: int | None = None,
) -> Iterator[list[Opened | ImageError]]:
    """Photos (or clips), or why they could not be opened, in batches and in order; opened in threads (8, or one a core) and passed through `fit`
    there. While one batch is used, `ahead` more are opened. `openers` is read no further than that."""

    def opened(opener: Callable[[], Opened]) -> Opened | ImageError:
        try:
            return opener() if fit is None else fit(opener())
        except ImageError as error:
            return error

    pool = ThreadPoolExecutor(workers or min(8, os.cpu_count() or 1))
    try:
        submitted = (pool.submit(opened, opener) for opener in openers)
        waiting: deque[Future[Opened | ImageError]] = deque()
        while True:
            waiting.extend(itertools.islice(submitted, (1 + ahead) * batch - len(waiting)))
            if not waiting:
                return
            taken = [waiting.popleft() for _ in range(min(batch, len(waiting)))]
            yield [future.result() for future in taken]
    finally:
        pool.shutdown(cancel_futures=True)


def _decode(file: io.BufferedReader | io.BytesIO, name: str, max_pixels: int, at_most: int | None) -> Image.Image:
    head = file.read(512)
    if not head:
        raise ImageError(f"{name} is empty. Copy or download it again.")
    Image.init()
    if head[:2] in (b"II", b"MM"):
        _refuse_crumbs(file, head, name, max_pixels)
    file.seek(0)
    try:
        image = Image.open(file, formats=[kind for kind in FORMATS if kind in Image.OPEN])  # reads the header only
    except UnidentifiedImageError as error:
        raise ImageError(f"{name} is {_guess(head)}. JPEG, PNG, WebP, GIF, BMP, TIFF and AVIF can be read.") from error
    except Image.DecompressionBombError as error:
        raise ImageError(f"{name} has too many pixels even to try ({error}). Shrink it first.") from error
    with image:
        width, height = image.size
        if at_most is not None:
            image.draft(None, (2 * at_most, 2 * at_most))  # does something for a JPEG only; twice the size, so that shrinking still averages
        if image.width * image.height > max_pixels:
            raise ImageError(f"{name} has {width} x {height} pixels, and at most {max_pixels:,} are allowed. Shrink it first, or raise max_pixels.")
        _refuse_slow(image, file, name, width * height, max_pixels)
        image.load()
        photo = upright(image)
    if at_most is not None:
        photo.thumbnail((at_most, at_most), Image.Resampling.BICUBIC, reducing_gap=3.0)
    return photo


def _refuse_crumbs(file: io.BufferedReader | io.BytesIO, head: bytes, name: str, max_pixels: int) -> None:
    """Of a TIFF, Pillow makes an object of every strip or tile on opening, and room for a whole tile however small the photo is."""
    pieces = of_one = 0
    with suppress(Exception):  # Pillow will say what is wrong
        tags = TiffImagePlugin.ImageFileDirectory_v2(head[: 16 if 43 in head[2:4] else 8])
        file.seek(tags.next)
        tags.load(file)
        pieces = len(tags.get(273) or tags.get(324) or ())
        of_one = tags.get(322, 0) * tags.get(323, 0)
    if pieces > PIECES or of_one > max_pixels:
        raise ImageError(f"{name} is a TIFF in {pieces:,} pieces, too many or too large to read. Save it as JPEG or PNG.")


def _refuse_slow(image: Image.Image, file: io.BufferedReader | io.BytesIO, name: str, pixels: int, max_pixels: int) -> None:
    """A short file can keep a decoder busy for minutes where that loops in Python, or goes over the photo scan by scan."""
    codec = image.tile[0][0] if isinstance(image, ImageFile.ImageFile) and image.tile else ""
    if codec == "ppm_plain" or (codec in Image.DECODERS and pixels > max_pixels // SLOW):
        limit = "" if codec == "ppm_plain" else f" in more than {max_pixels // SLOW:,} pixels"
        raise ImageError(f"{name} is a {image.format} of a kind ({codec}) that is slow to read{limit}. Save it as JPEG or PNG.")
    if image.info.get("progressive"):
        file.seek(0)
        scans = file.read().count(b"\xff\xda")
        if scans * pixels > SCANS * max_pixels:
            raise ImageError(f"{name} is a JPEG in {scans:,} scans of {pixels:,} pixels, too many to read. Save it again.")


def upright(image: Image.Image) -> Image.Image:
    """An opened image as it is meant to be seen: 8-bit RGB, turned as its EXIF orientation says, on white where it is transparent."""
    turn = None
    with suppress(Exception):  # a broken EXIF block is no reason to refuse a photo
        turn = UPRIGHT.get(image.getexif().get(0x0112, 1))
    photo = _to_rgb(image)
    photo = photo.transpose(turn) if turn is not None else photo
    photo.info = {}  # else the orientation would be found, and undone, again
    return photo


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode[0] in "IF":  # I;16, I;16B, I, F
        return _to_grey(np.asarray(image)).convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    coloured = image if image.mode == "RGBA" else image.convert("RGBA")
    photo = Image.new("RGB", image.size, "white")
    photo.paste(coloured, mask=coloured)
    return photo


def _to_grey(levels: np.ndarray) -> Image.Image:
    """16-bit, 32-bit or float levels to 8 bits. A 32-bit file does not say what its white is: 1 (floats), 255 or 65535, the least that holds all
    levels; where none does or some are negative, the range it uses is stretched."""
    values = np.nan_to_num(levels.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    low, high = float(values.min()), float(values.max())
    if levels.dtype.itemsize == 2:
        low, high = 0.0, 65535.0
    elif low >= 0 and high <= 65535:
        whites = (1.0, 255.0, 65535.0) if levels.dtype.kind == "f" else (255.0, 65535.0)
        low, high = 0.0, next(white for white in whites if high <= white)
    return Image.fromarray(((values - low) * (255 / max(high - low, 1e-12))).round().clip(0, 255).astype(np.uint8))


def _guess(head: bytes) -> str:
    """What a file that is no readable image may be instead."""
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if head[4:8] == b"ftyp" and head[8:12] in (b"heic", b"heix", b"hevc", b"heim", b"mif1", b"msf1"):
        return "a HEIC photo (save it as JPEG, or install pillow-heif and call its register_heif_opener)"
    if head[4:8] == b"ftyp" and head[8:12] != b"avif":
        return "a video (capdec caption reads those that are files and end in .mp4, .mov or the like)"
    if head.startswith((b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  ")):
        return "JPEG 2000 (save it as JPEG)"
    for start, what in {b"<svg": "an SVG drawing", b"<?xml": "XML, perhaps an SVG drawing", b"%pdf": "a PDF", b"%!ps": "PostScript"}.items():
        if text.startswith(start):
            return what
    if text.startswith((b"<!doctype html", b"<html")):
        return "a web page, not an image (look for the image's own address)"
    return "not an image, or damaged from its start"


def _download(url: str, name: str, max_bytes: int, timeout: float, public_only: bool) -> bytes:
    import urllib.error
    import urllib.parse
    import urllib.request

    scheme = url.partition("://")[0].lower()
    if scheme not in ("http", "https"):
        raise AddressError(f"{name} is a {scheme} address, and only http and https are fetched. Give a file's path without {scheme}://.")
    # An opener of our own: the usual one would follow a redirection to ftp.
    opener = urllib.request.OpenerDirector()
    if public_only:
        from capdec.public_addresses import handlers

        fetching: list[urllib.request.BaseHandler] = handlers(timeout)
    else:
        fetching = [urllib.request.ProxyHandler(), urllib.request.HTTPHandler(), urllib.request.HTTPSHandler()]
    for handler in (
        *fetching,
        urllib.request.UnknownHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPRedirectHandler(),
        urllib.request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    quoted = urllib.parse.quote(url, safe="%/:=&?~#+!$,;'@()*[]")  # spaces and umlauts, as pasted
    request = urllib.request.Request(quoted, headers={"User-Agent": "capdec (+https://pypi.org/project/capdec)", "Accept": "image/*"})
    deadline = time.monotonic() + timeout
    content = bytearray()
    try:
        with opener.open(request, timeout=timeout) as response:
            while chunk := response.read1(65536):
                content += chunk
                if len(content) > max_bytes:
                    raise AddressError(f"{name} has more than {max_bytes:,} bytes. Download it yourself, or raise max_bytes.")
                if time.monotonic() > deadline:
                    raise TimeoutError
    except ImageError:
        raise
    except TimeoutError as error:
        raise AddressError(f"{name} did not arrive within {timeout:g} s. Try again, or raise timeout.") from error
    except urllib.error.HTTPError as error:
        said = f"{error.code}" if public_only else f"{error.code} {one_line(error.reason)}"
        raise AddressError(f"{name} could not be fetched: the server answered {said}. Check the address.") from error
    except Exception as error:  # URLError, and what http.client raises on a broken answer or address
        if public_only:  # a stranger is not told what this network's names and hosts say
            raise AddressError(f"{name} could not be fetched from a public address, port 80 or 443. Check it.") from error
        reason = getattr(error, "reason", None) or error
        raise AddressError(
            f"{name} could not be fetched ({one_line(reason) or type(reason).__name__}). Check the address and the network."
        ) from error
    return bytes(content)


def find_images(paths: Iterable[str], suffixes: tuple[str, ...] = SUFFIXES) -> Iterator[str]:
    """The image files meant by `paths`, lazily: files, folders (all below, by suffix, in order, hidden ones left out), patterns such as
    "photos/**/*.jpg" (what they match, by suffix), addresses as they are, and "-" for a path a line on standard input. What matches nothing is passed
    on as it is, so that it fails where it is opened and is reported there."""
    for path in paths:
        if path == "-":
            yield from find_images((line for line in (line.rstrip("\r\n") for line in sys.stdin) if line not in ("", "-")), suffixes)
        elif "://" in path:
            yield path
        elif os.path.isdir(path):
            yield from _or(_below(path, suffixes), path)
        elif glob.has_magic(path) and not os.path.exists(path):
            matches = sorted(set(glob.iglob(path, recursive=True)))
            yield from _or((match for match in matches if match.lower().endswith(suffixes) and os.path.isfile(match)), path)
        else:
            yield path


def _below(folder: str, suffixes: tuple[str, ...]) -> Iterator[str]:
    for root, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (os.path.join(root, name) for name in sorted(files) if name.lower().endswith(suffixes) and not name.startswith("."))


def _or(found: Iterator[str], otherwise: str) -> Iterator[str]:
    yield next(found, otherwise)
    yield from found
