"""Images that are cut, broken, forged, bombs, of another kind than they say, or only unusual."""

import gzip
import io
import pickle
import struct
import zipfile
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image

from hostile import Case, cases, encoded, noise

# --- the formats, written by hand


def png(width: int, height: int, *chunks: bytes, bits: int = 8, colour: int = 0, interlace: int = 0, data: bytes | None = None) -> bytes:
    """Grey (0), colour (2), palette (3), with alpha (4, 6); without `data`, black."""
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}.get(colour, 1)
    rows = bytes((1 + (width * bits * channels + 7) // 8) * height) if data is None else data
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, interlace)
    return PNG + chunk(b"IHDR", header) + b"".join(chunks) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND")


PNG = b"\x89PNG\r\n\x1a\n"


def chunk(kind: bytes, body: bytes = b"", length: int | None = None, crc: int | None = None) -> bytes:
    return (
        struct.pack(">I", len(body) if length is None else length) + kind + body + struct.pack(">I", zlib.crc32(kind + body) if crc is None else crc)
    )


def segment(marker: int, body: bytes = b"", length: int | None = None) -> bytes:
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(body) + 2 if length is None else length) + body


def in_jpeg(*segments: bytes) -> bytes:
    """A photo with more behind its first marker."""
    whole = encoded(noise(), "JPEG")
    return whole[:2] + b"".join(segments) + whole[2:]


def frame(width: int = 16, height: int = 16, components: int = 1, precision: int = 8, sampling: int = 0x11) -> bytes:
    return struct.pack(">BHHB", precision, height, width, components) + b"".join(bytes([1 + n, sampling, 0]) for n in range(components))


def jpeg_of_scans(side: int, scans: int) -> bytes:
    """A progressive one whose every scan goes over all blocks in a few bytes: each code skips 32,766 of them."""

    def packed(bits: str) -> bytes:
        bits += "1" * (-len(bits) % 8)
        return int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\0")

    blocks = (-(-side // 8)) ** 2
    one_code = bytes([1] + [0] * 15)
    tables = segment(0xDB, b"\0" + bytes([1] * 64)) + segment(0xC4, b"\0" + one_code + b"\0") + segment(0xC4, b"\x10" + one_code + b"\xe0")
    first = segment(0xDA, b"\1\1\0\0\0\1") + packed("0" * blocks)
    refining = segment(0xDA, b"\1\1\0\1\x3f\x10") + packed("011111111111110" * -(-blocks // 32766))
    return b"\xff\xd8" + tables + segment(0xC2, frame(side, side)) + first + refining * scans + b"\xff\xd9"


def tiff(*tags: tuple[int, int, object], data: bytes = b"", after: int = 0, big: bool = False, count: int | None = None) -> bytes:
    """Little-endian; `tags` are (tag, type, values or bytes), the value AT is the place of `data`, and `after` that of the next directory."""
    letter = {1: "B", 2: "B", 3: "H", 4: "I", 5: "I", 8: "h", 9: "i", 11: "f", 12: "d", 13: "I", 16: "Q"}
    room, pointer, head = (8, "<Q", b"II\x2b\0\x08\0\0\0" + struct.pack("<Q", 16)) if big else (4, "<I", b"II\x2a\0\x08\0\0\0")
    start = len(head) + (8 if big else 2) + len(tags) * (20 if big else 12) + room
    sizes = [len(values) * (1 if isinstance(values, bytes) else struct.calcsize(letter[kind])) for _, kind, values in tags]
    at = start + sum(size for size in sizes if size > room)
    entries = values_behind = b""
    for tag, kind, values in sorted(tags, key=lambda entry: entry[0]):
        raw = (
            values if isinstance(values, bytes) else struct.pack(f"<{len(values)}{letter[kind]}", *(at if value is AT else value for value in values))
        )
        number = len(values) // (2 if kind == 5 else 1)
        entries += struct.pack("<HHQ" if big else "<HHI", tag, kind, number)
        entries += raw.ljust(room, b"\0") if len(raw) <= room else struct.pack(pointer, start + len(values_behind))
        values_behind += raw if len(raw) > room else b""
    number = len(tags) if count is None else count
    return head + struct.pack("<Q" if big else "<H", number) + entries + struct.pack(pointer, after) + values_behind + data


AT = object()


def grey_tiff(width: int, height: int, *tags: tuple[int, int, object], data: bytes = bytes(256), compression: int = 1, **settings) -> bytes:
    """One strip, unless `tags` say otherwise."""
    usual = {256: (4, [width]), 257: (4, [height]), 258: (3, [8]), 259: (3, [compression]), 262: (3, [1]), 277: (3, [1])}
    usual |= {273: (4, [AT]), 278: (4, [height]), 279: (4, [len(data)])} | {tag: (kind, values) for tag, kind, values in tags}
    return tiff(*((tag, kind, values) for tag, (kind, values) in usual.items() if values is not None), data=data, **settings)


def bmp(
    width: int, height: int, data: bytes = b"", bits: int = 8, compression: int = 0, colours: int = 0, at: int | None = None, header: int = 40
) -> bytes:
    palette = bytes(4 << bits) if bits <= 8 else b""
    info = struct.pack("<IiiHHIIiiII", header, width, height, 1, bits, compression, len(data), 0, 0, colours, 0)
    start = 14 + len(info) + len(palette)
    return b"BM" + struct.pack("<IHHI", start + len(data), 0, 0, start if at is None else at) + info + palette + data


def gif(width: int, height: int, *blocks: bytes, palette: bytes = bytes(6)) -> bytes:
    return b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80 if palette else 0, 0, 0) + palette + b"".join(blocks) + b";"


def gif_frame(
    width: int = 4,
    height: int = 4,
    left: int = 0,
    top: int = 0,
    code_size: int = 8,
    data: bytes = b"\0\1\x08\x1c\x48\xb0\x20\x80\x80",
    flags: int = 0,
) -> bytes:
    return b"," + struct.pack("<HHHHBB", left, top, width, height, flags, code_size) + bytes([len(data)]) + data + b"\0"


def webp(*chunks: bytes, size: int | None = None) -> bytes:
    body = b"WEBP" + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body) if size is None else size) + body


def riff(kind: bytes, body: bytes = b"", size: int | None = None) -> bytes:
    return kind + struct.pack("<I", len(body) if size is None else size) + body + b"\0" * (len(body) % 2)


def vp8x(width: int, height: int, flags: int = 0) -> bytes:
    return riff(b"VP8X", struct.pack("<I", flags) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little"))


def ico(*pictures: bytes, count: int | None = None, at: int | None = None, kind: int = 1) -> bytes:
    start = 6 + 16 * len(pictures)
    head = struct.pack("<HHH", 0, kind, len(pictures) if count is None else count)
    places = [start + sum(map(len, pictures[:n])) if at is None else at for n in range(len(pictures))]
    return (
        head
        + b"".join(struct.pack("<BBBBHHII", 16, 16, 0, 0, 1, 32, len(p), place) for p, place in zip(pictures, places, strict=True))
        + b"".join(pictures)
    )


def box(kind: bytes, body: bytes = b"", size: int | None = None) -> bytes:
    return struct.pack(">I", len(body) + 8 if size is None else size) + kind + body


def jpeg_2000(side: int) -> bytes:
    """Precincts of one pixel, each with structures of its own."""
    size = segment(0x51, struct.pack(">HIIIIIIIIH", 0, side, side, 0, 0, side, side, 0, 0, 3) + b"\7\1\1" * 3)
    style = segment(0x52, bytes([1, 0, 0, 1, 0, 0, 0, 0, 0, 1, 0])) + segment(0x5C, b"\x40\x40")
    return b"\xff\x4f" + size + style + b"\xff\x90" + struct.pack(">HHIBB", 10, 0, 14, 0, 1) + b"\xff\x93\xff\xd9"


# --- images


def images() -> Iterator[Case]:
    """`good`: it is opened (True) or refused (False)."""
    yield from _cut()
    yield from _foreign()
    yield from _of_a_size()
    yield from _unusual()
    for make in (_jpegs, _pngs, _tiffs, _webps, _gifs, _bmps, _ppms, _icons, _avifs):
        yield from make()


def _cut() -> Iterator[Case]:
    photo, moving = noise(), {"save_all": True, "append_images": [noise().rotate(90 * n) for n in range(3)]}
    whole = {
        "jpeg": encoded(photo, "JPEG"),
        "progressive jpeg": encoded(photo, "JPEG", progressive=True),
        "mpo": encoded(photo, "MPO", **moving),
        "png": encoded(photo, "PNG"),
        "apng": encoded(photo, "PNG", **moving),
        "interlaced png": png(60, 40, interlace=1),
        "webp": encoded(photo, "WEBP"),
        "lossless webp": encoded(photo, "WEBP", lossless=True),
        "animated webp": encoded(photo, "WEBP", **moving),
        "gif": encoded(photo, "GIF"),
        "bmp": encoded(photo, "BMP"),
        "tiff": encoded(photo, "TIFF"),
        "deflated tiff": encoded(photo, "TIFF", compression="tiff_deflate"),
        "ppm": encoded(photo, "PPM"),
        "avif": encoded(photo, "AVIF"),
        "ico": encoded(photo.resize((16, 16)), "ICO"),
    }
    for kind, content in whole.items():
        for length in (1, 3, 11, 29):
            yield Case(f"{kind}, {length} bytes of it", content[:length])
        yield Case(f"{kind}, three quarters of it", content[: len(content) * 3 // 4], None)
        yield Case(f"{kind} without its last byte", content[:-1], None)
        yield Case(f"{kind} without its first byte", content[1:])
        yield Case(f"{kind} without its 20th byte", content[:20] + content[21:], None)


def _foreign() -> Iterator[Case]:
    photo = encoded(noise(), "JPEG")
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("photo.jpg", photo)
    zipped = archive.getvalue()
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(seen) (w) file closefile\n%%EOF\n"
    yield from cases(
        opened={
            "photo and zip": photo + zipped,
            "photo and html": photo + b"<html></html>",
            "photo twice": photo * 2,
            "photo with a pdf in its comment": in_jpeg(segment(0xFE, b"%PDF-1.4 ...")),
            "png and html": encoded(noise(), "PNG") + b"<html>",
        },
        refused={
            "one zero": b"\0",
            "zeros": bytes(100_000),
            "ones": b"\xff" * 100_000,
            "a line end": b"\n",
            "a text": b"photo.jpg\n",
            "a path": b"/etc/passwd",
            "html": b"<html><img src='photo.jpg'></html>",
            "html named JPEG by its start": b"\xff\xd8\xff<html></html>",
            "svg": b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>",
            "svg with entities": b'<?xml version="1.0"?><!DOCTYPE l [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]><svg>&b;</svg>',
            "gzipped svg": gzip.compress(b"<svg/>"),
            "pdf": b"%PDF-1.4\n1 0 obj<</Type/Catalog>>endobj\ntrailer<</Root 1 0 R>>",
            "postscript": postscript,
            "postscript in its DOS form": b"\xc5\xd0\xd3\xc6" + struct.pack("<II", 30, len(postscript)) + bytes(18) + postscript,
            "zip": zipped,
            "photo behind a zip": zipped + photo,
            "gzip of a photo": gzip.compress(photo),
            "pickle": pickle.dumps({"photo": photo}),
            "program": b"\x7fELF\x02\x01\x01" + bytes(200),
            "mp4": box(b"ftyp", b"isom\0\0\2\0isomiso2") + box(b"mdat", bytes(99)),
            "mp3": b"ID3\x04" + bytes(99),
            "wave": b"RIFF" + struct.pack("<I", 40) + b"WAVEfmt " + bytes(40),
            "psd": b"8BPS\0\1" + bytes(40),
            "dds": b"DDS \x7c\0\0\0" + bytes(120),
            "fits": b"SIMPLE  =                    T".ljust(2880),
            "qoi": b"qoif\0\0\0\x10\0\0\0\x10\3\0" + bytes(99),
            "icns": b"icns\0\0\x01\0ic07\0\0\0\xf8" + encoded(noise(), "PNG"),
            "pcx": encoded(noise(), "PCX"),
            "tga": encoded(noise(), "TGA"),
            "sgi": encoded(noise(), "SGI"),
            "im": encoded(noise(), "IM"),
            "xbm": encoded(noise().convert("1"), "XBM"),
            "spider": encoded(noise().convert("F"), "SPIDER"),
            "emf": struct.pack("<II", 1, 108) + bytes(32) + b" EMF" + bytes(64),
            "wmf": b"\xd7\xcd\xc6\x9a" + bytes(40),
            "hdf5": b"\x89HDF\r\n\x1a\n" + bytes(99),
            "jpeg 2000": jpeg_2000(16),
            "jpeg 2000 that takes 100 GB": jpeg_2000(8000),
            "jpeg xl": b"\xff\x0a" + bytes(40),
            "a line end, then a photo": b"\n" + photo,
        },
        either={
            "gif that is a script": b"GIF89a/*" + encoded(noise(), "GIF")[8:] + b"*/=1;alert(1)",
        },
    )
    random = np.random.default_rng(0)
    starts = {
        "nothing": b"",
        "jpeg": b"\xff\xd8\xff\xe0",
        "png": PNG,
        "gif": b"GIF89a",
        "webp": b"RIFF\xff\0\0\0WEBPVP8 ",
        "tiff": b"II\x2a\0\x08\0\0\0",
        "big tiff": b"MM\0\x2b",
        "bmp": b"BM",
        "ico": b"\0\0\1\0\1\0",
        "ppm": b"P6 9 9 255\n",
        "avif": box(b"ftyp", b"avif\0\0\0\0avif"),
        "whole header of a jpeg": photo[:200],
    }
    for name, start in starts.items():
        yield Case(f"noise behind {name}", start + random.bytes(3000), name == "ppm" or None)


def _of_a_size() -> Iterator[Case]:
    """Bombs, nothing at all, and the least and the longest there are."""
    for width, height in ((2**31 - 1, 2**31 - 1), (65_535, 65_535), (10**6, 101), (2**31 - 1, 1), (0, 0), (0, 9), (9, 0), (2**32 - 1, 1)):
        named = f"{width} x {height}"
        yield Case(f"png, {named}", png(width, height, data=b"\0"))
        yield Case(f"tiff, {named}", grey_tiff(width, height))
        yield Case(f"ppm, {named}", f"P5 {width} {height} 255\n".encode())
        yield Case(f"avif, {named}", encoded(noise(), "AVIF").replace(struct.pack(">II", 60, 40), struct.pack(">II", width, height)))
        if width < 2**31:
            yield Case(f"bmp, {named}", bmp(width, height))
        if width < 2**16:
            yield Case(f"gif, {named}", gif(width, height, gif_frame(width, height)))
            yield Case(f"jpeg, {named}", b"\xff\xd8" + segment(0xC0, frame(width, height)) + segment(0xDA, b"\1\1\0\0\x3f\0") + b"\xff\xd9")
    yield from cases(
        opened={
            "png, 1 x 1 with 100 MB behind": png(1, 1, data=bytes(10**8)),
            "png, just what is allowed": png(10_000, 10_000),
            "png, just what is allowed, see-through": png(10_000, 10_000, colour=6),
            "png, 100000 x 1": png(100_000, 1),
            "png, 1 x 100000": png(1, 100_000),
            "jpeg, 65500 x 1": encoded(Image.new("L", (65_500, 1)), "JPEG"),
            "gif, 65535 x 1": gif(65_535, 1, gif_frame(1, 1)),
            "gif, 10000 x 10000, all but a corner empty": gif(10_000, 10_000, gif_frame()),
        },
        refused={
            "webp, lossless, 16384 x 16384": webp(riff(b"VP8L", b"\x2f" + struct.pack("<I", (16383 << 14) | 16383) + bytes(9))),
            "webp, lossy, 16383 x 16383": webp(riff(b"VP8 ", bytes(3) + b"\x9d\1\x2a" + struct.pack("<HH", 16383, 16383) + bytes(99))),
            "webp, lossy, 0 x 0": webp(riff(b"VP8 ", bytes(3) + b"\x9d\1\x2a" + bytes(99))),
            "webp, canvas 2^24 x 2^24": webp(vp8x(2**24, 2**24), encoded(noise(), "WEBP")[12:]),
            "webp, canvas 60 x 16000000": webp(vp8x(60, 16_000_000), encoded(noise(), "WEBP")[12:]),
            "big tiff, 2^40 x 2^40": grey_tiff(1, 1, (256, 16, [2**40]), (257, 16, [2**40]), big=True),
            "tiff, negative": grey_tiff(1, 1, (256, 9, [-5]), (257, 9, [-5])),
            "bmp, negative width": bmp(-9, 9, bytes(99)),
            "bmp, lowest height": bmp(9, -(2**31), bytes(99)),
            "ppm, a width of 4000 digits": b"P6 " + b"9" * 4000 + b" 9 255\n",
            "ppm, negative": b"P6 -9 -9 255\n" + bytes(99),
            "ico of a large png": ico(png(13_000, 13_000)),
            "ico of a png bomb": ico(png(2**31 - 1, 2**31 - 1, data=b"")),
            "ico of a large bmp": ico(struct.pack("<IiiHHIIiiII", 40, 9400, 18_800, 1, 32, 0, 0, 0, 0, 0, 0)),
        },
    )
    for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "ICO"):
        yield Case(f"{kind.lower()}, 1 x 1", encoded(Image.new("RGB", (1, 1)), kind), True)


def _unusual() -> Iterator[Case]:
    """Nothing wrong with them."""
    for kind, count in (("GIF", 3000), ("PNG", 1000), ("WEBP", 1000), ("TIFF", 300), ("AVIF", 50), ("MPO", 100)):
        frames = [Image.new("RGB", (16, 16), (n % 256, n // 256, 0)) for n in range(count)]
        yield Case(f"{kind.lower()} of {count} frames", encoded(frames[0], kind, save_all=True, append_images=frames[1:]), True)
    for bits, colour in ((1, 0), (2, 0), (4, 0), (16, 0), (16, 2), (8, 4), (16, 4), (16, 6)):
        yield Case(f"png of {bits} bits, colour type {colour}", png(16, 16, bits=bits, colour=colour), True)
    for mode, kind in (("CMYK", "JPEG"), ("CMYK", "TIFF"), ("YCbCr", "JPEG"), ("YCbCr", "TIFF"), ("LA", "PNG"), ("LA", "TIFF")):
        yield Case(f"{kind.lower()} in {mode}", encoded(noise().convert(mode), kind), True)
    for mode, kind in (("LAB", "TIFF"), ("1", "BMP"), ("1", "TIFF"), ("1", "PPM"), ("F", "TIFF"), ("F", "PPM"), ("I", "TIFF"), ("I;16", "TIFF")):
        yield Case(f"{kind.lower()} in {mode}", encoded(Image.new(mode, (16, 16)), kind), True)


def _jpegs() -> Iterator[Case]:
    start, end, scan = b"\xff\xd8", b"\xff\xd9", segment(0xDA, b"\1\1\0\0\x3f\0")
    whole = encoded(noise(), "JPEG")
    exif = Image.Exif()
    exif[0x0112] = 99
    itself = (
        b"Exif\0\0II\x2a\0\x08\0\0\0" + struct.pack("<HHHII", 1, 0x8769, 4, 1, 8) + struct.pack("<I", 8)
    )  # its EXIF directory is itself, and so is the next
    index = b"MPF\0II\x2a\0\x08\0\0\0" + struct.pack("<H", 3) + struct.pack("<HHI4s", 0xB000, 7, 4, b"0100")
    yield from cases(
        opened={
            "jpeg with 100,000 fill bytes": whole[:2] + b"\xff" * 100_000 + whole[2:],
            "jpeg with 100,000 empty segments": in_jpeg(segment(0xE5) * 100_000),
            "jpeg with 100,000 comments": in_jpeg(segment(0xFE, b"a") * 100_000),
            "jpeg with 50,000 EXIF blocks": in_jpeg(segment(0xE1, b"Exif\0\0") * 50_000),
            "jpeg with 50,000 colour profiles": in_jpeg(segment(0xE2, b"ICC_PROFILE\0\1\1a") * 50_000),
            "jpeg with a profile of part 255 of 3": in_jpeg(segment(0xE2, b"ICC_PROFILE\0\xff\3a")),
            "jpeg with a profile of noise": encoded(noise(), "JPEG", icc_profile=b"\xab" * 999),
            "jpeg with EXIF of noise": in_jpeg(segment(0xE1, b"Exif\0\0" + b"\xab" * 999)),
            "jpeg with EXIF that is its own directory": in_jpeg(segment(0xE1, itself)),
            "jpeg with EXIF of 65,535 tags": in_jpeg(segment(0xE1, b"Exif\0\0II\x2a\0\x08\0\0\0\xff\xff" + bytes(500))),
            "jpeg turned 99": encoded(noise(), "JPEG", exif=exif),
            "jpeg turned by a text": in_jpeg(segment(0xE1, b"Exif\0\0II\x2a\0\x08\0\0\0\1\0" + struct.pack("<HHI4sI", 0x0112, 2, 4, b"six\0", 0))),
            "jpeg turned by 4 billion numbers": in_jpeg(
                segment(0xE1, b"Exif\0\0II\x2a\0\x08\0\0\0\1\0" + struct.pack("<HHIII", 0x0112, 3, 2**32 - 1, 8, 0))
            ),
            "jpeg with Photoshop's resources of noise": in_jpeg(segment(0xED, b"Photoshop 3.0\x008BIM" + b"\xff" * 99)),
            "jpeg of 50 scans": jpeg_of_scans(500, 50),
            "mpo of 4 billion photos": in_jpeg(
                segment(0xE2, index + struct.pack("<HHIIHHIII", 0xB001, 4, 1, 2**32 - 1, 0xB002, 7, 32, 50, 0) + bytes(32))
            ),
            "mpo of -1 photos": in_jpeg(segment(0xE2, index + struct.pack("<HHIiHHIII", 0xB001, 9, 1, -1, 0xB002, 7, 32, 50, 0) + bytes(32))),
            "mpo whose second photo is nowhere": in_jpeg(
                segment(0xE2, index + struct.pack("<HHIIHHIII", 0xB001, 4, 1, 2, 0xB002, 7, 32, 50, 0) + b"\xff" * 32)
            ),
        },
        refused={
            "jpeg, start and end": start + end,
            "jpeg, a scan without a frame": start + scan + bytes(99) + end,
            "jpeg, a frame without a scan": start + segment(0xC0, frame()) + end,
            "jpeg, a scan without tables": start + segment(0xC0, frame()) + scan + bytes(99) + end,
            "jpeg of 12 bits": start + segment(0xC1, frame(precision=12)) + scan + end,
            "lossless jpeg": start + segment(0xC3, frame()) + scan + end,
            "arithmetic jpeg": start + segment(0xC9, frame()) + scan + end,
            "hierarchical jpeg": start + segment(0xC5, frame()) + scan + end,
            "jpeg of 5 colours": start + segment(0xC0, frame(components=5)) + scan + end,
            "jpeg of no colour": start + segment(0xC0, frame(components=0)) + scan + end,
            "jpeg sampled 15 times": start + segment(0xC0, frame(sampling=0xFF)) + scan + end,
            "jpeg sampled 0 times": start + segment(0xC0, frame(sampling=0)) + scan + end,
            "jpeg with a frame cut short": start + segment(0xC0, frame()[:5]) + scan + end,
            "jpeg, its tables too long": start + segment(0xC4, b"\0" + b"\xff" * 16 + bytes(400)) + whole[2:],
            "jpeg of nothing but markers": start + b"\xff\xd0" * 50_000 + end,
            "jpeg of 3,000 scans of 100 megapixels": jpeg_of_scans(10_000, 3000),
        },
        either={
            "jpeg, two frames": whole[:2] + segment(0xC0, frame(9, 9, 3)) + whole[2:],
            "jpeg with a segment of length 0": start + segment(0xE1, b"", 0) + whole[2:],
            "jpeg with a segment longer than it": whole[:2] + segment(0xE1, b"", 65_535) + whole[2:],
            "jpeg with quantisers cut short": start + segment(0xDB, b"\0\1\2") + whole[2:],
            "jpeg with Adobe's marker cut short": in_jpeg(segment(0xEE, b"Adobe\0")),
            "jpeg with Adobe's transform 200": in_jpeg(segment(0xEE, b"Adobe\0\x64\0\0\0\0\xc8")),
            "jpeg with restarts every block": in_jpeg(segment(0xDD, b"\0\1")),
        },
    )


def _pngs() -> Iterator[Case]:
    bomb = zlib.compress(bytes(10**8))
    rows, end = chunk(b"IDAT", zlib.compress(bytes(17 * 16))), chunk(b"IEND")
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 16, 16, 8, 0, 0, 0, 0))
    palette = chunk(b"PLTE", bytes(6))
    exif = b"II\x2a\0\x08\0\0\0" + struct.pack("<HHHII", 1, 0x8769, 4, 1, 8) + struct.pack("<I", 8)
    yield from cases(
        opened={
            "png with 100,000 empty chunks": png(16, 16, chunk(b"teSt") * 100_000),
            "png with 100,000 texts": png(16, 16, chunk(b"tEXt", b"a\0b") * 100_000),
            "png in 100,000 pieces of nothing": PNG + header + chunk(b"IDAT") * 100_000 + rows + end,
            "png with EXIF of noise": png(16, 16, chunk(b"eXIf", b"\xab" * 999)),
            "png with EXIF that is its own directory": png(16, 16, chunk(b"eXIf", exif)),
            "png with EXIF as a text of noise": png(16, 16, chunk(b"tEXt", b"Raw profile type exif\0\nexif\n9\nzz")),
            "png with XMP of noise": png(16, 16, chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0tiff:Orientation=" + b'"9' * 9999)),
            "png with indices beyond its palette": png(16, 16, palette, colour=3, data=(b"\0" + b"\xff" * 16) * 16),
            "png with gamma 0": png(16, 16, chunk(b"gAMA", bytes(4))),
        },
        refused={
            "png with a profile that is a bomb": png(16, 16, chunk(b"iCCP", b"a\0\0" + bomb)),
            "png with a text that is a bomb": png(16, 16, chunk(b"zTXt", b"a\0\0" + bomb)),
            "png with an international text that is a bomb": png(16, 16, chunk(b"iTXt", b"a\0\1\0\0\0" + bomb)),
            "png with 100 texts of a megabyte": png(16, 16, chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(10**6))) * 100),
            "png with a wrong checksum": PNG + chunk(b"IHDR", struct.pack(">IIBBBBB", 16, 16, 8, 0, 0, 0, 0), crc=1) + rows + end,
            "png with a chunk of 2 GB": png(16, 16, chunk(b"teSt", b"", 2**31 - 1)),
            "png with a chunk of -1 bytes": png(16, 16, chunk(b"teSt", b"", 2**32 - 1)),
            "png, end first": PNG + chunk(b"IEND") + header + rows,
            "png without a header": PNG + rows + end,
            "png without rows": PNG + header + end,
            "png with too few rows": png(16, 16, data=bytes(40)),
            "png with rows of noise": PNG + header + chunk(b"IDAT", b"\xab" * 99) + end,
            "png with a header cut short": PNG + chunk(b"IHDR", bytes(7)) + rows + end,
            "png of 3 bits": png(16, 16, bits=3, data=bytes(999)),
            "png of colour type 5": png(16, 16, colour=5),
            "png with filter 200": png(16, 16, data=b"\xc8" * 272),
        },
        either={
            "png with a profile of noise": png(16, 16, chunk(b"iCCP", b"a\0\0" + bytes(99))),
            "png with a profile of method 9": png(16, 16, chunk(b"iCCP", b"a\0\x09abc")),
            "png without its palette": png(16, 16, colour=3),
            "png with an empty palette": png(16, 16, chunk(b"PLTE"), colour=3),
            "png with a palette of 7 bytes": png(16, 16, chunk(b"PLTE", bytes(7)), colour=3),
            "png with a palette of 1000 colours": png(16, 16, chunk(b"PLTE", bytes(3000)), colour=3),
            "png, its palette twice": png(16, 16, palette * 2, colour=3),
            "png with more transparency than colours": png(16, 16, palette, chunk(b"tRNS", bytes(999)), colour=3),
            "png with transparency of 1 byte": png(16, 16, chunk(b"tRNS", b"\0")),
            "png, two headers": png(16, 16, header),
            "png interlaced in way 9": png(16, 16, interlace=9),
            "png of 2 billion frames": png(16, 16, chunk(b"acTL", struct.pack(">II", 2**31 - 1, 0))),
            "png of no frames": png(16, 16, chunk(b"acTL", bytes(8))),
            "png with a frame outside of it": png(
                16, 16, chunk(b"acTL", struct.pack(">II", 2, 0)), chunk(b"fcTL", struct.pack(">IIIIIHHBB", 0, 99, 99, 99, 99, 0, 0, 0, 0))
            ),
            "png with a short gamma": png(16, 16, chunk(b"gAMA", b"\0")),
            "png with short colours": png(16, 16, chunk(b"cHRM", b"\0")),
            "png with a short size": png(16, 16, chunk(b"pHYs", b"\0")),
            "png with a chunk that has no name": png(16, 16, chunk(b"\0\0\0\0", b"a")),
        },
    )


def _tiffs() -> Iterator[Case]:
    many, deflated = 1_000_000, zlib.compress(bytes(10**8))
    yield from cases(
        opened={
            "tiff, an ordinary one": grey_tiff(16, 16),
            "big tiff, an ordinary one": grey_tiff(16, 16, big=True),
            "tiff that goes on at itself": grey_tiff(16, 16, after=8),
            "tiff that goes on at its start": grey_tiff(16, 16, after=1),
            "tiff that goes on nowhere": grey_tiff(16, 16, after=2**32 - 1),
            "tiff within itself": grey_tiff(16, 16, (330, 4, [8])),
            "tiff with EXIF that is itself": grey_tiff(16, 16, (34665, 4, [8])),
            "tiff of 100,000 strips": grey_tiff(1, 100_000, (273, 1, bytes([8]) * 100_000), (278, 4, [1])),
            "tiff with 100 MB in its strip": grey_tiff(16, 16, data=deflated, compression=8),
            "tiff whose strip is its header": grey_tiff(16, 16, (273, 4, [0])),
            "tiff turned 99": grey_tiff(16, 16, (274, 3, [99])),
            "tiff of a resolution over 0": grey_tiff(16, 16, (282, 5, [1, 0]), (283, 5, [0, 0])),
            "tiff with a profile of noise": grey_tiff(16, 16, (34675, 7, b"\xab" * 99)),
            "tiff with a megabyte of tag": grey_tiff(16, 16, (65_000, 3, bytes(10**6))),
            "tiff of an unknown type": grey_tiff(16, 16, (65_000, 99, b"abcd")),
        },
        refused={
            "tiff of no tags": grey_tiff(16, 16, count=0),
            "tiff whose directory is nowhere": b"II\x2a\0\xff\xff\xff\xff",
            "tiff whose directory is its header": b"II\x2a\0\0\0\0\0",
            "tiff of a million strips": grey_tiff(10, many, (273, 1, bytes([8]) * many), (278, 4, [1]), data=b""),
            "tiff of a million tiles": grey_tiff(1000, 1000, (273, 4, None), (322, 4, [1]), (323, 4, [1]), (324, 1, bytes([8]) * many)),
            "deflated tiff of a million strips": grey_tiff(10, many, (273, 1, bytes([8]) * many), (278, 4, [1]), compression=8),
            "tiff of one tile of a gigapixel": grey_tiff(
                9, 9, (273, 4, None), (322, 4, [32_768]), (323, 4, [32_768]), (324, 4, [AT]), (325, 4, [len(deflated)]), data=deflated, compression=8
            ),
            "tiff whose strip is nowhere": grey_tiff(16, 16, (273, 4, [2**31])),
            "tiff without strips": grey_tiff(16, 16, (273, 4, None)),
            "tiff with strips named by a text": grey_tiff(16, 16, (273, 2, b"abcdef\0")),
            "tiff of tiles as wide as a text": grey_tiff(16, 16, (273, 4, None), (322, 2, b"wide\0"), (323, 4, [9]), (324, 4, [AT])),
            "tiff of 65,535 samples": grey_tiff(16, 16, (277, 3, [65_535])),
            "tiff of 0 bits": grey_tiff(16, 16, (258, 3, [0])),
            "tiff of 255 bits": grey_tiff(16, 16, (258, 3, [255])),
            "tiff of an unknown compression": grey_tiff(16, 16, compression=999),
            "tiff of an unknown colour": grey_tiff(16, 16, (262, 3, [99])),
            "tiff with a palette missing": grey_tiff(16, 16, (262, 3, [3])),
            "tiff of a width in words": grey_tiff(16, 16, (256, 2, b"wide\0")),
        },
        either={
            "tiff of 65,535 tags": grey_tiff(16, 16, count=65_535),
            "big tiff of 2^60 tags": grey_tiff(16, 16, big=True, count=2**60),
            "tiff whose strip is empty": grey_tiff(16, 16, (279, 4, [0])),
            "tiff with strips at fractions": grey_tiff(16, 16, (273, 11, [0.5, 1.5])),
            "tiff of 0 rows a strip": grey_tiff(16, 16, (278, 4, [0])),
            "tiff of 4 billion rows a strip": grey_tiff(16, 16, (278, 4, [2**32 - 1])),
            "tiff of tiles 0 wide": grey_tiff(16, 16, (273, 4, None), (322, 4, [0]), (323, 4, [0]), (324, 4, [AT])),
            "tiff of 0 samples": grey_tiff(16, 16, (277, 3, [0])),
            "tiff of 1000 kinds of bits": grey_tiff(16, 16, (258, 3, [8] * 1000)),
            "tiff with a palette cut short": grey_tiff(16, 16, (262, 3, [3]), (320, 3, [1, 2, 3])),
            "tiff of two widths": grey_tiff(16, 16, (256, 4, [16, 16])),
            "tiff turned by a text": grey_tiff(16, 16, (274, 2, b"six\0")),
            "tiff of JPEG larger than it": grey_tiff(16, 16, data=encoded(noise(900, 900), "JPEG"), compression=7),
            "tiff of floats, predicted": grey_tiff(16, 16, (317, 3, [3]), data=zlib.compress(bytes(256)), compression=8),
            "tiff in planes that are missing": grey_tiff(16, 16, (258, 3, [8, 8, 8]), (262, 3, [2]), (277, 3, [3]), (284, 3, [2])),
            "tiff, big-endian by name only": b"MM\x2a\0" + grey_tiff(16, 16)[4:],
        },
    )
    for name, code in (
        ("CCITT", 2),
        ("fax 3", 3),
        ("fax 4", 4),
        ("LZW", 5),
        ("old JPEG", 6),
        ("JPEG", 7),
        ("deflate", 8),
        ("PackBits", 32773),
        ("SGI log", 34676),
        ("LZMA", 34925),
        ("ZSTD", 50000),
        ("WebP", 50001),
    ):
        yield Case(f"tiff of {name} that is noise", grey_tiff(16, 16, data=b"\xab\xcd" * 400, compression=code), None)


def _webps() -> Iterator[Case]:
    photo = encoded(noise(), "WEBP")[12:]
    yield from cases(
        opened={
            "webp with EXIF of noise": webp(vp8x(60, 40, 8), photo, riff(b"EXIF", b"\xab" * 999)),
            "webp with a profile of noise": webp(vp8x(60, 40, 32), riff(b"ICCP", b"\xab" * 99), photo),
            "webp with 50,000 unknown chunks": webp(vp8x(60, 40), riff(b"abcd") * 50_000, photo),
        },
        refused={
            "webp of nothing": webp(),
            "webp of 0 bytes by its header": webp(photo, size=0),
            "webp, an odd size": webp(photo, size=21),
            "webp with a canvas alone": webp(vp8x(16, 16)),
            "webp that moves, without frames": webp(vp8x(16, 16, 2), riff(b"ANIM", bytes(6))),
        },
        either={
            "webp of 4 GB by its header": webp(photo, size=2**32 - 1),
            "webp with a canvas smaller than it": webp(vp8x(4, 4), photo),
            "webp with a canvas larger than it": webp(vp8x(90, 90), photo),
            "webp with a canvas twice": webp(vp8x(60, 40), vp8x(60, 40), photo),
            "webp with alpha of noise": webp(vp8x(60, 40, 0x10), riff(b"ALPH", b"\xab" * 99), photo),
            "webp with a chunk of 4 GB": webp(vp8x(60, 40), riff(b"abcd", b"", 2**32 - 1), photo),
            "webp with a frame outside of it": webp(vp8x(16, 16, 2), riff(b"ANIM", bytes(6)), riff(b"ANMF", b"\xff" * 12 + b"\0" * 4 + photo)),
            "webp with a frame of no picture": webp(vp8x(16, 16, 2), riff(b"ANIM", bytes(6)), riff(b"ANMF", bytes(16))),
            "webp, lossless noise": webp(riff(b"VP8L", b"\x2f\x0f\xc0\3\0" + b"\xab" * 99)),
            "webp, lossy noise": webp(riff(b"VP8 ", b"\x30\1\0\x9d\1\x2a\x10\0\x10\0" + b"\xab" * 99)),
            "webp that is not shown": webp(riff(b"VP8 ", b"\0\0\0\x9d\1\x2a\x10\0\x10\0" + bytes(99))),
        },
    )


def _gifs() -> Iterator[Case]:
    yield from cases(
        opened={
            "gif with 100,000 comments": gif(4, 4, b"!\xfe\1a\0" * 100_000, gif_frame()),
            "gif with zeros between": gif(4, 4, bytes(100_000), gif_frame()),
            "gif with a comment of 100,000 pieces": gif(4, 4, b"!\xfe" + b"\1a" * 100_000 + b"\0", gif_frame()),
            "gif see-through beyond its palette": gif(4, 4, b"!\xf9\4\1\0\0\xff\0", gif_frame()),
        },
        refused={
            "gif of nothing": gif(16, 16),
            "gif with an endless comment": b"GIF89a\4\0\4\0\0\0\0!\xfe" + b"\xff" * 100_000,
            "gif of an unknown version": b"GIF99a" + gif(4, 4, gif_frame())[6:],
        },
        either={
            "gif of a frame of nothing": gif(16, 16, gif_frame(0, 0)),
            "gif of a frame outside of it": gif(4, 4, gif_frame(4, 4, 60_000, 1)),
            "gif without a palette": gif(4, 4, gif_frame(), palette=b""),
            "gif, its frame's palette cut short": gif(4, 4, gif_frame(flags=0x87)),
            "gif of noise": gif(4, 4, gif_frame(data=b"\xab" * 200)),
            "gif with a loop cut short": gif(4, 4, b"!\xff\x0bNETSCAPE2.0\0", gif_frame()),
            "gif interlaced": gif(4, 4, gif_frame(flags=0x40)),
            "gif with no pixels in its frame": gif(4, 4, gif_frame(data=b"")),
        },
    )
    for size in (0, 1, 8, 12, 13, 255):
        yield Case(f"gif with codes of {size} bits", gif(4, 4, gif_frame(code_size=size)), None)


def _bmps() -> Iterator[Case]:
    lines = b"\1\0\0\0"
    yield from cases(
        opened={
            "bmp, an ordinary one": bmp(16, 16, bytes(256)),
            "bmp upside down": bmp(16, -16, bytes(256)),
        },
        refused={
            "bmp, one line of 100 megapixels": bmp(10**8, 1, lines, compression=1),
            "bmp, 10,000 empty lines": bmp(10_000, 10_000, lines * 10_000, compression=1),
            "bmp, a jump by 25 GB": bmp(10**8, 1, b"\0\2\xff\xff", compression=1),
            "bmp, runs cut short": bmp(16, 16, b"\5", compression=1),
            "bmp, absolute runs cut short": bmp(16, 16, b"\0\xff\1", compression=1),
            "bmp of an unknown compression": bmp(16, 16, bytes(256), compression=99),
            "bmp with a JPEG in it": bmp(16, 16, encoded(noise(), "JPEG"), 24, 4),
            "bmp of 4 billion colours": bmp(16, 16, bytes(256), colours=2**32 - 1),
            "bmp whose pixels are nowhere": bmp(16, 16, bytes(256), at=2**32 - 1),
            "bmp with a header of 0 bytes": bmp(16, 16, bytes(256), header=0),
            "bmp with a header of 4 GB": bmp(16, 16, bytes(256), header=2**32 - 1),
        },
        either={
            "bmp, a small jump out of it": bmp(16, 16, b"\0\2\xff\xff", compression=1),
            "bmp, runs out of it": bmp(16, 16, b"\xff\1" * 9999, compression=1),
            "bmp, runs of half bytes": bmp(16, 16, b"\xff\x12" * 99, bits=4, compression=2),
            "bmp with masks of nothing": bmp(16, 16, bytes(2048), 32, 3),
            "bmp of 1 colour": bmp(16, 16, b"\xff" * 256, colours=1),
            "bmp whose pixels are its header": bmp(16, 16, bytes(256), at=0),
            "bmp with a header of 124 bytes": bmp(16, 16, bytes(256), header=124),
        },
    )
    for bits in (0, 1, 3, 4, 16, 24, 32, 64, 65_535):
        yield Case(f"bmp of {bits} bits", bmp(16, 16, bytes(2048), bits=bits), bits in (1, 4, 8, 16, 24, 32))


def _ppms() -> Iterator[Case]:
    yield from cases(
        opened={
            "ppm of 201 levels": b"P6 16 16 200\n" + bytes(768),
            "pfm of not-numbers": b"Pf 2 2 -1.0\n" + b"\xff" * 16,
        },
        refused={
            "ppm, half a million comments": b"P1 10000 10000\n" + b"#\n" * 500_000,
            "ppm as text": b"P3 2 1 255\n1 2 3 4 5 6",
            "ppm as text, negative": b"P2 1 1 255\n-9",
            "ppm as text, endless": b"P2 9 9 255\n" + b"9" * 100_000,
            "ppm of 201 levels, 4 megapixels": b"P5 2000 2000 200\n" + bytes(4 * 10**6),
            "ppm of no levels": b"P6 16 16 0\n" + bytes(768),
            "ppm of 70,000 levels": b"P6 16 16 70000\n" + bytes(999),
            "ppm, an endless comment": b"P6 #" + b"a" * 100_000,
            "ppm, an endless space": b"P6" + b" " * 100_000,
            "ppm, fractions": b"P6 1.5 1.5 255\n" + bytes(99),
            "ppm, a zero behind its kind": b"P6\0" + bytes(99),
            "pam": b"P7\nWIDTH 2\nHEIGHT 2\nDEPTH 3\nMAXVAL 255\nENDHDR\n" + bytes(12),
        },
        either={
            "ppm, numbers with signs": b"P6 +4 +4 255\n" + bytes(99),
            "ppm, numbers with underlines": b"P6 1_6 1_6 255\n" + bytes(768),
            "ppm of 6.4 bits, 16 bits wide": b"P6 4 4 1000\n" + b"\xff" * 96,
        },
    )
    for scale in ("0", "nan", "inf", "-1e9", "1e999"):
        yield Case(f"pfm of scale {scale}", b"Pf 2 2 " + scale.encode() + b"\n" + bytes(16), scale == "-1e9" or None)


def _icons() -> Iterator[Case]:
    small = png(16, 16, colour=6)
    dib = struct.pack("<IiiHHIIiiII", 40, 16, 32, 1, 32, 0, 0, 0, 0, 0, 0)
    yield from cases(
        opened={
            "ico, an ordinary one": ico(small),
            "ico of a bmp": ico(dib + bytes(16 * 16 * 4 + 64)),
            "ico of 1000 pictures": ico(*[small] * 1000),
        },
        refused={
            "ico of none": ico(),
            "ico of 65,535": ico(small, count=65_535),
            "ico whose picture is nowhere": ico(small, at=2**32 - 1),
            "ico whose picture is itself": ico(small, at=0),
            "ico of a png cut short": ico(encoded(noise(16, 16), "PNG")[:200]),
            "ico of a bmp cut short": ico(dib),
            "ico of an ico": ico(ico(small)),
            "ico of a JPEG": ico(encoded(noise(), "JPEG")),
            "cur": ico(small, kind=2),
        },
        either={
            "ico of a larger png": ico(png(300, 300)),
            "ico of a bmp of 15 rows and a half": ico(dib[:8] + struct.pack("<i", 31) + dib[12:] + bytes(2000)),
            "ico of a bmp upside down": ico(dib[:8] + struct.pack("<i", -32) + dib[12:] + bytes(2000)),
        },
    )


def _avifs() -> Iterator[Case]:
    whole, brand = encoded(noise(), "AVIF"), box(b"ftyp", b"avif\0\0\0\0avifmif1")
    size = struct.pack(">II", 60, 40)
    yield from cases(
        refused={
            "avif of nothing": brand,
            "avif of noise": brand + box(b"meta", b"\xab" * 999),
            "avif with a box of 4 GB": brand + box(b"meta", bytes(99), 2**32 - 1),
            "avif with a box of 2^63 bytes": brand + b"\0\0\0\1meta" + b"\x7f" + b"\xff" * 7,
            "avif with a box of 3 bytes": brand + box(b"meta", bytes(99), 3),
            "avif with 2000 boxes in each other": brand + _nested(2000),
            "avif with a brand of 0 bytes": b"\0\0\0\0ftypavif" + whole[16:],
            "heic": box(b"ftyp", b"heic\0\0\0\0mif1heic") + whole[28:],
        },
        either={
            "avif smaller than it says": whole.replace(size, struct.pack(">II", 900, 600)),
            "avif larger than it says": encoded(Image.new("RGB", (4000, 4000)), "AVIF", speed=10).replace(struct.pack(">II", 4000, 4000), size),
            "avif with noise for pixels": whole[:-200] + b"\xab" * 200,
            "avif with its boxes twice": whole + whole,
        },
    )


def _nested(depth: int) -> bytes:
    inner = b""
    for _ in range(depth):
        inner = box(b"meta", b"\0\0\0\0" + inner)
    return inner
