"""``python -m deploy evaluate RUN [FOLDER] [dataset=...] [split=...]``: a result as it is, on any split or folder."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deploy.options import add_run, open_run
from zoo.errors import UserError
from zoo.progress import progress
from zoo.storage.places import require_directory
from zoo.storage.records import neighbours

if TYPE_CHECKING:
    from datamodules import ImageDataModule
    from deploy.measures import Evaluation
    from deploy.model import Model

MOST_ROWS = 40
FILES = ("evaluation.json", "predictions.csv", "per_class.csv", "confusion.csv")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares what the command takes."""
    add_run(parser, device=True)
    parser.add_argument(
        "data",
        nargs="*",
        metavar="DATA",
        help="a folder with a folder per class; or dataset=..., dataset.KEY=..., seed=... as train.py takes them (by "
        "default the run's own), and split=train, val or test (the default)",
    )
    parser.add_argument("--output", type=Path, help=f"directory for {', '.join(FILES)}")
    parser.add_argument("--overwrite", action="store_true", help="replace such files there")


def run(options: argparse.Namespace) -> int:
    """Measures, prints and writes."""
    from deploy.data import SPLITS

    words = [word for word in options.data if "=" in word and not Path(word).is_dir()]
    folders = [Path(word) for word in options.data if word not in words]
    split = next((word.partition("=")[2] for word in reversed(words) if word.startswith("split=")), "test")
    if split not in SPLITS:
        raise UserError(f"split={split}: {neighbours(split, SPLITS)}")
    if len(folders) > 1 or (folders and any(word.startswith("split=") for word in words)):
        raise UserError(f"{folders[-1]}: give one folder, all of whose images are taken, without split=...")
    _require_free(options.output, overwrite=options.overwrite)
    others = [word for word in words if not word.startswith("split=")]
    _check_words(others, folders[0] if folders else None)
    model = open_run(options)
    model.require_weights()
    data = data_of(model, others, folders[0] if folders else None)
    found = evaluate(model, data, split)
    content = {"run": str(options.run), "composition": model.origin.blueprint.composition, "split": split}
    content |= {"data": data.record, **found.summary()}
    print(_table(found, content))
    told = _compared(model, found, split, is_own=not others and not folders)
    if told:
        print(told)
    if options.output:
        _write(options.output, found, content, [data._source.listed(i)[0] for i in data._indices(split).tolist()])
        print(f"{options.output}: {', '.join(FILES)}")
    return 0


def data_of(model: Model, words: Sequence[str], folder: Path | None = None) -> ImageDataModule:
    """The images to measure a model on, preprocessed as it wants them and labelled by its outputs.

    Args:
        model: To be measured.
        words: ``dataset=...``, ``dataset.KEY=...`` and ``seed=...`` as train.py takes them; what they leave open is as
            the model's run had it.
        folder: Given instead: all images of its folders, as the split ``test``.

    Raises:
        UserError: No data named, data that cannot be read, classes that the network does not know.
    """
    from deploy.data import folder_data, prepared

    _check_words(words, folder)
    if folder is not None:
        return prepared(model, folder_data(model, folder))
    if model.origin.run_dir is None and not any(word.startswith("dataset=") for word in words):
        raise UserError("on which data? give dataset=NAME as train.py takes it, or a folder with a folder per class")
    from launch.datasets import open_dataset  # Hydra is needed for this alone

    return prepared(model, open_dataset(words, model.origin.run_dir))


def _check_words(words: Sequence[str], folder: Path | None) -> None:
    for word in words:
        if not re.match(r"\+{0,2}(dataset(\.\w+)*|seed)=", word):
            raise UserError(f"{word}: expected dataset=..., dataset.KEY=... or seed=..., as train.py takes them")
    if folder is not None and words:
        raise UserError(f"{words[0]} does not go with a folder: give {folder} alone, or dataset=image_folder ...")
    if folder is not None and not folder.is_dir():
        raise UserError(f"{folder} is no folder: expected one with a folder of images per class")


def evaluate(model: Model, data: ImageDataModule, split: str = "test") -> Evaluation:
    """Measures a model as it is.

    Args:
        model: Of ``deploy.load``.
        data: Labelled by the model's outputs; see ``deploy.data.data_of``.
        split: ``train``, ``val`` or ``test``.

    Raises:
        UserError: A split without images, logits that are not finite.
    """
    import torch

    from deploy.data import batches
    from deploy.measures import Evaluation

    if not data.num_images(split):
        raise UserError(f"{data.name} has no image of the network's classes in its {split} split")
    logits, labels = [], []
    with torch.no_grad(), progress("evaluating", data.num_images(split)) as advance:
        for images, numbers in batches(data, split):
            logits.append(model(images.to(model.device)).float().cpu())
            labels.append(numbers)
            for _ in range(len(images)):
                advance()
    found = Evaluation(model.classes, torch.cat(logits), torch.cat(labels))
    if not found.logits.isfinite().all():
        raise UserError(f"{model.origin.path} gives logits that are not finite: look at the images, or tune it anew")
    return found


def _compared(model: Model, found: Evaluation, split: str, *, is_own: bool) -> str | None:
    """What the run itself has found on the same images."""
    from zoo.storage.files import read_json

    if not is_own or model.origin.run_dir is None or not (model.origin.run_dir / "result.json").is_file():
        return None
    result = read_json(model.origin.run_dir / "result.json")
    metrics = result.get("metrics") if isinstance(result, dict) else None
    stored = metrics.get(f"{split}_accuracy") if isinstance(metrics, dict) else None
    if not isinstance(stored, float):
        return None
    if stored == found.accuracy:
        return f"the run itself found the same, {stored:g}"
    return f"the run itself found {stored:g}: its images, its precision or its libraries were others"


def _table(found: Evaluation, content: dict[str, Any]) -> str:
    lines = [
        f"{content['composition']} on {content['data']['name']} ({content['split']}, {content['num_images']} images)",
        f"accuracy {found.accuracy:g}, mean over classes {content['mean_class_accuracy']:g}, "
        f"calibration error {content['expected_calibration_error']:g}, loss {content['loss']:g}",
    ]
    width = max(len(name) for name in found.classes)
    lines.append(f"{'class':<{width}}  images  accuracy  precision      F1")
    rows = content["per_class"]
    if len(rows) > MOST_ROWS:
        rows = sorted(rows, key=lambda row: 2.0 if row["accuracy"] is None else row["accuracy"])[:MOST_ROWS]
        lines[-1] += f"   (the worst {MOST_ROWS} of {len(found.classes)})"
    for row in rows:
        shares = [row["accuracy"], row["precision"], row["f1"]]
        told = "  ".join(f"{'-' if share is None else format(share, '.4f'):>8}" for share in shares)
        lines.append(f"{row['class']:<{max(width, 5)}}  {row['num_images']:>6}  {told}")
    return "\n".join(lines)


def _require_free(output: Path | None, *, overwrite: bool) -> None:
    if output is None:
        return
    require_directory("--output", output)
    taken = [name for name in FILES if (output / name).exists()]
    if taken and not overwrite:
        raise UserError(f"--output={output} holds {', '.join(taken)} already: give another directory, or --overwrite")


def _write(output: Path, found: Evaluation, content: dict[str, Any], names: list[str]) -> None:
    from zoo.storage.files import write_csv, write_json

    probabilities = found.probabilities
    confidence, named = probabilities.max(1)
    columns = ("image", "class", "prediction", "is_right", "confidence", "probability_of_class")
    of_class = probabilities.gather(1, found.labels[:, None])[:, 0]
    values = (found.labels.tolist(), named.tolist(), confidence.tolist(), of_class.tolist())
    rows = [
        (name, found.classes[label], found.classes[output_], int(label == output_), round(best, 6), round(own, 6))
        for name, label, output_, best, own in zip(names, *values, strict=True)
    ]
    write_csv(output / FILES[1], columns, rows)
    write_csv(output / FILES[2], list(content["per_class"][0]), [list(row.values()) for row in content["per_class"]])
    confusion = zip(found.classes, found.confusion().tolist(), strict=True)
    write_csv(output / FILES[3], ["class", *found.classes], [[name, *row] for name, row in confusion])
    write_json(output / FILES[0], content)
