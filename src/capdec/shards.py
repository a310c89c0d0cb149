"""What large collections are kept in, read row by row: tar shards, matrices in .npy and .safetensors files, columns of Parquet.

Every reader takes a binary file that can seek, wherever it is (fsspec opens those of s3://, gs://, hf:// as well as local ones), and a name for
messages. None of them holds more than a part of the file, and none runs code that a file brings: a pickle is refused.
"""

import json
import math
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float32

from capdec.errors import DataError, MissingExtra, brief
from capdec.images import SUFFIXES

if TYPE_CHECKING:
    from pyarrow import Array, RecordBatch
    from pyarrow.parquet import ParquetFile

File = Any
"""A binary file that can seek: what `open` and fsspec give, which have no type in common."""
IMAGES = tuple(suffix.removeprefix(".") for suffix in SUFFIXES)
LARGEST_HEADER = 1_000_000  # bytes; that of a matrix is some hundred
LARGEST_NAME = 65_536  # bytes of a long name in a tar, or of what else is told of a file there
NAMES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}  # safetensors' -> numpy's


class _Member(tarfile.TarInfo):
    """Of what a tar says of a file, only what can be: tarfile would read a name of exabytes, and go in circles after a negative size."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> "_Member":
        member = super().frombuf(buf, encoding, errors)
        named = member.type in (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
        if member.size < 0 or (named and member.size > LARGEST_NAME):
            raise tarfile.ReadError(f"{member.name!r} would have {member.size:,} bytes")
        return member


def samples(file: File, name: str) -> Iterator[tuple[str, dict[str, tuple[int, int]]]]:
    """A tar shard's samples as WebDataset and img2dataset write them, files of one key beside each other (000017.jpg, 000017.json), in their order:
    (key, {ending: (offset, size in bytes)}). No content is read. Raises DataError behind the last whole one where the shard is cut off or damaged."""
    try:
        with tarfile.open(fileobj=file, mode="r:", tarinfo=_Member) as tar:
            current = ""
            sample: dict[str, tuple[int, int]] = {}
            for member in iter(tar.next, None):
                tar.members.clear()  # type: ignore[attr-defined]  # else they would all be kept
                if member.size < 0 or (member.isreg() and member.offset_data + member.size > tar.offset):  # by a header before it; or sparse
                    raise tarfile.ReadError(f"{member.name!r} says that it has {member.size:,} bytes")
                folder, slash, base = member.name.rpartition("/")
                stem, _, ending = base.partition(".")
                if not member.isreg() or not stem:
                    continue
                if folder + slash + stem != current:
                    if sample:
                        yield current, sample
                    current, sample = folder + slash + stem, {}
                sample[ending.lower()] = (member.offset_data, member.size)
            if sample:
                yield current, sample
            file.seek(tar.offset)
            if file.read(tarfile.BLOCKSIZE).strip(b"\0"):  # tarfile takes a broken header for the end
                raise DataError(f"{name} is truncated or damaged after {tar.offset:,} bytes. Copy or download it again.")
    except DataError:
        raise
    except Exception as error:  # tarfile raises anything on a damaged header
        raise DataError(
            f"{name} cannot be read as a tar: {brief(error)}. Name uncompressed .tar shards; copy or download a truncated one again."
        ) from error


@dataclass(frozen=True)
class Matrix:
    """Where in a file the rows of numbers are."""

    rows: int
    dim: int
    dtype: str
    """As numpy names it; "<u2" holds bfloat16, which numpy lacks."""
    offset: int
    """Bytes before the first row."""

    def read(self, file: File, start: int, stop: int, name: str) -> Float32[np.ndarray, "N D"]:
        """Rows start to stop. Raises DataError where the file ends before them."""
        width = self.dim * np.dtype(self.dtype).itemsize
        file.seek(self.offset + start * width)
        content = file.read((stop - start) * width)
        if len(content) != (stop - start) * width:
            raise DataError(f"{name} ends after {self.offset + start * width + len(content):,} bytes, before its row {stop:,}. Copy it again.")
        values = np.frombuffer(content, self.dtype).reshape(stop - start, self.dim)
        return (values.astype(np.uint32) << 16).view(np.float32) if self.dtype == "<u2" else values.astype(np.float32)


def matrix(file: File, name: str, column: str | None = None) -> Matrix:
    """That of an .npy file, or the one of a .safetensors file (of several, the one called `column`). Raises DataError for anything but a matrix of
    floats, row after row: arrays of objects above all, for they are pickles."""
    try:
        found = _safetensors(file, column) if name.lower().endswith(".safetensors") else _npy(file)
    except Exception as error:  # whatever a forged header leads to
        raise DataError(f"{name} holds no matrix of embeddings: {brief(error)}. Give float16 or float32 of shape (N, D), row after row.") from error
    end = file.seek(0, 2)
    whole = found.offset + found.rows * found.dim * np.dtype(found.dtype).itemsize
    if end < whole:
        raise DataError(f"{name} says that it has {found.rows:,} x {found.dim:,} numbers, {whole:,} bytes, and ends after {end:,}. Copy it again.")
    return found


def _npy(file: File) -> Matrix:
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"its format is {version}, which no matrix of numbers has")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, by_columns, dtype = read(file)
    return _matrix(shape, dtype.str if dtype.kind == "f" else str(dtype), file.tell(), "fortran_order" if by_columns and min(shape) > 1 else "")


def _safetensors(file: File, column: str | None) -> Matrix:
    length = int.from_bytes(file.read(8), "little")
    if not 2 <= length <= LARGEST_HEADER:
        raise ValueError(f"its header would have {length:,} bytes")
    header = json.loads(file.read(length))
    tensors = {key: value for key, value in header.items() if key != "__metadata__"}
    if column is None and len(tensors) != 1:
        raise ValueError(f"it has {len(tensors)} tensors ({', '.join([*tensors][:5])}): say which with --column")
    if column is not None and column not in tensors:
        raise ValueError(f"it has no tensor {column!r}, but {', '.join([*tensors][:5])}")
    one = tensors[column if column is not None else next(iter(tensors))]
    start, stop = one["data_offsets"]
    found = _matrix(one["shape"], NAMES.get(one["dtype"], one["dtype"]), 8 + length + start)
    if type(start) is not int or start < 0 or stop - start != found.rows * found.dim * np.dtype(found.dtype).itemsize:
        raise ValueError("its offsets do not fit its shape")
    return found


def _matrix(shape: Sequence[int], dtype: str, offset: int, wrong: str = "") -> Matrix:
    if len(shape) != 2 or not all(type(size) is int and size >= 0 for size in shape) or math.prod(shape) > 2**56 or shape[1] == 0:
        raise ValueError(f"its shape is {tuple(shape)}")
    if dtype[1:] not in ("f2", "f4", "f8", "u2") or wrong:
        raise ValueError(f"it holds {wrong or dtype}")
    return Matrix(shape[0], shape[1], dtype, offset)


def parquet(file: Any, name: str) -> "ParquetFile":
    """Opened so that a row group is read in pieces. Raises DataError where it is none."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtra("pyarrow", "data", "reading Parquet") from error
    try:
        opened = pyarrow.parquet.ParquetFile(file, buffer_size=1 << 20, pre_buffer=False)
        _ = opened.schema_arrow  # which is read here, or not at all
        return opened
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise DataError(f"{name} cannot be read as Parquet: {brief(error)}. Copy or download it again.") from error


def batches(file: "ParquetFile", name: str, columns: Sequence[str], groups: range, batch: int) -> "Iterator[RecordBatch]":
    """The rows of some row groups, `batch` at a time. Raises DataError, behind the last whole batch, where they are damaged."""
    import pyarrow

    try:
        for part in file.iter_batches(batch, row_groups=list(groups), columns=list(dict.fromkeys(columns))):
            part.validate(full=True)  # else what is no UTF-8, or points elsewhere, would be met later
            yield part
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise DataError(f"{name} is damaged: {brief(error)}. Copy or download it again.") from error


def vectors(column: "Array", dim: int) -> list[Float32[np.ndarray, "D"] | None]:
    """A column of lists of numbers; None for those that are not `dim` numbers."""
    from pyarrow import types

    kind = column.type
    listed = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
    if listed and types.is_floating(kind.value_type) and column.null_count == 0 and len(column):
        flat, lengths = column.flatten(), column.value_lengths().to_numpy(zero_copy_only=False)
        if flat.null_count == 0 and (lengths == dim).all():
            return list(flat.to_numpy(zero_copy_only=False).astype(np.float32).reshape(-1, dim))
    return [_vector(one.as_py(), dim) for one in column]


def _vector(numbers: object, dim: int) -> Float32[np.ndarray, "D"] | None:
    try:
        found = np.asarray(numbers, np.float32)
    except (ValueError, TypeError, OverflowError):
        return None
    return found if found.shape == (dim,) else None
