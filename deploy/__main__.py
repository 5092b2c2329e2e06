"""``python -m deploy COMMAND RUN``: what is done with the result of a run."""

from __future__ import annotations

import importlib
import logging
import os
import sys
from collections.abc import Sequence

from zoo.arguments import Parser
from zoo.errors import UserError, tell
from zoo.progress import StderrHandler

COMMANDS = {
    "describe": "print what a result is: composition, classes, input, parameters",
    "evaluate": "measure it as it is on a data set or a folder",
    "predict": "classes and probabilities of images",
    "complete": "make its bundle independent of zoo files, checkpoints and the network",
    "export": "write it as ONNX, torch.export or plain safetensors",
    "benchmark": "latency and throughput, beside the networks it is made of",
    "report": "one HTML page of a run or a sweep: drawing, candidates, figures, metrics, settings",
    "card": "a model card in the format of the Hugging Face hub",
    "push": "upload bundle and card to a repository of the Hugging Face hub",
}
"""What the help says, by name; ``deploy/NAME.py`` has ``add_arguments(parser)`` and ``run(options) -> exit status``."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code: 2 for a mistake of the user, 1 for any other failure."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    parser = Parser(prog="python -m deploy", description="Use the result of search.py and train.py.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, told in COMMANDS.items():
        command = commands.add_parser(name, help=told, description=told[0].upper() + told[1:] + ".")
        if name in arguments[:1]:  # the others are not imported
            importlib.import_module(f"deploy.{name}").add_arguments(command)
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[StderrHandler()])
    try:
        return importlib.import_module(f"deploy.{options.command}").run(options) or 0
    except BrokenPipeError:  # whoever read the output, `head` for one, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (UserError, OSError) as error:
        return tell(error)


if __name__ == "__main__":
    sys.exit(main())
