"""Reach any peer by its peer ID: the one port, NATs, relays, links, paths, pipes and the gateway."""

from lattica.mesh.assembly import open_mesh
from lattica.mesh.events import PathEvent, PathEventKind
from lattica.mesh.mesh import Mesh, PipeStatus
from lattica.mesh.paths import Candidate, CandidateKind, PathInfo, PathKind
from lattica.mesh.ports import PeerFinder
from lattica.mesh.reachability import Reachability
from lattica.mesh.relay_role import RelaySettings
from lattica.mesh.route import Route

__all__ = [
    "Candidate",
    "CandidateKind",
    "Mesh",
    "PathEvent",
    "PathEventKind",
    "PathInfo",
    "PathKind",
    "PeerFinder",
    "PipeStatus",
    "Reachability",
    "RelaySettings",
    "Route",
    "open_mesh",
]
