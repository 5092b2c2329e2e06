"""The architectures whose slicing is checked: one or more of every family of timm and torchvision.

A list for checks and docs only: nothing is sliced by it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from zoo.errors import UserError


@dataclass(frozen=True)
class Architecture:
    """One row of the table.

    Attributes:
        family: Module of timm that holds it, or ``torchvision``.
        model: Its name there.
        kwargs: Arguments of its builder; dropout and drop path are switched on beside them where it has them.
        size: Side of the images; ``None`` is the published size.
        is_quick: Whether the default test run examines it, not only that of all architectures.
        is_chain: ``False`` where slicing must refuse it.
    """

    family: str
    model: str
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    size: int | None = None
    is_quick: bool = False
    is_chain: bool = True

    @property
    def source(self) -> str:
        """``timm`` or ``torchvision``."""
        return "torchvision" if self.family == "torchvision" else "timm"

    @property
    def name(self) -> str:
        """Name with its arguments, as in the table."""
        given = ", ".join(f"{key}={value}" for key, value in self.kwargs.items())
        return self.model + (f" ({given})" if given else "")

    @property
    def id(self) -> str:
        """Unique, for tests."""
        return "-".join([self.source, self.model, *map(str, self.kwargs)])


_TIMM = {
    "beit": "beit_base_patch16_224",
    "byoanet": "botnet26t_256 halonet26t lambda_resnet26t",
    "byobnet": "repvgg_a0 gernet_s mobileone_s0 resnet32ts regnetz_b16",
    "cait": "cait_xxs24_224",
    "coat": "coat_lite_tiny coat_tiny",
    "convit": "convit_tiny",
    "convmixer": "convmixer_768_32",
    "convnext": "convnext_atto convnext_tiny convnextv2_atto",
    "cpubone": "cpubone_nano",
    "crossvit": "crossvit_9_240 crossvit_tiny_240",
    "csatv2": "csatv2",
    "cspnet": "cspresnet50 cs3darknet_s darknet53",
    "cspnext": "cspnext_tiny",
    "davit": "davit_tiny",
    "deit": "deit_tiny_patch16_224 deit_tiny_distilled_patch16_224 deit3_small_patch16_224",
    "densenet": "densenet121",
    "dla": "dla34 dla60_res2net",
    "dpn": "dpn48b dpn68",
    "edgenext": "edgenext_xx_small",
    "efficientformer": "efficientformer_l1",
    "efficientformer_v2": "efficientformerv2_s0",
    "efficientnet": "efficientnet_b0 tf_efficientnet_lite0 efficientnetv2_rw_t mixnet_s mnasnet_100 mobilenetv2_100",
    "efficientvim": "efficientvim_m1",
    "efficientvit_mit": "efficientvit_b0 efficientvit_l1",
    "efficientvit_msra": "efficientvit_m0",
    "eva": "eva02_tiny_patch14_224 vit_small_patch16_dinov3 vit_small_patch16_rope_224",
    "fasternet": "fasternet_t0",
    "fastvit": "fastvit_t8 fastvit_sa12",
    "focalnet": "focalnet_tiny_srf",
    "gcvit": "gcvit_xxtiny",
    "ghostnet": "ghostnet_100 ghostnetv2_100 ghostnetv3_100",
    "hardcorenas": "hardcorenas_a",
    "hgnet": "hgnet_tiny hgnetv2_b0",
    "hiera": "hiera_tiny_224",
    "hieradet_sam2": "hieradet_small",
    "hrnet": "hrnet_w18_small",
    "iformer": "iformer_t",
    "inception_next": "inception_next_atto",
    "inception_resnet_v2": "inception_resnet_v2",
    "inception_v3": "inception_v3",
    "inception_v4": "inception_v4",
    "lcnetv2": "lcnetv2_small",
    "levit": "levit_128s levit_conv_128s",
    "lowformer": "lowformer_b0",
    "mambaout": "mambaout_femto",
    "maxxvit": "maxvit_tiny_tf_224 coatnet_0_rw_224 coatnext_nano_rw_224",
    "metaformer": "poolformer_s12 convformer_s18 caformer_s18",
    "mlp_mixer": "mixer_s32_224 resmlp_12_224 gmlp_ti16_224",
    "mobilenetv3": "mobilenetv3_large_100 mobilenetv3_small_050 fbnetv3_b lcnet_050 mobilenetv4_conv_small"
    " mobilenetv4_hybrid_medium",
    "mobilenetv5": "mobilenetv5_base",
    "mobilevit": "mobilevit_xxs mobilevitv2_050",
    "mvitv2": "mvitv2_tiny mvitv2_small_cls",
    "naflexvit": "naflexvit_base_patch16_gap",
    "nasnet": "nasnetalarge",
    "nest": "nest_tiny",
    "nextvit": "nextvit_small",
    "nfnet": "nf_regnet_b0 nf_resnet50 eca_nfnet_l0",
    "pit": "pit_xs_224",
    "pnasnet": "pnasnet5large",
    "pvt_v2": "pvt_v2_b0",
    "rdnet": "rdnet_tiny",
    "regnet": "regnetx_008 regnety_008 regnetz_005",
    "repghost": "repghostnet_050",
    "repvit": "repvit_m0_9",
    "res2net": "res2net50_26w_4s",
    "resnest": "resnest14d",
    "resnet": "resnet18 resnet50 resnext50_32x4d wide_resnet50_2 seresnet50 ecaresnet26t",
    "resnetv2": "resnetv2_50 resnetv2_50x1_bit",
    "rexnet": "rexnet_100",
    "selecsls": "selecsls42b",
    "senet": "legacy_seresnet18",
    "sequencer": "sequencer2d_s",
    "shvit": "shvit_s1",
    "sknet": "skresnet18",
    "starnet": "starnet_s1",
    "swiftformer": "swiftformer_xs",
    "swin_transformer": "swin_tiny_patch4_window7_224",
    "swin_transformer_v2": "swinv2_tiny_window8_256",
    "swin_transformer_v2_cr": "swinv2_cr_tiny_ns_224",
    "tiny_vit": "tiny_vit_5m_224",
    "tnt": "tnt_s_patch16_224",
    "tresnet": "tresnet_m",
    "twins": "twins_pcpvt_small twins_svt_small",
    "vgg": "vgg11_bn",
    "visformer": "visformer_tiny",
    "vision_transformer": "vit_tiny_patch16_224 vit_small_patch14_reg4_dinov2 vit_base_patch16_siglip_gap_256",
    "vision_transformer_hybrid": "vit_tiny_r_s16_p8_224",
    "vision_transformer_relpos": "vit_relpos_small_patch16_224 vit_srelpos_small_patch16_224",
    "vision_transformer_sam": "samvit_base_patch16_224",
    "vitamin": "vitamin_small_224",
    "volo": "volo_d1_224",
    "vovnet": "ese_vovnet19b_dw vovnet39a",
    "xception": "legacy_xception",
    "xception_aligned": "xception41",
    "xcit": "xcit_nano_12_p16_224",
}
_TORCHVISION = (
    "alexnet convnext_tiny densenet121 efficientnet_b0 efficientnet_v2_s googlenet inception_v3 maxvit_t mnasnet0_5"
    " mobilenet_v2 mobilenet_v3_large mobilenet_v3_small regnet_x_400mf regnet_y_800mf resnet18 resnet50"
    " resnext50_32x4d shufflenet_v2_x0_5 squeezenet1_1 swin_t swin_v2_t vgg11 vgg11_bn vit_b_16 wide_resnet50_2"
)
_ARGUMENTS: dict[str, dict[str, Any]] = {
    # Its auxiliary classifiers draw from the same generator: without their dropout, the main path's can be compared.
    "googlenet": {"init_weights": False, "dropout_aux": 0.0},
    "inception_v3": {"init_weights": False},
}
_VARIANTS = (
    Architecture("eva", "eva02_tiny_patch14_224", {"dynamic_img_size": True}),
    Architecture("vision_transformer", "vit_tiny_patch16_224", {"dynamic_img_size": True}),
    Architecture("swin_transformer", "swin_tiny_patch4_window7_224", {"strict_img_size": False}),
)
_REFUSED = {"crossvit_9_240", "crossvit_tiny_240", "efficientvim_m1", "tnt_s_patch16_224"}
_QUICK = (
    "cspnext_tiny convnext_atto deit_tiny_patch16_224 efficientvit_b0 coat_lite_tiny cpubone_nano fasternet_t0"
    " efficientformerv2_s0 mambaout_femto crossvit_9_240 mobilenetv3_small_050 poolformer_s12"
)


def _architectures() -> tuple[Architecture, ...]:
    rows = [*((f, m) for f, names in _TIMM.items() for m in names.split())]
    rows += [("torchvision", model) for model in _TORCHVISION.split()]
    found = [
        Architecture(
            family,
            model,
            _ARGUMENTS.get(model, {}) if family == "torchvision" else {},
            is_quick=model in _QUICK.split() and family != "torchvision",
            is_chain=model not in _REFUSED,
        )
        for family, model in rows
    ]
    return tuple(sorted([*found, *_VARIANTS], key=lambda a: a.family == "torchvision"))


ARCHITECTURES = _architectures()


def select(families: Iterable[str] = ()) -> tuple[Architecture, ...]:
    """The architectures of these families, of all without any.

    Raises:
        UserError: a family that the list lacks.
    """
    wanted = tuple(families)
    known = dict.fromkeys(architecture.family for architecture in ARCHITECTURES)
    for family in wanted:
        if family not in known:
            raise UserError(f"--families {family} is unknown: allowed are {', '.join(known)}")
    return tuple(a for a in ARCHITECTURES if not wanted or a.family in wanted)
