"""What bulk captioning reads, as nobody should give it: tar shards, Parquet, .npy and .safetensors. `good` says whether the file as a whole can be
read; of some that can, single rows are wrong."""

import gzip
import io
import json
import pickle
import struct
import tarfile
from collections.abc import Iterator

import numpy as np

from hostile import Case, cases, encoded, noise

# --- tar shards


def block(content: bytes) -> bytes:
    return content + bytes(-len(content) % 512)


def member(name: bytes, content: bytes = b"", kind: bytes = b"0", size: bytes | int | None = None, link: bytes = b"", magic: bytes = b"ustar\x0000") -> bytes:
    """A header with its checksum, and the content behind. `size` is what the header claims: a number (negative and huge ones in tar's binary form) or
    the field as it is."""
    claimed = len(content) if size is None else size
    if isinstance(claimed, int):
        claimed = b"%011o\0" % claimed if 0 <= claimed < 8**11 else struct.pack(">i", -1 if claimed < 0 else -(2**31))[:4] + struct.pack(">q", claimed)
    head = name[:100].ljust(100, b"\0") + b"0000644\0" * 1 + b"0000000\0" * 2 + claimed.ljust(12, b"\0")[:12] + b"00000000000\0"
    head += b" " * 8 + kind + link[:100].ljust(100, b"\0") + magic
    head = head.ljust(512, b"\0")
    return head[:148] + b"%06o\0 " % sum(head) + head[156:] + block(content)


def pax(**records: str | bytes) -> bytes:
    """An extended header: GNU__sparse__size stands for GNU.sparse.size."""
    content = b""
    for key, value in records.items():
        line = b" " + key.replace("__", ".").encode() + b"=" + (value.encode() if isinstance(value, str) else value) + b"\n"
        length = len(line) + 1
        while len(b"%d" % length) + len(line) != length:
            length += 1
        content += b"%d" % length + line
    return member(b"PaxHeaders/x", content, b"x")


END = bytes(1024)


def tars() -> Iterator[Case]:
    photo, other = encoded(noise(), "JPEG"), encoded(noise(20, 20), "PNG")
    whole = b"".join(member(b"%05d.jpg" % n, photo) + member(b"%05d.json" % n, b'{"caption": "a photo"}') for n in range(3)) + END
    first, third = member(b"a.jpg", photo), member(b"c.jpg", photo)
    stored = io.BytesIO()
    with tarfile.open(fileobj=stored, mode="w:gz") as tar:
        tar.addfile(tarfile.TarInfo("a.jpg"))
    for length in (100, 511, 512, 600, 512 + len(block(photo)) + 100, len(whole) // 2, len(whole) - 1400):
        yield Case(f"tar, {length} bytes of it", whole[:length], None if length == 512 + len(block(photo)) else False)
    yield from cases(
        opened={
            "tar, an ordinary one": whole,
            "tar without an end": whole[:-1024],
            "tar with half an end": whole[:-700],
            "tar with noise behind its end": whole + b"\xab" * 999,
            "tar of a photo alone": first + END,
            "tar of two photos of one name": first + third + first + END,
            "tar of one key twice in a row": first + member(b"a.png", other) + first + END,
            "tar of keys that differ in case": first + member(b"A.jpg", photo) + END,
            "tar of photos that are broken": member(b"a.jpg", photo[:99]) + member(b"b.jpg", b"") + third + END,
            "tar of texts alone": member(b"a.txt", b"a text") + member(b"b.json", b"{}") + END,
            "tar of a folder": member(b"photos/", kind=b"5") + member(b"photos/a.jpg", photo) + END,
            "tar of paths out of it": member(b"../../etc/a.jpg", photo) + member(b"/etc/b.jpg", photo) + member(b"..\\..\\c.jpg", photo) + END,
            "tar of a name that is no text": member(b"\xff\xfe\x80.jpg", photo) + END,
            "tar of a name with a line end": member(b"a\nb\x1b[31m.jpg", photo) + END,
            "tar of a name of dots": member(b"....jpg", photo) + member(b".jpg", photo) + member(b"..", photo) + third + END,
            "tar of no name": member(b"", photo) + third + END,
            "tar of a long name": member(b"././@LongLink", b"a" * 5000 + b".jpg\0", b"L") + first + END,
            "tar of a long name, the other way": pax(path="b" * 5000 + ".jpg") + first + END,
            "tar of links": member(b"a.jpg", kind=b"2", link=b"/etc/passwd") + member(b"b.jpg", kind=b"1", link=b"a.jpg") + third + END,
            "tar of devices": member(b"a.jpg", kind=b"3") + member(b"b.jpg", kind=b"4") + member(b"d.jpg", kind=b"6") + third + END,
            "tar of an unknown kind": member(b"a.jpg", photo, b"Z") + third + END,
            "tar of the old kind": member(b"a.jpg", photo, b"\0", magic=bytes(8)) + END,
            "tar of a text that is no text": first + member(b"a.json", b"\xff\xfe") + END,
            "tar of JSON 100,000 deep": first + member(b"a.json", b"[" * 100_000) + END,
            "tar of JSON that is a number": first + member(b"a.json", b"7") + END,
            "tar of a caption that is no text": first + member(b"a.json", b'{"caption": 7}') + END,
            "tar of a caption of half a character": first + member(b"a.json", b'{"caption": "\\ud800"}') + END,
            "tar of an image_id of 10,000 digits": first + member(b"a.json", b'{"image_id": ' + b"9" * 10_000 + b"}") + END,
            "tar with a header for all": member(b"g", b"16 comment=abcd\n", b"g") + first + END,
        },
        refused={
            "tar of nothing": b"",
            "tar that is text": b"photo.jpg\n" * 200,
            "tar that is a photo": photo,
            "tar, compressed": stored.getvalue(),
            "tar, its gzip cut": gzip.compress(whole)[:300],
            "tar of zeros": bytes(512 * 5),
            "tar with a spoilt checksum": first[:148] + b"000001\0 " + first[156:] + third + END,
            "tar with a spoilt second header": first + b"\xab" * 512 + third + END,
            "tar of a size beyond it": first + member(b"b.jpg", photo, size=8**10) + END,
            "tar of a size of exabytes": first + member(b"b.jpg", photo, size=2**62) + END,
            "tar of a size of 2^80": first + member(b"b.jpg", photo, size=b"\x80\0" + b"\xff" * 10) + END,
            "tar of a size of -512": first + member(b"b.jpg", photo, size=-512) + END,
            "tar of a size of -1": first + member(b"b.jpg", photo, size=-1) + END,
            "tar of a size of -1,000,000": first + member(b"b.jpg", photo, size=-1_000_000) + END,
            "tar of a size that is no number": first + member(b"b.jpg", photo, size=b"many bytes\0") + END,
            "tar that goes back, the other way": first + pax(size="-1024") + member(b"b.jpg", photo) + END,
            "tar of a long name of exabytes": first + member(b"././@LongLink", b"b", b"L", size=2**62) + END,
            "tar of a long name of -1024 bytes": first + member(b"././@LongLink", b"b", b"L", size=-1024) + third + END,
            "tar of a header of exabytes": first + member(b"x", b"b", b"x", size=2**62) + END,
            "tar of headers in headers": first + pax(comment="a") * 3000 + third + END,
            "tar of long names in long names": first + member(b"././@LongLink", b"b\0", b"L") * 3000 + third + END,
            "tar of a size of no number, the other way": first + pax(size="many") + third + END,
            "tar of records of length 0": first + member(b"x", b"0 a=b\n", b"x") + third + END,
            "tar of a header cut short": first + member(b"x", b"99 a", b"x"),
            "tar of a sparse photo of exabytes": first + member(b"b.jpg", photo, b"S", magic=b"ustar  \0") + END,
            "tar of a sparse photo, its map a text": first + pax(GNU__sparse__map="a,b") + third + END,
            "tar of a sparse photo of exabytes, the other way": first + pax(GNU__sparse__major="1", GNU__sparse__minor="0", GNU__sparse__realsize=str(2**62)) + member(b"b.jpg", b"1\n0\n512\n".ljust(512, b"\0") + photo) + third + END,
            "tar of a sparse map of a megabyte of digits": first + pax(GNU__sparse__size="9", comment="1" * 10**6) + third + END,
            "tar of a sparse map without an end": first + pax(GNU__sparse__major="1", GNU__sparse__minor="0") + member(b"b.jpg", b"9" * 5000) + third + END,
        },
    )
