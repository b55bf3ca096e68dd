"""Turns the bytes of files into pixels inside a TensorFlow graph, a whole batch at a time.

    images, digests = decode_batch(file_bytes, one_size, options)      # file_bytes: string [batch]
    crops = decoder_of(options).crops(file_bytes, one_size, boxes)

`decode='exact'` gives the pixels of `image_dataset_from_directory` (`pixels/exact_decode.py`);
`decode='scaled'` decodes large photographs at a part of their size (`pixels/scaled_decode.py`).
Pixels are float32 from 0 to 255. EXIF rotation is ignored, as Keras ignores it, unless the options
say 'apply' (`pixels/turned.py`). A file that TensorFlow does not decode, or one that is laid on a
background, has become a PNG before (`pixels/pillow_fallback.py`).
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import tensorflow as tf

from streamkd.image_options import ImageOptions
from streamkd.pixels.exact_decode import ExactDecoder, crops_of_images, fit, rounded
from streamkd.pixels.scaled_decode import ScaledDecoder

# Number of graphs that are kept: a teacher, a stream and its validation take one each.
NUM_KEPT_GRAPHS = 32


@dataclasses.dataclass(frozen=True)
class CanonicalDecoder:
    """Decodes files to one size of whole numbers, as the pixel cache keeps them, then resizes.

    Attributes:
      options: the size asked for.
      canonical: the size of every image before crops are cut.
    """

    options: ImageOptions
    canonical: ImageOptions

    def whole(self, file_bytes: tf.Tensor, one_size: tf.Tensor) -> tf.Tensor:
        """Returns every image whole, as `ExactDecoder.whole` does."""
        return fit(decode_canonical(file_bytes, one_size, self.canonical), self.options)

    def crops(
        self,
        file_bytes: tf.Tensor,
        one_size: tf.Tensor,
        boxes: tf.Tensor,
        *,
        plain_first: bool = False,
    ) -> tf.Tensor:
        """Returns crops of files, as `ExactDecoder.crops` does."""
        images = decode_canonical(file_bytes, one_size, self.canonical)
        return crops_of_images(images, boxes, self.options, plain_first)


@dataclasses.dataclass(frozen=True)
class KeptDecoder:
    """A decoder whose graphs are made once a process, however many datasets decode by them.

    Attributes:
      decoder: does the work; its arguments are those of `ExactDecoder`.
    """

    decoder: ExactDecoder | ScaledDecoder | CanonicalDecoder

    def whole(self, file_bytes: tf.Tensor, one_size: tf.Tensor) -> tf.Tensor:
        """Returns every image whole, as `ExactDecoder.whole` does."""
        if tf.executing_eagerly():
            return self.decoder.whole(file_bytes, one_size)
        return _kept(self.decoder, file_bytes, one_size)

    def crops(
        self,
        file_bytes: tf.Tensor,
        one_size: tf.Tensor,
        boxes: tf.Tensor,
        *,
        plain_first: bool = False,
    ) -> tf.Tensor:
        """Returns crops of files, as `ExactDecoder.crops` does."""
        if tf.executing_eagerly():
            return self.decoder.crops(file_bytes, one_size, boxes, plain_first=plain_first)
        return _kept(self.decoder, file_bytes, one_size, boxes, plain_first=plain_first)


def _kept(decoder: Any, *arguments: Any, plain_first: bool = False) -> tf.Tensor:
    """Returns the result of `whole`, or with boxes that of `crops`, of a kept graph."""
    tensors = [tf.convert_to_tensor(argument) for argument in arguments]
    specs = tuple(tf.TensorSpec(tensor.shape, tensor.dtype) for tensor in tensors)
    return _graph_of(decoder, specs, plain_first)(*tensors)


# Tracing takes longer than decoding ten thousand small images.
@functools.lru_cache(NUM_KEPT_GRAPHS)
def _graph_of(decoder: Any, specs: tuple[tf.TensorSpec, ...], plain_first: bool) -> Any:
    """Returns the graph for arguments of these specs."""

    def whole(file_bytes: tf.Tensor, one_size: tf.Tensor) -> tf.Tensor:
        return decoder.whole(file_bytes, one_size)

    def crops(file_bytes: tf.Tensor, one_size: tf.Tensor, boxes: tf.Tensor) -> tf.Tensor:
        return decoder.crops(file_bytes, one_size, boxes, plain_first=plain_first)

    with tf.init_scope():
        graph = tf.function(whole if len(specs) == 2 else crops, autograph=False)
        return graph.get_concrete_function(*specs)


_DECODERS: dict[str, type[ExactDecoder] | type[ScaledDecoder]] = {
    "exact": ExactDecoder,
    "scaled": ScaledDecoder,
}


def decoder_of(options: ImageOptions, canonical: ImageOptions | None = None) -> KeptDecoder:
    """Returns the decoder that `options.decode` names.

    With `canonical`, every image is brought to one size first, rounded to whole numbers.
    """
    if canonical is not None:
        return KeptDecoder(CanonicalDecoder(options, canonical))
    return KeptDecoder(_DECODERS[options.decode](options))


def decode_canonical(
    file_bytes: tf.Tensor, one_size: tf.Tensor, canonical: ImageOptions
) -> tf.Tensor:
    """Returns files at the canonical size, uint8 `[files, height, width, channels]`, to be cached.

    Arguments as in `decode_batch`.
    """
    decoder = KeptDecoder(_DECODERS[canonical.decode](canonical, whole_numbers=True))
    return tf.cast(decoder.whole(file_bytes, one_size), tf.uint8)


def as_canonical(images: tf.Tensor) -> tf.Tensor:
    """Returns what `decode_canonical` returns of files, given their decoded images as float32."""
    return tf.cast(rounded(images), tf.uint8)


def decode_batch(
    file_bytes: tf.Tensor,
    one_size: tf.Tensor,
    options: ImageOptions,
    digests: tf.Tensor | None = None,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the pixels and the content digests of a batch of files.

    Args:
      file_bytes: string `[batch]`, the bytes of each file.
      one_size: bool, whether the headers say that all images have one size.
      options: how bytes become pixels.
      digests: the known digests, as in `content_digests`.

    Returns:
      images, float32 `[batch, height, width, channels]`, 0 to 255; and content digests,
      uint64 `[batch]`, FarmHash64 of each file's bytes.

    Raises (when run):
      tf.errors.InvalidArgumentError: a file cannot be decoded. `refuse_bad_image` names the file.
    """
    images = decoder_of(options).whole(file_bytes, one_size)
    return images, content_digests(file_bytes, digests)


def content_digests(file_bytes: tf.Tensor, known: tf.Tensor | None = None) -> tf.Tensor:
    """Returns FarmHash64 of each file's bytes, uint64 `[batch]`.

    Args:
      file_bytes: string `[batch]`.
      known: uint64 `[batch]`, the digest of each original file for which another image stands in;
        0 for the others. See `pixels/file_batch.py`.
    """
    digests = tf.bitcast(tf.fingerprint(file_bytes, method="farmhash64"), tf.uint64)
    if known is None:
        return digests
    return tf.where(tf.not_equal(known, 0), known, digests)


def decode(data: tf.Tensor, options: ImageOptions) -> tf.Tensor:
    """Returns float32 `[height, width, channels]`, 0 to 255, for the bytes of one file."""
    return _DECODERS[options.decode](options).image(data)
