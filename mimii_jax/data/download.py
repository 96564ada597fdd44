"""The recordings of DCASE 2020 Task 2: fetch, verify, unpack, count.

python -m mimii_jax.data.download --machine slider --split dev --out DIR
python -m mimii_jax.data.download --machine all --split dev additional eval --out DIR

All splits of a machine type lie in one folder, DIR/<type>/{train,test}. What is there
already is not fetched again; what was interrupted goes on at the next call.
"""

import argparse
import json
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich import progress as bars
from rich.console import Console

from mimii_jax.data.fetch import DownloadError, fetch, require_md5, unwritable
from mimii_jax.data.records import (
    MACHINES,
    RECORDS,
    Source,
    amount,
    look_up,
    require_published,
    summary,
    wanted,
)
from mimii_jax.data.unpack import contents, require_space, unpack

BASE_URL = "https://zenodo.org"


def bring(base_url: str, source: Source, out: Path, console: Console) -> None:
    """Fetch, verify and unpack one file, unless all of it is there.

    Raises
    ------
    DownloadError : see `fetch`, `unpack`; or the clips are not the published ones
    """

    def say(text: str) -> None:
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    name, archives = source.name, out / "archives"
    archives.mkdir(parents=True, exist_ok=True)
    receipt = archives / f"{name}.json"  # so that the archive itself can go
    files = _received(receipt)
    if files and all(_has(out / file, size) for file, size in files.items()):
        say(f"{name}: there already{summary(files)}")
        return
    path = archives / name
    remote = look_up(base_url, source, say)
    if path.exists():
        require_md5(path, path, remote.md5)
    else:
        require_space(archives, remote.size - _size(archives / f"{name}.part"))
        with _bar(console, name, remote.size) as advance:
            fetch(remote.url, path, remote.size, remote.md5, advance, say)
    if name.endswith(".zip"):
        files = contents(path, out)
        require_published(source, files)
        unpack(path, out)
    else:
        files = {name: remote.size}
        os.replace(path, out / name)
    part = receipt.with_name(f".{receipt.name}")
    part.write_text(json.dumps(files, indent=0))
    os.replace(part, receipt)
    path.unlink(missing_ok=True)
    say(f"{name}: MD5 as in the record{summary(files)}")


def _received(receipt: Path) -> dict[str, int]:
    """Files and sizes that an archive left behind earlier; none if it did not."""
    try:
        return {str(k): int(v) for k, v in json.loads(receipt.read_text()).items()}
    except (OSError, AttributeError, TypeError, ValueError):
        return {}


def _has(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


@contextmanager
def _bar(console: Console, name: str, size: int) -> Iterator:
    """Show how a file comes; yields `advance(bytes)`."""
    columns = (
        bars.TextColumn("{task.description}"),
        bars.BarColumn(),
        bars.DownloadColumn(),
        bars.TransferSpeedColumn(),
        bars.TimeRemainingColumn(),
    )
    with bars.Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as live:
        task = live.add_task(name, total=size)
        if not console.is_terminal:
            console.print(f"{name}: fetching {size / 1e6:.1f} MB", highlight=False)
        yield lambda n: live.update(task, advance=n)


def main(arguments: Sequence[str] | None = None) -> None:
    """Fetch, verify and unpack the recordings of DCASE 2020 Task 2."""
    given = _parser().parse_args(arguments)
    machines = MACHINES if "all" in given.machine else given.machine
    splits = tuple(RECORDS) if "all" in given.split else given.split
    sources = wanted(machines, splits)
    print(amount(sources))
    try:
        for source in sources:
            bring(given.base_url.rstrip("/"), source, given.out, Console())
    except DownloadError as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        sys.exit(f"error: {unwritable(given.out, error)}")
    except KeyboardInterrupt:
        print("stopped; the same command goes on where it was", file=sys.stderr)
        sys.exit(130)
    _say_next(given.out, machines, splits)


def _say_next(out: Path, machines: Sequence[str], splits: Sequence[str]) -> None:
    """Print the commands that come next."""
    folder = shlex.quote(str(out))
    print(f"next, what is there:\n  python -m mimii_jax.data.dcase {folder}")
    if "dev" in splits or {"additional", "eval"} <= set(splits):
        types = "".join(f"'{machine}'," for machine in machines)
        print(
            "and to train and measure:\n"
            "  python -m mimii_jax.main --config configs/mlp_vae.py "
            f'--config.data.root={folder} --config.data.machine_types="({types})"'
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m mimii_jax.data.download",
        description="Fetches the recordings of DCASE 2020 Challenge Task 2, verifies "
        "and unpacks them. The same command again goes on where it was.",
    )
    add = parser.add_argument
    several: dict[str, Any] = {"nargs": "+", "required": True}
    add("--machine", choices=(*MACHINES, "all"), **several, help="one or more, or all")
    add(
        "--split",
        choices=(*RECORDS, "all"),
        **several,
        help="dev: to train and test, ids of the challenge's first half; additional: "
        "to train, the other ids; eval: to test, the other ids, and their labels",
    )
    add("--out", type=Path, required=True, metavar="DIR", help="folder to fill")
    add("--base-url", default=BASE_URL, help=f"of a mirror (default {BASE_URL})")
    return parser


if __name__ == "__main__":
    main()
