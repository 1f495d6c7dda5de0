"""What a manifest from a peer may claim. Each bound also holds for what we publish."""

from __future__ import annotations

from typing import Final

MAX_CHUNK: Final = 1 << 20
"""Largest chunk in bytes, 1 MiB: as issue 2 demands. Fits a gRPC message (4 MiB by default) with room to spare."""

MAX_MANIFEST: Final = 64 << 20
"""Largest encoded manifest in bytes; that of DeepSeek-V3 (670 GB, 91,991 tensors) has 28 MB."""

MAX_TOTAL_SIZE: Final = MAX_MANIFEST // 32 * MAX_CHUNK
"""Most bytes of all files together, 2 TiB: so many full chunks have room for their digests. The largest open models
take 1 TB; larger ones are published in parts."""

MAX_FILES: Final = 65_536
"""Most files. DeepSeek-V3 has 163 shards; published data sets have some tens of thousands."""

MAX_RUNS: Final = 1 << 20
"""Most runs of all files together, and so most tensors. DeepSeek-V3 has 91,991 tensors."""

MAX_PATH: Final = 1024
"""Longest path in bytes of UTF-8: a quarter of PATH_MAX, so that it can be joined to a destination."""

MAX_PATH_PART: Final = 255
"""Longest part of a path in bytes of UTF-8: NAME_MAX of the common filesystems."""

MAX_PATH_PARTS: Final = 64
"""Deepest path: bounds the work of finding paths that are both a file and a directory."""

MAX_NAME: Final = 1024
"""Longest name of a manifest or a tensor in bytes of UTF-8; the tensors of published models have some 80."""

MAX_DIMENSIONS: Final = 64
"""Most dimensions of a tensor: what NumPy and PyTorch can hold."""

MAX_ELEMENTS: Final = 1 << 63
"""Dimensions and their product stay below this, so that they fit every language's integers."""

MAX_TENSOR_MESSAGE: Final = 4096
"""Largest encoded tensor in bytes: the longest name, and 64 dimensions of ten bytes, with much to spare."""
