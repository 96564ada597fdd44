"""One self-contained HTML page of a workdir: python -m mimii_jax.report WORKDIR."""

import argparse
from collections.abc import Sequence

from mimii_jax import log
from mimii_jax.command import one_line_errors, path_of
from mimii_jax.report.of_workdir import write_report


def main(argv: Sequence[str] | None = None) -> None:
    """Write WORKDIR/report.html."""
    parser = argparse.ArgumentParser(
        prog="python -m mimii_jax.report",
        description="Write WORKDIR/report.html: results, figures and settings of a run "
        "on one page that needs no other file. Trains nothing and needs no JAX.",
    )
    parser.add_argument("workdir", type=path_of, help="folder of a finished run")
    workdir = parser.parse_args(argv).workdir
    with one_line_errors():
        log.info(f"Report: {write_report(workdir)}")


if __name__ == "__main__":
    main()
