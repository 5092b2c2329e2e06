"""``method.select=home_accuracy``: what networks reach on their own tasks, a control that knows nothing of this one."""

from __future__ import annotations

import logging

from zoo.errors import UserError
from zoo.registry import Zoo

log = logging.getLogger(__name__)


def most_accurate(zoo: Zoo) -> str:
    """The name of the network that reaches most on its own task, as the zoo states it.

    Raises:
        UserError: A network whose accuracy the zoo does not state.
    """
    without = [name for name, entry in zoo.items() if entry.accuracy is None]
    if without:
        raise UserError(
            f"method.select=home_accuracy: zoo {zoo.name} states no `accuracy` of {', '.join(without[:8])}"
            f"{f' and {len(without) - 8} more' if len(without) > 8 else ''}: add it to the zoo's file, leave them "
            "out (~zoo.networks.NAME), or type method.select=ridge"
        )
    ranked = sorted(zoo, key=lambda name: -zoo[name].accuracy.given)
    told = ", ".join(f"{name} {zoo[name].accuracy.given:g} %" for name in ranked)
    log.info("whole networks by home accuracy: %s", told)
    return ranked[0]
