"""What tuning is worth by default, and how fast the ways to tune are: ``python -m benchmarks.tuning [defaults|speed]``.

``defaults`` is the test of the defaults: Full-Tuning with nothing overridden must not end below the head-only start by
more than noise, with ``tuning.loss`` as it is and with cross-entropy, which data above 2,000 images gets. A whole and a
composed network of the embedded zoo on digits and cluttered MNIST, and of EfficientNet-Lite on digits, over three seeds
of the splits; the rates of before (one for all parameters) and Freeze stand beside them. What the guard keeps is
measured on test; where training itself went, without a guard, on validation. The run fails where the default is below.

``speed``: one assembled network (two thirds of one embedded network, an adapter, the last third of another), the same
images and epochs with cross-entropy. The ways take turns, so that whatever else the machine does strikes all of them;
the table gives the fastest round of each and how much faster than Full-Tuning it is. Computing the frozen stages once
counts.
"""

from __future__ import annotations

import copy
import itertools
import json
import math
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean, stdev

import pytorch_lightning as pl
import torch
import yaml

from benchmarks.common import embedded_zoo
from datamodules import ClutteredMNIST, Digits, ImageDataModule
from launch.errors import CONF
from reassembly.network import AssembledNetwork
from reassembly.stitch import assemble_stitched
from tuning.fit import tune
from tuning.settings import HeadSettings, OptimizerSettings, TuningSettings
from zoo.arguments import Parser, positive, run
from zoo.blueprint import AdapterSpec, BlockSpec, HeadSpec, ReassemblyBlueprint
from zoo.digests import digest
from zoo.loading import load_chain
from zoo.registry import Zoo, read_zoo
from zoo.storage.files import write_json, write_text

WAYS = {
    "full": {"mode": "full"},
    "freeze": {"mode": "freeze", "cache_prefix": "never"},
    "freeze, stages cached": {"mode": "freeze", "cache_prefix": "always"},
    "probe by gradient, cached": {"mode": "probe", "cache_prefix": "always"},
}


def main() -> None:
    parser = Parser(description=__doc__)
    parser.add_argument("what", nargs="?", choices=("defaults", "speed"), default="speed")
    parser.add_argument("--epochs", type=positive, default=4)
    parser.add_argument("--rounds", type=positive, default=3)
    parser.add_argument("--seeds", type=positive, default=3)
    parser.add_argument("--append", action="store_true", help="keep the rows in benchmarks/results/tuning.json")
    parser.add_argument("--cases", nargs="*", default=list(CASES))
    parser.add_argument("--threads", type=positive, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.what == "speed":
        speed(arguments.epochs, arguments.rounds)
    else:
        defaults(arguments.cases, range(arguments.seeds), append=arguments.append)


@dataclass(frozen=True)
class Row:
    """One network, tuned one way on one split; accuracies in [0, 1].

    Attributes:
        case: Of ``CASES``.
        way: What is trained, on which loss, and whether with the rates of before.
        start: Validation accuracy of the solved head.
        first_epoch: After one epoch; None where nothing is trained.
        last_epoch: After the last, whatever the guard says.
        refitted: With the head solved anew on the features of the last epoch.
        chosen: What the guard keeps.
        test: Of that.
    """

    case: str
    way: str
    seed: int
    loss: str
    start: float
    first_epoch: float | None
    last_epoch: float | None
    refitted: float | None
    chosen: float
    test: float


CASES = {
    "digits, whole": ("embedded", "digits", 4),
    "digits, composed": ("embedded", "digits", 4),
    "cluttered MNIST, whole": ("embedded", "cluttered_mnist", 4),
    "cluttered MNIST, composed": ("embedded", "cluttered_mnist", 4),
    "EfficientNet-Lite on digits, whole": ("efficientnet_lite", "digits", 3),
    "EfficientNet-Lite on digits, composed": ("efficientnet_lite", "digits", 3),
}
"""Zoo, data and epochs of each case."""
BEFORE = OptimizerSettings(block_scale=1.0, layer_decay=1.0)
NUM_TEST = 300
LITE_SIDE = 64
"""Pixels of a side for EfficientNet-Lite, so that three seeds are a matter of minutes."""
RESULTS = Path(__file__).parent / "results"


def defaults(cases: Sequence[str], seeds: Iterable[int], *, append: bool) -> None:
    """Runs the test of the defaults; writes ``benchmarks/results/tuning.json`` and ``.md`` as it goes on."""
    stored = RESULTS / "tuning.json"
    rows = [Row(**row) for row in json.loads(stored.read_text())] if append and stored.exists() else []
    known = {(row.case, row.seed, row.way) for row in rows}
    for case, seed in itertools.product(cases, seeds):
        left = [way for way in ways(case) if (case, seed, way[0]) not in known]
        if not left:
            continue
        network, data = build(case, seed)
        for way, settings, optimizer in left:
            rows.append(tuned(case, way, seed, network, data, settings, optimizer))
            print(rows[-1], flush=True)
            write_json(stored, [asdict(row) for row in rows])
            write_text(RESULTS / "tuning.md", table(rows))
    print(table(rows))
    if fallen := below(rows):
        raise SystemExit("below the head-only start by more than noise: " + "; ".join(fallen))


def ways(case: str) -> list[tuple[str, TuningSettings, OptimizerSettings]]:
    """What is compared: name, settings, rates."""
    num_epochs, new = CASES[case][2], OptimizerSettings()
    full = TuningSettings(mode="full", num_epochs=num_epochs)
    entropy = replace(full, loss="cross_entropy")
    freeze = [("Freeze", replace(full, mode="freeze"), new)] if "composed" in case else []
    return [
        *freeze,
        ("Full", full, new),  # before as now: with loo one rate for all parameters
        ("Full, cross-entropy", entropy, new),
        ("Full before, cross-entropy", entropy, BEFORE),
    ]


def build(case: str, seed: int) -> tuple[AssembledNetwork, ImageDataModule]:
    """The network of a case, and its data."""
    zoo_name, dataset, _ = CASES[case]
    data = (Digits if dataset == "digits" else ClutteredMNIST)(num_test=NUM_TEST, seed=seed)
    if zoo_name == "embedded":
        zoo, names = embedded_zoo(), ("resnext_low", "resnet_digits")
    else:
        content = yaml.safe_load((CONF / "zoo" / f"{zoo_name}.yaml").read_text())
        zoo = read_zoo({**content, "input": {"height": LITE_SIDE, "width": LITE_SIDE}})
        names = ("efficientnet_lite0", "efficientnet_lite1")
    return assembly(data, zoo, names if "composed" in case else names[:1]), data


class _Epochs(pl.Callback):
    """Remembers the validation accuracy of every epoch."""

    def __init__(self) -> None:
        self.accuracies: list[float] = []

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.accuracies.append(float(trainer.callback_metrics["val/accuracy"]))


def tuned(
    case: str,
    way: str,
    seed: int,
    network: AssembledNetwork,
    data: ImageDataModule,
    settings: TuningSettings,
    optimizer: OptimizerSettings,
) -> Row:
    """One row, of a copy of the network."""
    epochs = _Epochs()
    with tempfile.TemporaryDirectory() as directory:
        result = tune(
            copy.deepcopy(network),
            data,
            settings,
            optimizer=optimizer,
            run_dir=Path(directory),
            seed=seed,
            callbacks=[epochs],
        )
    val = result.val_accuracies
    first, last = (epochs.accuracies[0], epochs.accuracies[-1]) if epochs.accuracies else (None, None)
    test = result.test_accuracy
    return Row(case, way, seed, result.loss, val["start"], first, last, val.get("refitted"), val[result.choice], test)


def below(rows: Sequence[Row]) -> list[str]:
    """Cases whose default ends below the start without a guard: by more than two standard errors of their accuracies.

    The end is what ``tuning.guard=false`` takes: the last epoch with its head solved anew.
    """
    found = []
    for case, way in dict.fromkeys((row.case, row.way) for row in rows if row.way in ("Full", "Full, cross-entropy")):
        own = [row for row in rows if (row.case, row.way) == (case, way)]
        start, end = mean([row.start for row in own]), mean([row.refitted or 0.0 for row in own])
        if end < start - 2 * math.sqrt(start * (1 - start) / (300 * len(own))):
            found.append(f"{case}, {way}: {100 * start:.1f} -> {100 * end:.1f}")
    return found


def table(rows: Sequence[Row]) -> str:
    """All rows as Markdown, mean (standard deviation) over the seeds."""
    lines = [
        "# The defaults of tuning",
        "",
        "`python -m benchmarks.tuning defaults`: accuracy in percent, mean (standard deviation over the seeds of the",
        "splits), 300 validation images. Without a guard: after the first and the last epoch, and with the head solved",
        f'anew. EfficientNet-Lite on {LITE_SIDE} pixels. "Before": one rate for all parameters.',
        "",
        "| | seeds | val: start (probe) | epoch 1 | last epoch | refitted | kept | test: kept |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for case in dict.fromkeys(row.case for row in rows):
        own = [row for row in rows if row.case == case]
        lines.append(f"| **{case}**, {CASES[case][2]} epochs | | | | | | | |")
        for way in dict.fromkeys(row.way for row in own):
            same = [row for row in own if row.way == way]
            keys = ("start", "first_epoch", "last_epoch", "refitted", "chosen", "test")
            columns = [_cell([getattr(row, key) for row in same]) for key in keys]
            lines.append(f"| {way} ({same[0].loss}) | {len(same)} | {' | '.join(columns)} |")
    return "\n".join(lines) + "\n"


def _cell(values: Sequence[float | None]) -> str:
    if None in values:
        return ""
    spread = f" ({100 * stdev(values):.1f})" if len(values) > 1 else ""
    return f"{100 * mean(values):.1f}{spread}"


def speed(num_epochs: int, num_rounds: int) -> None:
    """Prints how long each of ``WAYS`` takes."""
    data = Digits()
    network = assembly(data, embedded_zoo(), ("resnext_low", "resnet_digits"))
    seconds = {way: [] for way in WAYS}
    for _ in range(num_rounds):
        for way, settings in WAYS.items():
            seconds[way].append(measure(network, data, num_epochs, settings))
    full = min(seconds["full"])
    print(f"{num_epochs} epochs of {data.num_images('train')} images, best of {num_rounds} rounds")
    for way, rounds in seconds.items():
        print(f"{way:28} {min(rounds):7.2f} s   {full / min(rounds):5.1f}x")
    with tempfile.TemporaryDirectory() as directory:
        settings = TuningSettings(mode="probe", num_epochs=0)
        solved = tune(copy.deepcopy(network), data, settings, run_dir=Path(directory), test=False).seconds["start"]
    print(f"{'probe in closed form':28} {solved:7.2f} s   {full / solved:5.1f}x")


def assembly(data: ImageDataModule, zoo: Zoo, names: Sequence[str]) -> AssembledNetwork:
    """The whole network of one name; of two, two thirds of the first and the last third of the second, stitched."""
    chains = {name: load_chain(zoo[name]) for name in names}
    ends = [len(chains[name]) - 1 for name in names]
    blocks = [BlockSpec(names[0], (0, ends[0] if len(names) == 1 else 2 * ends[0] // 3))]
    blocks += [BlockSpec(name, (2 * end // 3, end)) for name, end in zip(names[1:], ends[1:], strict=True)]
    blueprint = ReassemblyBlueprint(
        blocks=tuple(blocks),
        adapters=(AdapterSpec(kernel_size=1),) * (len(blocks) - 1),
        head=HeadSpec(classes=data.class_names),
        networks={name: digest(chain.network) for name, chain in chains.items()},
    )
    data.use_input(zoo[names[0]].input)
    return assemble_stitched(blueprint, chains, lambda name: data.images("train", zoo[name].input)[0], seed=0)


def measure(network: AssembledNetwork, data: ImageDataModule, num_epochs: int, settings: dict[str, str]) -> float:
    """Seconds until the trained weights lie there, from the images on."""
    tuning = TuningSettings(
        loss="cross_entropy", norm_stats="frozen", num_epochs=num_epochs, head=HeadSettings(refit="never"), **settings
    )
    with tempfile.TemporaryDirectory() as directory:
        result = tune(copy.deepcopy(network), data, tuning, run_dir=Path(directory), test=False)
    return result.seconds["start"] + result.seconds["fit"]


if __name__ == "__main__":
    run(main)
