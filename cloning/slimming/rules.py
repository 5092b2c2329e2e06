"""How each operation of a forward hands on the tags of its inputs. What has no rule keeps its units as they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from cloning.slimming.tags import NOTHING, ZERO, Tags, Ties, nothing, varies

Lookup = Callable[[Any], Tags | None]

SAME = ("clone", "contiguous", "detach", "alias", "lift_fresh", "_to_copy", "dropout", "native_dropout")
RESHAPES = ("view", "_unsafe_view", "reshape", "_reshape_alias")
MOVES = (
    *("expand", "squeeze", "slice", "select", "unbind", "split", "split_with_sizes", "chunk", "roll", "flip", "repeat"),
    *("index", "index_select", "narrow", "pixel_shuffle", "pixel_unshuffle"),
)
TURNS = ("permute", "transpose", "t", "unsqueeze")
JOINS = ("cat", "stack")
ZERO_TO_ZERO = (
    *("relu", "gelu", "silu", "hardswish", "hardtanh", "leaky_relu", "elu", "tanh", "mish", "neg", "abs", "sqrt"),
    *("relu6", "erf", "sin", "sign"),
)
ELEMENTWISE = (
    *("sigmoid", "hardsigmoid", "exp", "softplus", "clamp", "clamp_min", "clamp_max", "log", "cos", "rsqrt", "pow"),
)
PRODUCTS, SUMS = ("mul", "div"), ("add", "sub", "maximum", "minimum")
POOLS = (
    *("avg_pool2d", "max_pool2d", "max_pool2d_with_indices", "adaptive_avg_pool2d", "_adaptive_avg_pool2d"),
    *("adaptive_max_pool2d", "upsample_nearest2d", "upsample_bilinear2d", "upsample_bicubic2d"),
)
REDUCTIONS = ("mean", "sum", "amax")
NORMS = ("native_batch_norm", "cudnn_batch_norm", "_native_batch_norm_legit_no_training", "_batch_norm_no_update")
SOFTMAXES = ("_softmax", "_safe_softmax", "_log_softmax")


def hand_on(ties: Ties, name: str, args: tuple, kwargs: dict, out: Any, tags_of: Lookup) -> Any:
    """The tags of an operation's output: ``Tags`` or ``None``, or a list of them where it gives several tensors."""
    rule = RULES.get(name.removesuffix("_") if name not in RULES else name)
    return None if rule is None else rule(ties, args, kwargs, out, tags_of)


def _same(ties: Ties, args: tuple, kwargs: dict, out: Any, tags_of: Lookup) -> Tags | None:
    return tags_of(args[0])


def _elementwise(ties: Ties, args: tuple, kwargs: dict, out: Any, tags_of: Lookup) -> Tags | None:
    tags = tags_of(args[0])
    return tags and tags.without_gates()


def _reshape(ties: Ties, args: tuple, kwargs: dict, out: Tensor, tags_of: Lookup) -> Tags | None:
    tags = tags_of(args[0])
    return tags and tags.full(args[0].shape).map(lambda tag: tag.reshape(out.shape)).compact()


def _turn(name: str, ties: Ties, args: tuple, kwargs: dict, out: Tensor, tags_of: Lookup) -> Tags | None:
    tags = tags_of(args[0])
    return tags and tags.map(lambda tag: getattr(torch.ops.aten, name)(tag, *args[1:], **kwargs))


def _move(name: str, ties: Ties, args: tuple, kwargs: dict, out: Any, tags_of: Lookup) -> Any:
    tags = tags_of(args[0])
    if tags is None:
        return None
    operation = getattr(torch.ops.aten, name)
    moved = tags.full(args[0].shape).map(lambda tag: operation(tag, *args[1:], **kwargs))
    if isinstance(out, Tensor):
        return moved.compact()
    return [Tags(*pair).compact() for pair in zip(moved.unit, moved.gate, strict=True)]


def _join(name: str, ties: Ties, args: tuple, kwargs: dict, out: Tensor, tags_of: Lookup) -> Tags | None:
    parts = [tags_of(part) for part in args[0]]
    if not any(parts):
        return None
    filled = [(tags or nothing(part.ndim)).full(part.shape) for tags, part in zip(parts, args[0], strict=True)]
    operation = getattr(torch.ops.aten, name)
    columns = ([getattr(tags, key) for tags in filled] for key in ("unit", "gate"))
    return Tags(*(operation(column, *args[1:], **kwargs) for column in columns)).compact()


def _pad(ties: Ties, args: tuple, kwargs: dict, out: Tensor, tags_of: Lookup) -> Tags | None:
    tags = tags_of(args[0])
    value = args[2] if len(args) > 2 else kwargs.get("value", 0)
    if tags is None or value != 0:
        return None
    pad = torch.ops.aten.constant_pad_nd
    tags = tags.full(args[0].shape)
    return Tags(pad(tags.unit, args[1], ZERO), pad(tags.gate, args[1], 0)).compact()


def _binary(is_product: bool, ties: Ties, args: tuple, kwargs: dict, out: Tensor, tags_of: Lookup) -> Tags | None:
    a, b = args[:2]
    if not isinstance(a, Tensor) or not isinstance(b, Tensor):
        tags = tags_of(a if isinstance(a, Tensor) else b)
        return tags and (tags if is_product else tags.without_gates())
    return _merged(ties, (a, b), tags_of, is_product=is_product, is_sum=not is_product)


def _merged(
    ties: Ties, operands: tuple[Tensor, Tensor], tags_of: Lookup, *, is_product: bool, is_sum: bool
) -> Tags | None:
    parts = [tags_of(operand) for operand in operands]
    if not any(parts):
        return None
    a, b = (tags or nothing(operand.ndim) for tags, operand in zip(parts, operands, strict=True))
    if is_sum and all(parts) and not any(map(tags_of.is_of_parameters, operands)):
        for tags in parts:  # two ways meet: the stream keeps its width
            ties.keep(tags.unit)
        return None
    if tags_of.is_of_parameters(operands[1]):
        b = _shared_out(a, b)
    elif tags_of.is_of_parameters(operands[0]):
        operands, a, b = operands[::-1], b, _shared_out(b, a)
    return ties.merge(a, b, [operand.shape for operand in operands], is_product=is_product)


def _shared_out(tags: Tags, parameter: Tags) -> Tags:
    """The tags of a parameter without those of its elements that several units share."""
    units, elements = torch.broadcast_tensors(tags.unit, parameter.unit)
    there = (units > 0) & (elements > 0)
    pairs = torch.stack([elements[there], units[there]]).unique(dim=1)[0]
    values, counts = pairs.unique(return_counts=True)
    shared = torch.isin(parameter.unit, values[counts > 1])
    return Tags(torch.where(shared, NOTHING, parameter.unit), parameter.gate)


def _pool(ties: Ties, args: tuple, kwargs: dict, out: Any, tags_of: Lookup) -> Any:
    tags = tags_of(args[0])
    first = out if isinstance(out, Tensor) else out[0]
    if tags is None or first.ndim != 4:
        return None
    units, gates = by_channel(ties, tags, 1, first.shape[1])
    pooled = Tags(*(values.view(1, -1, 1, 1) for values in (units, gates)))
    return pooled if isinstance(out, Tensor) else [pooled, *(None for _ in out[1:])]


def _reduction(ties: Ties, args: tuple, kwargs: dict, out: Tensor, tags_of: Lookup) -> Tags | None:
    tags = tags_of(args[0])
    if tags is None or len(args) < 2 or not isinstance(args[1], (list, tuple, int)):
        return None
    dims = [args[1]] if isinstance(args[1], int) else list(args[1])
    for dim in dims:
        if varies(tags.unit, dim) or varies(tags.gate, dim):
            return None
    if out.ndim == args[0].ndim:
        return tags.map(lambda tag: tag.amax(dims, keepdim=True))
    return tags.map(lambda tag: tag.amax(dims))


def _batch_norm(ties: Ties, args: tuple, kwargs: dict, out: Any, tags_of: Lookup) -> Any:
    tags = tags_of(args[0])
    if tags is None:
        return None
    shape = [1, -1] + [1] * (args[0].ndim - 2)
    for parameter in args[1:5]:
        values = tags_of(parameter) if isinstance(parameter, Tensor) else None
        if values is not None:
            values = _shared_out(tags, values.map(lambda tag: tag.view(shape)))
            tags = ties.merge(tags, values, [args[0].shape, torch.Size(values.unit.shape)], is_product=False)
    return [tags.without_gates(), *(None for _ in out[1:])]


def _layer_norm(ties: Ties, args: tuple, kwargs: dict, out: Any, tags_of: Lookup) -> Any:
    tags = tags_of(args[0])
    if tags is None:
        return None
    units = tags.unit
    for dim in range(-len(args[1]), 0):
        units = ties.tie_along(units, dim)
    tags = Tags(units, torch.zeros_like(units))
    for parameter in args[2:4]:
        values = tags_of(parameter) if isinstance(parameter, Tensor) else None
        if values is not None:
            shapes = [args[0].shape, parameter.shape]
            tags = ties.merge(tags, _shared_out(tags, values), shapes, is_product=False)
    return [tags, *(None for _ in out[1:])]


def _softmax(ties: Ties, args: tuple, kwargs: dict, out: Tensor, tags_of: Lookup) -> Tags | None:
    tags = tags_of(args[0])
    if tags is None:
        return None
    units = ties.tie_along(tags.unit, args[1])
    return Tags(units, torch.zeros_like(units))


def _matmul(ties: Ties, args: tuple, kwargs: dict, out: Tensor, tags_of: Lookup) -> Tags | None:
    a, b = args[-2:] if isinstance(args[-1], Tensor) else args[:2]
    left, right = tags_of(a), tags_of(b)
    if left is None and right is None:
        return None
    units = []
    for tags, other, dim in ((left, right, -1), (right, left, -2)):
        if tags is None or (other is None and varies(tags.unit, dim)):
            if tags is not None:
                ties.keep(tags.unit)
            units.append(torch.zeros((1,) * out.ndim, dtype=torch.int64))
        else:
            units.append(ties.tie_along(tags.unit, dim))
    ties.tie(*units)
    found = torch.maximum(*torch.broadcast_tensors(*units))
    return Tags(found, torch.zeros_like(found))


def _attention(ties: Ties, args: tuple, kwargs: dict, out: Any, tags_of: Lookup) -> Any:
    parts = [tags_of(part) for part in args[:3]]
    if not all(parts):
        return None
    heads = [ties.tie_along(ties.tie_along(tags.unit, -1), -2) for tags in parts]
    for other in heads[1:]:
        ties.tie(heads[0], other)
    mask = next((x for x in (*args[3:], kwargs.get("attn_mask")) if isinstance(x, Tensor)), None)
    if mask is not None and (values := tags_of(mask)) is not None:
        whole = Tags(heads[0], torch.zeros_like(heads[0]))
        shape = torch.Size((*args[0].shape[:2], *mask.shape[-2:]))
        ties.merge(whole, _shared_out(whole, values), [shape, mask.shape], is_product=False)
    tags = Tags(heads[0], torch.zeros_like(heads[0]))
    return tags if isinstance(out, Tensor) else [tags, *(None for _ in out[1:])]


def by_channel(ties: Ties, tags: Tags, axis: int, num_channels: int) -> tuple[Tensor, Tensor]:
    """The unit and the gate of every channel, (C,) each; what is not the same all over a channel stays as it is."""
    units, gates = torch.broadcast_tensors(tags.unit, tags.gate)
    units, gates = (tag.movedim(axis, 0).flatten(1) for tag in (units, gates))
    units, gates = (tag.expand(num_channels, -1) for tag in (units, gates))
    unit = units.amax(1)
    mixed = ((units != unit[:, None]) & (units != ZERO)).any(1)
    ties.keep(units[mixed])
    gate = gates.amax(1)
    uneven = ((gates != gate[:, None]) & (units != ZERO)).any(1)
    return torch.where(mixed, NOTHING, unit).clamp_min(0), torch.where(mixed | uneven, 0, gate)


RULES: Mapping[str, Callable] = {
    **dict.fromkeys((*SAME, *ZERO_TO_ZERO), _same),
    **dict.fromkeys(ELEMENTWISE, _elementwise),
    **dict.fromkeys(RESHAPES, _reshape),
    **{name: partial(_turn, name) for name in TURNS},
    **{name: partial(_move, name) for name in MOVES},
    **{name: partial(_join, name) for name in JOINS},
    **dict.fromkeys(PRODUCTS, partial(_binary, True)),
    **dict.fromkeys(SUMS, partial(_binary, False)),
    **dict.fromkeys(POOLS, _pool),
    **dict.fromkeys(REDUCTIONS, _reduction),
    **dict.fromkeys(NORMS, _batch_norm),
    **dict.fromkeys(SOFTMAXES, _softmax),
    **dict.fromkeys(("mm", "bmm", "addmm", "baddbmm"), _matmul),
    **dict.fromkeys(
        (
            "_scaled_dot_product_flash_attention_for_cpu",
            "_scaled_dot_product_efficient_attention",
            "_scaled_dot_product_flash_attention",
            "_scaled_dot_product_fused_attention_overrideable",
            "scaled_dot_product_attention",
        ),
        _attention,
    ),
    "native_layer_norm": _layer_norm,
    "constant_pad_nd": _pad,
}
