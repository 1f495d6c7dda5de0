"""Reach any peer by its peer ID: the one port, links, paths, pipes and the gateway."""

from lattica.mesh.gateway import Route
from lattica.mesh.assembly import open_mesh
from lattica.mesh.mesh import Mesh, PipeStatus
from lattica.mesh.paths import Candidate, CandidateKind, PathInfo, PathKind
from lattica.mesh.ports import PeerFinder

__all__ = [
    "Candidate",
    "CandidateKind",
    "Mesh",
    "PathInfo",
    "PathKind",
    "PeerFinder",
    "PipeStatus",
    "Route",
    "open_mesh",
]
