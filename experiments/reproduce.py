"""Every table and figure of the two reports, and further studies, on one page.

python -m experiments.reproduce                                # simulated, small
python -m experiments.reproduce --scale 1 --config.data.root=PATH       # everything
python -m experiments.reproduce --only epochs cross_id --jobs 2

The same command resumes an interrupted one. The page is OUT/report.html.
"""

import shlex
import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path

from experiments.cell import Cell, Options
from experiments.run_cells import (
    Outcome,
    command_parser,
    parse,
    run_cells,
)
from experiments.studies import STUDIES
from experiments.study_page import study_section
from mimii_jax import log
from mimii_jax.command import one_line_errors
from mimii_jax.errors import ConfigError
from mimii_jax.files import replace_file
from mimii_jax.report.of_workdir import source_block
from mimii_jax.report.page import Block, Code, Section, Table, page

SCALE, SEEDS = 0.015, "(0, 1)"  # below scale 1: about 20 minutes on two cores
IDS = "('00', '02', '04')"  # those of the reports
TEST_TIMES = 10  # a larger share of the test clips: an AUC needs them
REPORTED = (
    "Reported numbers are those of two course reports on the real slide-rail "
    "recordings of DCASE 2020 Task 2 (first: Maaroufi and Charlier 2024; second: "
    "Thiry, Ramon and Salon 2022). A difference from ours means nothing unless ours "
    "are of the same recordings at full scale."
)
READING = (
    "Mean ± SD over seeds; in brackets the bootstrap 95 % interval over clips. A "
    "change is paired: the same clips, resampled alike, under both rows. No test label "
    "chooses anything, except where a study says that it picks on the validation split "
    "of the test clips; it then reports on the other split."
)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the cells that aren't done, and write the page."""
    args, overrides = _parse(argv)
    with one_line_errors():
        if "eval.split" in dict(overrides):
            raise ConfigError(
                "--config.eval.split: the studies choose the split themselves"
            )
        test_share = min(1.0, TEST_TIMES * args.scale)
        options = Options(overrides, args.scale, test_share)
        cells = {
            f"{name}/{cell.folder}": cell
            for name in args.only
            for cell in STUDIES[name].cells
        }
        outcomes = run_cells(cells, options, args)
        with log.console.status("Resampling the clips for the intervals"):
            path = _write(args, options, cells, outcomes)
    log.info(f"Report: {path}")
    sys.exit(any(outcome.failed for outcome in outcomes.values()))


def _parse(
    argv: Sequence[str] | None,
) -> tuple[Namespace, tuple[tuple[str, str], ...]]:
    parser = command_parser("reproduce", __doc__, "runs/reproduce")
    add = parser.add_argument
    add(
        "--scale",
        type=float,
        default=SCALE,
        help=f"share of the official training clips (default {SCALE}; {TEST_TIMES} "
        "times that of the test clips). Below 1 there are two seeds by default; at 1 "
        "those of the configs, and the networks of the reports in the matrix",
    )
    add("--only", nargs="+", choices=STUDIES, default=list(STUDIES))
    add("--root", default="", help="recordings; short for --config.data.root")
    args, fields = parse(parser, argv)
    if not 0 < args.scale <= 1:
        parser.error(f"--scale {args.scale:g}: must be above 0, up to 1")
    first = [("data.ids", IDS)] + [("seeds", SEEDS)] * (args.scale < 1)
    last = [("data.root", args.root)] * bool(args.root)
    return args, (*first, *fields, *last)


def _write(
    args: Namespace,
    options: Options,
    cells: Mapping[str, Cell],
    outcomes: Mapping[str, Outcome],
) -> Path:
    """Write the page of all studies."""
    root = dict(options.overrides).get("data.root", "")
    lead: list[Block] = [
        source_block({"data": {"root": root, "scale": options.train_share}}),
        f"Training clips: {options.train_share:g} of the official number per machine "
        f"ID; test clips: {options.test_share:g}.",
        READING,
        REPORTED,
        Code(shlex.join(["python", *sys.orig_argv[1:]])),
    ]
    errors = [[key, o.error] for key, o in outcomes.items() if o.error]
    if errors:
        lead.append(Table("Cells without numbers", ["cell", "error"], errors))
    sections: list[Section] = []
    for name in args.only:
        own = {k: o for k, o in outcomes.items() if k.startswith(f"{name}/")}
        sections.append(study_section(name, args.out, cells, own, options))
    path = args.out / "report.html"
    replace_file(path, page("Two reports on slide rails, run again", lead, sections))
    return path


if __name__ == "__main__":
    main()
