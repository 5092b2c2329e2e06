"""Turns pre-training runs into the embedded zoo's weights: `python -m zoo.embedded RUN_DIR...`.

A run is one of `python train.py experiment=pretrain/NAME`; its weights are stored in half precision. What is printed
belongs into `conf/zoo/embedded.yaml`.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from dataclasses import replace
from pathlib import Path

from zoo import threads
from zoo.arguments import Parser

if __name__ == "__main__":
    threads.prepare()  # before torch is loaded

from torch import Tensor

from zoo.blueprint import Bundle, read_bundle
from zoo.errors import UserError, tell
from zoo.loading import load_network
from zoo.registry import find_entry
from zoo.storage.files import write_safetensors
from zoo.weights import PROJECT_ROOT, match_state


def main() -> int:
    """Stores the weights of the run directories on the command line."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_dirs", nargs="+", type=Path, metavar="RUN_DIR")
    try:
        for run_dir in parser.parse_args().run_dirs:
            name, state = whole_network(read_bundle(run_dir / "bundle"))
            file = f"zoo/embedded/{name}.safetensors"
            write_safetensors(PROJECT_ROOT / file, halved(state), {})
            sha256 = hashlib.sha256((PROJECT_ROOT / file).read_bytes()).hexdigest()
            print(f"{name}: weights: {{file: {file}, sha256: {sha256}}}")
    except UserError as error:
        return tell(error)
    return 0


def whole_network(bundle: Bundle) -> tuple[str, dict[str, Tensor]]:
    """Name and state of the network that a bundle holds whole, by the network's own keys.

    The new head takes the place of the classifier, the two keys that neither blocks nor neck have.

    Raises:
        UserError: The bundle holds no whole network, or not of this architecture.
    """
    blocks = bundle.blueprint.blocks
    if not bundle.complete or len(blocks) != 1:
        raise UserError("a zoo network needs the complete bundle of one whole network: method=baseline tuning=full")
    name = blocks[0].network
    network = load_network(replace(find_entry(name, PROJECT_ROOT / "conf" / "zoo"), weights=None))
    body = {
        key.removeprefix(part): tensor
        for key, tensor in bundle.tensors.items()
        for part in ("blocks.0.", "neck.")
        if key.startswith(part)
    }
    classifier = [key for key in network.state_dict() if key not in body]
    head = [bundle.tensors["head.weight"], bundle.tensors["head.bias"]]
    return name, match_state(network, {**body, **dict(zip(classifier, head, strict=False))}, "name")


def halved(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Floating-point tensors in half precision, the others as they are."""
    return {key: tensor.half() if tensor.is_floating_point() else tensor for key, tensor in state.items()}


if __name__ == "__main__":
    sys.exit(main())
