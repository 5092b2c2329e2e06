"""What runs the tasks inside a search; checked when made. No torch is loaded."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Annotated

from zoo.errors import UserError
from zoo.limits import at_least, check, one_of, require, shown
from zoo.threads import num_free_cores

MIN_ALLOWED_PROCESSES = 16
"""So many processes may be asked for on any machine; beyond, as many as there are free cores."""


@dataclass(frozen=True)
class ExecutorSettings:
    """What runs the tasks.

    Attributes:
        name: ``serial`` (this process), ``processes`` (of this machine) or ``ray`` (the cluster that ``RAY_ADDRESS``
            names or this machine is part of, else one of this machine alone).
        num_workers: Tasks at once; ``auto``: the cores that are free to this process, or all that a cluster has.

    Raises:
        UserError: A value that is not allowed.
    """

    name: Annotated[str, one_of("serial", "processes", "ray")] = "serial"
    num_workers: Annotated[int | str, at_least(1, 10_000)] = "auto"

    def __post_init__(self) -> None:
        if self.num_workers != "auto":
            if isinstance(self.num_workers, str):
                raise UserError(
                    f"executor.num_workers={shown(self.num_workers)} is unknown; allowed are auto and whole numbers "
                    "of at least 1; type executor.num_workers=auto"
                )
            check(self, "executor")
            if self.name == "serial" and self.num_workers != 1:
                raise UserError(
                    f"executor.num_workers={self.num_workers} has no effect with executor.name=serial: type "
                    f"executor=processes executor.num_workers={self.num_workers}, or leave it out"
                )
        else:
            require("executor.name", self.name, one_of("serial", "processes", "ray"), default="serial")

    @property
    def num_local_workers(self) -> int:
        """Tasks at once on this machine."""
        return num_free_cores() if self.num_workers == "auto" else int(self.num_workers)

    def require_machine(self) -> None:
        """Refuses what this machine or installation does not have.

        Raises:
            UserError: No Ray, or more processes than make sense here.
        """
        if self.name == "ray" and importlib.util.find_spec("ray") is None:
            raise UserError(
                "executor=ray needs the package ray: type `pip install -e .[ray]`, or executor=processes for the cores "
                "of this machine"
            )
        if self.name == "processes":
            self.require_cores()

    def require_cores(self) -> None:
        """Refuses more workers on this machine than make sense; a cluster of others may have as many as it likes.

        Raises:
            UserError: How many cores there are.
        """
        if self.num_local_workers > max(num_free_cores(), MIN_ALLOWED_PROCESSES):
            raise UserError(
                f"executor.num_workers={self.num_workers}: {num_free_cores()} cores are free to this process; type "
                "executor.num_workers=auto"
            )
