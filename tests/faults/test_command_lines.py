"""Bad command lines: each is answered by one line with the key and what to type, status 2, and nothing is left.

Run in the process, by the functions of the entry: words made readable, composed, configured, checked. What Hydra does
with ``key=value`` once its files are loaded is done on a copy of what was loaded, for loading takes most of the time.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest
from hydra import initialize_config_dir

from launch import machine
from launch.checks import check, configured
from launch.command_line import readable
from launch.errors import CONF, explain, is_bad_input, options
from launch.schema import Config, keys, register
from tests.faults.dataset_rows import DATASET, HUGE
from tests.faults.zoo_rows import ZOO
from tests.launch.conftest import composed
from zoo.errors import UserError
from zoo.limits import declared

Row = tuple[str, list[str], list[str]]  # the command, its words, what the line holds


def numeric_keys(settings: Any = None, prefix: str = "") -> Iterator[str]:
    """Every key of the schema that holds a number."""
    for field in fields(settings or Config()):
        value = getattr(settings or Config(), field.name)
        if is_dataclass(value):
            yield from numeric_keys(value, f"{prefix}{field.name}.")
        elif declared(type(settings or Config()), field.name)[0] & {int, float}:
            yield f"{prefix}{field.name}"


def named_keys(settings: Any = None, prefix: str = "") -> Iterator[str]:
    """Every key of the schema that holds one of a few names."""
    for field in fields(settings or Config()):
        value = getattr(settings or Config(), field.name)
        kinds, limits = declared(type(settings or Config()), field.name)
        if is_dataclass(value):
            yield from named_keys(value, f"{prefix}{field.name}.")
        elif str in kinds and limits:
            yield f"{prefix}{field.name}"


def flags(settings: Any = None, prefix: str = "") -> Iterator[str]:
    """Every key of the schema that is true or false."""
    for field in fields(settings or Config()):
        value = getattr(settings or Config(), field.name)
        if is_dataclass(value):
            yield from flags(value, f"{prefix}{field.name}.")
        elif isinstance(value, bool):
            yield f"{prefix}{field.name}"


def group_of(key: str) -> list[str]:
    """The option under which a key has an effect."""
    cloning = ("task", "localisation", "insertion", "correction")
    return ["method=cloning"] if key.partition(".")[0] in cloning else []


NUMBERS = [
    ("train", [*group_of(key), f"{key}={value}"], [f"{key}=", "type " if key != "adapter.kernel_size" else "allowed"])
    for key, value in itertools.product(numeric_keys(), ["nan", "inf", "-inf", "-1", HUGE])
]
NAMES = [("train", [*group_of(key), f"{key}=nosuch"], [f"{key}=nosuch", "allowed"]) for key in named_keys()]
FLAGS = [("search", [f"{key}=maybe"], [f"{key}=maybe", "true or false"]) for key in flags()]
WHOLE = [
    ("search", [f"{key}={value}"], [f"{key}={value}", "a whole number", f"type {key}={typed}"])
    for key in ("seed", "finalists", "partition.num_blocks", "proxy.num_draws", "budget.max_params")
    for value, typed in (("1e3", "1000"), ("2.5", "..."), ("three", "..."), ("[1]", "..."))
    if value != "[1]"
]
GROUPS = [
    ("search", [f"{group}={value}"], [f"{group}=", f"type {group}= one of {options(group)[0]}"])
    for group in ("zoo", "dataset", "partition", "budget", "proxy", "tuning", "method", "experiment")
    for value in ("nosuch", "", "null", "5")
]
UNREADABLE = [
    ("search", [word], ["cannot read", "type 'task.classes"])
    for word in (
        "task.classes=[it's]",
        "task.classes=[宠物, cat]",
        "task.classes=[a (b), c]",
        "task.classes=[k=v]",
        "task.classes=a#b",
    )
] + [
    ("search", ["dataset.name=my pets (v2)"], ["type 'dataset.name=\"my pets (v2)\"'"]),
    ("search", ["method.network=O'Brien"], ["type 'method.network=\"O'\"'\"'Brien\"'"]),
    ("search", ["zoo.input={mean: [it's]}"], ["""type 'zoo.input={mean: ["it'"'"'s"]}'"""]),
    ("search", ["budget.max_params=[1"], ["budget.max_params=[1", "type "]),
    ("train", ["tuning.num_epochs=range(1,3"], ["a bracket has no partner"]),
    ("train", ["optimizer.learning_rate=interval(0.1,1)"], ["interval(0.1,1) is for a sweep: type -m"]),
    ("train", ["parent.dataset=digits"], ["no setting; type experiment=transfer dataset@parent.dataset=digits"]),
    ("train", ["~tuning.num_epochs"], ["~tuning.num_epochs", "type tuning.num_epochs=..."]),
    ("search", ["seed=" + "9" * 5000], ["cannot read seed=999", "within the word"]),
    ("search", ["seed=" + "[" * 3000], ["cannot read seed=[[["]),
    ("search", ["logger.project=" + "(" * 5000], ["cannot read logger.project=((("]),
    ("search", ["dataset.name=a\nb("], ["cannot read dataset.name=a"]),
    ("search", ["seed"], ["seed has no '='", "type key=value"]),
    ("search", ["recipe.yaml"], ["recipe.yaml has no '='"]),
    ("search", [""], ["has no key"]),
    ("search", ["=3"], ["=3 has no key"]),
    ("search", ["my key=3"], ["my key=3", "a key is"]),
    ("search", ["seed =3"], ["seed =3", "a key is"]),
    ("search", ["dataset.root=\udcff"], ["\\udcff is not UTF-8", "rename"]),
    ("search", ["logger.project=caf\udce9"], ["caf\\udce9 is not UTF-8"]),
]
OPTIONS = [
    ("search", ["--nosuch"], ["--nosuch", "key=value"]),
    ("search", ["-x"], ["-x", "key=value"]),
    ("search", ["-seed=3"], ["key=value"]),
    ("search", ["--seed=3"], ["--seed=3", "key=value"]),
    ("search", ["--config-name"], ["--config-name", "expected one argument"]),
    ("search", ["--cfg", "jobs"], ["--cfg", "'job'"]),
    ("search", ["--cfg"], ["--cfg", "expected one argument"]),
    ("search", ["--cfg", "job", "-m"], ["--multirun and --cfg"]),
    ("search", ["--run", "--multirun"], ["--run and --multirun"]),
    ("search", ["--resolve"], ["type --cfg job --resolve"]),
    ("search", ["--info", "seed=1"], ["--info", "invalid choice"]),
    ("search", ["--experimental-rerun=x"], ["--experimental-rerun", "type resume="]),
]
COMPOSITION = [
    ("search", ["seed=0,1"], ["seed=0,1", "type -m"]),
    ("search", ["zoo=embedded,cnn"], ["zoo=embedded,cnn", "type -m"]),
    ("search", ["seed=range(3)"], ["seed=range(3)"]),
    ("search", ["seed=null"], ["seed=null", "cannot be null"]),
    ("search", ["seed="], ["seed=", "a whole number"]),
    ("search", ["seed=???"], ["seed is not given", "type seed="]),
    ("search", ["seed=${nosuch}"], ["seed: ", "nosuch"]),
    ("search", ["output_dir=${oc.env:HUOZI_NO_SUCH}"], ["output_dir: ", "HUOZI_NO_SUCH"]),
    ("search", ["foo=1"], ["foo", "zoo"]),
    ("search", ["+foo=1"], ["foo"]),
    ("search", ["++foo=1"], ["no key 'foo'", "zoo"]),
    ("search", ["+budget.max_watts=3"], ["no key 'budget.max_watts'", "budget.max_macs"]),
    ("search", ["+seed=1"], ["seed", "++seed"]),
    ("search", ["~nosuch"], ["nosuch"]),
    ("search", ["partition.num_block=3"], ["partition.num_block", "partition.num_blocks"]),
    ("search", ["partition.seed=3"], ["partition.seed", "did you mean seed"]),
    ("search", ["datset=digits"], ["datset", "dataset"]),
    ("search", ["datasets.root=x"], ["datasets.root", "dataset"]),
    ("search", ["zoo.nosuch.deep=1"], ["zoo.nosuch", "--cfg job --package zoo"]),
    ("search", ["experiment=pretrain/none"], ["experiment=pretrain/none", "pretrain/resnet_digits"]),
    ("search", ["hydra/launcher=nosuch"], ["hydra/launcher=nosuch", "leave it out"]),
    ("search", ["dataset@x=digits"], ["dataset@x"]),
    ("search", ["proxy.also=ridge"], ["proxy.also", "type proxy.also=[ridge]"]),
    ("search", ["proxy.also=[oracle]"], ["proxy.also=oracle", "ridge"]),
    ("search", ["proxy.max_seams_per_block=0"], ["proxy.max_seams_per_block=0", "at least 1"]),
    ("search", ["selection.seats=[oracle]"], ["selection.seats=oracle", "truncated"]),
    ("search", ["selection.num_epochs=[]"], ["selection.num_epochs=[]", "type selection.num_epochs=[1,2,4]"]),
    ("search", ["selection.num_epochs=[0]"], ["selection.num_epochs=0", "at least 1"]),
    ("search", ["task.classes=5"], ["task.classes", "type task.classes=[5]"]),
    ("search", ["similarity=5"], ["similarity=5", "linear_cka"]),
    ("search", ["similarity={}"], ["similarity={}", "linear_cka"]),
    ("search", ["zoo=" + "x" * 5000], ["zoo=xxx", "embedded"]),
    ("search", ["seed=" + "x" * 5000], ["seed=xxx", "a whole number"]),
    ("search", ["y" * 5000 + "=1"], ["yyy", "--help"]),
]
CONTRADICTIONS = [
    ("search", ["budget.min_params=300000", "budget.max_params=200000"], ["300000", "200000", "type "]),
    ("search", ["budget.min_macs=3", "budget.max_macs=2"], ["budget.min_macs=3", "budget.max_macs=2"]),
    ("search", ["partition.mode=permutation", "partition.num_blocks=9"], ["partition.num_blocks=9", "type "]),
    ("search", ["method.network=resnet_digits"], ["method.network", "method=baseline"]),
    ("search", ["proxy=leep"], ["proxy.name=leep", "method=baseline method.select=leep", "proxy.also=[leep]"]),
    ("train", ["method.select=leep"], ["method.select=leep", "method=baseline"]),
    (
        "train",
        ["method=baseline", "method.select=leep", "method.network=a"],
        ["method.select=leep", "method.network=a"],
    ),
    ("train", ["method=baseline", "method.select=leep", "blueprint=conf"], ["method.select=leep", "blueprint=conf"]),
    ("search", ["method=baseline"], ["method=baseline", "type `python train.py method=baseline`"]),
    ("search", ["resume=x"], ["resume=x", "train.py"]),
    ("search", ["blueprint=x"], ["blueprint=x", "train.py"]),
    ("search", ["method=cloning", "partition.num_blocks=2"], ["partition.num_blocks=2", "type method=reassembly"]),
    ("search", ["method=cloning", "finalists=2"], ["finalists=2", "type method=reassembly"]),
    ("search", ["task.target=resnext_low"], ["task.target", "type method=cloning"]),
    ("search", ["insertion.num_epochs=3"], ["insertion.num_epochs", "type method=cloning"]),
    ("train", ["method=cloning", "insertion.position=3"], ["insertion.position=3", "insertion=fixed"]),
    (
        "train",
        ["method=cloning", "correction=statistics", "correction.exemplars=5"],
        ["correction.exemplars=5 needs correction=exemplars"],
    ),
    ("train", ["method=cloning", "insertion.name=fixed"], ["insertion=fixed", "type insertion.position="]),
    ("train", ["tuning.loss=loo", "tuning.mixup_alpha=0.1"], ["tuning.loss=loo", "type tuning.loss=cross_entropy"]),
    ("train", ["tuning.early_stopping.monitor=test_loss"], ["tuning.early_stopping.monitor", "val_accuracy, val_loss"]),
    ("train", ["tuning.checkpoints.average=true"], ["tuning.checkpoints.average", "type tuning.checkpoints.num_kept="]),
    ("train", ["tuning.checkpoints.keep=first"], ["tuning.checkpoints.keep=first", "best, last"]),
    ("train", ["tuning.loss=loo", "tuning.norm_stats=adaptive"], ["tuning.norm_stats=frozen"]),
    ("train", ["tuning=probe", "tuning.head.initialisation=random"], ["tuning.head.initialisation=random"]),
    ("train", ["trainer.devices=2"], ["trainer.devices=2", "trainer=ddp"]),
    ("train", ["trainer.num_nodes=2"], ["trainer.num_nodes=2", "trainer=ddp"]),
    ("train", ["+trainer.extra.nosuch=1"], ["trainer.extra.nosuch=1 is not taken"]),
    ("train", ["+trainer.extra.max_epochs=1"], ["trainer.extra.max_epochs=1 is set by other keys"]),
    ("search", ["device=gpu"], ["device=gpu", "auto, cpu, cuda, cuda:N, mps"]),
    ("search", ["executor=threads"], ["executor=threads is not an option", "processes, ray, serial"]),
    ("search", ["method=cloning", "task.classes=[null,0]"], ["allowed is text", 'type task.classes=["null",0]']),
    ("search", ["zoo=a/mine.yaml"], ["zoo=a/mine.yaml is not", "conf/zoo/mine.yaml", "--config-dir DIR zoo=mine"]),
    ("search", ["executor.num_workers=2"], ["executor.num_workers=2", "type executor=processes"]),
    ("search", ["executor=processes", "executor.num_workers=0"], ["executor.num_workers=0", "at least 1"]),
    ("search", ["executor=processes", "executor.num_workers=1.5"], ["executor.num_workers=1.5", "a whole number"]),
    ("search", ["executor=processes", "executor.num_workers=9999"], ["executor.num_workers=9999", "cores are free"]),
    ("search", ["executor=processes", "method=cloning"], ["executor=processes", "type method=reassembly"]),
    ("search", ["device=cuda:999"], ["device=cuda:999", "type device="]),
    ("search", ["precision=float16"], ["precision=float16", "float32, bfloat16"]),
    (
        "train",
        ["tuning.teacher=nosuch"],
        ["tuning.teacher=nosuch", "zoo embedded has no such network"],
    ),
    ("train", ["tuning=probe", "tuning.teacher=resnet_digits"], ["tuning.teacher=", "type tuning.num_epochs=10"]),
    (
        "train",
        ["method=cloning", "correction=statistics", "tuning.teacher=resnet_digits"],
        ["tuning.teacher=resnet_digits has no effect with correction.exemplars=0", "type correction=exemplars"],
    ),
    ("train", ["method=baseline", "tuning.warmup=feature_matching"], ["tuning.warmup=", "type tuning.warmup=none"]),
    ("train", ["method=cloning", "tuning.warmup=feature_matching"], ["tuning.warmup=", "type tuning.warmup=none"]),
    ("train", ["optimizer._target_=torch.optim.NoSuch"], ["optimizer._target_=torch.optim.NoSuch", "type the dotted"]),
    (
        "train",
        ["optimizer._target_=torch.optim.RMSprop", "optimizer.kwargs.alpa=1"],
        ["alpa", "its arguments are", "alpha"],
    ),
    ("train", ["optimizer.kwargs={alpha: 1}"], ["optimizer.kwargs", "optimizer._target_="]),
    ("train", ["optimizer.betas=[0.9]"], ["optimizer.betas=[0.9]", "type optimizer.betas=[0.9,0.999]"]),
    ("train", ["optimizer.betas=[0.9,nan]"], ["optimizer.betas=nan", "type optimizer.betas=[0.9,0.999]"]),
    ("train", ["optimizer=sgd", "optimizer.betas=[0.8,0.9]"], ["optimizer.betas=", "leave it out"]),
    ("train", ["schedule._target_=torch.optim.lr_scheduler.StepLR"], ["schedule._target_=", "step_size"]),
]
MACHINE = [
    ("train", ["trainer=gpu"], ["trainer.accelerator=gpu", "type trainer=cpu"]),
    ("train", ["trainer.accelerator=gpu"], ["trainer.accelerator=gpu", "type trainer=cpu"]),
    ("train", ["trainer.accelerator=mps"], ["trainer.accelerator=mps", "type trainer=cpu"]),
    ("search", ["trainer.accelerator=gpu"], ["trainer.accelerator=gpu", "type trainer=cpu"]),
    ("search", ["trainer=fsdp2", "trainer.accelerator=gpu"], ["trainer.accelerator=gpu", "type trainer=cpu"]),
    ("train", ["trainer.accelerator=tpu"], ["trainer.accelerator=tpu", "cpu"]),
    ("train", ["trainer.precision=16-mixed"], ["trainer.precision=16-mixed", "type trainer.precision=bf16-mixed"]),
    ("train", ["trainer.precision=16"], ["trainer.precision=16", "32-true"]),
    ("train", ["trainer.sync_batchnorm=true"], ["needs a GPU", "type trainer.sync_batchnorm=false"]),
    ("train", ["trainer.precision=bf16-true"], ["trainer.precision=bf16-true", "type trainer.precision=bf16-mixed"]),
    ("train", ["trainer.strategy=fsdp"], ["trainer.strategy=fsdp", "trainer=fsdp2"]),
    ("train", ["trainer.strategy=deepspeed_stage_3"], ["trainer.strategy=deepspeed_stage_3", "trainer=fsdp2"]),
    (
        "train",
        ["trainer=fsdp2", "trainer.compile=true"],
        ["trainer.compile=true", "fsdp2", "type trainer.compile=false"],
    ),
    ("train", ["trainer=fsdp2", "trainer.channels_last=true"], ["trainer.channels_last=true", "fsdp2"]),
    ("train", ["trainer=fsdp2", "trainer.precision=16-mixed"], ["fsdp2", "type trainer.precision=bf16-mixed"]),
    (
        "train",
        ["method=cloning", "tuning=full", "correction=statistics"],
        ["tuning.mode=full has no effect with correction.exemplars=0", "type tuning=freeze"],
    ),
    ("train", ["method=cloning", "tuning=full", "budget.max_macs=9"], ["budget.max_macs=9", "type tuning=freeze"]),
    ("train", ["method=cloning", "trainer=fsdp2", "trainer.accelerator=cpu"], ["method=cloning", "type trainer=ddp"]),
    ("train", ["trainer.strategy=ddp_spawn"], ["trainer.strategy=ddp_spawn", "allowed are auto, ddp"]),
    ("train", ["trainer.strategy=''"], ["trainer.strategy=", "type trainer.strategy=auto"]),
    ("train", ["trainer.strategy=ddp", "trainer.devices=1000"], ["trainer.devices=1000", "at most 16 processes"]),
    ("train", ["trainer=ddp", "trainer.accelerator=cpu", "trainer.num_nodes=2"], ["num_nodes=2: start", "torchrun"]),
    ("train", ["trainer.devices=auto"], ["trainer.devices=auto", "trainer=ddp"]),
    ("train", ["trainer.devices=all"], ["trainer.devices=all", "a whole number"]),
    ("train", ["trainer.devices=1.5"], ["trainer.devices=1.5", "a whole number"]),
    ("train", ["trainer.devices=[0,1]"], ["trainer.devices=[0, 1]", "trainer=ddp"]),
    ("train", ["trainer.devices=[1,1]"], ["trainer.devices=[1, 1]", "type trainer.devices=[0,1]"]),
    (
        "train",
        ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=[0,1]"],
        ["trainer.devices=[0, 1] names GPUs", "type trainer.devices=2"],
    ),
    ("train", ["trainer.compile=true", "method=cloning"], ["trainer.compile=true", "leave it out"]),
]
PLACES = [
    ("search", [f"{key}={place}"], [f"{key}={place[:100]}", told, "type "])
    for key in ("output_dir", "runs_dir", "cache.root")
    for place, told in (
        ("/dev/null", "is a file"),
        ("/dev/null/runs", "is a file"),
        ("/proc/runs", "cannot be made"),
        ("/tmp/" + "n" * 300, "cannot be made"),
    )
] + [
    ("search", ["output_dir="], ["output_dir is empty", "type output_dir="]),
    ("search", ["runs_dir="], ["runs_dir is empty", "type runs_dir="]),
    ("search", ["cache.root="], ["cache.root is empty", "type cache.root="]),
    ("search", ["cache.root=null"], ["cache.root=null", "cannot be null"]),
    ("search", ["output_dir=[a]"], []),
    ("train", ["blueprint=nowhere.yaml"], ["blueprint=nowhere.yaml", "give"]),
    ("train", ["blueprint=my recipe (2).yaml"], ["blueprint=my recipe (2).yaml", "does not exist"]),
    ("train", ["blueprint=" + "n" * 300], ["blueprint=nnn"]),
    ("train", ["resume=nowhere"], ["resume=nowhere", "give"]),
    ("train", ["resume=" + "x" * 300], ["resume=", "give"]),
    ("search", ["@x=3"], ["@x=3", "no key"]),
    ("train", ["resume=my run (2)"], ["resume=my run (2)"]),
]
PLACES = [row for row in PLACES if row[2]]
ROWS: list[Row] = [
    *(*NUMBERS, *NAMES, *FLAGS, *WHOLE, *GROUPS, *DATASET, *UNREADABLE, *OPTIONS),
    *(*COMPOSITION, *CONTRADICTIONS, *MACHINE, *PLACES, *ZOO),
]


@pytest.fixture(scope="module", autouse=True)
def hydra() -> Iterator[None]:
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield


@pytest.fixture(autouse=True)
def machine_without_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_count_devices", lambda: {"cpu": 2, "gpu": 0, "mps": 0})


def run(command: str, words: list[str]) -> Config:
    """What the entry does before a job opens."""
    overrides = [word for word in readable(words) if not word.startswith("-")]
    config = configured(composed(command, overrides, with_hydra=False), overrides, command)
    check(config, command)
    return config


@pytest.mark.parametrize(("command", "words", "told"), ROWS, ids=[f"{i}" for i in range(len(ROWS))])
def test_a_bad_command_line_is_answered_in_one_line(
    command: str, words: list[str], told: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Exception) as caught:  # noqa: PT011 which of them are the user's is what is asserted
        run(command, words)
    line = explain(caught.value, keys())
    assert is_bad_input(caught.value), f"{type(caught.value).__name__}: {line}"
    assert [part for part in told if part not in line] == [], line
    assert line.isprintable()
    assert len(line) < 2100
    assert list(tmp_path.iterdir()) == []


def test_the_table_is_long_and_holds_every_number(record_property) -> None:
    record_property("faults", f"{len(ROWS)} bad command lines, {len(NUMBERS)} of numbers out of range")
    assert len(ROWS) >= 300
    tried = {word.partition("=")[0] for _, words, _ in NUMBERS for word in words}
    assert set(numeric_keys()) <= tried
    assert len({(command, *words) for command, words, _ in ROWS}) == len(ROWS)


@pytest.mark.parametrize(
    "words",
    [
        ["seed=4294967295"],
        ["budget.max_params=null", "similarity.batch_size=null", "dataset.num_test=null"],
        ["method=cloning", "insertion.name=fixed", "insertion.position=0"],
        ["output_dir=my runs (v2)", "cache.root=a, b", "runs_dir=~/runs"],
    ],
    ids=" ".join,
)
def test_a_good_command_line_is_taken(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert isinstance(run("train", words), Config)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", [["finalists=1", "trainer=gpu"], ["method=cloning", "trainer=gpu"]], ids=" ".join)
def test_a_search_that_trains_nothing_needs_no_device_to_train_on(words: list[str]) -> None:
    assert isinstance(run("search", words), Config)
    with pytest.raises(UserError, match="no such device"):
        run("train", words)


def test_settings_that_the_chosen_component_does_not_read_are_told(
    caplog: pytest.LogCaptureFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("recipe.yaml").touch()
    run("search", ["method=cloning", "localisation=taylor", "localisation.num_steps=5", "localisation.keep=0.6"])
    assert "localisation.num_steps=5 has no effect with localisation=taylor" in caplog.text
    assert "localisation.keep" not in caplog.text
    caplog.clear()
    run("search", ["method=cloning", "insertion=search", "insertion.tolerance=2", "correction.ridge=0.1"])
    assert "insertion.tolerance=2 has no effect with insertion=search" in caplog.text
    assert "correction.ridge=0.1 has no effect with correction=exemplars" in caplog.text
    caplog.clear()
    run("search", ["method=cloning", "localisation.num_steps=5", "insertion.inner_tolerance=0.5"])
    assert "no effect" not in caplog.text
    run("train", ["blueprint=recipe.yaml", "partition=k2", "dataset=digits", "seed=3", "tuning=freeze"])
    assert "partition=k2 has no effect beside blueprint=recipe.yaml" in caplog.text
    assert caplog.text.count("no effect") == 1
    run("train", ["method=cloning", "blueprint=recipe.yaml", "task.target=vit_digits", "insertion.num_head_cuts=0"])
    assert "task.target=vit_digits has no effect beside blueprint=recipe.yaml" in caplog.text
    assert "insertion.num_head_cuts=0 has no effect beside blueprint" in caplog.text
