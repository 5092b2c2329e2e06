"""Checkpoints as other people's training code writes them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch.optim.swa_utils import AveragedModel

from tests.zoo.checkpoint_stand_ins import State, load, refusal, same, small
from zoo.errors import UserError
from zoo.weights import Weights

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


def test_what_is_missing_of_a_layer_is_skipped_alone_and_a_wrong_type_is_told_as_such(trained: State, file: Path):
    torch.save({key: tensor for key, tensor in trained.items() if key != "fc.bias"}, file)
    told = refusal(file)
    assert "missing: fc.bias" in told
    assert "set weights: {skip: [fc.bias]}" in told
    assert "num_classes" not in told
    assert torch.equal(load(file, skip=("fc.bias",))["fc.weight"], trained["fc.weight"])
    torch.save({**trained, "fc.weight": trained["fc.weight"].int()}, file)
    told = refusal(file)
    assert "of another type: fc.weight int32 for float32" in told
    assert "shape" not in told
    assert "store them as floating point numbers" in told


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
@pytest.mark.parametrize("model", ["test_vit", "mobileone_s0"])  # the second reads the image by two convolutions
def test_channels_of_a_file_become_what_timm_makes_of_published_weights(file: Path, model: str, channels: int):
    colour = timm.create_model(model)
    torch.save(colour.state_dict(), file)
    overlay = {"state_dict": dict(colour.state_dict())}
    expected = timm.create_model(model, pretrained=True, in_chans=channels, pretrained_cfg_overlay=overlay)
    assert same(load(file, timm.create_model(model, in_chans=channels)), expected.state_dict())


def test_a_convolution_of_another_width_is_no_matter_of_classes(trained: State, file: Path):
    trained["stem.weight"] = trained["stem.weight"][:, :, :1, :1]
    torch.save(trained, file)
    assert "num_classes" not in refusal(file)


def test_negative_variances_are_told_by_the_tensor(file: Path):
    state = timm.create_model("test_byobnet").state_dict()
    key = next(key for key in state if key.endswith("running_var"))
    state[key][:3] = -1.0
    torch.save(state, file)
    with pytest.raises(UserError, match=rf"{key} of .* holds 3 negative variances"):
        load(file, timm.create_model("test_byobnet"))


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
    for expected in (right, right[:8], f"sha256:{right}", right.upper()):
        assert same(load(file, sha256=expected), trained)
    damaged = bytearray(file.read_bytes())
    damaged[-1] ^= 1
    file.write_bytes(damaged)
    assert f"expected {right[:12]}" in refusal(file, sha256=right)
    for wrong in (right[:7], "not hexadecimal", right + "0", ""):
        with pytest.raises(UserError, match=r"weights.sha256: got '.*', expected 8 to 64 hexadecimal digits"):
            Weights(file="x.safetensors", sha256=wrong)
