"""A ViT of DINOv2's shape out of an ONNX file that PyTorch exported with transformers' names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo.errors import FOREIGN_FAULTS, UserError, reason

_PREFIX = "backbone."
_EMBEDDING = "embeddings.patch_embeddings.projection"
_PER_LAYER = {
    "norm1.weight": "norm1.weight",
    "norm1.bias": "norm1.bias",
    "attention.output.dense.bias": "attn.proj.bias",
    "layer_scale1.lambda1": "ls1.gamma",
    "norm2.weight": "norm2.weight",
    "norm2.bias": "norm2.bias",
    "mlp.fc1.bias": "mlp.fc1.bias",
    "mlp.fc2.bias": "mlp.fc2.bias",
    "layer_scale2.lambda1": "ls2.gamma",
}


def dinov2(path: Path) -> dict[str, Tensor]:
    """The state of timm's `vit_*_patch14_dinov2`, float32.

    Exports keep the names of what is stored as it is, biases and norms. The kernels of linear layers are transposed
    and lose theirs: which is which, the graph says, where each is multiplied and then added to its bias. Query, key and
    value are joined, as timm has them; position embeddings (class token, grid) likewise.

    Raises:
        UserError: Not ONNX, external data, or another network.
    """
    graph = _graph(path)
    names = {tensor.name: tensor for tensor in graph.initializer}
    kernels = _kernels_by_bias(graph)

    def tensor(name: str) -> Tensor:
        from onnx import numpy_helper

        if name not in names:
            raise UserError(f"{path} has no {name!r}: not a ViT of DINOv2's shape that was exported with its names")
        return torch.from_numpy(np.array(numpy_helper.to_array(names[name])))

    def kernel(bias: str) -> Tensor:
        if bias not in kernels:
            raise UserError(f"{path}: no matrix is multiplied before {bias!r} is added")
        return tensor(kernels[bias]).T.contiguous()

    class_position, grid = _position_embeddings(names, path)
    state = {
        "cls_token": tensor(f"{_PREFIX}embeddings.cls_token"),
        "pos_embed": torch.cat([tensor(class_position), tensor(grid)], dim=1),
        "patch_embed.proj.weight": tensor(f"{_PREFIX}{_EMBEDDING}.weight"),
        "patch_embed.proj.bias": tensor(f"{_PREFIX}{_EMBEDDING}.bias"),
        "norm.weight": tensor(f"{_PREFIX}layernorm.weight"),
        "norm.bias": tensor(f"{_PREFIX}layernorm.bias"),
    }
    depth = sum(name.startswith(f"{_PREFIX}encoder.layer.") and name.endswith(".norm1.weight") for name in names)
    for i in range(depth):
        layer, block = f"{_PREFIX}encoder.layer.{i}", f"blocks.{i}"
        state |= {f"{block}.{ours}": tensor(f"{layer}.{theirs}") for theirs, ours in _PER_LAYER.items()}
        joined = [f"{layer}.attention.attention.{part}.bias" for part in ("query", "key", "value")]
        state[f"{block}.attn.qkv.weight"] = torch.cat([kernel(bias) for bias in joined])
        state[f"{block}.attn.qkv.bias"] = torch.cat([tensor(bias) for bias in joined])
        for theirs, ours in (("attention.output.dense", "attn.proj"), ("mlp.fc1", "mlp.fc1"), ("mlp.fc2", "mlp.fc2")):
            state[f"{block}.{ours}.weight"] = kernel(f"{layer}.{theirs}.bias")
    return state


def _graph(path: Path) -> Any:
    try:
        import onnx
    except ImportError as error:
        raise UserError(f"{path} is read with onnx, which is not installed; type: pip install onnx") from error
    try:
        graph = onnx.load(str(path), load_external_data=False).graph
    except FOREIGN_FAULTS as error:
        raise UserError(f"{path} is damaged or not ONNX: {reason(error)}") from error
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in graph.initializer):
        raise UserError(f"{path} keeps its tensors in other files; save it in one: onnx.save(onnx.load(...), ...)")
    return graph


def _kernels_by_bias(graph: Any) -> dict[str, str]:
    """The matrix that was multiplied before a bias is added, by the bias."""
    matrix_of = {node.output[0]: node.input[1] for node in graph.node if node.op_type == "MatMul"}
    found = {}
    for node in graph.node:
        if node.op_type == "Add":
            multiplied = [matrix_of[name] for name in node.input if name in matrix_of]
            others = [name for name in node.input if name not in matrix_of]
            if len(multiplied) == len(others) == 1:
                found[others[0]] = multiplied[0]
    return found


def _position_embeddings(names: Mapping[str, Any], path: Path) -> tuple[str, str]:
    """Names of the class token's position embedding and the grid's, which exports keep apart and without names.

    They are the only nameless initialisers with three axes of which the first is 1: the token's has one row.
    """
    found = {name: tuple(tensor.dims) for name, tensor in names.items() if name.startswith("onnx::")}
    rows = {name: dims[1] for name, dims in found.items() if len(dims) == 3 and dims[0] == 1}
    single, grids = ([name for name, n in rows.items() if (n == 1) is is_single] for is_single in (True, False))
    if len(single) != 1 or len(grids) != 1:
        raise UserError(f"{path}: expected one position embedding of the class token and one of a grid")
    return single[0], grids[0]
