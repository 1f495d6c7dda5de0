"""Python values as msgpack and buffers: typed by annotations, arrays and tensors without a copy, no pickle."""

from lattica.rpc.codec.codec import ArgsCodec, Codec
from lattica.rpc.codec.wire import Encoded

__all__ = ["ArgsCodec", "Codec", "Encoded"]
