"""One self-contained HTML page of a workdir.

python -m mimii_jax.report WORKDIR
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from mimii_jax.report.of_workdir import write_report
from mimii_jax.results.table import ScoreError


def main(argv: Sequence[str] | None = None) -> None:
    """Write WORKDIR/report.html."""
    parser = argparse.ArgumentParser(
        prog="python -m mimii_jax.report",
        description="Write WORKDIR/report.html: results, figures and settings of a run "
        "on one page that needs no other file. Trains nothing and needs no JAX.",
    )
    parser.add_argument("workdir", type=Path, help="what --workdir named")
    args = parser.parse_args(argv)
    try:
        print(f"wrote {write_report(args.workdir)}")
    except ScoreError as error:
        parser.exit(1, f"error: {error}\n")
    except OSError as error:
        parser.exit(1, f"error: {args.workdir}: {error.strerror}\n")


if __name__ == "__main__":
    main()
