"""What only a GPU can show: ``make gpu-check``, or ``python -m benchmarks.gpu_check`` (some minutes, no network).

A checklist: the search and cloning on the device find what they find on the CPU, training in every precision leaves
what is frozen as it is, kernels, memory formats, recomputation and shards change no result, memory stays flat, no step
waits for the device, and several GPUs tune as one. ``--device cpu`` runs the same on a small scale, which tests the
checks themselves. The exit status is 1 where a point fails.
"""

from __future__ import annotations

import argparse
import copy
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from scipy.stats import kendalltau
from torch import Tensor
from torch.distributed.tensor import DTensor

from benchmarks.common import embedded_zoo
from benchmarks.ddp import CASES, NOT_IN_SHARDS, run_in_processes
from benchmarks.tuning import assembly
from cloning.pipeline import CloningSearch
from cloning.result import CloningSearchResult
from cloning.settings import CloningSettings, CorrectionSettings, InsertionSettings, LocalisationSettings, TaskSettings
from datamodules import Digits
from reassembly.network import AssembledNetwork
from reassembly.pipeline import Search
from reassembly.result import SearchResult
from reassembly.settings import Budget, PartitionSettings, ProxySettings, SearchSettings, SimilaritySettings
from tuning.fit import TuningResult, tune
from tuning.settings import OptimizerSettings, TrainerSettings, TuningSettings
from tuning.throughput import Compiled
from zoo.arguments import Parser, run
from zoo.devices import CPU, Placement, find_device
from zoo.registry import Zoo
from zoo.storage.store import Store

SCORE_TOLERANCE = 0.005
"""Of scores that are shares of some hundred images: sums in another order turn one that lies on the border."""
SHARE_WITHIN = 0.99
"""Of the candidates: an adapter in closed form that is solved out of hardly any variance magnifies what is rounded."""
LEAST_TAU = 0.8
LEARNING_RATE = 3e-4
"""At which a few epochs on few images ruin nothing: a network at chance would agree with any other."""

LOSS_TOLERANCE = 0.02
ACCURACY_TOLERANCE = 0.05
MEMORY_TOLERANCE = 1.01


@dataclass(frozen=True)
class Finding:
    """What a check found; ``passed`` is None where this machine cannot tell."""

    passed: bool | None
    told: str


@dataclass(frozen=True)
class Bench:
    """What is checked with.

    Attributes:
        device: That is compared with the CPU.
        folder: For whatever is written.
    """

    device: torch.device
    folder: Path

    @property
    def is_gpu(self) -> bool:
        """Whether it is the real thing."""
        return self.device.type == "cuda"

    @cached_property
    def zoo(self) -> Zoo:
        """The embedded one; a part of it on the CPU."""
        zoo = embedded_zoo()
        return zoo if self.is_gpu else Zoo("two", [zoo[name] for name in ("resnext_low", "resnet_digits")])

    @cached_property
    def data(self) -> Digits:
        """Few images on the CPU."""
        return Digits() if self.is_gpu else Digits(num_train=30, num_validation=30, num_test=30)

    @cached_property
    def search_settings(self) -> SearchSettings:
        """Without finalists, whose trainings are checked by themselves."""
        if self.is_gpu:
            return SearchSettings(budget=Budget(max_params=300_000), finalists=1)
        return SearchSettings(
            similarity=SimilaritySettings(num_probe_images=24),
            partition=PartitionSettings(num_blocks=2, num_starts=2, max_bound_steps=50),
            proxy=ProxySettings(num_draws=1, num_images=24),
            finalists=1,
        )

    def search(self, placement: Placement) -> SearchResult:
        """One search; an earlier one of the same placement is read."""
        store = Store(self.folder / "cache")
        return Search(self.zoo, self.data, self.search_settings, store=store, seed=0, placement=placement).run()

    def clone(self, placement: Placement) -> CloningSearchResult:
        """Cloning of two classes at a given position."""
        task = TaskSettings(("0", "1", "2", "3", "4", "7"), target="resnext_low", sources=("resnet_digits",))
        settings = CloningSettings(
            task,
            LocalisationSettings("magnitude", keep=0.6),
            InsertionSettings("fixed", position=2, num_epochs=2),
            CorrectionSettings(fraction=1.0),
        )
        store = Store(self.folder / "cache")
        return CloningSearch(embedded_zoo(), self.data, settings, store=store, seed=0, placement=placement).run()

    @cached_property
    def network(self) -> AssembledNetwork:
        """Two thirds of one convolutional network and the last third of another, stitched."""
        return assembly(self.data, embedded_zoo(), ("resnext_low", "resnet_digits"))

    def tuned(
        self, mode: str = "full", *, on: str | None = None, callbacks: Sequence[pl.Callback] = (), **options: object
    ) -> tuple[AssembledNetwork, TuningResult]:
        """A copy of the network after some epochs on the device, or ``on`` another."""
        network = copy.deepcopy(self.network)
        settings = TuningSettings(
            mode, loss="cross_entropy", norm_stats="frozen", num_epochs=4 if self.is_gpu else 1, cache_prefix="never"
        )
        trainer = TrainerSettings(
            accelerator=on or ("gpu" if self.is_gpu else "cpu"), log_every_num_steps=0, progress_bar="never", **options
        )
        with tempfile.TemporaryDirectory(dir=self.folder) as run_dir:
            found = tune(
                *(network, self.data, settings),
                run_dir=Path(run_dir),
                optimizer=OptimizerSettings(learning_rate=LEARNING_RATE),
                trainer=trainer,
                callbacks=callbacks,
                test=False,
            )
        return network, found

    @cached_property
    def on_cpu(self) -> TuningResult:
        """Training on the CPU, with which others are compared."""
        return self.tuned(on="cpu")[1]


def search_finds_the_same(bench: Bench) -> Finding:
    """Scores of all candidates within tolerance, and the same pick."""
    expected, found = bench.search(CPU), bench.search(_moved(bench))
    differences = sorted(abs(x - y) for x, y in zip(*_shared_scores(expected, found), strict=True))
    most = differences[int(SHARE_WITHIN * (len(differences) - 1))]
    picks = [result.candidates[0].candidate.composition for result in (expected, found)]
    same = picks[0] == picks[1]
    return Finding(
        same and most <= SCORE_TOLERANCE,
        f"{100 * SHARE_WITHIN:.0f} % of {len(differences)} scores differ by {most:.1e} at most (allowed "
        f"{SCORE_TOLERANCE:.0e}), all by {differences[-1]:.1e}; "
        + (f"the same pick {picks[0]}" if same else f"picks {picks[0]} and {picks[1]}"),
    )


def bfloat16_keeps_the_ranks(bench: Bench) -> Finding:
    """Kendall's tau between the scores of both precisions."""
    tau = rank_correlation(bench.search(_moved(bench)), bench.search(Placement(bench.device, "bfloat16")))
    return Finding(tau >= LEAST_TAU, f"Kendall's tau {tau:.3f} with float32 (at least {LEAST_TAU})")


def cloning_finds_the_same(bench: Bench) -> Finding:
    """Loss at a position within tolerance."""
    expected, found = (bench.clone(placement).chosen[0] for placement in (CPU, _moved(bench)))
    return Finding(
        abs(found.loss - expected.loss) <= LOSS_TOLERANCE * max(1, expected.loss),
        f"validation loss {found.loss:.4f}, on the CPU {expected.loss:.4f}",
    )


def training(precision: str) -> Callable[[Bench], Finding]:
    """The check that a precision learns what the CPU learns, and that what is frozen stays as it is, bit for bit."""

    def check(bench: Bench) -> Finding:
        if precision == "16-mixed" and not bench.is_gpu:
            return Finding(None, "needs a GPU")
        network, _ = bench.tuned("freeze", precision=precision)
        before = bench.network.state_dict()
        changed = [
            name
            for name, tensor in network.state_dict().items()
            if not name.startswith(("adapters.", "head.")) and not torch.equal(tensor, before[name])
        ]
        if changed:
            return Finding(False, f"{len(changed)} frozen tensors have changed: {changed[0]}")
        return _compared(bench, bench.tuned(precision=precision)[1], "frozen tensors are as they were; ")

    return check


def compiled_training(bench: Bench) -> Finding:
    """``trainer.compile``."""
    backend = Compiled.backend
    Compiled.backend = backend if bench.is_gpu else "aot_eager"
    try:
        return _compared(bench, bench.tuned(compile=True)[1])
    finally:
        Compiled.backend = backend


def channels_last(bench: Bench) -> Finding:
    """``trainer.channels_last``: learns the same, and what comes out of an adapter has its channels last."""
    seen: list[bool] = []

    class Watch(pl.Callback):
        def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            for adapter in pl_module.network.adapters:
                adapter.register_forward_hook(_note)

    def _note(module: torch.nn.Module, args: tuple, output: Tensor) -> None:
        if module.training:
            seen.append(output.is_contiguous(memory_format=torch.channels_last))

    _, result = bench.tuned(channels_last=True, callbacks=[Watch()])
    finding = _compared(bench, result, f"{sum(seen)} of {len(seen)} outputs of adapters have their channels last; ")
    return replace(finding, passed=finding.passed and bool(seen) and all(seen))


def activation_checkpointing(bench: Bench) -> Finding:
    """``trainer.activation_checkpointing``: learns the same in less memory."""
    peaks, results = [], []
    for is_on in (False, True):
        if bench.is_gpu:
            torch.cuda.reset_peak_memory_stats()
        results.append(bench.tuned(activation_checkpointing=is_on)[1])
        peaks.append(torch.cuda.max_memory_allocated() / 2**20 if bench.is_gpu else 0.0)
    finding = _compared(bench, results[1])
    if not bench.is_gpu:
        return finding
    told = f"peak {peaks[1]:.0f} MiB instead of {peaks[0]:.0f} MiB; {finding.told}"
    return Finding(finding.passed and peaks[1] < peaks[0], told)


def training_in_shards(bench: Bench) -> Finding:
    """``trainer=fsdp2`` on one device: learns the same, and what is frozen of what ran is as it was, bit for bit."""
    changed: list[str] = []

    class Watch(pl.Callback):
        def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            before, trained = bench.network.state_dict(), pl_module.network.trained_state()
            for name, tensor in pl_module.network.state_dict().items():
                whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
                if name not in trained and not torch.equal(whole.cpu(), before[name]):
                    changed.append(name)

    environment = dict(os.environ)
    try:
        bench.tuned("freeze", strategy="fsdp2", callbacks=[Watch()])
        if changed:
            return Finding(False, f"{len(changed)} frozen tensors have changed: {changed[0]}")
        return _compared(bench, bench.tuned(strategy="fsdp2")[1], "frozen tensors are as they were; ")
    finally:  # Lightning has said there that this process is one of several
        os.environ.clear()
        os.environ.update(environment)
        if dist.is_initialized():
            dist.destroy_process_group()


def memory_stays_flat(bench: Bench) -> Finding:
    """What is allocated at the end of the last epoch is what was at the end of the second."""
    if not bench.is_gpu:
        return Finding(None, "needs a GPU")
    allocated: list[int] = []

    class Watch(pl.Callback):
        def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            allocated.append(torch.cuda.memory_allocated())

    bench.tuned(callbacks=[Watch()])
    second, last = allocated[1], allocated[-1]
    return Finding(last <= MEMORY_TOLERANCE * second, f"{second / 2**20:.1f} MiB, then {last / 2**20:.1f} MiB")


def no_step_waits(bench: Bench) -> Finding:
    """Inside a step nothing waits for the device: torch refuses what would."""
    if not bench.is_gpu:
        return Finding(None, "needs a GPU")
    num_steps = [0]

    class Watch(pl.Callback):
        def on_train_batch_start(self, trainer: pl.Trainer, pl_module: object, batch: object, batch_idx: int) -> None:
            num_steps[0] += 1
            if trainer.global_step > 1:  # memory and kernels are there
                torch.cuda.set_sync_debug_mode("error")

        def on_train_batch_end(self, *_: object) -> None:
            torch.cuda.set_sync_debug_mode("default")

    try:
        bench.tuned(callbacks=[Watch()])
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return Finding(True, f"{num_steps[0]} steps")


def several_gpus_tune_as_one(bench: Bench) -> Finding:
    """DDP and FSDP2 by NCCL."""
    if not bench.is_gpu or torch.cuda.device_count() < 2:
        return Finding(None, "needs two GPUs")
    found = {}
    for strategy in ("ddp", "fsdp2"):
        names = [name for name in CASES if strategy == "ddp" or name not in NOT_IN_SHARDS]
        differences = run_in_processes(bench.folder / "ddp", 2, accelerator="gpu", strategy=strategy, names=names)
        found |= {f"{name}, {strategy}": losses for name, (losses, _) in differences.items()}
    worst = max(found, key=found.get)
    return Finding(found[worst] <= LOSS_TOLERANCE, f"losses differ by {found[worst]:.1e} at most ({worst})")


CHECKS: Mapping[str, Callable[[Bench], Finding]] = {
    "search as on the CPU": search_finds_the_same,
    "bfloat16 in the search": bfloat16_keeps_the_ranks,
    "cloning as on the CPU": cloning_finds_the_same,
    "training, 32-true": training("32-true"),
    "training, bf16-mixed": training("bf16-mixed"),
    "training, 16-mixed": training("16-mixed"),
    "trainer.compile": compiled_training,
    "trainer.channels_last": channels_last,
    "trainer.activation_checkpointing": activation_checkpointing,
    "trainer=fsdp2": training_in_shards,
    "memory stays flat": memory_stays_flat,
    "no step waits": no_step_waits,
    "several GPUs tune as one": several_gpus_tune_as_one,
}


def rank_correlation(a: SearchResult, b: SearchResult) -> float:
    """Kendall's tau of two searches' scores, over the candidates that both have scored."""
    return float(kendalltau(*_shared_scores(a, b)).statistic)


def _shared_scores(a: SearchResult, b: SearchResult) -> tuple[list[float], list[float]]:
    tables = [
        {(entry.candidate.composition, entry.candidate.is_adapted): entry.scores["ridge"] for entry in found.candidates}
        for found in (a, b)
    ]
    shared = sorted(tables[0].keys() & tables[1].keys())
    return tuple([table[key] for key in shared] for table in tables)


def _moved(bench: Bench) -> Placement:
    return Placement(bench.device)


def _compared(bench: Bench, result: TuningResult, told: str = "") -> Finding:
    """Whether training has learnt what it learns on the CPU."""
    accuracies = [found.val_accuracies["tuned"] for found in (result, bench.on_cpu)]
    text = f"{told}validation accuracy {100 * accuracies[0]:.1f} %, on the CPU {100 * accuracies[1]:.1f} %"
    return Finding(abs(accuracies[0] - accuracies[1]) <= ACCURACY_TOLERANCE, text)


def run_checks(bench: Bench, names: Iterable[str]) -> bool:
    """Prints the checklist as it goes on; whether nothing has failed."""
    failed = []
    for name in names:
        start = time.perf_counter()
        try:
            finding = CHECKS[name](bench)
        except Exception as error:  # noqa: BLE001 told in the list, and the others follow
            finding = Finding(False, f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
        mark = {True: "pass", False: "FAIL", None: "  - "}[finding.passed]
        print(f"[{mark}] {name} ({time.perf_counter() - start:.0f} s): {finding.told}", flush=True)
        failed += [name] if finding.passed is False else []
    print("nothing failed" if not failed else f"{len(failed)} failed: {', '.join(failed)}")
    return not failed


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; its exit status."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N, or cpu to try the checks themselves")
    parser.add_argument("--only", nargs="+", choices=list(CHECKS), default=list(CHECKS), metavar="CHECK")
    options = parser.parse_args(arguments)
    device = find_device(options.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "no GPU: the checks themselves are tried"
    print(f"torch {torch.__version__}, {device}: {name}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        return 0 if run_checks(Bench(device, Path(folder)), options.only) else 1


if __name__ == "__main__":
    run(main)
