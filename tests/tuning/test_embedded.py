from __future__ import annotations

import copy

import pytest
import torch

from datamodules import Digits
from launch.errors import CONF
from reassembly.network import AssembledNetwork, assemble
from tuning.fit import tune
from tuning.settings import CROSS_ENTROPY_RATES, TuningSettings
from zoo.blueprint import AdapterSpec, BlockSpec, HeadSpec, ReassemblyBlueprint
from zoo.digests import digest
from zoo.loading import load_chain
from zoo.registry import read_zoo


@pytest.fixture(scope="module")
def assembly() -> tuple[AssembledNetwork, Digits]:
    zoo = read_zoo(CONF / "zoo" / "embedded.yaml")
    chains = {name: load_chain(zoo[name]) for name in ("resnext_low", "mobilenetv3_rotation")}
    first, second = (len(chain) - 1 for chain in chains.values())
    data = Digits(num_train=80, num_validation=60, num_test=60)
    data.use_input(zoo["resnext_low"].input)
    blueprint = ReassemblyBlueprint(
        blocks=(BlockSpec("resnext_low", (0, first // 2)), BlockSpec("mobilenetv3_rotation", (second // 2, second))),
        adapters=(AdapterSpec(kernel_size=1, initialisation="random"),),
        head=HeadSpec(classes=data.class_names),
        networks={name: digest(chain.network) for name, chain in chains.items()},
    )
    return assemble(blueprint, chains), data


@pytest.mark.parametrize("mode", ["freeze", "full", "probe"])
def test_tuning_an_assembly_of_the_embedded_zoo(mode, assembly, tmp_path):
    original, data = assembly
    network = copy.deepcopy(original)
    result = tune(network, data, TuningSettings(mode=mode, num_epochs=2), run_dir=tmp_path)
    assert result.loss == ("cross_entropy" if mode == "probe" else "loo")
    assert result.val_accuracies[result.choice] == max(result.val_accuracies.values())
    assert result.test_accuracy > 0.5
    before = original.state_dict()
    frozen = {"freeze": ("blocks.", "neck."), "full": (), "probe": ("blocks.", "neck.", "adapters.")}[mode]
    for name, tensor in network.state_dict().items():
        assert not name.startswith(frozen) or torch.equal(tensor, before[name]), name


@pytest.mark.parametrize("loss", ["loo", "cross_entropy"])
def test_the_defaults_end_no_lower_than_they_start_without_a_guard(loss, assembly, tmp_path):
    original, data = assembly
    network = copy.deepcopy(original)
    tuning = TuningSettings(mode="full", num_epochs=3, loss=loss, guard=False)
    result = tune(network, data, tuning, run_dir=tmp_path, test=False)
    assert result.choice == "refitted"
    start, end = result.val_accuracies["start"], result.val_accuracies["refitted"]
    assert end > start - 2 * (start * (1 - start) / data.num_images("val")) ** 0.5
    rates = {group["name"].split(",")[0]: group["learning_rate"] for group in result.parameter_groups}
    if loss == "loo":  # the head is solved, and follows
        assert set(rates.values()) == {rates["adapters"]}
        return
    scale, decay = CROSS_ENTROPY_RATES
    depths = {f"{origin.network}[{origin.node}]": origin.depth_from_end for origin in original.origins().values()}
    assert rates.keys() == {*depths, "adapters", "head"}
    assert all(rates[name] == pytest.approx(rates["head"] * scale * decay**depth) for name, depth in depths.items())
