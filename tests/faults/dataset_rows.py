"""Bad settings of data sets: command, words, and what the answer tells."""

from __future__ import annotations

HUGE = str(10**30)

DATASET = [
    *(
        ("search", [f"dataset.{key}={value}"], [f"dataset.{key}", told])
        for key, told, values in (
            (
                "num_train",
                "type dataset.num_train=",
                ("1e3", "abc", "[1]", "{a: 1}", "true", "2.5", "nan", "inf", HUGE, "''"),
            ),
            ("num_test", "type dataset.num_test=", ("1e3", "abc", "[1]", "true", "nan")),
            ("batch_size", "type dataset.batch_size=", ("null", "1e3", "abc", "[1]", "true", "2.5", "-inf", HUGE)),
            ("num_workers", "type dataset.num_workers=", ("null", "two", "[0]", "0.5")),
            ("pin_memory", "true or false", ("1", "yes_please", "null", "[true]")),
            ("name", "text", ("[a]", "5", "{a: b}")),
            ("augmentation", "text", ("[affine]", "3")),
            ("_target_", "type dataset=digits", ("datamodules.NoSuch", "nowhere.Images", "null", "5", "''")),
            ("_target_", "ImageDataModule", ("builtins.dict", "torch.nn.Linear", "datamodules.splits")),
            ("_target_", "seed", ("os.getcwd",)),
        )
        for value in values
    ),
    ("search", ["dataset.nosuch=1"], ["dataset.nosuch=1", "batch_size"]),
    ("search", ["dataset.magnitude=31"], ["dataset.magnitude", "at most 30"]),
    ("search", ["dataset.erasing=often"], ["dataset.erasing", "a number"]),
    ("search", ["+dataset.seed=1"], ["dataset.seed=1", "type seed="]),
    ("search", ["+dataset.split_rule=x"], ["dataset.split_rule=x"]),
    ("search", ["+dataset.source=x"], ["dataset.source=x"]),
    ("search", ["+dataset._partial_=true"], ["dataset._partial_"]),
    ("search", ["dataset.bach_size=1"], ["dataset.bach_size=1", "did you mean 'batch_size'"]),
    ("search", ["~dataset._target_"], ["dataset._target_"]),
    ("search", ["dataset=image_folder"], ["dataset.root is not given", "type dataset.root="]),
    ("search", ["dataset=image_folder", "~dataset.root"], ["dataset.root"]),
    ("search", ["dataset.num_train=0"], ["dataset.num_train", "at least 1", "type dataset.num_train="]),
    ("search", ["dataset.num_test=-5"], ["dataset.num_test", "at least 1", "type dataset.num_test=null"]),
    ("search", ["dataset.batch_size=0"], ["dataset.batch_size", "at least 1", "type dataset.batch_size="]),
    ("search", ["dataset.num_workers=-1"], ["dataset.num_workers", "at least 0", "type dataset.num_workers="]),
    ("search", ["dataset.num_workers=1000000"], ["dataset.num_workers", "at most 1024"]),
    ("search", ["+dataset.crop_fraction=2"], ["dataset.crop_fraction", "at most 1"]),
    ("search", ["+dataset.min_crop_area=0"], ["dataset.min_crop_area", "above 0"]),
    ("search", ["+dataset.crop_fraction=half"], ["dataset.crop_fraction", "a number"]),
    ("search", ["+dataset.crop_fraction=[1]"], ["dataset.crop_fraction", "a number"]),
    ("search", ["+dataset.crop_fraction=true"], ["dataset.crop_fraction", "a number"]),
    ("search", ["+dataset.crop_fraction=nan"], ["dataset.crop_fraction", "finite"]),
    ("search", ["+dataset.min_crop_area=-inf"], ["dataset.min_crop_area", "finite"]),
    ("search", ["dataset=image_folder", "dataset.root=null"], ["dataset.root", "text"]),
    ("search", ["dataset=image_folder", "dataset.root=x", "dataset.validation_share=nan"], ["validation_share"]),
    ("search", ["dataset=image_folder", "dataset.root=x", "dataset.test_share=[1]"], ["test_share", "a number"]),
    ("search", ["dataset=image_folder", "dataset.root=x", "dataset.flip=1"], ["dataset.flip", "true or false"]),
    ("search", ["dataset=cifar10", "dataset.download=maybe"], ["dataset.download", "true or false"]),
    ("search", ["dataset=mnist5k", "dataset.classes=3"], ["dataset.classes"]),
]
