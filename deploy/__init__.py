"""What is done with a result: open it, predict with it, measure it, complete it, export it."""

from zoo.lazy import exports

__all__, __getattr__ = exports("deploy", {"deploy.model": ("Model", "Predictions"), "deploy.opening": ("load",)})
