"""The classification networks of keras.applications: what is known of each before it is loaded.

File names, addresses and digests are those of Keras's own sources; a test compares them. Licences
are those that Keras's documentation gives for the weights; elsewhere those of the authors'
repositories: facebookresearch/ConvNeXt, google/automl (EfficientNetV2), tensorflow/tpu
(EfficientNet), tensorflow/models (MobileNetV3). Where neither says it, the row has `UNSTATED`.
Parameters and multiply-adds are counted from the graph by ``benchmarks/backbones.py``. Accuracies
are from https://keras.io/api/applications (MobileNetV3: from its module's documentation).
"""

from __future__ import annotations

from dataclasses import dataclass

# A licence that is for the reader to find.
UNSTATED = "see keras.io"

_STORE = "https://storage.googleapis.com/tensorflow/keras-applications/"


@dataclass(frozen=True)
class Family:
    """What networks of one origin share.

    Attributes:
        licence: SPDX name of the weights' licence, or `UNSTATED`.
        preprocessing: What reaches the first convolution; a key of `PREPROCESSING`.
        url: Where the weights files are.
        is_self_contained: Keras builds the preprocessing into the network.
        min_size: Smallest side of the photo in pixels.
    """

    licence: str
    preprocessing: str
    url: str
    is_self_contained: bool = False
    min_size: int = 32


_VGG16 = Family("CC-BY-4.0", "caffe", f"{_STORE}vgg16/")
_VGG19 = Family("CC-BY-4.0", "caffe", f"{_STORE}vgg19/")
_RESNET = Family("MIT", "caffe", f"{_STORE}resnet/")
_RESNET_V2 = Family(UNSTATED, "tf", f"{_STORE}resnet/")
_MOBILENET = Family("Apache-2.0", "tf", f"{_STORE}mobilenet/")
_MOBILENET_V2 = Family("Apache-2.0", "tf", f"{_STORE}mobilenet_v2/")
_MOBILENET_V3 = Family("Apache-2.0", "tf", f"{_STORE}mobilenet_v3/", True)
_INCEPTION = Family("Apache-2.0", "tf", f"{_STORE}inception_v3/", min_size=75)
_INCEPTION_RESNET = Family("Apache-2.0", "tf", f"{_STORE}inception_resnet_v2/", min_size=75)
_XCEPTION = Family("MIT", "tf", f"{_STORE}xception/", min_size=71)
_DENSENET = Family("BSD-3-Clause", "torch", f"{_STORE}densenet/")
_NASNET = Family("Apache-2.0", "tf", f"{_STORE}nasnet/")
_EFFICIENTNET = Family(
    "Apache-2.0", "torch", "https://storage.googleapis.com/keras-applications/", True
)
_EFFICIENTNET_V2 = Family("Apache-2.0", "torch", f"{_STORE}efficientnet_v2/", True)
_EFFICIENTNET_V2_LARGE = Family("Apache-2.0", "tf128", f"{_STORE}efficientnet_v2/", True)
_CONVNEXT = Family("MIT", "torch", f"{_STORE}convnext/", True)


@dataclass(frozen=True)
class Row:
    """One network of keras.applications, without its top.

    Attributes:
        builder: The function in keras.applications.
        family: What it shares with others.
        image_size: Side of the photos that the weights were made for.
        feature_count: Channels of the last feature map.
        parameters: Statistics of the normalisation included.
        multiply_adds: Of convolutions and dense layers, per photo of ``image_size``.
        top1: Top-1 accuracy on the ImageNet validation set as published; None if not known.
        file: Name of the weights file in Keras's cache. ``{size}`` stands for the photo's side.
        digest: MD5 or SHA-256 of the file by which Keras checks it; empty where Keras has none.
        remote: Name of the file on the server where it is another.
        sizes: Sides for which Keras has files, where there are several.
    """

    builder: str
    family: Family
    image_size: int
    feature_count: int
    parameters: int
    multiply_adds: int
    top1: float | None
    file: str
    digest: str
    remote: str = ""
    sizes: tuple[int, ...] = ()


_TF = "weights_tf_dim_ordering_tf_kernels"


# By the name that follows ``keras:``.
# fmt: off
ROWS: dict[str, Row] = {
    "vgg16": Row("VGG16", _VGG16, 224, 512, 14_714_688, 15_346_630_656, 0.713,
        f"vgg16_{_TF}_notop.h5", "6d6bbae143d832006294945121d1f1fc"),
    "vgg19": Row("VGG19", _VGG19, 224, 512, 20_024_384, 19_508_428_800, 0.713,
        f"vgg19_{_TF}_notop.h5", "253f8cb515780f3b799900260a226db6"),
    "resnet50": Row("ResNet50", _RESNET, 224, 2048, 23_587_712, 3_855_925_248, 0.749,
        f"resnet50_{_TF}_notop.h5", "4d473c1dd8becc155b73f8504c6f6626"),
    "resnet101": Row("ResNet101", _RESNET, 224, 2048, 42_658_176, 7_568_146_432, 0.764,
        f"resnet101_{_TF}_notop.h5", "88cf7a10940856eca736dc7b7e228a21"),
    "resnet152": Row("ResNet152", _RESNET, 224, 2048, 58_370_944, 11_280_367_616, 0.766,
        f"resnet152_{_TF}_notop.h5", "ee4c566cf9a93f14d82f913c2dc6dd0c"),
    "resnet50_v2": Row("ResNet50V2", _RESNET_V2, 224, 2048, 23_564_800, 3_480_207_360, 0.760,
        f"resnet50v2_{_TF}_notop.h5", "fac2f116257151a9d068a22e544a4917"),
    "resnet101_v2": Row("ResNet101V2", _RESNET_V2, 224, 2048, 42_626_560, 7_192_428_544, 0.772,
        f"resnet101v2_{_TF}_notop.h5", "c0ed64b8031c3730f411d2eb4eea35b5"),
    "resnet152_v2": Row("ResNet152V2", _RESNET_V2, 224, 2048, 58_331_648, 10_904_649_728, 0.780,
        f"resnet152v2_{_TF}_notop.h5", "ed17cf2e0169df9d443503ef94b23b33"),
    "mobilenet": Row("MobileNet", _MOBILENET, 224, 1024, 3_228_864, 567_716_352, 0.704,
        "mobilenet_1_0_{size}_tf_no_top.h5", "", sizes=(128, 160, 192, 224)),
    "mobilenet_v2": Row("MobileNetV2", _MOBILENET_V2, 224, 1280, 2_257_984, 299_494_272, 0.713,
        f"mobilenet_v2_{_TF}_1.0_{{size}}_no_top.h5", "", sizes=(96, 128, 160, 192, 224)),
    "mobilenet_v3_small": Row("MobileNetV3Small", _MOBILENET_V3, 224, 576, 939_120, 54_896_576,
        0.681, "weights_mobilenet_v3_small_224_1.0_float_no_top_v2.h5",
        "d3e8ec802a04aa4fc771ee12a9a9b836"),
    "mobilenet_v3_large": Row("MobileNetV3Large", _MOBILENET_V3, 224, 960, 2_996_352, 214_080_960,
        0.756, "weights_mobilenet_v3_large_224_1.0_float_no_top_v2.h5",
        "07fb09a5933dd0c8eaafa16978110389"),
    "inception_v3": Row("InceptionV3", _INCEPTION, 299, 2048, 21_802_784, 5_711_168_096, 0.779,
        f"inception_v3_{_TF}_notop.h5", "bcbd6486424b2319ff4ef7d526e38f63"),
    "inception_resnet_v2": Row("InceptionResNetV2", _INCEPTION_RESNET, 299, 1536, 54_336_736,
        13_154_258_016, 0.803, f"inception_resnet_v2_{_TF}_notop.h5",
        "d19885ff4a710c122648d3b5c3b684e4"),
    "xception": Row("Xception", _XCEPTION, 299, 2048, 20_861_480, 8_355_355_496, 0.790,
        f"xception_{_TF}_notop.h5", "b0042744bf5b25fce3cb969f33bebb97"),
    "densenet121": Row("DenseNet121", _DENSENET, 224, 1024, 7_037_504, 2_833_137_664, 0.750,
        f"densenet121_{_TF}_notop.h5", "30ee3e1110167f948a6b9946edeeb738"),
    "densenet169": Row("DenseNet169", _DENSENET, 224, 1664, 12_642_880, 3_358_179_328, 0.762,
        f"densenet169_{_TF}_notop.h5", "b8c4d4c20dd625c148057b9ff1c1176b"),
    "densenet201": Row("DenseNet201", _DENSENET, 224, 1920, 18_321_984, 4_289_445_888, 0.773,
        f"densenet201_{_TF}_notop.h5", "c13680b51ded0fb44dff2d8f86ac8bb1"),
    "nasnet_mobile": Row("NASNetMobile", _NASNET, 224, 1056, 4_269_716, 562_582_816, 0.744,
        "nasnet_mobile_no_top.h5",
        "1ed92395b5b598bdda52abe5c0dbfd63", remote="NASNet-mobile-no-top.h5"),
    "nasnet_large": Row("NASNetLarge", _NASNET, 331, 4032, 84_916_818, 23_779_382_658, 0.825,
        "nasnet_large_no_top.h5",
        "d81d89dc07e6e56530c4e77faddd61b5", remote="NASNet-large-no-top.h5"),
    "efficientnet_b0": Row("EfficientNetB0", _EFFICIENTNET, 224, 1280, 4_049_571, 384_534_752,
        0.771, "efficientnetb0_notop.h5", "50bc09e76180e00e4465e1a485ddc09d"),
    "efficientnet_b1": Row("EfficientNetB1", _EFFICIENTNET, 240, 1280, 6_575_239, 685_522_832,
        0.791, "efficientnetb1_notop.h5", "74c4e6b3e1f6a1eea24c589628592432"),
    "efficientnet_b2": Row("EfficientNetB2", _EFFICIENTNET, 260, 1408, 7_768_569, 992_153_872,
        0.801, "efficientnetb2_notop.h5", "111f8e2ac8aa800a7a99e3239f7bfb39"),
    "efficientnet_b3": Row("EfficientNetB3", _EFFICIENTNET, 300, 1536, 10_783_535, 1_825_605_392,
        0.816, "efficientnetb3_notop.h5", "af6d107764bb5b1abb91932881670226"),
    "efficientnet_b4": Row("EfficientNetB4", _EFFICIENTNET, 380, 1792, 17_673_823, 4_391_979_024,
        0.829, "efficientnetb4_notop.h5", "ebc24e6d6c33eaebbd558eafbeedf1ba"),
    "efficientnet_b5": Row("EfficientNetB5", _EFFICIENTNET, 456, 2048, 28_513_527, 10_264_336_752,
        0.836, "efficientnetb5_notop.h5", "38879255a25d3c92d5e44e04ae6cec6f"),
    "efficientnet_b6": Row("EfficientNetB6", _EFFICIENTNET, 528, 2304, 40_960_143, 19_065_289_536,
        0.840, "efficientnetb6_notop.h5", "9ecce42647a20130c1f39a5d4cb75743"),
    "efficientnet_b7": Row("EfficientNetB7", _EFFICIENTNET, 600, 2560, 64_097_687, 37_743_324_192,
        0.843, "efficientnetb7_notop.h5", "cbcfe4450ddf6f3ad90b1b398090fe4a"),
    "efficientnet_v2_b0": Row("EfficientNetV2B0", _EFFICIENTNET_V2, 224, 1280, 5_919_312,
        716_806_176, 0.787, "efficientnetv2-b0_notop.h5", "893217f2bb855e2983157299931e43ff"),
    "efficientnet_v2_b1": Row("EfficientNetV2B1", _EFFICIENTNET_V2, 240, 1280, 6_931_124,
        1_195_539_360, 0.798, "efficientnetv2-b1_notop.h5", "0e80663031ca32d657f9caa404b6ec37"),
    "efficientnet_v2_b2": Row("EfficientNetV2B2", _EFFICIENTNET_V2, 260, 1408, 8_769_374,
        1_696_134_832, 0.805, "efficientnetv2-b2_notop.h5", "1dfe2e7a5d45b6632553a8961ea609eb"),
    "efficientnet_v2_b3": Row("EfficientNetV2B3", _EFFICIENTNET_V2, 300, 1536, 12_930_622,
        3_009_922_816, 0.820, "efficientnetv2-b3_notop.h5", "f6abf7b5849ac99a89b50dd3fd532856"),
    "efficientnet_v2_s": Row("EfficientNetV2S", _EFFICIENTNET_V2_LARGE, 384, 1280, 20_331_360,
        8_364_337_152, 0.839, "efficientnetv2-s_notop.h5", "af0682fb74e8c54910f2d4393339c070"),
    "efficientnet_v2_m": Row("EfficientNetV2M", _EFFICIENTNET_V2_LARGE, 480, 1280, 53_150_388,
        24_581_180_384, 0.853, "efficientnetv2-m_notop.h5", "1b8dc055df72dde80d614482840fe342"),
    "efficientnet_v2_l": Row("EfficientNetV2L", _EFFICIENTNET_V2_LARGE, 480, 1280, 117_746_848,
        56_078_419_008, 0.857, "efficientnetv2-l_notop.h5", "b0b66b5c863aef5b46e8608fe1711615"),
    "convnext_tiny": Row("ConvNeXtTiny", _CONVNEXT, 224, 768, 27_820_128, 4_454_763_264, 0.813,
        "convnext_tiny_notop.h5",
        "d547c096cabd03329d7be5562c5e14798aa39ed24b474157cef5e85ab9e49ef1"),
    "convnext_small": Row("ConvNeXtSmall", _CONVNEXT, 224, 768, 49_454_688, 8_682_944_256, 0.823,
        "convnext_small_notop.h5",
        "6fc8009faa2f00c1c1dfce59feea9b0745eb260a7dd11bee65c8e20843da6eab"),
    "convnext_base": Row("ConvNeXtBase", _CONVNEXT, 224, 1024, 87_566_464, 15_353_705_472, 0.853,
        "convnext_base_notop.h5",
        "40a20c5548a5e9202f69735ecc06c990e6b7c9d2de39f0361e27baeb24cb7c45"),
    "convnext_large": Row("ConvNeXtLarge", _CONVNEXT, 224, 1536, 196_230_336, 34_359_897_600, 0.863,
        "convnext_large_notop.h5",
        "96f02b6f0753d4f543261bc9d09bed650f24dd6bc02ddde3066135b63d23a1cd"),
    "convnext_xlarge": Row("ConvNeXtXLarge", _CONVNEXT, 224, 2048, 348_147_968, 60_918_982_656,
        0.867, "convnext_xlarge_notop.h5",
        "de3f8a54174130e0cecdc71583354753d557fcf1f4487331558e2a16ba0cfe05"),
}
# fmt: on
