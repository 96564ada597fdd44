"""Every table and figure of the two reports, and the studies beside them, on one page.

python -m experiments.reproduce                                # simulated, small
python -m experiments.reproduce --scale 1 --config.data.root=PATH       # everything
python -m experiments.reproduce --only epochs cross_id --jobs 2

Started again it goes on where it was. The page is OUT/report.html.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from experiments import studies
from experiments.cell import Cell, Options, split_overrides
from experiments.runner import Outcome, add_arguments, failures, parse, run_cells, share
from experiments.study_page import study_section
from mimii_jax.errors import ConfigError
from mimii_jax.files import replace_file
from mimii_jax.report.of_workdir import source_block
from mimii_jax.report.page import Block, Code, Section, Table, page
from mimii_jax.workdir import command_line

SCALE, SEEDS = 0.015, "(0, 1)"  # below scale 1: about 20 minutes on two cores
IDS = "--config.data.ids=('00', '02', '04')"  # those of the reports
TEST_TIMES = 10  # the share of test clips is so much larger: an AUC needs them
REPORTED = (
    "Reported numbers are those of two course reports on the real slide-rail "
    "recordings of DCASE 2020 Task 2 (first: Maaroufi and Charlier 2024; second: "
    "Thiry, Ramon and Salon 2022). They stand beside ours; a difference says nothing "
    "unless ours are of the same recordings at full scale."
)
READING = (
    "Mean ± SD over seeds; in brackets the bootstrap 95 % interval over clips. A "
    "change is paired: the same clips, drawn alike, under both rows. Nothing is "
    "chosen by test labels but where a study says that it picks on the validation "
    "part of the test clips; it then reports on the other part."
)


def main(argv: Sequence[str] | None = None) -> None:
    """Run what is not done, and write the page."""
    args, rest, parser = _parse(argv)
    console = Console(file=sys.stdout, highlight=False)
    try:
        root = [f"--config.data.root={args.root}"] if args.root else []
        seeds = [f"--config.seeds={SEEDS}"] if args.scale < 1 else []
        overrides = split_overrides([IDS, *seeds, *rest, *root])
        if "eval.split" in dict(overrides):
            raise ConfigError("--config.eval.split: the studies split for themselves")
        options = Options(
            command_line(),
            overrides,
            train_share=args.scale,
            test_share=min(1.0, TEST_TIMES * args.scale),
        )
        cells = {
            f"{name}/{cell.folder}": cell
            for name in args.only
            for cell in studies.load(name).cells
        }
        outcomes = run_cells(cells, options, args, console)
    except (ConfigError, ImportError) as error:
        parser.exit(1, f"error: {error}\n")
    with console.status("Resampling the clips for the intervals"):
        path = _write(args, options, cells, outcomes)
    console.print(f"wrote {path}", markup=False, soft_wrap=True)
    sys.exit(1 if failures(list(outcomes.values())) else 0)


def _parse(
    argv: Sequence[str] | None,
) -> tuple[argparse.Namespace, list[str], argparse.ArgumentParser]:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.reproduce",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--scale",
        type=share,
        default=SCALE,
        help="share of the official training clips; of the test clips ten times as "
        f"many, at most all (default {SCALE}). Below 1 there are two seeds, unless "
        "--config.seeds says others. 1: all, the configs' seeds, and the networks of "
        "the reports in the cross-ID matrix",
    )
    add("--only", nargs="+", choices=studies.NAMES, default=studies.NAMES)
    add("--root", default="", help="recordings; short for --config.data.root")
    add_arguments(parser, "runs/reproduce")
    args, rest = parse(parser, argv)
    return args, rest, parser


def _write(
    args: argparse.Namespace,
    options: Options,
    cells: dict[str, Cell],
    outcomes: dict[str, Outcome],
) -> Path:
    """The page of all studies."""
    root = dict(options.overrides).get("data.root", "")
    lead: list[Block] = [
        source_block({"data": {"root": root, "scale": options.train_share}}),
        f"Training clips: {options.train_share:g} of the official number per machine "
        f"ID; test clips: {options.test_share:g}.",
        READING,
        REPORTED,
        Code(options.command),
    ]
    if table := _not_run(outcomes):
        lead.append(table)
    sections: list[Section] = []
    for name in args.only:
        own = {
            key: outcome
            for key, outcome in outcomes.items()
            if key.startswith(f"{name}/")
        }
        sections.append(study_section(name, args.out, cells, own, options))
    path = args.out / "report.html"
    html = page("Two reports on slide rails, run again", lead, sections)
    replace_file(path, html.encode())
    return path


def _not_run(outcomes: dict[str, Outcome]) -> Table | None:
    """The cells that have no numbers, and why."""
    rows = [[key, o.error] for key, o in outcomes.items() if o.error]
    return Table("Cells without numbers", ["cell", "why"], rows) if rows else None


if __name__ == "__main__":
    main()
