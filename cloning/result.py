"""What a search for clones found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cloning.blueprint import CloningBlueprint
from cloning.choice import Combination, PositionResult
from cloning.selection import Selection


@dataclass(frozen=True)
class CloningSearchResult:
    """What a search found.

    Attributes:
        blueprint: Target, modules and positions.
        selection: Who gives what.
        positions: The table of all shares and positions tried, source by source, deep to shallow.
        chosen: Its rows that were chosen, one per source.
        together: Validation loss and accuracy of the network that these make, and of others that were looked at;
            of several sources whose head is fitted.
        digests: Of target and sources.
        seconds: Wall time of every stage.
        reused: Stages that an earlier run had stored.
    """

    blueprint: CloningBlueprint
    selection: Selection
    positions: tuple[PositionResult, ...]
    chosen: tuple[PositionResult, ...]
    together: tuple[Combination, ...]
    digests: Mapping[str, str]
    seconds: Mapping[str, float]
    reused: tuple[str, ...]

    @property
    def reached(self) -> Combination:
        """What the chosen rows make together, or, of one source, what is known of its row."""
        return next((one for one in self.together if one.rows == self.chosen), Combination.summed(self.chosen))
