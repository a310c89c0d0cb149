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


def member(
    name: bytes, content: bytes = b"", kind: bytes = b"0", size: bytes | int | None = None, link: bytes = b"", magic: bytes = b"ustar\x0000"
) -> bytes:
    """A header with its checksum, and the content behind. `size` is what the header claims: a number (negative and huge ones in tar's binary form) or
    the field as it is."""
    claimed = len(content) if size is None else size
    if isinstance(claimed, int):
        claimed = b"%011o\0" % claimed if 0 <= claimed < 8**11 else (b"\xff" * 4 if claimed < 0 else b"\x80\0\0\0") + struct.pack(">q", claimed)
    head = name[:100].ljust(100, b"\0") + b"0000644\0" + b"0000000\0" * 2 + claimed.ljust(12, b"\0")[:12] + b"00000000000\0"
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
            "tar of an end alone": bytes(512 * 5),
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
            "tar of a sparse photo of gigabytes": first
            + member(b"b.jpg", photo, b"S", magic=b"ustar  \0".ljust(226, b"\0") + b"77777777777\0")
            + END,
            "tar of a sparse photo, its map a text": first + pax(GNU__sparse__map="a,b") + third + END,
            "tar of a sparse photo of exabytes, the other way": first
            + pax(GNU__sparse__major="1", GNU__sparse__minor="0", GNU__sparse__realsize=str(2**62))
            + member(b"b.jpg", b"1\n0\n512\n".ljust(512, b"\0") + photo)
            + third
            + END,
            "tar of a sparse map of a megabyte of digits": first + pax(GNU__sparse__size="9", comment="1" * 10**6) + third + END,
            "tar of a sparse map without an end": first
            + pax(GNU__sparse__major="1", GNU__sparse__minor="0")
            + member(b"b.jpg", b"9" * 5000)
            + third
            + END,
        },
    )


# --- embeddings: what is asked for is 16 numbers wide


def npy(header: str | bytes, data: bytes = b"", version: bytes = b"\1\0", length: int | None = None) -> bytes:
    head = header.encode() if isinstance(header, str) else header
    size = len(head) if length is None else length
    return b"\x93NUMPY" + version + struct.pack("<H" if version == b"\1\0" else "<I", size) + head + data


def saved(array: np.ndarray, **settings) -> bytes:
    file = io.BytesIO()
    np.save(file, array, **settings)
    return file.getvalue()


class Trap:
    """A pickle of it writes into the file that it names, where it is loaded."""

    def __init__(self, path: str):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def npys(trap: str) -> Iterator[Case]:
    """`trap` is a file that is there when a pickle was loaded."""
    rows = np.random.default_rng(0).normal(size=(5, 16)).astype(np.float32)
    whole, plain = saved(rows), "{'descr': '<f4', 'fortran_order': False, 'shape': (5, 16), }\n"
    spoilt = rows.copy()
    spoilt[1, 3], spoilt[2], spoilt[3, 0] = np.nan, 0, np.inf
    for length in (1, 6, 9, 60, 128, 130, len(whole) - 1):
        yield Case(f"npy, {length} bytes of it", whole[:length])
    yield from cases(
        opened={
            "npy, an ordinary one": whole,
            "npy of format 2": npy(plain, rows.tobytes(), b"\2\0"),
            "npy of halves": saved(rows.astype(np.float16)),
            "npy of doubles": saved(rows.astype(np.float64)),
            "npy, big-endian": saved(rows.astype(">f4")),
            "npy of rows that are not finite or zero": saved(spoilt),
            "npy of numbers beyond float32": saved(np.full((3, 16), 1e300)),
            "npy of the least numbers": saved(np.full((3, 16), 1e-45, np.float32)),
            "npy of the greatest numbers": saved(np.full((3, 16), 3e38, np.float32)),
            "npy with more behind": whole + b"\xab" * 99,
        },
        refused={
            "npy of nothing": b"",
            "npy that is text": b"0.1 0.2 0.3\n" * 50,
            "npy that is a pickle": pickle.dumps(Trap(trap)),
            "npy of a pickle": saved(np.array([[Trap(trap)] * 16], dtype=object), allow_pickle=True),
            "npy of a pickle that says it is numbers": npy(plain, pickle.dumps(Trap(trap))),
            "npy, fortran's": saved(np.asfortranarray(rows)),
            "npy of one row without a second axis": saved(rows[0]),
            "npy of a number": saved(np.float32(1)),
            "npy of three axes": saved(rows[None]),
            "npy of no axis": npy("{'descr': '<f4', 'fortran_order': True, 'shape': (), }\n", bytes(4)),
            "npy of rows 0 wide": saved(np.zeros((5, 0), np.float32)),
            "npy of another width": saved(np.ones((5, 9), np.float32)),
            "npy of whole numbers": saved(np.ones((5, 16), np.int64)),
            "npy of truth": saved(np.ones((5, 16), bool)),
            "npy of complex numbers": saved(np.ones((5, 16), np.complex64)),
            "npy of times": saved(np.ones((5, 16), "datetime64[s]")),
            "npy of texts": saved(np.array([["a"] * 16] * 5)),
            "npy of long doubles": saved(np.ones((5, 16), np.longdouble)),
            "npy of named columns": saved(np.ones(5, [("a", "f4"), ("b", "f4")])),
            "npy of columns of objects": npy("{'descr': [('a', '|O')], 'fortran_order': False, 'shape': (5, 16), }\n", pickle.dumps(Trap(trap))),
            "npy of 10^18 rows": npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000000000, 16), }\n", bytes(99)),
            "npy of more rows than there are": npy("{'descr': '<f4', 'fortran_order': False, 'shape': (50, 16), }\n", rows.tobytes()),
            "npy of -5 rows": npy("{'descr': '<f4', 'fortran_order': False, 'shape': (-5, 16), }\n", rows.tobytes()),
            "npy of -5 rows of -16": npy("{'descr': '<f4', 'fortran_order': False, 'shape': (-5, -16), }\n", rows.tobytes()),
            "npy of 5.0 rows": npy("{'descr': '<f4', 'fortran_order': False, 'shape': (5.0, 16), }\n", rows.tobytes()),
            "npy of True rows": npy("{'descr': '<f4', 'fortran_order': False, 'shape': (True, 16), }\n", rows.tobytes()),
            "npy of a shape that is a list": npy("{'descr': '<f4', 'fortran_order': False, 'shape': [5, 16], }\n", rows.tobytes()),
            "npy of a shape that is a text": npy("{'descr': '<f4', 'fortran_order': False, 'shape': '58', }\n", rows.tobytes()),
            "npy with a header that is code": npy("{'descr': '<f4', 'fortran_order': False, 'shape': __import__('os').getcwd(), }\n"),
            "npy with a header 5000 deep": npy("(" * 5000 + ")" * 5000 + "\n"),
            "npy with a header of a long sum": npy("1+" * 5000 + "1\n"),
            "npy with a header of 10 MB": npy(plain.ljust(10**7) + "\n", rows.tobytes(), b"\2\0"),
            "npy with a header of 4 GB": npy(plain, b"", b"\2\0", 2**32 - 1),
            "npy with a header of noise": npy(b"\xab" * 118),
            "npy with a header of zeros": npy(bytes(118)),
            "npy with a header that is missing": npy(""),
            "npy with one key too few": npy("{'descr': '<f4', 'shape': (5, 16), }\n", rows.tobytes()),
            "npy with one key too many": npy("{'descr': '<f4', 'fortran_order': False, 'shape': (5, 16), 'a': 1}\n", rows.tobytes()),
            "npy with an unknown type": npy("{'descr': 'many', 'fortran_order': False, 'shape': (5, 16), }\n", rows.tobytes()),
            "npy of floats of 4 GB each": npy("{'descr': '<f4294967295', 'fortran_order': False, 'shape': (5, 16), }\n", rows.tobytes()),
            "npy of a format to come": npy(plain, rows.tobytes(), b"\x09\0"),
            "npz": b"PK\3\4" + whole,
        },
        either={"npy of no rows": saved(np.zeros((0, 16), np.float32)), "npy of format 3": npy(plain, rows.tobytes(), b"\3\0")},
    )


def tensors(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    """A .safetensors file; `header` is what is written as JSON, or bytes."""
    head = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(head) if length is None else length) + head + data


def safetensors() -> Iterator[Case]:
    rows = np.random.default_rng(0).normal(size=(5, 16)).astype(np.float32).tobytes()

    def one(dtype: object = "F32", shape: object = (5, 16), at: object = (0, 320), **more: object) -> dict[str, object]:
        return {"embeddings": {"dtype": dtype, "shape": shape, "data_offsets": at, **more}}

    whole = tensors(one(), rows)
    for length in (1, 7, 8, 40, len(whole) - 1):
        yield Case(f"safetensors, {length} bytes of it", whole[:length])
    yield from cases(
        opened={
            "safetensors, an ordinary one": whole,
            "safetensors of bfloat16": tensors(one("BF16", at=(0, 160)), rows[:160]),
            "safetensors with more said": tensors({"__metadata__": {"a": "b"}, **one()}, rows),
        },
        refused={
            "safetensors of nothing": b"",
            "safetensors that is a pickle": pickle.dumps([1.0] * 99),
            "safetensors of a header of 2^64 bytes": tensors(one(), rows, 2**64 - 1),
            "safetensors of a header of 2^63 bytes": tensors(one(), rows, 2**63),
            "safetensors of a header of no bytes": tensors(one(), rows, 0),
            "safetensors of a header longer than it": tensors(one(), rows, 999),
            "safetensors of a header cut short": tensors(one(), rows, 20),
            "safetensors of a header 100,000 deep": tensors(b"[" * 100_000, rows),
            "safetensors of objects 100,000 deep": tensors(b'{"a":' * 100_000, rows),
            "safetensors of a header of noise": tensors(b"\xab" * 99, rows),
            "safetensors of a list": tensors([1, 2], rows),
            "safetensors of a number": tensors(7, rows),
            "safetensors of a tensor that is a number": tensors({"embeddings": 7}, rows),
            "safetensors of none": tensors({}, rows),
            "safetensors of two": tensors({**one(), "other": one()["embeddings"]}, rows),
            "safetensors of 50,000": tensors({f"t{n}": 0 for n in range(50_000)}, rows),
            "safetensors of whole numbers": tensors(one("I64", at=(0, 640)), rows * 2),
            "safetensors of an unknown type": tensors(one("F9000"), rows),
            "safetensors of a type that is a number": tensors(one(7), rows),
            "safetensors of a type that is a list": tensors(one(["F32"]), rows),
            "safetensors of a short type": tensors(one("f"), rows),
            "safetensors of one axis": tensors(one(shape=(80,)), rows),
            "safetensors of three axes": tensors(one(shape=(5, 4, 4)), rows),
            "safetensors of -5 rows": tensors(one(shape=(-5, -16)), rows),
            "safetensors of 5.5 rows": tensors(one(shape=(5.5, 16)), rows),
            "safetensors of true rows": tensors(one(shape=(True, 16), at=(0, 64)), rows),
            "safetensors of a shape that is a text": tensors(one(shape="58"), rows),
            "safetensors of no shape": tensors(one(shape=None), rows),
            "safetensors of 2^60 rows": tensors(one(shape=(2**60, 16), at=(0, 2**66)), rows),
            "safetensors of another width": tensors(one(shape=(16, 5)), rows),
            "safetensors of rows beyond it": tensors(one(shape=(50, 16), at=(0, 3200)), rows),
            "safetensors of offsets that do not fit": tensors(one(at=(0, 90)), rows),
            "safetensors of offsets beyond it": tensors(one(at=(10**12, 10**12 + 320)), rows),
            "safetensors of negative offsets": tensors(one(at=(-320, 0)), rows),
            "safetensors of offsets the wrong way": tensors(one(at=(320, 0)), rows),
            "safetensors of offsets of half a byte": tensors(one(at=(0.5, 320.5)), rows),
            "safetensors of offsets that are infinite": tensors(b'{"a": {"dtype": "F32", "shape": [5, 16], "data_offsets": [Infinity, NaN]}}', rows),
            "safetensors of one offset": tensors(one(at=(0,)), rows),
            "safetensors of offsets that are texts": tensors(one(at=("0", "320")), rows),
            "safetensors of a number of 10,000 digits": tensors(b'{"a": {"dtype": "F32", "shape": [' + b"9" * 10_000 + b", 16]}}", rows),
        },
    )


# --- Parquet


def table(columns: dict[str, object], **settings) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = io.BytesIO()
    pq.write_table(pa.table(columns), file, **settings)
    return file.getvalue()


def parquets() -> Iterator[Case]:
    import pyarrow as pa

    photo = encoded(noise(), "JPEG")
    rows = np.random.default_rng(0).normal(size=(5, 16)).astype(np.float32)
    whole = table({"key": ["a", "b", "c"], "jpg": [photo, photo, photo]})
    footer = struct.unpack("<I", whole[-8:-4])[0]
    for length in (3, 4, 12, 200, len(whole) // 2, len(whole) - 1):
        yield Case(f"parquet, {length} bytes of it", whole[:length])
    middle = len(whole) // 2

    def embeddings(values: object, kind: object = None) -> bytes:
        return table({"key": [str(n) for n in range(len(values))], "embedding": values if kind is None else pa.array(values, kind)})

    listed = rows.tolist()
    yield from cases(
        opened={
            "parquet of photos": whole,
            "parquet of photos, compressed": table({"key": ["a"], "jpg": [photo]}, compression="zstd"),
            "parquet of photos that are missing or broken": table({"key": ["a", "b", "c", "d"], "jpg": [None, b"", photo[:99], photo]}),
            "parquet of paths that are nowhere": table(
                {"path": ["none.jpg", "../../../etc/passwd", "/etc/passwd", "", "a\0b.jpg", "x" * 5000, None]}
            ),
            "parquet of addresses that are not fetched": table(
                {"url": ["file:///etc/passwd", "ftp://127.0.0.1/a", "s3://", "://", "http://[::1", "nothing://a"]}
            ),
            "parquet of keys that are missing": table({"key": [None, None], "jpg": [photo, photo]}),
            "parquet of keys that are numbers": table({"key": [1.5, float("nan")], "jpg": [photo, photo]}),
            "parquet of keys that are lists": table({"key": [[1], [2, 3]], "jpg": [photo, photo]}),
            "parquet of keys that are bytes": table({"key": [b"\xff\xfe", b""], "jpg": [photo, photo]}),
            "parquet of equal keys": table({"key": ["a", "a"], "jpg": [photo, photo]}),
            "parquet of numbers for photos": table({"key": ["a", "b"], "jpg": [1, 2]}),
            "parquet of structures for photos": table({"image": [{"bytes": photo, "path": None}, {"bytes": None, "path": None}, None]}),
            "parquet of empty structures for photos": table({"image": [{"other": 1}, {"other": 2}]}),
            "parquet of lists of photos": table({"image": [[photo], []]}),
            "parquet of categories": table({"key": ["a"], "path": pa.array(["none.jpg"]).dictionary_encode()}),
            "parquet of embeddings": embeddings(listed),
            "parquet of embeddings of one width": embeddings(listed, pa.list_(pa.float32(), 16)),
            "parquet of ragged embeddings": embeddings([listed[0], [], [1.0], listed[1] * 2, listed[2], None]),
            "parquet of embeddings with gaps": embeddings([[None] * 16, listed[0], [*listed[1][:15], None]]),
            "parquet of embeddings that are not finite": embeddings([[float("nan")] * 16, [float("inf"), *listed[0][1:]], [0.0] * 16, listed[0]]),
            "parquet of embeddings beyond float32": embeddings([[1e300] * 16, listed[0]]),
            "parquet of embeddings that are missing": embeddings([None, None], pa.list_(pa.float32())),
            "parquet of embeddings, all ragged, as many numbers as rows of 16": embeddings([listed[0][:8], listed[0] + listed[1][:8]]),
            "parquet of embeddings of texts": embeddings([["a"] * 16, ["1"] * 16]),
            "parquet of embeddings of truth": embeddings([[True] * 16, [False] * 16]),
            "parquet of embeddings of embeddings": embeddings([[[1.0]] * 16, [[2.0, 3.0]] * 16]),
            "parquet of embeddings of times": embeddings([[0] * 16], pa.list_(pa.timestamp("s"))),
            "parquet of embeddings of decimals": embeddings([[1] * 16], pa.list_(pa.decimal128(5, 2))),
            "parquet of embeddings of whole numbers": embeddings([[1] * 16, [2**62] * 16]),
            "parquet of embeddings of bytes": embeddings([[b"\xff"] * 16]),
            "parquet of embeddings of structures": embeddings([[{"a": 1.0}] * 16]),
            "parquet of long lists": embeddings(listed, pa.large_list(pa.float32())),
            "parquet of halves": embeddings([[np.float16(1)] * 16], pa.list_(pa.float16())),
            "parquet of 1000 row groups": table({"key": [str(n) for n in range(1000)], "path": ["none.jpg"] * 1000}, row_group_size=1),
            "parquet whose values are damaged": whole[:middle] + b"\xab" * 40 + whole[middle + 40 :],
        },
        refused={
            "parquet of nothing": b"",
            "parquet that is text": b"key,path\na,b\n" * 9,
            "parquet that is a photo": photo,
            "parquet of its marks alone": b"PAR1PAR1",
            "parquet of a footer of 4 GB": whole[:-8] + b"\xff\xff\xff\xff" + b"PAR1",
            "parquet of a footer of no bytes": whole[:-8] + bytes(4) + b"PAR1",
            "parquet of a footer of noise": whole[: -8 - footer] + b"\xab" * footer + whole[-8:],
            "parquet of a footer of zeros": whole[: -8 - footer] + bytes(footer) + whole[-8:],
            "parquet that is encrypted": whole[:-4] + b"PARE",
            "parquet of other columns": table({"title": ["a"], "likes": [3]}),
            "parquet of one column of a number": table({"number": [1, 2]}),
        },
        either={
            "parquet of no rows": table({"key": pa.array([], pa.string()), "jpg": pa.array([], pa.binary())}),
            "parquet of no columns": table({}),
            "parquet of two columns of one name": twins(),
            "parquet whose first value is damaged": whole[:4] + b"\xff" * 30 + whole[34:],
            "parquet of keys that are no text": table({"key": pa.array([b"\xff\xfe", b"a"]).view(pa.string()), "jpg": [photo, photo]}),
            "parquet of paths that are no text": table({"path": pa.array([b"\xff\xfe.jpg", b"a.jpg"]).view(pa.string())}),
            "parquet of a column of nothing": table({"key": ["a"], "jpg": pa.nulls(1)}),
        },
    )


def twins() -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = io.BytesIO()
    pq.write_table(pa.Table.from_arrays([pa.array(["a.jpg"]), pa.array(["b.jpg"])], names=["path", "path"]), file)
    return file.getvalue()
