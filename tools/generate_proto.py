"""Generate `lattica/_proto` from `proto/`; with `--check`, fail if what is checked in differs."""

from __future__ import annotations

import argparse
import filecmp
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "proto" / "lattica" / "v1"
TARGET = ROOT / "lattica" / "_proto"
INIT = '"""Generated from proto/ by tools/generate_proto.py; do not edit."""\n'


def generate(target: Path) -> None:
    """Write the modules for every .proto file into `target`/lattica/_proto.

    The sources are mapped to the virtual folder `lattica/_proto`, so that the generated imports need no path tricks.
    """
    sources = [f"lattica/_proto/{path.name}" for path in sorted(SOURCE.glob("*.proto"))]
    plugins = Path(sys.executable).parent
    command = [
        sys.executable, "-m", "grpc_tools.protoc",
        f"-Ilattica/_proto={SOURCE}",
        f"--plugin=protoc-gen-mypy={plugins / 'protoc-gen-mypy'}",
        f"--plugin=protoc-gen-mypy_grpc={plugins / 'protoc-gen-mypy_grpc'}",
        f"--python_out={target}", f"--mypy_out={target}",
        f"--grpc_python_out={target}", f"--mypy_grpc_out={target}",
        *sources,
    ]  # fmt: skip
    subprocess.run(command, check=True)
    package = target / "lattica" / "_proto"
    (package / "__init__.py").write_text(INIT)
    for stale in sorted(package.glob("*_pb2_grpc.py*"), reverse=True):  # a .pyi before its .py
        if "def add_" not in (package / stale.name.replace(".pyi", ".py")).read_text():
            stale.unlink()


def main() -> int:
    """Generate, or check; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    with tempfile.TemporaryDirectory() as scratch:
        generate(Path(scratch))
        fresh = Path(scratch) / "lattica" / "_proto"
        names = sorted(path.name for path in fresh.iterdir())
        if not check:
            shutil.rmtree(TARGET, ignore_errors=True)
            shutil.copytree(fresh, TARGET)
            return 0
        have = sorted(path.name for path in TARGET.iterdir() if path.suffix in {".py", ".pyi"})
        _, differ, missing = filecmp.cmpfiles(fresh, TARGET, names, shallow=False)
        problems = sorted({*differ, *missing, *(set(have) - set(names))})
        if problems:
            print(f"lattica/_proto is stale ({', '.join(problems)}); run `make proto`", file=sys.stderr)
        return 1 if problems else 0


if __name__ == "__main__":
    raise SystemExit(main())
