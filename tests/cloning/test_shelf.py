from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from cloning_stand_ins import adapter, as_if_tuned, clone, cloned, images, network

from cloning.bundle import packed
from cloning.clone import Clone
from cloning.framing import Packed
from cloning.frozen import FrozenNetwork
from cloning.network import ClonedNetwork
from cloning.shelf import MAX_GRAFTS, Shelf, Shelved
from zoo.errors import UserError
from zoo.registry import Zoo

NETWORKS = {
    "resnet": network("resnet", "abc"),
    "regnety": network("regnety", "defg"),
    "vit": network("vit", "hij"),
    "convnext": network("convnext", "xyz"),
}


class Names(dict):
    """All that a shelf asks of a zoo."""

    name = "small"


class StandIn(Shelf):
    """A shelf of networks that are there already."""

    def __init__(self) -> None:
        super().__init__(Names(dict.fromkeys(NETWORKS)))

    def network(self, name: str) -> FrozenNetwork:
        return NETWORKS[name]


def several() -> list[ClonedNetwork]:
    """Clones on two targets: some share a module, some a position, one has none."""
    resnet, regnety, vit, convnext = NETWORKS.values()
    return [
        cloned(resnet, clone(regnety, "d")),
        cloned(resnet, clone(regnety, "e"), clone(vit, "h", 2)),
        cloned(resnet, clone(vit, "i", 2, num_selected=7)),
        cloned(resnet, clone(vit, "hj", 1), clone(convnext, "x", 3)),
        cloned(resnet, clone(regnety, "d", 0, 0.4)),
        as_if_tuned(cloned(resnet, clone(regnety, "d"), head_cuts=(1, 3))),
        as_if_tuned(cloned(resnet, clone(vit, "i", 2), clone(regnety, "e"), head_cuts=(2, 3))),
        cloned(resnet),
        cloned(convnext, clone(regnety, "d"), clone(vit, "j", 2)),
    ]


def test_one_request_gives_what_its_network_gives_bit_for_bit() -> None:
    for number, found in enumerate(several()):
        for n in (1, 3):
            x = images(n, seed=number)
            assert torch.equal(Shelf(Zoo("none", [])).logits([(found, x)])[0], found(x))


def test_requests_of_different_clones_share_passes_and_get_their_own_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = several()
    requests = [(found, images(1 + k % 2, seed=k)) for k, found in enumerate([*parts, *parts])]
    passes: list[tuple[str, int]] = []
    run, run_module = FrozenNetwork.features, Clone.features

    def counted(self: FrozenNetwork, x: torch.Tensor, **options) -> torch.Tensor:
        if options.get("gates") is None:  # of a target
            passes.append((self.name, len(x)))
        return run(self, x, **options)

    def counted_module(self: Clone, x: torch.Tensor, start: int) -> torch.Tensor:
        passes.append((self.source.name, len(x)))
        return run_module(self, x, start)

    monkeypatch.setattr(FrozenNetwork, "features", counted)
    monkeypatch.setattr(Clone, "features", counted_module)
    answers = Shelf(Zoo("none", [])).logits(requests)
    counts = {name: sum(n for other, n in passes if other == name) for name in NETWORKS}
    sizes = [len(x) for _, x in requests]
    assert passes.count(("resnet", sum(sizes) - sum(sizes[8::9]))) == 1
    # both targets once, five modules of the one and two of the other, each once however many requests share it
    assert len(passes) == 2 + 5 + 2
    assert counts["vit"] == sum(sum(sizes[k::9]) for k in (1, 2, 3, 6, 8))
    for (found, x), answer in zip(requests, answers, strict=True):
        torch.testing.assert_close(answer, found(x), rtol=1e-4, atol=1e-5)


def test_a_file_is_opened_onto_shared_networks() -> None:
    shelf, grafted = StandIn(), cloned(NETWORKS["resnet"], clone(NETWORKS["vit"], "h", 2))
    file = packed(grafted, "a.hz")
    first, second = (shelf.open(name, file) for name in ("a", "b"))
    assert isinstance(first, Shelved)
    assert first.network.target is second.network.target is NETWORKS["resnet"]
    assert (first.num_bytes, first.blueprint.composition) == (len(file.content), "resnet + vit{h}@2")
    assert torch.equal(first.network(images(2)), grafted(images(2)))


def test_what_is_damaged_foreign_or_too_much_is_refused() -> None:
    shelf, vit = StandIn(), NETWORKS["vit"]
    grafted = clone(vit, "h", 2)
    file = packed(ClonedNetwork(NETWORKS["resnet"], "abch", [grafted], [adapter(NETWORKS["resnet"], grafted)]), "a.hz")
    with pytest.raises(UserError, match=r"a.hz: damaged in probe"):
        shelf.open("a", Packed("a.hz", file.content[:-5]))
    del shelf.zoo["vit"]
    with pytest.raises(UserError, match=r"a.hz: foreign: the zoo .* has no network 'vit'"):
        shelf.open("a", file)
    crowded = SimpleNamespace(blueprint=SimpleNamespace(clones=[grafted] * (MAX_GRAFTS + 1), networks={}))
    with pytest.raises(UserError, match=r"65 grafts, but at most 64 are served"):
        shelf._check(file, crowded)
