"""Commands: ``python -m netlab check`` and ``python -m netlab sweep``."""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence

from netlab.leftovers import sweep
from netlab.requirements import has_netem, unavailable_reason


def check() -> int:
    """Say whether a lab can run on this machine, and how its links would be made."""
    if reason := unavailable_reason():
        print(f"no lab on this machine: {reason}")
        return 1
    delays = "netem" if has_netem() else "delay lines in user space, for this kernel has no netem"
    print(f"labs run here; delay and loss by {delays}")
    return 0


def sweep_leftovers() -> int:
    """Remove what labs left behind whose process was killed."""
    for name in sweep():
        print(f"removed {name}")
    return 0


COMMANDS: Mapping[str, Callable[[], int]] = {"check": check, "sweep": sweep_leftovers}


def main(argv: Sequence[str]) -> int:
    """Run the command; 0 done, 1 failed, 2 misuse."""
    options = argparse.ArgumentParser(prog="python -m netlab", description=__doc__)
    commands = options.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, function in COMMANDS.items():
        commands.add_parser(name, help=function.__doc__)
    return COMMANDS[options.parse_args(argv).command]()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
