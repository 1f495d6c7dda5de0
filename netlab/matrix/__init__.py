"""Every pair of NAT kinds: does a program get from one to the other, how, and how soon?"""

from netlab.matrix.command import add_options, run_matrix
from netlab.matrix.kinds import KINDS, Kind
from netlab.matrix.programs import Programs
from netlab.matrix.rows import Row

__all__ = ["KINDS", "Kind", "Programs", "Row", "add_options", "run_matrix"]
