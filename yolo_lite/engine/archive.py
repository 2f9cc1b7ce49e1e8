"""Archives of ``torch.save``, ``torch.jit.save`` and ``torch.export.save``: read once, and verified before use.

They are zips that hold a CRC-32 of every record, which torch writes and does not check. Ours have a seal too, as the
zip's comment: a digest of the zip's directory, that is of the names, sizes, places and CRCs of all records. It costs no
second look at the tensors. Files without a seal, by an older yolo_lite or by others, are held to their CRCs.
"""

from __future__ import annotations

import hashlib
import io
import os
import struct
import zlib
from typing import BinaryIO, NamedTuple
from zipfile import ZIP_STORED, BadZipFile, ZipFile, ZipInfo, is_zipfile

from yolo_lite.config.errors import CheckpointError
from yolo_lite.config.regular import open_regular

MOST_BYTES = 8 << 30  # of a file: twenty times what a run of the largest model leaves
MOST_DIRECTORY = 8 << 20  # bytes of a zip's directory
MOST_UNPACKED = 64 << 20  # bytes of all compressed records, where those may be: sources of TorchScript
UNKNOWN = "damaged, or not a checkpoint"
ADVICE = "the run's other checkpoint, best.pt or last.pt, may be whole: as --weights it starts a new run"

DAMAGE = (BadZipFile, zlib.error, struct.error, EOFError, RuntimeError, ValueError, LookupError, OverflowError)
END, END_64 = b"PK\x05\x06", b"PK\x06\x06"
LOCAL_HEADER = struct.Struct("<4s2x2H4xI8x2H")  # signature, flags, method, CRC, lengths of name and extra field
FOLDER = 0x10  # in the attributes of a record
WITHOUT_SEAL = 20  # bytes of the end record before the length of the comment


class Directory(NamedTuple):
    """Where a zip's directory lies, counted from the file's first byte."""

    start: int
    end: int  # of the end record, up to the length of the comment
    comment: bytes


def read_archive(path: str | os.PathLike[str], may_compress: bool = False) -> bytes:
    """The content of a zip whose records are what they were when they were written.

    Args:
        may_compress: whether records may be compressed; torch.save's never are, and those of a bomb would be.

    Raises:
        OSError: as ``open_regular``.
        CheckpointError: no zip, damaged, or it would unpack to more than it is; the message does not name the file.
    """
    with open_regular(path) as file:
        try:
            is_zip = is_zipfile(file)
        except BadZipFile as error:  # its directory claims to lie on several disks
            raise damaged(str(error)) from error
        if not is_zip:
            raise CheckpointError(f"{UNKNOWN}: expected a zip")
        if (size := file.seek(0, os.SEEK_END)) > MOST_BYTES:
            raise CheckpointError(f"expected a checkpoint of at most {MOST_BYTES:,} bytes, found {size:,}")
        file.seek(0)
        data = file.read()
    try:
        _verify(data, may_compress)
    except CheckpointError:
        raise
    except DAMAGE as error:  # what zipfile raises, by what is broken
        raise damaged(str(error) or type(error).__name__) from error
    return data


def damaged(where: str) -> CheckpointError:
    return CheckpointError(f"damaged: {where}; {ADVICE}")


def record_of(data: bytes, name: str) -> bytes | None:
    """A record of a verified archive by its name behind the archive's own; None where there is none."""
    with ZipFile(io.BytesIO(data)) as archive:
        prefix = archive.infolist()[0].filename.partition("/")[0]
        record = archive.NameToInfo.get(f"{prefix}/{name}")
        if record is None or record.compress_type != ZIP_STORED:
            return None
        start = _start_of(record, data)  # not by zipfile, which wants the CRC that torch may be told to leave out
        return data[start : start + record.file_size]


def seal(file: BinaryIO) -> None:
    """Write the seal behind a zip without a comment, open for reading and writing."""
    size = file.seek(0, os.SEEK_END)
    place = size - WITHOUT_SEAL - 2
    file.seek(place)
    end = file.read()
    start = struct.unpack_from("<I", end, 16)[0]
    if start == 2**32 - 1:  # too far for the end record, it stands in that of large zips
        file.seek(place - 76)
        start = struct.unpack_from("<Q", file.read(56), 48)[0]
    file.seek(start)
    text = _seal_of(file.read(place + WITHOUT_SEAL - start))
    file.seek(size - 2)
    file.write(struct.pack("<H", len(text)) + text)


def _seal_of(directory: bytes | memoryview) -> bytes:
    return f"sha256 {hashlib.sha256(directory).hexdigest()}".encode()


def _verify(data: bytes, may_compress: bool) -> None:
    directory, view = _directory(data), memoryview(data)
    if directory.comment and directory.comment != _seal_of(view[directory.start : directory.end]):
        raise damaged("its list of records does not match its seal")
    with ZipFile(io.BytesIO(data)) as archive:
        records = archive.infolist()
        _check_names(records)
        unpacked = sum(record.file_size for record in records if record.compress_type != ZIP_STORED)
        if unpacked > MOST_UNPACKED * may_compress:
            raise CheckpointError(f"{UNKNOWN}: its entries are larger than the file")
        has_crc = any(record.CRC for record in records)  # torch can be told to write none
        ordered = sorted(records, key=lambda record: record.header_offset)
        limits = [*(record.header_offset for record in ordered[1:]), directory.start]
        for record, limit in zip(ordered, limits, strict=True):
            start = _start_of(record, data)
            if (
                record.external_attr & FOLDER or record.is_dir()
            ):  # of which torch reads nothing, and takes what is there
                raise damaged(f"the record {record.filename!r} says that it is a folder")
            if record.compress_type != ZIP_STORED:
                archive.read(record)  # zipfile checks its CRC
            elif record.file_size != record.compress_size or start + record.file_size > limit:
                raise CheckpointError(f"{UNKNOWN}: its entries are larger than the file")
            elif has_crc and zlib.crc32(view[start : start + record.file_size]) != record.CRC:
                raise damaged(f"the record {record.filename!r} does not match its CRC-32")


def _directory(data: bytes) -> Directory:
    """Find the directory as every reader does; where readers could differ, the file is refused."""
    place = data.rfind(END, max(len(data) - 2**16 - WITHOUT_SEAL, 0))
    if place < 0:
        raise CheckpointError(f"{UNKNOWN}: its end is missing")
    size, start, length = struct.unpack_from("<2IH", data, place + 12)
    end, told = place, start
    if data[place - 20 : place - 16] == b"PK\x06\x07":  # a second end record, for large zips
        end = place - 76
        size, start = struct.unpack_from("<2Q", data, end + 40)
        if data[end : end + 4] != END_64 or told not in (start, 2**32 - 1):
            raise CheckpointError(f"{UNKNOWN}: its two ends differ")
    comment = data[place + WITHOUT_SEAL + 2 :]
    if start + size != end or len(comment) != length:
        raise CheckpointError(f"{UNKNOWN}: its end was cut or changed")
    if size > MOST_DIRECTORY:
        raise CheckpointError(f"{UNKNOWN}: its directory takes {size:,} bytes")
    return Directory(start, place + WITHOUT_SEAL, comment)


def _check_names(records: list[ZipInfo]) -> None:
    """All records lie in one folder, and no two have one name: torch does not tell upper from lower case."""
    names = [record.filename.lower() for record in records]
    if not names or len({name.partition("/")[0] for name in names}) > 1 or len(set(names)) < len(names):
        raise CheckpointError(f"{UNKNOWN}: expected records of different names in one folder")


def _start_of(record: ZipInfo, data: bytes) -> int:
    """Where the bytes of a record start; its own header must say what the directory says."""
    signature, flags, method, crc, name_length, extra_length = LOCAL_HEADER.unpack_from(data, record.header_offset)
    start = record.header_offset + LOCAL_HEADER.size
    name = record.orig_filename.encode("utf-8" if record.flag_bits & 0x800 else "cp437")
    told = (signature, flags, method, data[start : start + name_length])
    if told != (b"PK\x03\x04", record.flag_bits, record.compress_type, name) or crc not in (0, record.CRC):
        raise damaged(f"the header of {record.filename!r} differs from the directory")
    return start + name_length + extra_length
