"""Shared fixtures. Torch is pinned to one thread: parallel test workers share the two cores of the smallest machine."""

import torch

torch.set_num_threads(1)
