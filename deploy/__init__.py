"""What is done with a result: open it, predict with it, measure it, complete it, export it."""

from deploy.model import Model, Predictions
from deploy.opening import load

__all__ = ["Model", "Predictions", "load"]
