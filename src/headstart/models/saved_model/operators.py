"""The operators that a photo network may consist of.

A SavedModel is a program: TensorFlow has operators that read and write files, open connections and
call Python. What is listed here computes numbers from numbers, and does nothing else; every other
operator is refused, those of which nobody has thought included.

Not here on purpose, although networks have them: XlaCallModule and PyFunc (they call functions of
the running process by number), PrintV2 (writes to files), tables (their initialisers read files),
the decoders of images (Headstart decodes photos itself).
"""

from __future__ import annotations

_FLOW = """
    _Arg _Retval Assert Case CheckNumerics Const EnsureShape Enter Exit Identity IdentityN If
    LoopCond Merge NextIteration NoOp PartitionedCall Placeholder PlaceholderV2
    PlaceholderWithDefault PreventGradient StatefulPartitionedCall StatelessCase StatelessIf
    StatelessWhile StopGradient Switch While
"""
_VARIABLES = """
    AssignAddVariableOp AssignSubVariableOp AssignVariableOp DisableCopyOnRead ReadVariableOp
    ResourceGather VarHandleOp VariableShape VarIsInitializedOp
"""
_RANDOM = """
    Multinomial RandomShuffle RandomStandardNormal RandomUniform RandomUniformInt RngReadAndSkip
    StatefulUniform StatelessMultinomial StatelessRandomGetAlg StatelessRandomGetKeyCounter
    StatelessRandomGetKeyCounterAlg StatelessRandomNormal StatelessRandomNormalV2
    StatelessRandomUniform StatelessRandomUniformInt StatelessRandomUniformIntV2
    StatelessRandomUniformV2 StatelessTruncatedNormal StatelessTruncatedNormalV2 TruncatedNormal
"""
_ARRAYS = """
    ArgMax ArgMin BatchToSpace BatchToSpaceND Bitcast BroadcastArgs BroadcastGradientArgs
    BroadcastTo Cast Concat ConcatOffset ConcatV2 Cumprod Cumsum DepthToSpace DynamicPartition
    DynamicStitch ExpandDims ExtractImagePatches Fill Gather GatherNd GatherV2
    InvertPermutation LinSpace MatrixBandPart MatrixDiag MatrixDiagPart MirrorPad MirrorPadGrad
    OneHot OnesLike Pack Pad PadV2 ParallelDynamicStitch Range Rank Reshape Reverse
    ReverseSequence ReverseV2 Roll ScatterNd Select SelectV2 Shape ShapeN Size Slice SpaceToBatch
    SpaceToBatchND SpaceToDepth Split SplitV Squeeze StridedSlice StridedSliceGrad
    TensorScatterAdd TensorScatterUpdate Tile TopK TopKV2 Transpose Unique Unpack Where ZerosLike
    EmptyTensorList TensorListElementShape TensorListFromTensor TensorListGetItem
    TensorListLength TensorListPopBack TensorListPushBack TensorListReserve TensorListSetItem
    TensorListStack
"""
_ARITHMETIC = """
    Abs Acos Acosh Add AddN AddV2 All Any ApproximateEqual Asin Asinh Atan Atan2 Atanh BatchMatMul
    BatchMatMulV2 BatchMatMulV3 Ceil ClipByValue Cos Cosh Cross Div DivNoNan Einsum Equal Erf Erfc
    Erfinv EuclideanNorm Exp Expm1 Floor FloorDiv FloorMod Greater GreaterEqual Inv InvGrad IsFinite
    IsInf IsNan Less LessEqual Log Log1p LogicalAnd LogicalNot LogicalOr MatMul Max Maximum Mean Min
    Minimum Mod Mul MulNoNan Ndtri Neg NotEqual Pow Prod RealDiv Reciprocal ReciprocalGrad Rint
    Round Rsqrt RsqrtGrad SegmentMean SegmentSum Sigmoid SigmoidGrad Sign Sin Sinh Sqrt SqrtGrad
    Square SquaredDifference Sub Sum Tan Tanh TanhGrad TruncateDiv TruncateMod UnsortedSegmentSum
    Xdivy Xlog1py Xlogy
"""
_NETWORKS = """
    AvgPool AvgPoolGrad BiasAdd BiasAddGrad BiasAddV1 Conv2D Conv2DBackpropFilter
    Conv2DBackpropInput Conv3D DepthwiseConv2dNative DepthwiseConv2dNativeBackpropFilter
    DepthwiseConv2dNativeBackpropInput Dilation2D Elu EluGrad FusedBatchNorm FusedBatchNormGrad
    FusedBatchNormGradV2 FusedBatchNormGradV3 FusedBatchNormV2 FusedBatchNormV3 InTopKV2 L2Loss
    LeakyRelu LeakyReluGrad LogSoftmax LRN LRNGrad MaxPool MaxPoolGrad MaxPoolV2 MaxPoolWithArgmax
    Relu Relu6 Relu6Grad ReluGrad Selu SeluGrad Softmax SoftmaxCrossEntropyWithLogits Softplus
    SoftplusGrad Softsign SoftsignGrad SparseSoftmaxCrossEntropyWithLogits FakeQuantWithMinMaxArgs
    FakeQuantWithMinMaxArgsGradient FakeQuantWithMinMaxVars FakeQuantWithMinMaxVarsGradient
    FakeQuantWithMinMaxVarsPerChannel FakeQuantWithMinMaxVarsPerChannelGradient
    QuantizeAndDequantizeV2 QuantizeAndDequantizeV3 QuantizeAndDequantizeV4
"""
_IMAGES = """
    AdjustContrastv2 AdjustHue AdjustSaturation CropAndResize HSVToRGB ImageProjectiveTransformV2
    ImageProjectiveTransformV3 ResizeArea ResizeBicubic ResizeBilinear ResizeBilinearGrad
    ResizeNearestNeighbor ResizeNearestNeighborGrad RGBToHSV ScaleAndTranslate
"""

PURE = frozenset(
    " ".join((_FLOW, _VARIABLES, _RANDOM, _ARRAYS, _ARITHMETIC, _NETWORKS, _IMAGES)).split()
)

# Every SavedModel brings two functions that write and read its variables. TensorFlow's loader in
# Python does not call them; nothing that can be called may lead to them.
_CHECKPOINT = """
    MergeV2Checkpoints RestoreV2 SaveV2 ShardedFilename StaticRegexFullMatch StringJoin
"""
CHECKPOINT = frozenset(_CHECKPOINT.split())
