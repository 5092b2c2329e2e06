"""Checkpoints as other people's training code writes them."""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from zoo.digests import digest
from zoo.errors import UserError
from zoo.weights import Weights, load_file, weights_sha256

State = Mapping[str, Tensor]


def small(channels: int = 1, classes: int = 2) -> nn.Module:
    body = OrderedDict(stem=nn.Conv2d(channels, 4, 3), norm=nn.BatchNorm2d(4), pool=nn.AdaptiveAvgPool2d(1))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(channels)
        return nn.Sequential(body | {"flatten": nn.Flatten(), "fc": nn.Linear(4, classes)}).eval()


@pytest.fixture
def trained() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(5)
    state = small().state_dict()
    return {key: torch.rand(t.shape, generator=generator).to(t.dtype) for key, t in state.items()}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "weights.pth"


def load(file: Path, network: nn.Module | None = None, **weights: Any) -> dict[str, Tensor]:
    network = network or small()
    load_file(network, Weights(file=str(file), **weights), "net")
    return network.state_dict()


def refusal(file: Path, network: nn.Module | None = None, **weights: Any) -> str:
    network = network or small()
    before = digest(network)
    with pytest.raises(UserError) as found:
        load_file(network, Weights(file=str(file), **weights), "net")
    assert digest(network) == before
    assert "\n" not in str(found.value)
    assert str(found.value).startswith("net: ")
    return str(found.value)


def same(found: State, expected: State) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(found[key], expected[key]) for key in expected)


# Wrappers and prefixes.


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model", "model_ema", "model_state_dict", "net"])
@pytest.mark.parametrize(
    "prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "model.", "net.", "encoder.body."]
)
def test_reads_checkpoints_in_their_wrappers_and_prefixes(trained: State, file: Path, wrapper: str | None, prefix: str):
    state = {prefix + key: tensor for key, tensor in trained.items()}
    torch.save({wrapper: state, "epoch": 3, "best": 0.5} if wrapper else state, file)
    assert same(load(file), trained)


def test_reads_the_averaged_network_of_torch(file: Path):
    averaged = AveragedModel(small())
    torch.save(averaged.state_dict(), file)
    assert same(load(file), averaged.module.state_dict())


def test_reads_a_lightning_checkpoint_with_other_parts_beside_the_network(trained: State, file: Path):
    state = {f"model.{key}": tensor for key, tensor in trained.items()} | {"loss.weight": torch.ones(2)}
    torch.save({"epoch": 1, "pytorch-lightning_version": "2.6", "state_dict": state, "hyper_parameters": {}}, file)
    assert same(load(file), trained)


def test_a_file_with_the_network_twice_asks_which(trained: State, file: Path):
    both = {
        f"{part}.{key}": tensor + i for i, part in enumerate(("student", "teacher")) for key, tensor in trained.items()
    }
    torch.save(both, file)
    assert "weights.key_prefix: student., teacher." in refusal(file)
    assert torch.equal(load(file, key_prefix="teacher.")["fc.bias"], trained["fc.bias"] + 1)


def test_averaged_weights_come_before_the_last_ones(trained: State, file: Path):
    last = {key: torch.zeros_like(tensor) for key, tensor in trained.items()}
    torch.save({"state_dict": last, "state_dict_ema": trained}, file)
    assert same(load(file), trained)
    torch.save({"state_dict": trained, "ema": {"decay": 0.99, "shadow_params": list(last.values())}}, file)
    assert same(load(file), trained)


@pytest.mark.parametrize("prefix", ["backbone.", "module.backbone."])
def test_strips_a_key_prefix_and_leaves_the_rest(trained: State, tmp_path: Path, prefix: str):
    file = tmp_path / "weights.safetensors"
    outer = prefix.removesuffix("backbone.")
    state = {prefix + key: tensor for key, tensor in trained.items()} | {f"{outer}decoder.weight": torch.ones(1)}
    save_file(state, file)
    assert same(load(file, key_prefix=prefix), trained)
    assert "starts with 'encoder.'; its keys are backbone" in refusal(file, key_prefix="encoder.")


# Matching.


def test_fits_foreign_names_by_order(trained: State, file: Path):
    foreign = {f"layer_{i}": value for i, (key, value) in enumerate(trained.items()) if "num_batches" not in key}
    torch.save(foreign, file)
    own = small().state_dict()["norm.num_batches_tracked"]
    assert same(load(file, match="order"), {**trained, "norm.num_batches_tracked": own})
    assert "missing: stem.weight, stem.bias, norm.weight (+" in refusal(file)
    foreign["layer_0"] = foreign["layer_0"].flatten()
    torch.save(foreign, file)
    assert "layer_0 36 meets stem.weight 4x1x3x3" in refusal(file, match="order")
    torch.save(dict(list(foreign.items())[1:]), file)
    assert "layer_1 4 meets stem.weight" in refusal(file, match="order")
    torch.save(dict(list(trained.items())[:-1]), file)
    assert "7 tensors for 8 of the network" in refusal(file, match="order")


def test_a_changed_head_is_skipped_by_order_under_both_names(trained: State, file: Path):
    foreign = {key.replace("fc.", "_head."): tensor for key, tensor in trained.items() if "num_batches" not in key}
    torch.save(foreign, file)
    assert "_head.weight 2x4 meets fc.weight 9x4; weights.skip" in refusal(file, small(classes=9), match="order")
    found = load(file, small(classes=9), match="order", skip=("fc.", "_head."))
    assert torch.equal(found["norm.running_var"], trained["norm.running_var"])


def test_names_what_does_not_fit_key_by_key_shortened(trained: State, file: Path):
    state = dict(trained) | {"fc.weight": torch.zeros(10, 4)} | {f"extra.{i}": torch.ones(1) for i in range(9)}
    del state["stem.bias"]
    torch.save(state, file)
    for told in ("missing: stem.bias", "unexpected: extra.0, extra.1, extra.2 (+6 more)", "fc.weight 10x4 for 2x4"):
        assert told in refusal(file)


def test_counters_that_old_files_lack_are_kept(trained: State, file: Path):
    torch.save({key: tensor for key, tensor in trained.items() if "num_batches" not in key}, file)
    assert torch.equal(load(file)["fc.weight"], trained["fc.weight"])


def test_a_changed_head_is_told_and_can_be_skipped(trained: State, file: Path):
    torch.save(trained, file)
    told = refusal(file, small(classes=10))
    assert "fc.weight 2x4 for 10x4" in told
    assert "set kwargs: {num_classes: 2}, or weights: {skip: [fc.]}" in told
    network = small(classes=10)
    head = network.fc.weight.clone()
    found = load(file, network, skip=("fc.",))
    assert torch.equal(found["fc.weight"], head)
    assert torch.equal(found["stem.weight"], trained["stem.weight"])
    assert "'fcc.'" in refusal(file, skip=("fcc.",))


def test_a_file_without_a_head_says_how_to_leave_it(trained: State, file: Path):
    torch.save({key: tensor for key, tensor in trained.items() if not key.startswith("fc.")}, file)
    assert "missing: fc.weight, fc.bias; set weights: {skip: [fc.]}" in refusal(file)
    assert torch.equal(load(file, skip=("fc.",))["stem.weight"], trained["stem.weight"])


@pytest.mark.parametrize("match", ["name", "order"])
@pytest.mark.parametrize(("given", "wanted"), [(3, 1), (1, 3), (4, 3)])
def test_the_first_convolution_is_converted_so_that_grey_images_give_the_same(
    file: Path, given: int, wanted: int, match: str
):
    source, network = small(given), small(wanted)
    torch.save(source.state_dict(), file)
    load(file, network, match=match)
    grey = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(network(grey.expand(-1, wanted, -1, -1)), source(grey.expand(-1, given, -1, -1)))


@pytest.mark.parametrize("channels", [1, 4])
def test_channels_of_a_file_become_what_timm_makes_of_published_weights(file: Path, channels: int):
    colour = timm.create_model("test_vit")
    torch.save(colour.state_dict(), file)
    overlay = {"state_dict": dict(colour.state_dict())}
    expected = timm.create_model("test_vit", pretrained=True, in_chans=channels, pretrained_cfg_overlay=overlay)
    assert same(load(file, timm.create_model("test_vit", in_chans=channels)), expected.state_dict())


def test_position_embeddings_of_another_size_are_resampled_by_timm(file: Path):
    source = timm.create_model("test_vit", num_classes=3).eval()
    torch.save(source.state_dict(), file)
    network = timm.create_model("test_vit", num_classes=3, img_size=(96, 64)).eval()
    found = load(file, network)
    assert found["pos_embed"].shape != source.pos_embed.shape
    assert torch.equal(found["blocks.0.attn.qkv.weight"], source.blocks[0].attn.qkv.weight)


# Precision.


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_become_that_of_the_network(trained: State, file: Path, dtype: torch.dtype):
    torch.save({k: t.to(dtype) if t.is_floating_point() else t for k, t in trained.items()}, file)
    found = load(file)
    assert found["fc.weight"].dtype == torch.float32
    assert torch.equal(found["fc.weight"], trained["fc.weight"].to(dtype).float())


def test_integers_for_weights_are_refused(trained: State, file: Path):
    torch.save({**trained, "fc.weight": torch.ones(2, 4, dtype=torch.int8)}, file)
    assert "fc.weight int8 for float32" in refusal(file)


# Files.


def test_checks_the_digest_of_the_file(trained: State, tmp_path: Path):
    file = tmp_path / "weights.safetensors"
    save_file(dict(trained), file)
    right = hashlib.sha256(file.read_bytes()).hexdigest()
    for expected in (right, right[:8], f"sha256:{right}"):
        assert same(load(file, sha256=expected), trained)
    damaged = bytearray(file.read_bytes())
    damaged[-1] ^= 1
    file.write_bytes(damaged)
    assert f"expected {right[:12]}" in refusal(file, sha256=right)


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
@pytest.mark.parametrize("content", [b"", b"not weights at all", b"PK\x03\x04 cut short"])
def test_refuses_missing_and_damaged_files(tmp_path: Path, name: str, content: bytes):
    assert f"{name} does not exist; put it there" in refusal(tmp_path / name)
    assert "download https://a.b/c and put it there" in refusal(tmp_path / name, url="https://a.b/c")
    (tmp_path / name).write_bytes(content)
    assert name in refusal(tmp_path / name)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (nn.Linear(2, 2), "torch.nn.modules.linear.Linear"),
        ({"state_dict": {}, "args": argparse.Namespace(lr=1)}, "argparse.Namespace"),
        ({"state_dict": {}, "best": np.float64(0.5)}, "scalar"),
    ],
)
def test_never_runs_code_out_of_a_file_and_says_how_to_convert_it(file: Path, content: Any, told: str):
    torch.save(content, file)
    message = refusal(file)
    assert told in message
    assert "more than tensors" in message
    assert "torch.save(network.state_dict(), 'tensors.pth')" in message


@pytest.mark.parametrize("content", [{"epoch": 3}, {}, [torch.ones(1)], {"state_dict": {"a": 1}}])
def test_refuses_files_without_a_state_dict(file: Path, content: Any):
    torch.save(content, file)
    assert "holds no state dict" in refusal(file)


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning", "ignore:.*torch.jit:DeprecationWarning")
def test_a_torchscript_archive_says_how_to_convert_it(file: Path):
    torch.jit.save(torch.jit.trace(small(), torch.zeros(1, 1, 8, 8)), file)
    assert "torch.jit.load" in refusal(file)


# Shards.


def shards(state: State, folder: Path, suffix: str) -> Path:
    """Writes the state in two files and their index, as Hugging Face does."""
    keys, stem = list(state), "model" if suffix == "safetensors" else "pytorch_model"
    folder.mkdir(exist_ok=True)
    names = {f"{stem}-0000{i + 1}-of-00002.{suffix}": keys[i::2] for i in range(2)}
    for name, part in names.items():
        (save_file if suffix == "safetensors" else torch.save)({key: state[key] for key in part}, folder / name)
    index = folder / f"{stem}.{suffix}.index.json"
    index.write_text(
        json.dumps({"metadata": {}, "weight_map": {k: name for name, part in names.items() for k in part}})
    )
    return index


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_reads_shards_by_their_index_or_their_folder(trained: State, tmp_path: Path, suffix: str):
    index = shards(trained, tmp_path / "model", suffix)
    for file in (index, tmp_path / "model"):
        assert same(load(file), trained)
        first = weights_sha256(Weights(file=str(file)))
        assert same(load(file, sha256=first), trained)
    shards({**trained, "fc.bias": trained["fc.bias"] + 1}, tmp_path / "model", suffix)
    assert weights_sha256(Weights(file=str(index))) != first  # the index alone is the same


def test_refuses_shards_that_are_missing_elsewhere_or_not_what_the_index_says(trained: State, tmp_path: Path):
    index = shards(trained, tmp_path / "model", "safetensors")
    content = json.loads(index.read_text())["weight_map"]
    lost = tmp_path / "model" / content["fc.bias"]
    kept = lost.read_bytes()
    lost.unlink()
    assert f"lacks 1 of its 2 shards: {lost.name}" in refusal(tmp_path / "model")
    save_file({"fc.bias": trained["fc.bias"]}, lost)
    assert re.search(rf"{lost.name} lacks \S+, which {index.name} says", refusal(index))
    lost.write_bytes(kept[:-4])
    assert f"{lost.name}: damaged or truncated" in refusal(index)
    for outside in ("../x.safetensors", "/etc/passwd", "a\\b.bin", "..", ""):
        index.write_text(json.dumps({"weight_map": {**content, "fc.bias": outside}}))
        assert "names files outside of its folder" in refusal(index)
    for wrong in ({}, [], {"weight_map": {}}, {"weight_map": {"a": 1}}):
        index.write_text(json.dumps(wrong))
        assert "expected `weight_map`" in refusal(index)
    assert "is a folder without model.safetensors.index.json" in refusal(tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_reads_the_folder_of_a_single_file(trained: State, tmp_path: Path, name: str):
    (save_file if name.endswith("safetensors") else torch.save)(dict(trained), tmp_path / name)
    assert same(load(tmp_path), trained)


def test_a_wrapped_network_takes_the_file_of_what_it_wraps(trained: State, file: Path):
    torch.save(dict(trained), file)
    wrapper = nn.Module()
    wrapper.network = small()
    assert same(load(file, wrapper), {f"network.{key}": tensor for key, tensor in trained.items()})


# Wrappers by name.


def test_a_wrapper_of_another_name_is_told_and_given_by_key(trained: State, file: Path):
    torch.save({"student": {"weights": dict(trained)}, "model.v2": dict(trained), "epoch": 1}, file)
    assert "it holds student (dict), model.v2 (dict), epoch (int); set weights.key=student" in refusal(file)
    for key in ("student.weights", "model.v2"):
        assert same(load(file, key=key), trained)
    assert "'missing' is not in" in refusal(file, key="student.missing")
    assert "there it holds a int" in refusal(file, key="epoch.weights")
    with pytest.raises(UserError, match="belong to `file`"):
        Weights(hub=True, key="student")


# Damage.


def test_a_flipped_bit_and_a_cut_are_refused(trained: State, file: Path):
    torch.save(dict(trained), file)
    content = file.read_bytes()
    position = content.index(trained["fc.weight"].numpy().tobytes()) + 5
    file.write_bytes(content[:position] + bytes([content[position] ^ 64]) + content[position + 1 :])
    assert "do not fit the checksum" in refusal(file)
    file.write_bytes(content[: len(content) // 2])
    assert f"weights file {file} is truncated" in refusal(file)


def test_the_old_format_is_read_and_said_to_have_no_checksums(
    trained: State, file: Path, caplog: pytest.LogCaptureFixture
):
    torch.save(dict(trained), file, _use_new_zipfile_serialization=False)
    assert same(load(file), trained)
    assert "has no checksums; weights.sha256" in caplog.text
    file.write_bytes(file.read_bytes()[:-9])
    assert "is damaged" in refusal(file)


def test_a_safetensors_file_is_one_under_any_name(trained: State, file: Path):
    save_file(dict(trained), file)
    assert same(load(file), trained)


def zip_of(name: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(name, b"content")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b" \n", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "is a git-lfs pointer .* git lfs pull"),
        (b"\n<!DOCTYPE html><html>Not found</html>", "is a web page"),
        (b"\x89HDF\r\n\x1a\n", "is HDF5"),
        (b"\x93NUMPY\x01\x00", "is a single array of numpy"),
        (b"\x1f\x8b\x08\x00", "is a compressed archive"),
        (b"\x08\x07\x12\x07pytorch", "not written by torch.save"),
        (pickle.dumps({"a": [1.0]}), "is a pickle, not written by torch.save"),
        (zip_of("weight.npy"), "is a zip archive of other things .weight.npy."),
    ],
)
def test_other_files_are_named(tmp_path: Path, content: bytes, told: str):
    file = tmp_path / "weights.bin"
    file.write_bytes(content)
    assert re.search(told, refusal(file))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_are_none_are_refused_with_the_tensor(trained: State, file: Path, value: float):
    bad = trained["fc.weight"].clone()
    bad[1, 2] = value
    torch.save({**trained, "fc.weight": bad}, file)
    assert f"fc.weight of {file} holds 1 NaN or infinite numbers among 8" in refusal(file)
    torch.save({**trained, "fc.weight": torch.full((2, 4), 1e300, dtype=torch.float64)}, file)
    assert "fc.weight" in refusal(file)  # too large for the network's precision


def test_tensors_without_data_are_refused(trained: State, file: Path):
    torch.save({**trained, "fc.weight": torch.empty(2, 4, device="meta")}, file)
    assert "holds no numbers for fc.weight" in refusal(file)


# Packages.


def test_a_file_inside_a_package_is_found_without_importing_it(
    trained: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = tmp_path / "some_weights_package"
    (folder / "models").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('imported')")
    torch.save(dict(trained), folder / "models" / "small.pth")
    monkeypatch.syspath_prepend(tmp_path)
    network = small()
    load_file(network, Weights(file="models/small.pth", package="some_weights_package"), "net")
    assert same(network.state_dict(), trained)


def test_a_package_that_is_not_installed_names_the_command(file: Path):
    assert "type: pip install no-such-weights" in refusal(file, package="no_such_weights")
    with pytest.raises(UserError, match="expected the name that Python imports"):
        Weights(file="x.pth", package="../x")
    with pytest.raises(UserError, match="belong to `file`"):
        Weights(hub=True, package="x")
