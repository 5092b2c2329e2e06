from __future__ import annotations

import csv
import re

import pytest
import torch
from tuning_stand_ins import Blobs, StandIn

from tuning.figures import confusion_figure
from tuning.fit import tune
from tuning.outcomes import ImageMean, OutcomesCollector
from tuning.report import write_report
from tuning.settings import TuningSettings


def collected(predictions: list[int], labels: list[int], num_classes: int):
    """Outcomes of two batches with these predictions."""
    collector = OutcomesCollector(num_classes)
    logits = torch.nn.functional.one_hot(torch.tensor(predictions), num_classes).float()
    for part in (slice(None, 3), slice(3, None)):
        collector(logits[part], torch.tensor(labels)[part])
    return collector.gathered()


def test_confusions_and_accuracies_by_class() -> None:
    outcomes = collected([0, 1, 1, 2, 0, 2], [0, 0, 1, 2, 2, 2], 4)
    assert outcomes.confusion.tolist() == [[1, 1, 0, 0], [0, 1, 0, 0], [1, 0, 2, 0], [0, 0, 0, 0]]
    assert outcomes.class_accuracies("abcd") == {"a": 0.5, "b": 1.0, "c": pytest.approx(2 / 3), "d": None}
    assert outcomes.top5_accuracy is None


@pytest.mark.parametrize(("num_classes", "expected"), [(20, None), (21, 0.75)])
def test_top5_accuracy_of_many_classes(num_classes: int, expected: float | None) -> None:
    collector = OutcomesCollector(num_classes)
    logits = torch.arange(num_classes, 0, -1.0).expand(4, num_classes)  # the first five are 0 to 4
    collector(logits, torch.tensor([0, 4, 5, 2]))
    assert collector.gathered().top5_accuracy == expected


def test_the_mean_loss_is_that_of_images_and_keeps_what_is_not_finite() -> None:
    loss = ImageMean()
    loss.update(torch.tensor(6.0), 2)
    loss.update(torch.tensor(1.0), 8)
    assert float(loss.compute()) == pytest.approx(0.7)
    loss.update(torch.tensor(float("nan")), 1)
    assert not torch.isfinite(loss.compute())


def test_what_a_training_leaves(tmp_path) -> None:
    network, data = StandIn(), Blobs()
    tuning = TuningSettings(mode="freeze", loss="cross_entropy", norm_stats="frozen", num_epochs=2)
    result = tune(network, data, tuning, run_dir=tmp_path)
    images, labels = data.splits["test"]
    predictions = network(images).argmax(1)
    confusion = [[int(((labels == i) & (predictions == j)).sum()) for j in range(3)] for i in range(3)]
    assert result.outcomes.confusion.tolist() == confusion
    assert result.test_accuracy == pytest.approx(sum(confusion[i][i] for i in range(3)) / len(labels))

    files = write_report(result, ["zero", "one, two", "第三"], tmp_path)
    assert {path.name for path in files.figures} == {"training.png", "confusion.png"}
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in files.figures)
    with files.table.open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["class", "zero", "one, two", "第三"]
    assert [[row[0], *map(int, row[1:])] for row in rows] == [
        [name, *counts] for name, counts in zip(header[1:], confusion, strict=True)
    ]


def test_an_untrained_and_untested_network_leaves_nothing(tmp_path) -> None:
    result = tune(StandIn(), Blobs(), TuningSettings(mode="probe", num_epochs=0), run_dir=tmp_path, test=False)
    files = write_report(result, "abc", tmp_path)
    assert (files.figures, files.table) == ((), None)


@pytest.mark.parametrize(("num_classes", "has_all"), [(30, True), (31, False), (400, False)])
def test_names_stay_legible(num_classes: int, has_all: bool, tmp_path) -> None:
    confusion = torch.eye(num_classes, dtype=torch.int64).mul(9)
    confusion[3, 7] = 5
    names = [f"class <{i}> & $more$" for i in range(num_classes)]
    path = confusion_figure(tmp_path / "confusion.png", confusion.numpy(), names)
    drawn = path.with_suffix(".svg").read_text()
    told = [number for number in range(num_classes) if re.search(rf"class (<|&lt;){number}(>|&gt;)", drawn)]
    assert told == (list(range(num_classes)) if has_all else [3, 7])
