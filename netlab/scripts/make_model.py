"""Write a small model in the safetensors format: ``make_model.py FILE [MEGABYTES]``."""

import json
import os
import sys
from pathlib import Path

LAYERS = 8


def main(file: str, megabytes: str = "16") -> None:
    """Layers of random numbers, all of one size; needs no library."""
    size = int(megabytes) * 1_000_000 // LAYERS // 4 * 4
    header = {
        f"layers.{layer}.weight": {
            "dtype": "F32",
            "shape": [size // 4],
            "data_offsets": [layer * size, (layer + 1) * size],
        }
        for layer in range(LAYERS)
    }
    encoded = json.dumps(header).encode()
    with Path(file).open("wb") as model:
        model.write(len(encoded).to_bytes(8, "little") + encoded)
        model.writelines(os.urandom(size) for _ in range(LAYERS))


if __name__ == "__main__":
    main(*sys.argv[1:])
