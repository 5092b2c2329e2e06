"""Model cards, and their upload to a stand-in of the Hugging Face hub; no real one is ever asked."""

from __future__ import annotations

import html
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard, constants

import deploy
from deploy.__main__ import main
from deploy.card import licence, model_card, plain, write_card
from deploy.push import push
from reassembly.network import assemble, to_bundle
from tests.deploy.hub_stand_in import Hub, hub
from tests.deploy.run_stand_ins import HOSTILE, write_run
from zoo.blueprint import AdapterSpec, BlockSpec, HeadSpec, ReassemblyBlueprint, write_bundle
from zoo.digests import digest
from zoo.entries import InputSpec, ZooEntry
from zoo.errors import UserError
from zoo.loading import load_chain
from zoo.registry import ZOOS, read_zoo
from zoo.weights import Weights

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # of the hub's library itself
NAMES = ("vit_digits", "resnext_low")
GREY = InputSpec(1, 32, 32, (0.5,), (0.5,))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of a run, whose classes try to be markup."""
    zoo = read_zoo(ZOOS / "embedded.yaml")
    chains = {name: load_chain(zoo.entry(name)) for name in NAMES}
    blueprint = ReassemblyBlueprint(
        blocks=(BlockSpec("vit_digits", (0, 2)), BlockSpec("resnext_low", (6, 8))),
        adapters=(AdapterSpec(kernel_size=1),),
        head=HeadSpec(classes=("cat", HOSTILE, "a|b")),
        networks={name: digest(chain.network) for name, chain in chains.items()},
    )
    directory = write_run(tmp_path_factory.mktemp("card") / "run") / "bundle"
    write_bundle(directory, to_bundle(assemble(blueprint, chains), chains))
    return directory


@pytest.fixture(scope="module")
def model(bundle: Path) -> deploy.Model:
    return deploy.load(bundle.parent, zoo="embedded")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A hub, logged into."""
    with hub() as found:
        monkeypatch.setattr(constants, "ENDPOINT", found.url)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # large files by the transfer that is stood in for
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.setenv("HF_TOKEN", found.token)
        yield found


def test_a_card_tells_what_the_network_is_and_is_read_by_the_hubs_library(model: deploy.Model, tmp_path: Path) -> None:
    written = write_card(model, tmp_path, name="a name")
    assert [path.name for path in written] == ["README.md", "drawing.png", "drawing.svg"]
    card = ModelCard.load(tmp_path / "README.md")
    assert (card.data.license, card.data.pipeline_tag, card.data.model_name) == (
        "apache-2.0",
        "image-classification",
        "a name",
    )
    (result,) = card.data.eval_results
    assert (result.metric_value, result.dataset_split, result.dataset_args["seed"]) == (0.875, "test", 7)
    for name in NAMES:
        assert f"| {plain(name)} |" in card.text
    for heading in ("Recipe", "Parts", "Data", "Results", "Costs", "How to use", "Not measured"):
        assert f"\n## {heading}\n" in card.text
    recipe = card.text.partition("```yaml\n")[2].partition("```")[0]
    assert yaml.safe_load(recipe)["blocks"][0] == {"network": "vit_digits", "nodes": [0, 2]}
    assert "87.50 %" in card.text
    assert "sha256:" in card.text


def test_no_name_is_markup_outside_of_the_recipe(model: deploy.Model, tmp_path: Path) -> None:
    write_card(model, tmp_path, name=HOSTILE)
    text = (tmp_path / "README.md").read_text().partition("\n---\n")[2]
    before, _, rest = text.partition("```yaml\n")
    after = rest.partition("```")[2]
    assert "<script" not in before + after
    assert html.escape("a") == "a"
    assert plain("a|b\n# c <i>") == "a\\|b \\# c \\&lt;i\\&gt;"


def test_a_bundle_alone_has_a_card_that_says_what_is_not_known(bundle: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone"
    alone.mkdir()
    for path in bundle.iterdir():
        (alone / path.name).write_bytes(path.read_bytes())
    card = model_card(deploy.load(alone, zoo="embedded"), name="alone")
    assert card.data.eval_results is None
    assert card.text.count("without the run that made it") == 2


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        (ZooEntry("a", "timm", GREY, model="resnet18", weights=Weights(hub="a1_in1k")), "apache-2.0"),
        (ZooEntry("a", "timm", GREY, model="resnet18", weights=Weights(file="x.pth")), ""),
        (ZooEntry("a", "mine:build", GREY, license="cc-by-4.0"), "cc-by-4.0"),
        (ZooEntry("a", "zoo.embedded.networks:small_image", GREY), "apache-2.0"),
    ],
)
def test_licences_are_those_that_the_sources_state(entry: ZooEntry, expected: str) -> None:
    assert licence(entry) == expected


def test_push_uploads_all_in_one_commit(
    bundle: Path, model: deploy.Model, asked: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["push", str(bundle.parent), "me/net", "--zoo", "embedded"]) == 0
    files = asked.repositories["me/net"]
    assert set(files) >= {"README.md", "drawing.png", "drawing.svg", "blueprint.yaml", "weights.safetensors"}
    for name in ("blueprint.yaml", "weights.safetensors"):
        assert files[name] == (bundle / name).read_bytes()
    assert len(asked.commits) == 1
    assert 'snapshot_download("me/net")' in files["README.md"].decode()
    assert capsys.readouterr().out.splitlines()[-1] == f"{asked.url}/me/net/commit/{1:040x}"
    push(model, "me/net")  # once more, into what is there
    assert len(asked.commits) == 2


@pytest.mark.parametrize(
    ("refused", "status", "told"),
    [
        ("/api/repos/create", 403, "this login may not write there (403)"),
        ("/preupload/", 404, "no such repository or owner (404)"),
        ("/objects/batch", 500, "answers with an error (500)"),
        ("/commit/", 429, "takes no more requests for now (429)"),
    ],
)
def test_a_refusal_is_one_line_and_nothing_is_claimed(
    model: deploy.Model, asked: Hub, monkeypatch: pytest.MonkeyPatch, refused: str, status: int, told: str
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the library waits before it asks again
    asked.refuse[refused] = status
    with pytest.raises(UserError) as caught:
        push(model, "me/net")
    (line,) = str(caught.value).splitlines()
    assert told in line
    assert line.endswith("nothing was published")
    assert asked.commits == []
    assert asked.repositories.get("me/net", {}) == {}


def test_without_login_network_or_a_name_push_says_so(
    model: deploy.Model, asked: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with pytest.raises(UserError, match="expected OWNER/NAME"):
        push(model, "me/net/more")
    monkeypatch.setenv("HF_TOKEN", "hf_bad")
    with pytest.raises(UserError, match=r"does not know this login \(401\)"):
        push(model, "me/net")
    monkeypatch.setenv("HF_TOKEN", asked.token)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{free.getsockname()[1]}")
        with pytest.raises(UserError, match="cannot be reached"):
            push(model, "me/net")
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(UserError, match="no login"):
        push(model, "me/net")
    assert asked.repositories == {}
