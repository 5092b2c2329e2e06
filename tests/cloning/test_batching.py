"""The loop between requests and the shelf, without HTTP."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cloning.framing import Packed
from cloning.serving.batching import Batcher, Busy
from cloning.serving.catalogue import Catalogue
from cloning.serving.metrics import Metrics
from cloning.serving.settings import Limits
from zoo.errors import UserError


class Shelf:
    """Answers with the images' sums, slowly where it is held; a network named ``broken`` fails."""

    def __init__(self) -> None:
        self.free = threading.Event()
        self.free.set()
        self.batches: list[int] = []

    def logits(self, requests: list[tuple[str, Tensor]]) -> list[Tensor]:
        self.free.wait(30)
        if any(network == "broken" for network, _ in requests):
            raise RuntimeError("broken network")
        self.batches.append(sum(len(images) for _, images in requests))
        return [images.sum(1) for _, images in requests]


def run(test) -> Shelf:
    """Runs a coroutine that is given a batcher of four images a batch and six requests that may wait."""

    async def around() -> Shelf:
        shelf = Shelf()
        batcher = Batcher(shelf, batch_size=4, max_waiting=6, metrics=Metrics())
        task = asyncio.create_task(batcher.run())
        try:
            await test(batcher, shelf)
        finally:
            shelf.free.set()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            batcher.close()
        return shelf

    return asyncio.run(around())


def test_what_waits_while_a_batch_runs_is_the_next_batch() -> None:
    async def test(batcher: Batcher, shelf: Shelf) -> None:
        shelf.free.clear()
        first = asyncio.create_task(batcher.logits("a", torch.ones(1, 3)))
        await asyncio.sleep(0.05)
        others = [asyncio.create_task(batcher.logits(f"{k}", torch.full((1, 3), float(k)))) for k in range(6)]
        await asyncio.sleep(0.05)
        shelf.free.set()
        assert [float(x) for x in await asyncio.gather(first, *others)] == [3.0, *(3.0 * k for k in range(6))]

    assert run(test).batches == [1, 4, 2]


def test_too_many_that_wait_are_told_to_come_later() -> None:
    async def test(batcher: Batcher, shelf: Shelf) -> None:
        shelf.free.clear()
        tasks = [asyncio.create_task(batcher.logits("a", torch.ones(1, 3)))]
        await asyncio.sleep(0.05)
        tasks += [asyncio.create_task(batcher.logits("a", torch.ones(1, 3))) for _ in range(6)]
        await asyncio.sleep(0.05)
        with pytest.raises(Busy):
            await batcher.logits("a", torch.ones(1, 3))
        shelf.free.set()
        assert len(await asyncio.gather(*tasks)) == 7

    run(test)


def test_one_that_fails_or_goes_spoils_no_other_answer() -> None:
    async def test(batcher: Batcher, shelf: Shelf) -> None:
        shelf.free.clear()
        first = asyncio.create_task(batcher.logits("a", torch.ones(1, 3)))
        await asyncio.sleep(0.05)
        names = ("a", "broken", "gone", "b")
        tasks = {name: asyncio.create_task(batcher.logits(name, torch.ones(1, 3))) for name in names}
        await asyncio.sleep(0.05)
        tasks["gone"].cancel()
        shelf.free.set()
        found = await asyncio.gather(first, *tasks.values(), return_exceptions=True)
        assert [float(found[k]) for k in (0, 1, 4)] == [3.0] * 3
        assert isinstance(found[2], RuntimeError)
        assert isinstance(found[3], asyncio.CancelledError)

    run(test)


def test_a_file_that_makes_the_opening_fail_is_refused_and_nothing_else_ends(tmp_path: Path) -> None:
    class Breaking(Shelf):
        def open(self, name: str, file: Packed) -> None:
            raise RuntimeError(f"no way to build\n{name}")

    async def test(batcher: Batcher, shelf: Shelf) -> None:
        batcher.shelf = Breaking()
        catalogue = Catalogue(tmp_path, batcher, Limits())
        (tmp_path / "odd.hz").write_bytes(b"x")
        await catalogue.look()
        assert catalogue.refused == {"odd.hz": "odd.hz: cannot be opened: RuntimeError: no way to build odd"}
        with pytest.raises(UserError, match=r"new.hz: cannot be opened"):
            await catalogue.put("new", b"x")
        assert not (tmp_path / "new.hz").exists()
        await catalogue.delete("odd")
        assert (list(tmp_path.iterdir()), catalogue.refused) == ([], {})

    run(test)
