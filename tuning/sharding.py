"""Networks in shards (FSDP2): every process keeps a part of each parameter, and a node is whole only while it runs.

The network that is tuned stays whole in the CPU memory of every process: there its head is solved, its states are
compared and its files are written. What runs, in training, validation and closed forms, is a copy of it in shards.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Shard

from tuning.distributed import world_size
from tuning.freezing import has_running_statistics
from zoo.chain.program import Block, get_attribute

if TYPE_CHECKING:
    from pytorch_lightning.strategies import Strategy
    from torch.distributed.device_mesh import DeviceMesh

_MESH: ContextVar[DeviceMesh | None] = ContextVar("mesh", default=None)


@contextmanager
def passes_in_shards(mesh: DeviceMesh | None) -> Iterator[None]:
    """Inside, passes over images run on copies in shards (``runner``); with None as everywhere else."""
    token = _MESH.set(mesh)
    try:
        yield
    finally:
        _MESH.reset(token)


def runs_in_shards() -> bool:
    """Whether passes run on shards, which all processes have to go through together, batch by batch."""
    return _MESH.get() is not None


def runner(module: nn.Module) -> nn.Module:
    """What a pass over images runs instead of a whole module: its copy in shards where passes are in shards."""
    mesh = _MESH.get()
    if mesh is None or is_sharded(module):
        return module
    module = copy.deepcopy(module)
    shard(module if isinstance(module, nn.Sequential) else [module], mesh)
    return module


def mesh_of(strategy: Strategy) -> DeviceMesh | None:
    """Of all processes, in one dimension, where a strategy shards; its processes are connected."""
    return getattr(strategy, "device_mesh", None)


def trained_by(strategy: Strategy, network: nn.Module, body: nn.Sequential) -> tuple[nn.Module, nn.Sequential]:
    """What a strategy trains: a network and the stages of it that run, or copies of both in shards.

    Args:
        network: With a ``head``, which runs by itself; what neither head nor body run is in shards, too, and stays so.
        body: Modules that run one after the other, and are parts of the network.
    """
    mesh = mesh_of(strategy)
    if mesh is None or is_sharded(network):
        return network, body
    network, body = copy.deepcopy((network, body))
    shard([*body, network.head], mesh, rest=network)
    return network, body


def shard(stages: Iterable[nn.Module], mesh: DeviceMesh, *, rest: nn.Module | None = None) -> None:
    """Turns the parameters of stages into shards, in place: those of each node of a block, and then what is left.

    ``rest`` is what else there is, beside stages of it: it never runs.

    A parameter is left whole where it is a single number, no floating-point number, or part of several stages; where
    it is trained its gradient is the mean over the processes, like that of the others.
    """
    from torch.distributed.fsdp import fully_shard

    stages = list(stages)
    everything = [*stages, *([] if rest is None else [rest])]
    times = Counter(id(parameter) for stage in stages for parameter in stage.parameters())
    whole = {
        parameter
        for module in everything
        for parameter in module.parameters()
        if parameter.dim() == 0 or not parameter.is_floating_point() or times[id(parameter)] > 1
    }
    for parameter in whole:
        parameter.data = parameter.data.to(mesh.device_type)
        if parameter.requires_grad:
            parameter.register_hook(_mean_over_processes)
    for stage in everything:
        blocks = [module for module in stage.modules() if isinstance(module, Block)]
        for module in (*(node for block in blocks for node in _nodes(block)), *blocks, stage):
            left = [p for p in module.parameters() if not isinstance(p, DTensor) and p not in whole]
            if left:
                for parameter in left:
                    parameter.data = parameter.data.contiguous()
                fully_shard(module, mesh=mesh, reshard_after_forward=True, ignored_params=whole)


def _nodes(block: Block) -> list[nn.Module]:
    """The nodes of a block that nothing but themselves reads the parameters of."""
    nodes = block.nodes()
    steps = block.program.steps
    read = {id(get_attribute(block, step.target)) for step in steps if step.kind == "attribute"}
    times = Counter(id(parameter) for node in nodes for parameter in node.parameters())
    return [node for node in nodes if all(id(p) not in read and times[id(p)] == 1 for p in node.parameters())]


def _mean_over_processes(gradient: Tensor) -> Tensor:
    gradient = gradient / world_size()
    dist.all_reduce(gradient)
    return gradient


def is_sharded(module: nn.Module) -> bool:
    """Whether any parameter of it is in shards."""
    return any(isinstance(parameter, DTensor) for parameter in module.parameters())


def local(tensor: Tensor) -> Tensor:
    """What this process has of a tensor, in place; all of it where it is not in shards."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def like(values: Tensor, tensor: Tensor) -> Tensor:
    """What this process has of a tensor's shape, as the shards of a tensor where that is in shards."""
    if not isinstance(tensor, DTensor):
        return values
    options = {"run_check": False, "shape": tensor.shape, "stride": tensor.stride()}
    return DTensor.from_local(values, tensor.device_mesh, tensor.placements, **options)


def empty(size: torch.Size, dtype: torch.dtype, mesh: DeviceMesh) -> DTensor:
    """A tensor in shards as ``shard`` makes them, of any values."""
    import torch.distributed.tensor as tensors

    return tensors.empty(size, dtype=dtype, device_mesh=mesh, placements=[Shard(0)])


@torch.no_grad()
def copy_whole(source: nn.Module, target: nn.Module) -> None:
    """Gives a whole module the values of its copy in shards; all processes have to."""
    values = source.state_dict()
    for name, tensor in target.state_dict().items():
        found = values[name]
        tensor.copy_(found.full_tensor() if isinstance(found, DTensor) else found)


@contextmanager
@torch.no_grad()
def whole(layer: nn.Linear) -> Iterator[nn.Linear]:
    """A linear layer to write into: the layer itself, or for one in shards a whole one, whose values it then takes."""
    if not is_sharded(layer):
        yield layer
        return
    there = nn.utils.skip_init(nn.Linear, layer.in_features, layer.out_features, dtype=layer.weight.dtype)
    there = there.to(layer.weight.device)
    copy_whole(layer, there)
    yield there
    for name, parameter in layer.named_parameters():
        _take(parameter, there.get_parameter(name))


def _take(tensor: Tensor, values: Tensor) -> None:
    """Writes this process's rows of whole values."""
    if not isinstance(tensor, DTensor):
        tensor.copy_(values)
        return
    parts = torch.chunk(values, tensor.device_mesh.size(), dim=0)  # as Shard(0) deals rows out
    rank = tensor.device_mesh.get_local_rank()
    if rank < len(parts):
        tensor.to_local().copy_(parts[rank])


@torch.no_grad()
def clip_gradients(parameters: Iterable[nn.Parameter], limit: float, *, by_value: bool = False) -> None:
    """Scales gradients so that their norm over all shards is at most ``limit``, or cuts every value off there.

    As ``clip_grad_norm_`` and ``clip_grad_value_`` do.
    """
    found = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not found:
        return
    if by_value:
        for gradient in found:
            local(gradient).clamp_(-limit, limit)
        return
    shares = torch.stack([local(g).square().sum() / (1 if isinstance(g, DTensor) else world_size()) for g in found])
    norm = shares.sum()
    if world_size() > 1:
        dist.all_reduce(norm)
    torch._foreach_mul_([local(g) for g in found], (limit / (norm.sqrt() + 1e-6)).clamp(max=1.0))


def adapting_statistics(module: nn.Module) -> list[Tensor]:
    """The buffers of normalisations in training mode, each process's of its own images."""
    norms = [part for part in module.modules() if part.training and has_running_statistics(part)]
    return [buffer for norm in norms for buffer in norm.buffers(recurse=False)]
