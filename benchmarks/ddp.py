"""Whether several processes that tune together end where one ends: ``python -m benchmarks.ddp`` (some minutes).

Every way to tune runs in one, two and three processes on the CPU (gloo), on the embedded zoo, and in shards (FSDP2) in
two; cloning, which is not sharded, by DDP alone. The table gives the largest difference of validation losses from those
of one process, over all candidates (start, tuned, refitted, ...),
relative to them, and the largest of any tuned number; processes that differ among themselves, and other picks of the
finalists, are an error. One row is killed, one of its processes alone, after the first epoch, and goes on. The last
is of one process that runs its batches in halves, which changes nothing but rounding.
Written to ``benchmarks/results/ddp.json`` and ``.md`` when all have run.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from benchmarks.common import embedded_zoo, publish
from benchmarks.tuning import assembly
from cloning.pipeline import CloningSearch
from cloning.settings import CloningSettings, CorrectionSettings, InsertionSettings, LocalisationSettings, TaskSettings
from cloning.tuning import tune_cloned
from datamodules import Digits
from reassembly.pipeline import Search
from reassembly.settings import PartitionSettings, ProxySettings, SearchSettings, SelectionSettings, SimilaritySettings
from tuning.fit import TuningResult, tune
from tuning.settings import TrainerSettings, TuningSettings
from zoo.arguments import Parser, positive, run
from zoo.blueprint import to_text
from zoo.registry import Zoo
from zoo.storage.store import Store

NAMES = ("resnext_low", "resnet_digits")
KILLED = "killed and resumed"
NOT_IN_SHARDS = ("cloning",)
HALVES = "halves"
"""Of one process that runs its batches in halves: what differs is rounding alone, and how far it goes."""
Ended = dict[str, Any]
"""What a process ends with: ``losses`` by candidate, ``state``, and ``pick`` where something was chosen."""


class Worker:
    """What one process does, the same in all of them.

    Args:
        folder: Of all processes of this run.
        trainer: Where they run.
    """

    def __init__(self, folder: Path, trainer: TrainerSettings) -> None:
        self.folder, self.trainer = folder, trainer

    def data(self) -> Digits:
        """Few images, whose last batch is smaller and no multiple of three."""
        return Digits(num_train=40, num_validation=30, num_test=30, batch_size=16)

    def tuned(self, name: str, names: Sequence[str] = NAMES, resume: bool = False, **settings: Any) -> Ended:
        """A network of parts of the networks named, tuned."""
        data = self.data()
        network = assembly(data, embedded_zoo(), names)
        callbacks = [_KillOne()] if settings.pop("kills", False) and not resume else []
        callbacks += [_InHalves()] if settings.pop("halves", False) else []
        tuning = TuningSettings(**{"num_epochs": 2, "norm_stats": "frozen", **settings})
        result = tune(
            *(network, data, tuning),
            run_dir=self.folder / name,
            trainer=self.trainer,
            callbacks=callbacks,
            resume=resume,
        )
        return _ended(network, result)

    def cloned(self, name: str) -> Ended:
        """A cloned network, its adapter and head tuned."""
        settings = CloningSettings(
            TaskSettings(("0", "1", "2", "3", "4", "7"), target=NAMES[0], sources=NAMES[1:]),
            LocalisationSettings("magnitude", keep=0.6),
            InsertionSettings("fixed", position=2, num_epochs=1),
            CorrectionSettings(fraction=1.0),
        )
        search = CloningSearch(embedded_zoo(), self.data(), settings, store=Store(self.folder / "cache"), seed=0)
        blueprint = search.run().blueprint
        network = search.build(blueprint)
        tuning = TuningSettings("freeze", num_epochs=2)
        network, result = tune_cloned(
            *(network, search.correction(blueprint), tuning), run_dir=self.folder / name, trainer=self.trainer
        )
        return _ended(network, result)

    def finalists(self, name: str) -> Ended:
        """The pick of a search whose finalists are tuned shortly."""
        zoo, data = embedded_zoo(), self.data()
        settings = SearchSettings(
            similarity=SimilaritySettings(num_probe_images=24),
            partition=PartitionSettings(num_blocks=2, num_starts=2, max_bound_steps=50),
            proxy=ProxySettings(num_draws=1, num_images=24),
            finalists=2,
            selection=SelectionSettings(num_epochs=(1,)),
        )
        parts = Zoo("two", [zoo[name] for name in NAMES])
        search = Search(parts, data, settings, store=Store(self.folder / "cache"), seed=0)
        losses: dict[str, float] = {}

        def tuned(blueprint: Any, num_epochs: int) -> float:
            network = search.build(blueprint)
            data.use_input(parts.entry(blueprint.blocks[0].network).input)
            result = tune(
                *(network, data, TuningSettings("freeze", num_epochs=num_epochs, norm_stats="frozen")),
                run_dir=self.folder / name,
                trainer=self.trainer,
                test=False,
            )
            losses.update({f"{len(losses)} {key}": loss for key, loss in result.val_losses.items()})
            return max(result.val_accuracies.values())

        found = search.run(tuned)
        return {"losses": losses, "state": {}, "pick": to_text(found.blueprint)}


class _KillOne(pl.Callback):
    """Kills the last process after the first epoch is on the disk."""

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.current_epoch == 1 and trainer.global_rank == trainer.world_size - 1:
            os.kill(os.getpid(), signal.SIGKILL)


class _InHalves(pl.Callback):
    """Runs every batch of a training in two halves, those that two processes would take; all else stays as it is."""

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        pl_module._body = (_Halved(pl_module.body),)


class _Halved(torch.nn.Module):
    def __init__(self, body: torch.nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not torch.is_grad_enabled():
            return self.body(x)
        halves = [torch.arange(start, len(x), 2) for start in (0, 1)]
        return torch.cat([self.body(x[half]) for half in halves])[torch.cat(halves).argsort()]


READING = (
    "differences of several processes from one: the largest of a validation loss, relative to it, and of any number "
    "that was tuned."
)
CASES: Mapping[str, Callable[[Worker, str], Ended]] = {
    "Full": lambda worker, name: worker.tuned(name, mode="full", loss="cross_entropy"),
    "Full, averaged weights": lambda worker, name: worker.tuned(name, mode="full", loss="cross_entropy", ema_decay=0.7),
    "Freeze": lambda worker, name: worker.tuned(name, mode="freeze"),
    "Freeze, streamed": lambda worker, name: worker.tuned(name, mode="freeze", loss="cross_entropy", max_cache_bytes=0),
    "baseline, Full": lambda worker, name: worker.tuned(name, NAMES[:1], mode="full", loss="cross_entropy"),
    "finalists": Worker.finalists,
    "cloning": Worker.cloned,
}


def _ended(network: torch.nn.Module, result: TuningResult) -> Ended:
    return {"losses": result.val_losses, "state": network.state_dict(), "pick": result.choice}


def work(
    folder: Path, names: Sequence[str], num_processes: int, accelerator: str, strategy: str, *, resume: bool
) -> None:
    """What a process of a run does: every case, and a file of how it ended."""
    strategy = strategy if num_processes > 1 else "auto"
    trainer = TrainerSettings(accelerator=accelerator, devices=num_processes, strategy=strategy, progress_bar="never")
    worker, rank = Worker(folder, trainer), os.environ.get("LOCAL_RANK", "0")
    for name in names:
        if folder.name == HALVES:
            ended = worker.tuned(name, mode="freeze", halves=True)
        elif name == KILLED:
            kills = num_processes > 1
            ended = worker.tuned(name, mode="full", loss="cross_entropy", kills=kills, resume=resume)
        else:
            ended = CASES[name](worker, name)
        torch.save(ended, folder / f"{name} {rank}.pt")


def run_in_processes(
    folder: Path,
    num_processes: int,
    *,
    accelerator: str = "cpu",
    strategy: str = "ddp",
    names: Sequence[str] = tuple(CASES),
) -> dict[str, tuple[float, float]]:
    """Runs cases in one process and in several; by case what ``compare`` finds.

    Raises:
        RuntimeError: A run failed, processes of one run differ, or another pick was made.
    """
    is_there = all((folder / "1" / f"{name} 0.pt").exists() for name in names)
    if not is_there:
        _run(folder / "1", names, 1, accelerator)
    run = f"{strategy} {num_processes}"
    _run(folder / run, names, num_processes, accelerator, strategy)
    return {name: compare(folder, name, num_processes, run) for name in names}


def compare(folder: Path, name: str, num_processes: int, run: str) -> tuple[float, float]:
    """The largest relative difference of validation losses, and of any number of the state, from one process's."""
    one, there = torch.load(folder / "1" / f"{name} 0.pt"), folder / run
    several = [torch.load(there / f"{name} {rank}.pt") for rank in range(num_processes)]
    for rank, ended in enumerate(several):
        same = all(torch.equal(tensor, several[0]["state"][key]) for key, tensor in ended["state"].items())
        if ended["losses"] != several[0]["losses"] or not same:
            raise RuntimeError(f"{name}: process {rank} of {num_processes} ended otherwise than process 0")
    if several[0]["losses"].keys() != one["losses"].keys():
        raise RuntimeError(f"{name}: {[*several[0]['losses']]} of {num_processes} processes, {[*one['losses']]} of one")
    losses = [abs(several[0]["losses"][key] - loss) / loss for key, loss in one["losses"].items()]
    apart = [(several[0]["state"][key].double() - tensor.double()).abs().max() for key, tensor in one["state"].items()]
    if name == "finalists" and several[0]["pick"] != one["pick"]:
        raise RuntimeError(f"finalists: another pick in {num_processes} processes")
    return max(losses), float(max(apart, default=0.0))


def _run(folder: Path, names: Sequence[str], num_processes: int, accelerator: str, strategy: str = "ddp") -> None:
    """One run, in processes of its own; the case that is killed is begun, seen to fail, and gone on with."""
    folder.mkdir(parents=True, exist_ok=True)
    words = ["--worker", str(folder), "--processes", str(num_processes), "--accelerator", accelerator]
    words += ["--strategies", strategy]
    whole = [name for name in names if name != KILLED]
    tries = [(whole, [], True)] if whole else []
    if KILLED in names:
        tries += [([KILLED], [], num_processes == 1)]
        tries += [([KILLED], ["--resume"], True)] if num_processes > 1 else []
    for cases, more, is_to_end in tries:
        command = [sys.executable, "-m", "benchmarks.ddp", *words, *more, "--cases", *cases]
        done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1], check=False)
        if (done.returncode == 0) != is_to_end:
            raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr[-2000:]}")


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=positive, nargs="+", default=[2, 3])
    parser.add_argument("--strategies", nargs="+", choices=("ddp", "fsdp2"), default=["ddp", "fsdp2"])
    parser.add_argument("--accelerator", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--cases", nargs="+", choices=[*CASES, KILLED], default=[*CASES, KILLED], metavar="CASE")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--resume", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.worker is not None:
        torch.set_num_threads(1)
        where = options.processes[0], options.accelerator, options.strategies[0]
        work(options.worker, options.cases, *where, resume=options.resume)
        return
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for strategy in options.strategies:
            names = [name for name in options.cases if strategy == "ddp" or name not in NOT_IN_SHARDS]
            for number in options.processes if strategy == "ddp" else options.processes[:1]:
                where = {"accelerator": options.accelerator, "strategy": strategy, "names": names}
                for name, (losses, apart) in run_in_processes(Path(folder), number, **where).items():
                    row = {"": name, "strategy": strategy, "processes": number, "losses": losses, "any number": apart}
                    rows.append(row)
                    print(*row.values(), sep="\t", flush=True)
        if "Freeze" in options.cases:
            _run(Path(folder) / HALVES, ["Freeze"], 1, options.accelerator)
            losses, apart = compare(Path(folder), "Freeze", 1, HALVES)
            row = {"": "Freeze, batches in halves", "strategy": "", "processes": 1}
            rows.append({**row, "losses": losses, "any number": apart})
            print(*rows[-1].values(), sep="\t", flush=True)
    if options.cases == [*CASES, KILLED]:
        publish("ddp", READING, rows)


if __name__ == "__main__":
    run(main)
