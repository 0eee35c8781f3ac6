r"""The EXIF orientation of a JPEG, read and applied within a TensorFlow graph.

TensorFlow's own decoder ignores it, and phones write it into most of their photos. The layout is
that of the TIFF header behind ``Exif\\0\\0`` (CIPA DC-008, Exif 3.0, 4.5 and 4.6): byte order,
offset of the first directory, number of its entries, then entries of 12 bytes with tag, type, count
and value.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import tensorflow as tf

_TAG = 0x0112
_MARK = b"Exif\0\0"
# EXIF comes first in a file, in a segment of 64 kB at most; behind it zeros, to read past its end.
_HEAD, _BEHIND = 2**17, 2**13
_MOST_ENTRIES = 512


def read_orientation(data: tf.Tensor) -> tf.Tensor:
    """A number from 1 to 8 of the bytes of a file; 1, upright, where there is none."""
    import tensorflow as tf

    head = tf.cast(tf.io.decode_raw(tf.strings.substr(data, 0, _HEAD), tf.uint8), tf.int32)
    count = tf.shape(head)[0]
    padded = tf.concat([head, tf.zeros(_BEHIND, tf.int32)], 0)
    matches = [tf.equal(padded[k : count + 1 + k], value) for k, value in enumerate(_MARK)]
    is_mark = tf.reduce_all(tf.stack(matches), 0)
    start = tf.cast(tf.argmax(tf.cast(is_mark, tf.int32)), tf.int32) + len(_MARK)
    is_little = tf.equal(padded[start], ord("I"))

    def read(place: Any, length: int) -> tf.Tensor:
        """Whole numbers of so many bytes at some places; past the end they are 0."""
        places = tf.clip_by_value(start + place, 0, tf.shape(padded)[0] - length)
        values = [tf.gather(padded, places + k) for k in range(length)]
        low = sum(value * 256**k for k, value in enumerate(values))
        high = sum(value * 256**k for k, value in enumerate(reversed(values)))
        return tf.where(is_little, low, high)

    # An offset of four bytes may not fit into int32; one that is used does.
    directory = tf.clip_by_value(read(4, 4), 8, _HEAD)
    entries = tf.minimum(read(directory, 2), _MOST_ENTRIES)
    places = directory + 2 + 12 * tf.range(entries)
    is_wanted = tf.equal(read(places, 2), _TAG)
    found = tf.reduce_max(tf.concat([[0], tf.where(is_wanted, read(places + 8, 2), 0)], 0))
    is_valid = tf.reduce_any(is_mark) & (found >= 1) & (found <= 8)
    return tf.where(is_valid, found, 1)


def turn_upright(square: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """``(side, side, 3)`` a square as its photo is meant to be seen."""
    import tensorflow as tf

    turned = tf.transpose(square, (1, 0, 2))
    ways = [
        square,
        tf.image.flip_left_right(square),
        tf.image.rot90(square, 2),
        tf.image.flip_up_down(square),
        turned,
        tf.image.rot90(square, 3),
        tf.image.rot90(turned, 2),
        tf.image.rot90(square, 1),
    ]
    return tf.switch_case(orientation - 1, [lambda way=way: way for way in ways])
