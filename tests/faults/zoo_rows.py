"""Bad command lines on the zoo, and on what cloning wants of its networks."""

from __future__ import annotations

from tests.faults.dataset_rows import HUGE

ZOO = [
    ("search", ["~zoo.networks"], ["networks"]),
    ("search", ["zoo.networks=5"], ["networks"]),
    ("search", ["zoo.networks=[a]"], ["networks"]),
    ("search", ["+zoo.nosuch=1"], ["nosuch", "networks"]),
    ("search", ["+zoo.leave_out=all"], ["zoo.leave_out=all", "never, missing, unfit"]),
    ("search", ["+zoo.networks.pattern=resnet18"], ["unknown field", "pattern"]),
    ("search", ["zoo.input.height=1e3"], ["input.height", "a whole number"]),
    ("search", ["zoo.input.height=0"], ["input.height", "at least 1"]),
    ("search", ["zoo.input.height=-3"], ["input.height", "at least 1"]),
    ("search", [f"zoo.input.width={HUGE}"], ["input.width", "at most"]),
    ("search", ["zoo.input.channels=one"], ["input.channels", "a whole number"]),
    ("search", ["zoo.input.mean=[nan]"], ["input.mean"]),
    ("search", ["zoo.input.std=[inf]"], ["input.std"]),
    ("search", ["zoo.input.std=[0]"], ["input.std"]),
    ("search", ["zoo.input.mean=[127.5]"], ["input.mean"]),
    ("search", ["zoo.input.mean=0.5"], ["input.mean", "a list"]),
    ("search", ["zoo.input.interpolation=lanczos"], ["input.interpolation", "bicubic"]),
    ("search", ["zoo.networks.resnet_digits=5"], ["resnet_digits"]),
    ("search", ["zoo.networks.resnet_digits.source=timm"], ["resnet_digits", "model"]),
    ("search", ["zoo.networks.resnet_digits.source=nosuch"], ["resnet_digits", "nosuch"]),
    ("search", ["zoo.networks.resnet_digits.kwargs=5"], ["resnet_digits", "kwargs"]),
    ("search", ["zoo.networks.resnet_digits.weights=5"], ["resnet_digits", "weights"]),
    ("search", ["zoo.networks.resnet_digits.classes=[a,a]"], ["resnet_digits", "a"]),
    ("search", ["+zoo.networks.resnet_digits.wieghts=x"], ["wieghts", "weights"]),
    ("search", ["+zoo.networks.new={source: timm, model: resnet9}"], ["new", "resnet9"]),
    ("train", ["method=baseline", "method.network=nosuch"], ["method.network=nosuch", "resnet_digits"]),
    ("train", ["method=cloning", "task.target=nosuch"], ["task.target=nosuch", "resnext_low"]),
    ("train", ["method=cloning", "task.sources=[nosuch]"], ["task.sources=nosuch", "resnext_low"]),
    ("search", ["method=cloning", "task.classes=[0,99]"], ["task.classes=[99]", "unknown", "it knows [0,1,2"]),
    (
        "train",
        ["method=cloning", "dataset=image_folder", "dataset.root=/nowhere", "task.classes=[0,cat]"],
        ["task.classes=[cat]", "unknown", "it knows [0,1,2"],
    ),
    ("train", ["method=cloning", "task.classes=[0]", "task.cloned=[7,cat]"], ["task.cloned=[cat]", "unknown"]),
    (
        "search",
        ["method=cloning", "task.sources=[regnety_even]", "task.target=regnety_even"],
        ["task.sources", "regnety_even", "itself"],
    ),
    ("search", ["method=cloning", "localisation.keep=1.5"], ["localisation.keep=1.5", "above 0, at most 1"]),
    ("search", ["method=cloning", "task.classes=[]"], ["task.classes=[] is empty"]),
    ("search", ["method=cloning", "task.classes=[0,1]", "task.cloned=[1]"], ["overlap in 1"]),
    ("search", ["method=cloning", "task.classes=[0,0,7]"], ["task.classes=[0,0,7] gives 0 more than once"]),
    ("search", ["method=cloning", "task.classes=[0,1]", "task.target=resnext_low"], ["nothing is to be cloned"]),
]
