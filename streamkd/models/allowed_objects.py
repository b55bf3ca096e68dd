"""The classes and functions that a model file may name without `--trust`.

    reason = why_refused(entry, is_registered)      # None, or "Lambda runs code of its own"

Keras builds whatever a file's configuration names. Named here are those of Keras that only compute:
nothing that imports, calls a function of the file's choice, loads another model, or reads or writes
files. A class that Keras adds later is refused until it is added here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from streamkd.models import user_code

_LAYERS = """
    Activation ActivityRegularization AdaptiveAveragePooling1D AdaptiveAveragePooling2D
    AdaptiveAveragePooling3D AdaptiveMaxPooling1D AdaptiveMaxPooling2D AdaptiveMaxPooling3D Add
    AdditiveAttention AlphaDropout Attention AugMix AutoContrast Average AveragePooling1D
    AveragePooling2D AveragePooling3D AvgPool1D AvgPool2D AvgPool3D BatchNormalization Bidirectional
    CategoryEncoding CenterCrop Concatenate ContrastLimitedAdaptiveHistogramEqualization Conv1D
    Conv1DTranspose Conv2D Conv2DTranspose Conv3D Conv3DTranspose ConvLSTM1D ConvLSTM2D ConvLSTM3D
    Convolution1D Convolution1DTranspose Convolution2D Convolution2DTranspose Convolution3D
    Convolution3DTranspose Cropping1D Cropping2D Cropping3D CutMix Dense DepthwiseConv1D
    DepthwiseConv2D Discretization Dot Dropout ELU EinsumDense Embedding Equalization Flatten GRU
    GRUCell GaussianDropout GaussianNoise GlobalAveragePooling1D GlobalAveragePooling2D
    GlobalAveragePooling3D GlobalAvgPool1D GlobalAvgPool2D GlobalAvgPool3D GlobalMaxPool1D
    GlobalMaxPool2D GlobalMaxPool3D GlobalMaxPooling1D GlobalMaxPooling2D GlobalMaxPooling3D
    GroupNormalization GroupQueryAttention GroupedQueryAttention Identity InputLayer InputSpec LSTM
    LSTMCell LayerNormalization LeakyReLU LocallyConnected1D LocallyConnected2D Masking MaxPool1D
    MaxPool2D MaxPool3D MaxPooling1D MaxPooling2D MaxPooling3D Maximum MelSpectrogram Minimum MixUp
    MultiHeadAttention Multiply Normalization PReLU Permute Pipeline RMSNormalization RNN
    RandAugment RandomBrightness RandomColorDegeneration RandomColorJitter RandomContrast RandomCrop
    RandomElasticTransform RandomErasing RandomFlip RandomGaussianBlur RandomGrayscale RandomHeight
    RandomHue RandomInvert RandomPerspective RandomPosterization RandomRotation RandomSaturation
    RandomSharpness RandomShear RandomTranslation RandomWidth RandomZoom ReLU RepeatVector Rescaling
    Reshape Resizing ReversibleEmbedding STFTSpectrogram SeparableConv1D SeparableConv2D
    SeparableConvolution1D SeparableConvolution2D SimpleRNN SimpleRNNCell Softmax Solarization
    SpatialDropout1D SpatialDropout2D SpatialDropout3D SpectralNormalization StackedRNNCells
    Subtract SyncBatchNormalization ThresholdedReLU TimeDistributed UnitNormalization UpSampling1D
    UpSampling2D UpSampling3D ZeroPadding1D ZeroPadding2D ZeroPadding3D
    LayerScale CustomScaleLayer
"""
_MODELS = "Functional Model Sequential"
_PARTS_OF_LAYERS = """
    Constant GlorotNormal GlorotUniform HeNormal HeUniform Identity IdentityInitializer LecunNormal
    LecunUniform Ones Orthogonal OrthogonalInitializer RandomNormal RandomUniform STFT
    STFTInitializer TruncatedNormal VarianceScaling Zeros
    L1 L1L2 L2 OrthogonalRegularizer
    MaxNorm MinMaxNorm NonNeg RadialConstraint UnitNorm
    AWQDTypePolicy DTypePolicy DTypePolicyMap FloatDTypePolicy GPTQDTypePolicy Int4DTypePolicy
    QuantizedDTypePolicy QuantizedFloat8DTypePolicy Policy
    SeedGenerator
    AWQConfig AbsMaxQuantizer Float8QuantizationConfig GPTQConfig Int4QuantizationConfig
    Int8QuantizationConfig
"""
# Operations of Keras 3 within a functional model.
_OPERATIONS = """
    Abs Absolute Add Amax Amin Arccos Arcsin Arctan Arctan2 Argmax Argmin Average BroadcastTo Cast
    Ceil Clip Concatenate Cos Cosh Cumsum Divide DivideNoNan Dot Einsum Equal Erf Exp ExpandDims
    Expm1 Flip Floor FloorDivide GetItem Greater GreaterEqual Less LessEqual Log Log10 Log1p Log2
    Logaddexp LogicalAnd LogicalNot LogicalOr Logsumexp Matmul Max Maximum Mean Median Min Minimum
    Mod Moveaxis Multiply Negative NotEqual OnesLike Outer Pad Power Prod Ravel Reciprocal Repeat
    Reshape Roll Round Rsqrt Sigmoid Sign Sin Sinh Slice Softmax Sort Split Sqrt Square Squeeze
    Stack Std StopGradient Subtract Sum Swapaxes Take TakeAlongAxis Tan Tanh Tensordot Tile TopK
    Transpose TrueDivide Unstack Var Where ZerosLike
    AdaptiveAveragePool AdaptiveMaxPool AveragePool BatchNorm Celu Conv ConvTranspose DepthToSpace
    DepthwiseConv DotProductAttention Elu Gelu Glu HardShrink HardSigmoid HardSilu HardTanh
    LayerNorm LeakyRelu LogSigmoid LogSoftmax MaxPool Moments Normalize OneHot RMSNorm Relu Relu6
    Selu SeparableConv Silu SoftShrink Softplus Softsign SpaceToDepth SparsePlus SparseSigmoid
    Sparsemax Squareplus TanhShrink Threshold
    CropImages ExtractPatches HSVToRGB PadImages RGBToGrayscale RGBToHSV Resize
"""
# Marks of plain values in a configuration.
_VALUES = """
    __bytes__ __complex__ __ellipsis__ __keras_tensor__ __numpy__ __slice__ __tensor__ __tuple__
    TensorShape
"""
# Functions of TensorFlow that tf_keras puts into a functional model as layers.
_TF_FUNCTIONS = """
    __operators__.add __operators__.eq __operators__.getitem __operators__.ne __operators__.sub
    cast clip_by_value compat.v1.shape concat convert_to_tensor expand_dims eye gather identity
    image.adjust_brightness image.adjust_contrast image.convert_image_dtype
    image.crop_to_bounding_box image.flip_left_right image.grayscale_to_rgb
    image.pad_to_bounding_box image.per_image_standardization image.resize image.rgb_to_grayscale
    image.rot90 linalg.matmul
    math.abs math.add math.add_n math.argmax math.cumsum math.divide math.divide_no_nan math.equal
    math.erf math.exp math.floor math.floordiv math.greater math.greater_equal math.l2_normalize
    math.less math.less_equal math.log math.log1p math.logical_and math.logical_not
    math.logical_or math.maximum math.minimum math.mod math.multiply math.negative math.not_equal
    math.pow math.reciprocal math.reduce_max math.reduce_mean math.reduce_min math.reduce_prod
    math.reduce_std math.reduce_sum math.reduce_variance math.round math.rsqrt math.sigmoid
    math.sign math.softplus math.sqrt math.square math.squared_difference math.subtract math.tanh
    math.truediv
    nn.avg_pool nn.bias_add nn.conv2d nn.depth_to_space nn.depthwise_conv2d nn.dropout nn.elu
    nn.gelu nn.l2_normalize nn.leaky_relu nn.log_softmax nn.max_pool nn.moments nn.relu nn.relu6
    nn.selu nn.sigmoid nn.silu nn.softmax nn.softplus nn.softsign nn.space_to_depth nn.tanh
    one_hot ones_like pad repeat reshape reverse shape sigmoid slice split squeeze stack
    stop_gradient strided_slice tanh tile transpose unstack where zeros_like
"""
_ACTIVATIONS = """
    celu elu exponential gelu glu hard_shrink hard_sigmoid hard_silu hard_swish hard_tanh leaky_relu
    linear log_sigmoid log_softmax mish relu relu6 selu sigmoid silu soft_shrink softmax softplus
    softsign sparse_plus sparse_sigmoid sparsemax squareplus swish tanh tanh_shrink threshold
"""

ALLOWED_LAYERS = frozenset(f"{_LAYERS} {_MODELS}".split())
ALLOWED_CLASSES = ALLOWED_LAYERS | frozenset(f"{_PARTS_OF_LAYERS} {_VALUES}".split())
ALLOWED_OPERATIONS = frozenset(_OPERATIONS.split())
ALLOWED_TF_FUNCTIONS = frozenset(_TF_FUNCTIONS.split())
ALLOWED_FUNCTIONS = frozenset(_ACTIVATIONS.split())

# Layers that are refused, with what they could do.
REFUSED_LAYERS = {
    "Lambda": "runs code from the file",
    "TFSMLayer": "loads another model from a path",
    "TorchModuleWrapper": "unpickles a PyTorch module",
    "JaxLayer": "calls a function that the file names",
    "FlaxLayer": "calls a function that the file names",
    "StringLookup": "reads a vocabulary from a path or an address",
    "IntegerLookup": "reads a vocabulary from a path or an address",
    "TextVectorization": "reads a vocabulary from a path or an address",
    "Hashing": "takes no pixels",
    "HashedCrossing": "takes no pixels",
    "DenseFeatures": "takes no pixels",
    "MaxNumBoundingBoxes": "takes no pixels",
    "Wrapper": "is a base class",
    "AbstractRNNCell": "is a base class",
    "Layer": "is a base class",
}
_OPERATION_LAYERS = ("TFOpLambda", "SlicingOpLambda")
_ROOMS = (
    "activations|applications|constraints|dtype_policies|engine|initializers|layers|mixed_precision"
    "|models|ops|quantizers|random|regularizers"
)
# Modules in which Keras keeps these classes; TensorFlow's own initializers among them.
_MODULE = re.compile(
    rf"builtins|(tf_)?keras(\.({_ROOMS})(\.experimental|\.preprocessing)?)?"
    rf"|(tf_)?keras\.src\.({_ROOMS})(\.[a-z0-9_]+)*|tensorflow\.python\.ops\.init_ops_v2"
)
_OPERATION_MODULE = re.compile(r"keras(\.src)?\.ops(\.[a-z0-9_]+)?")


def why_refused(entry: Mapping[str, Any], is_registered: Callable[[str], bool]) -> str | None:
    """Returns why an object of a configuration needs `--trust`; None for an allowed one.

    Args:
      entry: dict with `class_name`, and as Keras writes it `module`, `registered_name`, `config`.
      is_registered: whether the user's program has registered a class or function of that name.
    """
    name, module = entry["class_name"], entry.get("module")
    config, registered = entry.get("config"), entry.get("registered_name")
    if not isinstance(name, str):
        return f"it has a class name that is no text: {name!r:.80}"
    if name == "function":
        return _why_function_is_refused(config, module, registered, is_registered)
    # Without a module Keras takes the class by its own name, whatever is registered.
    if module is not None and isinstance(registered, str) and is_registered(registered):
        return None
    if isinstance(module, str) and user_code.is_own_layer(module, name):
        return _why_second_name_is_refused(name, registered)
    if module is not None and not (isinstance(module, str) and _MODULE.fullmatch(module)):
        return f"{name!r:.80} is of the module {module!r:.80}, which is not Keras' own"
    if name in REFUSED_LAYERS:
        return f"the layer {name} {REFUSED_LAYERS[name]}"
    if name in _OPERATION_LAYERS:
        function = config.get("function") if isinstance(config, Mapping) else None
        if not (isinstance(function, str) and function in ALLOWED_TF_FUNCTIONS):
            return f"an operation layer calls TensorFlow's function {function!r:.80}"
    elif isinstance(module, str) and _OPERATION_MODULE.fullmatch(module):
        if name not in ALLOWED_OPERATIONS:
            return f"it calls the operation {name!r:.80}"
    elif name not in ALLOWED_CLASSES:
        return f"{name!r:.80} is not on the list of Keras' layers that only compute"
    return _why_second_name_is_refused(name, registered)


def foreign_module(entry: Mapping[str, Any]) -> str | None:
    """Returns the module of an object that may be the user's own; None for other objects."""
    module = entry.get("module")
    return module if user_code.may_be_own(module) else None


def _why_function_is_refused(
    name: Any, module: Any, registered: Any, is_registered: Callable[[str], bool]
) -> str | None:
    if isinstance(name, str) and is_registered(name):
        return None
    is_keras = module is None or (isinstance(module, str) and _MODULE.fullmatch(module))
    if is_keras and isinstance(name, str) and name in ALLOWED_FUNCTIONS:
        return _why_second_name_is_refused(name, registered)
    where = "" if module is None else f" of the module {module!r:.80}"
    return f"it calls the function {name!r:.80}{where}"


def _why_second_name_is_refused(name: str, registered: Any) -> str | None:
    """Returns why a registered name is refused: Keras falls back to it, whatever it names."""
    if registered is None or registered in (name, f"Custom>{name}", "function"):
        return None
    return f"{name!r:.80} has the second name {registered!r:.80}, which nothing has registered"
