"""Commands: ``python -m netlab check``, ``sweep`` and ``matrix``."""

import argparse
import sys
from collections.abc import Sequence

from netlab import matrix
from netlab.leftovers import sweep
from netlab.requirements import has_netem, unavailable_reason


def check(_: argparse.Namespace) -> int:
    """Say whether a lab can run on this machine, and how its links would be made."""
    if reason := unavailable_reason():
        print(f"no lab on this machine: {reason}")
        return 1
    delays = "netem" if has_netem() else "delay lines in user space, for this kernel has no netem"
    print(f"labs run here; delay and loss by {delays}")
    return 0


def sweep_leftovers(_: argparse.Namespace) -> int:
    """Remove what labs left behind whose process was killed."""
    for name in sweep():
        print(f"removed {name}")
    return 0


COMMANDS = {"check": check, "sweep": sweep_leftovers, "matrix": matrix.run_matrix}


def main(argv: Sequence[str]) -> int:
    """Run the command; 0 done, 1 failed, 2 misuse."""
    options = argparse.ArgumentParser(prog="python -m netlab", description=__doc__)
    commands = options.add_subparsers(dest="command", required=True, metavar="COMMAND")
    parsers = {
        name: commands.add_parser(name, help=function.__doc__, description=function.__doc__)
        for name, function in COMMANDS.items()
    }
    matrix.add_options(parsers["matrix"])
    chosen = options.parse_args(argv)
    return COMMANDS[chosen.command](chosen)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
