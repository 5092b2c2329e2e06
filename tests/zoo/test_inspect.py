from __future__ import annotations

import pytest
import torch
from torch import nn

from zoo import Chain
from zoo.__main__ import chain_table, main
from zoo.digests import digest
from zoo.loading import load_network
from zoo.registry import read_zoo


def test_every_node_is_a_row(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "timm:resnet18"]) == 0
    rows = [line.split("│")[1:-1] for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    cells = [[cell.strip() for cell in row] for row in rows]
    assert cells[0] == ["0", "stem", "conv1 bn1 act1 maxpool", "NCHW 3 @224x224", "1", "9,536", "118,013,952"]
    assert cells[8] == ["8", "block", "layer4.1", "NCHW 512 @7x7", "32", "4,720,640", "231,211,008"]
    assert cells[9][:3] == ["9", "head", "global_pool fc"]
    assert cells[10][1:] == ["whole", "gives NC 1000", "", "", "11,689,512", "1,814,073,344"]
    assert cells[11][1:] == ["neck", "gives NC 512", "", "", "0", "0"]


def test_the_digest_is_that_of_recipes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "vit_digits"]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith(f"digest {digest(load_network(read_zoo('embedded')['vit_digits']))}, ")


def test_random_weights_need_no_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "vit_digits", "--random"]) == 0
    assert "vit_digits: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("network", "told"),
    [
        ("timm:resnet1818", "timm has no model 'resnet1818'"),
        ("no_such_network", "no network 'no_such_network'"),
        ("no_such_module:factory", "no_such_module"),
        ("timm:", "'timm:' names no network: write timm:NAME"),
        ("torchvision", "'torchvision' names no network"),
        (":factory", "':factory' names no network"),
    ],
)
def test_unknown_networks_are_told_in_one_line(network: str, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", network]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("error: ")
    assert told in output.err
    assert output.err.count("\n") == 1


def test_module_names_that_look_like_markup_are_printed_as_they_are() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(64, 2))
    table = chain_table(Chain.from_network(network, torch.zeros(1, 3, 8, 8)))
    assert table.row_count == 5
