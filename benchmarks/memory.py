"""Peak memory: of a search over a large zoo, stage by stage, or of closed forms over the number of images.

    python -m benchmarks.memory --random-weights            # the search
    python -m benchmarks.memory --images 10000 --size 224   # heads solved on 2,500, 5,000 and 10,000 photographs

The search is the real one; only the images are few, so that two cores are enough: what is held of networks, blocks and
features, and when, is the same as with many. With ``--random-weights`` nothing is read or downloaded.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
from dataclasses import fields, replace
from pathlib import Path

from benchmarks.sampling import MemorySampler, resident_bytes
from benchmarks.streaming import report
from datamodules import Digits
from launch.errors import CONF
from reassembly.pipeline import Search
from reassembly.settings import Budget, PartitionSettings, ProxySettings, SearchSettings, SimilaritySettings
from zoo.arguments import Parser, positive, run, whole
from zoo.registry import Zoo, read_zoo
from zoo.storage.files import read_yaml
from zoo.storage.places import require_directory
from zoo.storage.store import Store

GIB = 2**30


def read_budget(name: str) -> Budget:
    """The budget of a file in ``conf/budget``."""
    known = {field.name for field in fields(Budget)}
    content = read_yaml(CONF / "budget" / f"{name}.yaml")
    return Budget(**{key: value for key, value in content.items() if key in known})


def main() -> None:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--zoo", default="imagenet_paper", help="name in conf/zoo, or the path of a YAML file")
    parser.add_argument("--random-weights", action="store_true", help="build the networks without their weights")
    parser.add_argument("--images", type=positive, default=16, help="that the networks are compared and scored on")
    parser.add_argument("--size", type=positive, help="of made-up photographs: measures closed forms, no search")
    parser.add_argument("--cache-bytes", type=whole(0), default=0, help="tuning.max_cache_bytes of the closed forms")
    parser.add_argument("--blocks", type=positive, default=4)
    parser.add_argument("--budget", default="10m_3g", help="name in conf/budget")
    parser.add_argument("--scored", type=positive, default=50, help="assemblies that are scored exactly")
    parser.add_argument("--adapters", default="random", choices=("random", "closed_form"))
    parser.add_argument("--cache", help="where stage results are kept for the next run; nowhere by default")
    arguments = parser.parse_args()
    if arguments.cache:
        require_directory("--cache", arguments.cache, is_read=True)
    if arguments.size is not None:
        report(arguments.images, arguments.size, arguments.cache_bytes)
        return
    logging.basicConfig(format="%(asctime)s %(message)s")
    logging.getLogger("reassembly").setLevel(logging.DEBUG)

    path = Path(arguments.zoo) if arguments.zoo.endswith(".yaml") else CONF / "zoo" / f"{arguments.zoo}.yaml"
    zoo = read_zoo(path)
    if arguments.random_weights:
        zoo = Zoo(zoo.name, [replace(entry, weights=None) for entry in zoo.values()])
    settings = SearchSettings(
        similarity=SimilaritySettings(num_probe_images=arguments.images),
        partition=PartitionSettings(num_blocks=arguments.blocks),
        budget=read_budget(arguments.budget),
        proxy=ProxySettings(
            num_draws=1,
            num_images=arguments.images,
            batch_size=arguments.images,
            max_scored=arguments.scored,
            adapters=arguments.adapters,
        ),
    )
    data = Digits(num_train=max(64, arguments.images), num_validation=32, num_test=32)
    sampler = MemorySampler()
    sampler.start()
    before = resident_bytes()
    with tempfile.TemporaryDirectory() as directory:
        search = Search(zoo, data, settings, store=Store(arguments.cache or directory), seed=0)
        started = time.perf_counter()
        found = search.run()
        stop = time.perf_counter()
        build_started = time.perf_counter()
        network = search.build(found.blueprint)
        seconds = {**found.seconds, "build the pick": time.perf_counter() - build_started}
    sampler.stop()

    num_params = sum(
        description.block_costs(0, len(description)).num_params for description in found.descriptions.values()
    )
    print(f"{len(zoo)} networks, {num_params:,} parameters ({4 * num_params / GIB:.1f} GiB in float32)")
    print(
        f"{len(found.candidates)} candidates scored on {arguments.images} images; {before / GIB:.2f} GiB at the start"
    )
    moment = started
    for stage, duration in seconds.items():
        end = moment + duration
        print(f"  {stage:15} {duration:8.1f} s   peak {sampler.peak(moment, end) / GIB:6.2f} GiB")
        moment = end
    print(f"  {'whole search':15} {stop - started:8.1f} s   peak {sampler.peak(started, moment) / GIB:6.2f} GiB")
    print(f"partition: J {found.partition.objective:.2f}, bound {found.partition.upper_bound:.2f}")
    num_params = sum(parameter.numel() for parameter in network.parameters())
    print(f"pick: {found.candidates[0].candidate.composition}, {num_params:,} parameters")


if __name__ == "__main__":
    run(main)
