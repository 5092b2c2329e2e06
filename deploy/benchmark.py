"""``python -m deploy benchmark RUN``: latency and throughput of a result, beside the networks that it is made of."""

from __future__ import annotations

import argparse
from pathlib import Path

from deploy.options import add_run, at_least_one, open_run
from zoo.errors import UserError

PRECISIONS = ("float32", "bfloat16", "float16")
RUNTIMES = ("eager", "compiled", "onnxruntime")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares what the command takes."""
    add_run(parser, device=True)
    parser.add_argument("--batch-sizes", nargs="+", type=at_least_one, default=[1, 32], help="images at once (1 32)")
    parser.add_argument("--threads", nargs="+", type=at_least_one, help="of the CPU; by default those of torch")
    parser.add_argument("--precision", choices=PRECISIONS, default="float32", help="of weights and images (float32)")
    parser.add_argument(
        "--runtimes", nargs="+", choices=RUNTIMES, default=["eager", "onnxruntime"], help="eager onnxruntime by default"
    )
    parser.add_argument("--repeats", type=at_least_one, default=20, help="measured passes, after 3 to warm up (20)")
    parser.add_argument("--alone", action="store_true", help="leave out the networks of the zoo that it is made of")
    parser.add_argument("--output", type=Path, help=".csv file for the table")
    parser.add_argument("--overwrite", action="store_true", help="replace the file if it is there")


def run(options: argparse.Namespace) -> int:
    """Measures, prints the table and writes it."""
    from deploy.options import require_free

    if options.output is not None:
        if options.output.suffix.lower() != ".csv":
            raise UserError(f"--output={options.output}: expected a name that ends in .csv")
        require_free(options.output, overwrite=options.overwrite)
    if options.precision == "float16" and options.device == "cpu":
        raise UserError("--precision float16 is for GPUs: give --precision bfloat16, or --device cuda")
    model = open_run(options)
    from deploy.timing import COLUMNS, table, time_model
    from zoo.storage.files import write_csv

    rows = time_model(
        model,
        batch_sizes=options.batch_sizes,
        runtimes=options.runtimes,
        precision=options.precision,
        num_threads=options.threads,
        num_repeats=options.repeats,
        beside=not options.alone,
    )
    print(table(rows))
    if options.output is not None:
        write_csv(options.output, COLUMNS, [[row.get(column) for column in COLUMNS] for row in rows])
    return 0
