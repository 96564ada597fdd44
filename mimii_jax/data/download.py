"""Download the recordings of DCASE 2020 Task 2.

python -m mimii_jax.data.download --machine slider --split dev --out DIR
python -m mimii_jax.data.download --machine all --split dev additional eval --out DIR

All splits of a machine type share one folder, DIR/<type>/{train,test}. Complete files
are not fetched again; an interrupted download or unpacking is resumed by a rerun.
"""

import argparse
import json
import re
import shlex
import shutil
import signal
import stat
import sys
import time
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import pooch
import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3 import BaseHTTPResponse
from urllib3.util import Retry

from mimii_jax import log
from mimii_jax.command import INTERRUPTED, one_line_errors, path_of
from mimii_jax.errors import DataError
from mimii_jax.files import (
    file_errors,
    make_folder,
    owned,
    read_json,
    replace_file,
    whole_file,
)

BASE_URL = "https://zenodo.org"
MACHINES = ("ToyCar", "ToyConveyor", "fan", "pump", "slider", "valve")

# Split -> Zenodo records and their files.
RECORDS = {
    "dev": ((3678171, "dev_data_{machine}.zip"),),
    "additional": ((3727685, "eval_data_train_{machine}.zip"),),
    "eval": (
        (3841772, "eval_data_test_{machine}.zip"),
        (3951620, "eval_data_list.csv"),  # the labels of all machine types
    ),
}

# File -> MD5 sum and size in bytes (None: unknown). Any mirror will do: other bytes are
# refused. The sums of dev_data_* and eval_data_train_* are in two independent sources,
# soundata's loader dcase2020task2 and the DataLad data set datasets--dcase2020 (whose
# keys have the sizes, too). Those of eval_data_test_* are in soundata alone; that of
# the list of labels was taken from a copy of it.
REGISTRY: dict[str, tuple[str, int | None]] = {
    "dev_data_ToyCar.zip": ("4dec75ca8d9f666aa9e4c1894a740501", 1_816_443_231),
    "dev_data_ToyConveyor.zip": ("03b6aa1bfd09a39d53af0ba39f71fa91", 1_868_564_070),
    "dev_data_fan.zip": ("649bdfc06263ae7a838963f43b6641e6", 1_354_774_772),
    "dev_data_pump.zip": ("90e7091ef722b7238a7f1009365779cd", 1_031_279_015),
    "dev_data_slider.zip": ("da24a757719f0d94d5aa2d646bbfdc86", 1_002_998_966),
    "dev_data_valve.zip": ("34d2672f55bb041589ef79c10dc89934", 1_013_925_627),
    "eval_data_train_ToyCar.zip": ("a5d4ccd498af70b04dd74b644b820006", 861_354_584),
    "eval_data_train_ToyConveyor.zip": (
        "0e808ac0b761e9fb13d5e0c65caff00d",
        887_026_878,
    ),
    "eval_data_train_fan.zip": ("567798854130c8019df8b664c095ed1e", 697_147_242),
    "eval_data_train_pump.zip": ("4e33ae9c0db5cc88437675f5e317caee", 590_897_096),
    "eval_data_train_slider.zip": ("f84f186f4295fc23754abcdd1b0580a7", 577_515_541),
    "eval_data_train_valve.zip": ("057cdd560caffb8305449541afd28c6d", 615_645_426),
    "eval_data_test_ToyCar.zip": ("bea2bdd612f616be8f2b8eb087b32c7c", None),
    "eval_data_test_ToyConveyor.zip": ("ccfcc9847c7d3404d7ee9d6d9e0b2ba2", None),
    "eval_data_test_fan.zip": ("1eb9356a768cadfd0f2e59a5c57e578b", None),
    "eval_data_test_pump.zip": ("23a8f8f924be218c69df67fe07360348", None),
    "eval_data_test_slider.zip": ("0193c769073840332ce3aad84b1ccaa2", None),
    "eval_data_test_valve.zip": ("f69c551d2088691050d20cccca9d631c", None),
    "eval_data_list.csv": ("f16aaa185df9906e588864aaf7cb58ea", 338_426),
}

TRIES = 5  # in a row that bring nothing
ARCHIVES = "archives"  # folder of what isn't unpacked yet, and of receipts
BUSY = (429, 500, 502, 503, 504)
LONGEST_WAIT = 300.0  # seconds that a busy server may ask for
TIMEOUT = 30.0  # seconds without a byte
STALL = 30.0  # seconds with fewer than SLOWEST bytes in each
SLOWEST = 1000
BROKEN = (requests.RequestException, urllib3.exceptions.HTTPError)
CHUNK = 10**6  # bytes; a broken connection loses at most this much
EXPANSION = 4  # of recordings, at most; more is no archive of them
RECORDING = re.compile(r"[A-Za-z]+/(train|test)/[^./][^/]*\.wav")  # unpacked


def wanted(machines: Sequence[str], splits: Sequence[str]) -> dict[str, int]:
    """File -> Zenodo record, for these machine types and splits."""
    return {
        name.format(machine=machine): record
        for machine in machines
        for split in splits
        for record, name in RECORDS[split]
    }


def amount(names: Sequence[str]) -> str:
    """Number and total size of these files, in words."""
    known = [size for name in names if (size := REGISTRY[name][1])]
    unknown = ", ".join(name for name in names if not REGISTRY[name][1])
    text = f"{len(names)} files, {sum(known) / 1e9:.2f} GB"
    return text + (f" (size of {unknown} unknown)" if unknown else "")


def fetch(name: str, url: str, out: Path) -> None:
    """Download, verify and unpack one file, unless it is complete."""
    archives = out / ARCHIVES
    make_folder(archives)
    path, receipt = archives / name, archives / f"{name}.json"
    if _complete(receipt, out):
        log.info(f"{name}: complete")
        return
    md5, size = REGISTRY[name]
    if not path.exists():
        part = archives / f"{name}.part"
        try:
            _download(url, part, size)
        except requests.RequestException as error:
            reason = getattr(error.args[0], "reason", error) if error.args else error
            raise DataError(
                f"{name}: {reason}; check the network and --base-url, then rerun to "
                "resume"
            ) from error
        part.replace(path)
    found = pooch.file_hash(str(path), alg="md5")
    if found != md5:
        bad = path.replace(archives / f"{name}.bad")
        raise DataError(
            f"{name}: MD5 {found} instead of the published {md5}; kept as {bad}, not "
            "used. Check --base-url and rerun to fetch it again"
        )
    if path.suffix == ".zip":
        files = unpack(path, out)
    else:
        files = {name: path.stat().st_size}
        path.replace(out / name)
    replace_file(receipt, json.dumps(files, indent=0).encode())
    path.unlink(missing_ok=True)
    log.info(f"{name}: MD5 verified, {len(files):,} files")


def _complete(receipt: Path, out: Path) -> bool:
    """Whether all files of an earlier download are there, with their sizes."""
    if not receipt.exists():
        return False
    try:
        files = read_json(receipt)
        return all(_size(out / name) == size for name, size in files.items())
    except (DataError, AttributeError):  # damaged: the files are looked at again
        return False


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _require_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DataError(
            f"{folder}: needs {needed / 1e9:.2f} GB, {free / 1e9:.2f} GB are free; "
            "free some space or choose another --out"
        )


class _Patience(Retry):
    """Waits for a busy server as long as it asks, up to `LONGEST_WAIT`."""

    def get_retry_after(self, response: BaseHTTPResponse) -> float | None:
        seconds = super().get_retry_after(response)
        if (seconds or 0) > LONGEST_WAIT:
            raise DataError(f"the server is busy; rerun in {seconds:.0f} s to resume")
        return seconds

    def increment(self, *args: Any, **more: Any) -> Self:
        """Say that a try failed."""
        found, error = super().increment(*args, **more), more.get("error")
        response = more.get("response")
        why = f"the server says {response.status}" if response else error
        log.warning(f"{why}; tries left: {found.total}")
        return found


def _download(url: str, part: Path, size: int | None) -> None:
    """Complete `part`; a connection that breaks is resumed where it broke."""
    retry = _Patience(TRIES - 1, status_forcelist=BUSY, backoff_factor=1)
    with requests.Session() as session:
        for scheme in ("https://", "http://"):
            session.mount(scheme, HTTPAdapter(max_retries=retry))
        if size is None:
            with session.get(url, stream=True, timeout=TIMEOUT) as response:
                response.raise_for_status()
                size = int(response.headers.get("Content-Length", 0))
        _require_space(part.parent, size - _size(part))
        failures = 0
        with log.bar(f"fetching {part.stem}", size // CHUNK, "MB") as advance:
            advance(_size(part) // CHUNK)
            while (have := _size(part)) != size:
                if failures == TRIES:
                    raise DataError(
                        f"{part.stem}: the connection broke at {have:,} of {size:,} "
                        f"bytes, {TRIES} times; rerun to resume"
                    )
                if failures:
                    text = f"the connection broke at {have:,} of {size:,} bytes"
                    log.warning(f"{part.stem}: {text}; try {failures + 1} of {TRIES}")
                    time.sleep(2.0 ** (failures - 1))
                stalled = _append(session, url, part, size, advance)
                grew = _size(part) > have and not stalled
                failures = 0 if grew else failures + 1


def _append(
    session: requests.Session,
    url: str,
    part: Path,
    size: int,
    advance: Callable[[int], None],
) -> bool:
    """Append to `part` until it is whole or the connection breaks or stalls (True)."""
    have = _size(part)
    headers = {"Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    with session.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
        start = response.headers.get("Content-Range", "")
        resumes = response.status_code == 206 and start.startswith(f"bytes {have}-")
        if not resumes:
            advance(-(have // CHUNK))
            have = 0
            if response.status_code in (206, 416):  # another part, or none: start anew
                part.unlink(missing_ok=True)
                return False
        response.raise_for_status()
        shown = have
        since, before = time.monotonic(), have
        with part.open("ab" if resumes else "wb") as file:
            while have < size:  # it might be endless
                try:
                    chunk = response.raw.read1(min(CHUNK, size - have))
                except BROKEN:
                    return False
                if not chunk:
                    return False
                have += file.write(chunk)
                advance(have // CHUNK - shown // CHUNK)
                shown = have
                if (seconds := time.monotonic() - since) > STALL:
                    if have - before < SLOWEST * seconds:
                        return True
                    since, before = time.monotonic(), have
    return False


def unpack(archive: Path, out: Path) -> dict[str, int]:
    """Unpack an archive into `out`; returns the names and sizes of its files.

    Files appear when whole: those of the right size are kept, which finishes an
    interrupted unpacking. A name that leads out of `out` raises `DataError` first.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            every = [info for info in opened.infolist() if not info.is_dir()]
            for info in every:
                _require_inside(info, out, archive)
            infos = [i for i in every if RECORDING.fullmatch(i.filename)]
            if len(infos) < len(every):
                others = len(every) - len(infos)
                log.warning(f"{archive.name}: {others} files aren't recordings: left")
            total, most = sum(i.file_size for i in infos), archive.stat().st_size
            if total > EXPANSION * most:
                raise DataError(
                    f"{archive}: claims {total:,} bytes of recordings, over "
                    f"{EXPANSION} times its size; remove it"
                )
            missing = [
                info for info in infos if _size(out / info.filename) != info.file_size
            ]
            _require_space(out, sum(info.file_size for info in missing))
            log.in_threads(
                f"unpacking {archive.name}",
                lambda info: _extract(opened, info, out),
                missing,
                "files",
            )
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        raise DataError(f"{archive}: damaged ({error}); remove it and rerun") from error
    return {info.filename: info.file_size for info in infos}


def _require_inside(info: zipfile.ZipInfo, out: Path, archive: Path) -> None:
    """Refuse a name that leads out of `out`, and links, which might."""
    name = info.orig_filename
    inside = (
        "\\" not in name  # a separator on Windows
        and not stat.S_ISLNK(info.external_attr >> 16)
        and (out / info.filename).resolve().is_relative_to(out.resolve())
    )
    if not inside:
        raise DataError(
            f"{archive}: file {name!r} would lie outside of {out}; remove the archive"
        )


def _extract(opened: zipfile.ZipFile, info: zipfile.ZipInfo, out: Path) -> None:
    """Unpack one file whole or not at all; zipfile verifies its check sum."""
    path = out / info.filename
    make_folder(path.parent)
    with whole_file(path) as target, opened.open(info) as source:
        shutil.copyfileobj(source, target, CHUNK)
        if target.tell() != info.file_size:
            raise EOFError(f"{info.filename}: {target.tell()} bytes")


def main(arguments: Sequence[str] | None = None) -> None:
    """Download, verify and unpack the recordings of DCASE 2020 Task 2."""
    parser = argparse.ArgumentParser(
        prog="python -m mimii_jax.data.download",
        description=f"{main.__doc__} Rerun to resume.",
    )
    add = parser.add_argument
    add("--machine", choices=(*MACHINES, "all"), nargs="+", required=True)
    add(
        "--split",
        choices=(*RECORDS, "all"),
        nargs="+",
        required=True,
        help="dev: training and test clips of the first half of the ids; additional: "
        "training clips of the others; eval: their test clips and labels",
    )
    add("--out", type=path_of, required=True, metavar="DIR", help="folder to fill")
    add("--base-url", default=BASE_URL, help=f"a mirror (default {BASE_URL})")
    given = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, log.request_stop)
    machines = MACHINES if "all" in given.machine else given.machine
    files = wanted(machines, tuple(RECORDS) if "all" in given.split else given.split)
    log.info(amount(list(files)))
    base = given.base_url.rstrip("/")
    try:
        with one_line_errors():
            make_folder(given.out / ARCHIVES)
            with owned(given.out / ARCHIVES / ".lock", given.out):
                for name, record in files.items():
                    url = f"{base}/records/{record}/files/{name}?download=1"
                    with file_errors(given.out):
                        fetch(name, url, given.out)
    except (KeyboardInterrupt, log.Interrupted):
        print("interrupted; rerun the same command to resume", file=sys.stderr)
        sys.exit(INTERRUPTED)
    folder = shlex.quote(str(given.out))
    types = "".join(f"'{machine}'," for machine in machines)
    log.info(
        f"list the clips:\n  python -m mimii_jax.data.list {folder}\n"
        "train and evaluate:\n  python -m mimii_jax.main --config configs/mlp_vae.py "
        f'--config.data.root={folder} --config.data.machine_types="({types})"'
    )


if __name__ == "__main__":
    main()
