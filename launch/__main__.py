"""``python -m launch sweep DIR``: the table of a sweep, collected from the rows of its jobs, finished or not."""

from __future__ import annotations

import sys
from pathlib import Path

from launch.sweep_table import ORPHANS_SECONDS, collect, exit_status, print_table
from zoo.arguments import Parser
from zoo.errors import UserError, tell


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; returns 0 if all jobs are completed, 1 if some are not, 2 for bad input."""
    parser = Parser(prog="python -m launch", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    sweep = commands.add_parser("sweep", help="table of all jobs, means over seeds, what failed or is missing")
    sweep.add_argument("directory", type=Path, metavar="DIR", help="of the sweep: output_dir or runs/sweeps/NAME")
    options = parser.parse_args(arguments)
    try:
        rows = collect(options.directory, patience_seconds=ORPHANS_SECONDS)
    except UserError as error:
        return tell(error)
    print_table(rows, options.directory)
    return exit_status(rows)


if __name__ == "__main__":
    sys.exit(main())
