"""``python -m deploy card RUN``: a model card in the format of the Hugging Face hub, and the drawing that it shows."""

from __future__ import annotations

import argparse
import html
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deploy.options import add_run, open_run
from deploy.runs import RESULT, Run, find_figures, read_run
from zoo.errors import UserError
from zoo.storage.places import require_directory

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, ModelCard

    from deploy.model import Model
    from zoo.entries import ZooEntry

README, DRAWING = "README.md", "drawing"
MAX_RECIPE = 6000
"""Characters of the recipe that the card shows; the file beside it has all."""

LIBRARY = "huozi"
METRICS = {
    "test_accuracy": ("accuracy", "test"),
    "val_accuracy": ("accuracy", "validation"),
    "start_val_accuracy": ("accuracy before tuning", "validation"),
    "original_accuracy": ("accuracy on the target's classes", "test"),
    "cloned_accuracy": ("accuracy on the cloned classes", "test"),
    "mean_group_accuracy": ("mean of the two (not over classes)", "test"),
}
NOT_MEASURED = (
    "other seeds, splits and data than those above, so that the deviation of the figures is not known",
    "images of other sources, corrupted or attacked images, and what becomes of classes that it does not know",
    "bias between groups of people, and fitness for decisions about them",
    "how well its probabilities are calibrated (`python -m deploy evaluate`), latency and throughput "
    "(`python -m deploy benchmark`)",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares what the command takes."""
    add_run(parser)
    parser.add_argument("--output", type=Path, help="directory of card and drawing; by default card/ beside the result")
    parser.add_argument("--name", help="of the model; by default that of the run's directory")


def run(options: argparse.Namespace) -> int:
    """Writes the card."""
    if options.output is not None:
        require_directory("--output", options.output)
    model = open_run(options)
    model.require_weights()
    home = model.origin.run_dir or (model.origin.files if model.origin.files.is_dir() else model.origin.files.parent)
    target = options.output or home / "card"
    for path in write_card(model, target, name=options.name):
        print(path)
    return 0


def write_card(model: Model, directory: Path, *, name: str | None = None, repository: str | None = None) -> list[Path]:
    """Writes the card and its drawing, and returns their paths.

    Args:
        model: With learnt weights.
        directory: To write into.
        name: Of the model.
        repository: Of the hub, where it will lie; the way to load it is told for there.

    Raises:
        UserError: The directory is a file.
    """
    from zoo.storage.files import write_text

    if directory.exists() and not directory.is_dir():
        raise UserError(f"{directory} is a file: give a directory for the card")
    directory.mkdir(parents=True, exist_ok=True)
    drawings = _drawing(model, directory)
    card = model_card(model, name=name or _name(model), repository=repository)
    write_text(directory / README, str(card))
    return [directory / README, *drawings]


def model_card(model: Model, *, name: str, repository: str | None = None) -> ModelCard:
    """The card of a model: recipe, drawing, parts with licences and digests, data, metrics, costs, how to load it."""
    from huggingface_hub import ModelCard, ModelCardData

    from zoo.blueprint import to_text

    run, blueprint = _run(model), model.origin.blueprint
    entries = {network: model.origin.zoo.entry(network) for network in blueprint.networks}
    licences = {network: licence(entry) for network, entry in entries.items()}
    results = _results(run) if run else []
    bases = sorted({base for entry in entries.values() if (base := _base(entry))})
    data = ModelCardData(
        license=_licence_of_all(list(licences.values())),
        library_name=LIBRARY,
        pipeline_tag="image-classification",
        tags=[LIBRARY, "image-classification", blueprint.method],
        base_model=bases or None,
        model_name=name if results else None,
        eval_results=results or None,
    )
    recipe = to_text(blueprint)
    if len(recipe) > MAX_RECIPE:
        recipe = recipe[:MAX_RECIPE].rpartition("\n")[0] + "\n# cut here; blueprint.yaml has all of it\n"
    fence = "`" * (3 + max((len(run) for run in re.findall("`{3,}", recipe)), default=0))
    body = [
        f"# {plain(name)}",
        f"An image classifier of {len(model.classes):,} classes, {_made_of(model)}: {plain(blueprint.composition)}",
        f"![The network]({DRAWING}.png)",
        "## Recipe",
        f"{fence}yaml\n{recipe}{fence}",
        "## Parts",
        _table(
            ["network", "from", "license", "digest"],
            [(name, _source(entry), licences[name], blueprint.networks[name]) for name, entry in entries.items()],
        ),
        "Licences are those that the sources state; where none is stated, ask whoever made the weights.",
        "## Data",
        _data(run),
        "## Results",
        _metrics(run),
        "## Costs",
        _costs(model, run),
        "## How to use",
        _usage(model, repository),
        "## Not measured",
        "\n".join(f"- {line}" for line in NOT_MEASURED),
    ]
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(body) + "\n")


def licence(entry: ZooEntry) -> str:
    """The licence of a network's weights as its zoo, its package or its source states it; empty where none does."""
    if entry.license:
        return entry.license
    if entry.source.startswith("zoo.embedded."):
        return "apache-2.0"
    if entry.source == "timm" and entry.hub:
        from timm.models import get_pretrained_cfg

        tag = entry.hub if isinstance(entry.hub, str) else ""
        config = get_pretrained_cfg(f"{entry.model}.{tag}" if tag else entry.model, allow_unregistered=True)
        return (getattr(config, "license", None) or "").lower()
    return ""


def plain(text: object) -> str:
    """Text in Markdown that is nothing but text: no markup, no HTML, no second line, no cell of a table."""
    line = "".join(c if c.isprintable() else " " for c in str(text))
    return html.escape(re.sub(r"([\\`*_{}\[\]()#!|~<>])", r"\\\1", line), quote=False)


def _drawing(model: Model, directory: Path) -> list[Path]:
    """The drawing of the run, or one made anew."""
    targets = [directory / f"{DRAWING}{suffix}" for suffix in (".png", ".svg")]
    run_dir = model.origin.run_dir
    if run_dir is not None and DRAWING in find_figures(run_dir):
        sources = [run_dir / target.name for target in targets]
        if all(source.is_file() for source in sources):
            for source, target in zip(sources, targets, strict=True):
                shutil.copyfile(source, target)
            return targets
    from figures.drawing import draw_network

    draw_network(targets[0], diagram(model))
    return targets


def diagram(model: Model) -> Any:
    """The diagram of a model."""
    from cloning.diagram import cloned_diagram
    from cloning.network import ClonedNetwork
    from reassembly.diagram import composed_diagram
    from zoo.loading import load_chain

    networks = tuple(model.origin.zoo)
    if isinstance(model.network, ClonedNetwork):
        return cloned_diagram(model.network, networks)
    blueprint, zoo = model.origin.blueprint, model.origin.zoo
    return composed_diagram(blueprint, {name: load_chain(zoo.entry(name)) for name in blueprint.networks}, networks)


def _run(model: Model) -> Run | None:
    run_dir = model.origin.run_dir
    return read_run(run_dir) if run_dir is not None and (run_dir / RESULT).is_file() else None


def _name(model: Model) -> str:
    origin = model.origin
    return (origin.run_dir or origin.files).resolve().name


def _made_of(model: Model) -> str:
    count = len(model.origin.blueprint.networks)
    if model.origin.blueprint.method == "cloning":
        return "a network with modules cloned from others"
    return f"composed of blocks of {count} networks" if count > 1 else "made of one network"


def _source(entry: ZooEntry) -> str:
    weights = entry.weights
    if weights is None:
        made = "random weights"
    elif weights.file is not None:
        made = f"weights {Path(str(weights.file)).name}"
    else:
        made = "its default weights" if weights.hub is True else f"weights {weights.hub}"
    trained = f", {entry.description}" if entry.description else ""
    return f"{entry.source}{f' {entry.model}' if entry.model else ''}, {made}{trained}"


def _base(entry: ZooEntry) -> str | None:
    """The repository of the hub that a network is from."""
    return f"timm/{entry.model}.{entry.hub}" if entry.source == "timm" and isinstance(entry.hub, str) else None


def _licence_of_all(licences: Sequence[str]) -> str:
    """One licence if all parts have it; ``unknown`` if one states none, ``other`` if they differ."""
    found = set(licences)
    return "unknown" if "" in found else found.pop() if len(found) == 1 else "other"


def _results(run: Run) -> list[EvalResult]:
    from huggingface_hub import EvalResult

    data = _mapping(run.result.get("data"))
    name = str(data.get("name") or "unknown")
    results = []
    for key, value in run.result["metrics"].items():
        if key in METRICS and isinstance(value, (int, float)):
            told, split = METRICS[key]
            results.append(
                EvalResult(
                    task_type="image-classification",
                    dataset_type=re.sub(r"[^\w./-]+", "-", name),
                    dataset_name=name,
                    dataset_split=split,
                    dataset_args={"seed": run.seed, "digest": str(data.get("digest"))},
                    metric_type="accuracy",
                    metric_name=told,
                    metric_value=float(value),
                )
            )
    return results


def _data(run: Run | None) -> str:
    data = _mapping(run.result.get("data")) if run else {}
    if not data:
        return "Not known: the bundle lies alone, without the run that made it."
    return _table(["", ""], [(key.replace("_", " "), _told(value)) for key, value in data.items()])


def _metrics(run: Run | None) -> str:
    metrics = run.result["metrics"] if run else {}
    rows = [(*METRICS[key], f"{100 * value:.2f} %", run.seed) for key, value in metrics.items() if key in METRICS]
    if not rows:
        return "None is known: the bundle lies alone, without the run that made it."
    table = _table(["metric", "split", "value", "seed"], rows)
    return f"{table}\n\nThe network was chosen on training and validation images; test images chose nothing."


def _costs(model: Model, run: Run | None) -> str:
    costs = model.costs
    rows: list[tuple[str, object]] = [("parameters", f"{costs.num_params:,}"), ("MACs of an image", f"{costs.macs:,}")]
    result: Mapping[str, Any] = run.result if run else {}
    if (trained := result.get("num_trained_parameters")) is not None:
        rows.append(("trained parameters", f"{trained:,}"))
    rows += [(f"seconds, {stage}", f"{value:.1f}") for stage, value in _mapping(result.get("seconds")).items()]
    return _table(["", ""], rows)


def _usage(model: Model, repository: str | None) -> str:
    spec = model.input
    place = "path/to/bundle" if repository is None else None
    fetch = (
        f'from huggingface_hub import snapshot_download\n\npath = snapshot_download("{repository}")\n'
        if repository
        else ""
    )
    opened = "path" if repository else f'"{place}"'
    complete = model.origin.bundle is not None and model.origin.bundle.complete
    needs = "" if complete else "\n\nThe bundle holds what was learnt; the networks of the table above are needed, too."
    return (
        f"```python\n{fetch}import deploy\n\nmodel = deploy.load({opened})\n"
        'predictions = model.predict("photos/")          # a folder, a file, PIL images, tensors\n'
        "print(predictions.labels)\n```\n\n"
        f"It takes images of {spec.channels} x {spec.height} x {spec.width}; `model.preprocess` makes them.{needs}"
    )


def _table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [columns, ["---"] * len(columns), *([plain(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _told(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {item}" for key, item in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
