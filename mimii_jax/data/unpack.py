"""A zip archive into a folder: nothing outside of it, nothing twice, nothing half."""

import os
import shutil
import stat
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mimii_jax.data.fetch import DownloadError, unwritable
from mimii_jax.data.threads import in_parallel

BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError)
_BLOCK = 2**20  # bytes


def contents(archive: Path, out: Path) -> dict[str, int]:
    """Names and sizes of the files of an archive.

    Raises
    ------
    DownloadError : a name leads out of `out`, or the archive is damaged
    """
    with _opened(archive, out) as opened:
        infos = [info for info in opened.infolist() if not info.is_dir()]
        for info in infos:
            _require_inside(info, out, archive)
    return {info.filename: info.file_size for info in infos}


def unpack(archive: Path, out: Path) -> None:
    """Unpack the files of an archive into `out`.

    A file that is there and right, by its size and check sum, is left as it is, so that
    an unpacking that was interrupted is finished. A file has its name only once it is
    whole.

    Raises
    ------
    DownloadError : a name leads out of `out` (nothing is unpacked then), the archive is
        damaged, or the disk is full
    """
    contents(archive, out)
    with _opened(archive, out) as opened:
        infos = [info for info in opened.infolist() if not info.is_dir()]
        missing = [info for info in infos if not _is_there(info, out)]
        require_space(out, sum(info.file_size for info in missing))
        title = f"unpacking {archive.name}"
        in_parallel(lambda info: _put(opened, info, out), missing, 0, title, True)


@contextmanager
def _opened(archive: Path, out: Path) -> Iterator[zipfile.ZipFile]:
    """The archive; what goes wrong with it, or on the disk, is one line."""
    try:
        with zipfile.ZipFile(archive) as opened:
            yield opened
    except BROKEN as error:
        raise DownloadError(
            f"{archive}: damaged ({error}); remove it and start the same command again"
        ) from error
    except OSError as error:
        raise unwritable(Path(error.filename or out), error) from error


def _require_inside(info: zipfile.ZipInfo, out: Path, archive: Path) -> None:
    """Refuse a name that leads out of `out`, and links, which might."""
    name = info.orig_filename
    inside = (
        "\\" not in name  # a separator elsewhere
        and not stat.S_ISLNK(info.external_attr >> 16)
        and (out / info.filename).resolve().is_relative_to(out.resolve())
    )
    if not inside:
        raise DownloadError(
            f"{archive}: has a file {name!r}, which would lie outside of {out}; "
            "nothing was unpacked. Remove it, and do not trust where it came from"
        )


def _is_there(info: zipfile.ZipInfo, out: Path) -> bool:
    """Whether the file is in `out` with the size and the check sum that it should have.

    Files are compared by what is in them, since an archive may be unpacked over others.
    """
    path = out / info.filename
    if not path.is_file() or path.stat().st_size != info.file_size:
        return False
    crc = 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            crc = zlib.crc32(block, crc)
    return crc == info.CRC


def require_space(folder: Path, needed: int) -> None:
    """Raise `DownloadError` when a disk has less space than is needed, in bytes."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DownloadError(
            f"{folder}: no space: {needed / 1e9:.2f} GB are needed, {free / 1e9:.2f} "
            "GB are free; make room or choose another --out"
        )


def _put(opened: zipfile.ZipFile, info: zipfile.ZipInfo, out: Path) -> None:
    """Unpack one file; zipfile holds it against its check sum."""
    path = out / info.filename
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part{os.getpid()}")
    try:
        with opened.open(info) as source, part.open("wb") as target:
            shutil.copyfileobj(source, target, _BLOCK)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
