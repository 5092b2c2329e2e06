"""DINOv2 out of ONNX: the tokens of transformers' own network, whose exports lose the names of kernels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import timm
import torch
from onnx import TensorProto, helper, numpy_helper
from transformers import Dinov2Config, Dinov2Model

from zoo.converters.onnx_vit import dinov2
from zoo.errors import UserError

# transformers 4, by which the file was exported, had other names than 5.
OLD_NAMES = {
    "q_proj": "attention.query",
    "k_proj": "attention.key",
    "v_proj": "attention.value",
    "o_proj": "output.dense",
}


def exported(model: Dinov2Model, path: Path, *, without: str = "") -> None:
    """The initialisers and what tells kernels apart, as PyTorch's exporter leaves them of this network.

    Args:
        model: Of transformers.
        path: To write.
        without: Tensors to leave out, by a part of their name.
    """
    tensors, nodes = {}, []
    for name, value in reversed(list(model.state_dict().items())):  # the order tells nothing
        array = value.numpy()
        for new, old in OLD_NAMES.items():
            name = name.replace(f".attention.{new}.", f".attention.{old}.")
        if name.endswith("position_embeddings"):
            tensors["onnx::Concat_1"], tensors["onnx::Reshape_2"] = array[:, :1], array[:, 1:]
        elif name.endswith(".weight") and array.ndim == 2:
            kernel, bias = f"onnx::MatMul_{len(nodes) + 3}", f"backbone.{name.removesuffix('weight')}bias"
            tensors[kernel] = np.ascontiguousarray(array.T)
            product = f"product_{len(nodes)}"
            nodes.append(helper.make_node("MatMul", ["x", kernel], [product]))
            nodes.append(helper.make_node("Add", [bias, product], [f"sum_{len(nodes)}"]))
        elif "mask_token" not in name:
            tensors[f"backbone.{name}"] = array
    kept = [
        numpy_helper.from_array(array, name) for name, array in tensors.items() if not without or without not in name
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("x", "y")]
    onnx.save(helper.make_model(helper.make_graph(nodes, "network", values[:1], values[1:], kept)), str(path))


@pytest.fixture(scope="module")
def original() -> Dinov2Model:
    torch.manual_seed(0)
    model = Dinov2Model(
        Dinov2Config(hidden_size=48, num_hidden_layers=2, num_attention_heads=2, image_size=42, patch_size=14)
    ).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.3)
    return model


def test_the_tokens_are_those_of_the_original(original: Dinov2Model, tmp_path: Path):
    exported(original, tmp_path / "vit.onnx")
    ours = timm.models.VisionTransformer(
        img_size=42, patch_size=14, embed_dim=48, depth=2, num_heads=2, init_values=1.0, num_classes=0
    ).eval()
    ours.load_state_dict(dinov2(tmp_path / "vit.onnx"))
    images = torch.randn(2, 3, 42, 42, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(ours.forward_features(images), original(images).last_hidden_state)


def test_what_is_not_such_a_network_is_told(original: Dinov2Model, tmp_path: Path):
    path = tmp_path / "vit.onnx"
    for part, told in (
        ("fc1.bias", "no 'backbone.encoder.layer.0.mlp.fc1.bias'"),
        ("Concat", "one position embedding"),
    ):
        exported(original, path, without=part)
        with pytest.raises(UserError, match=told):
            dinov2(path)
    path.write_bytes(b"no protocol buffer")
    with pytest.raises(UserError, match="damaged or not ONNX"):
        dinov2(path)
