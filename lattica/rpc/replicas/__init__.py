"""Replicas by name: who offers a service, how well it is, and which one the next call goes to."""

from lattica.rpc.replicas.directory import Replicas, check_offer, open_replicas
from lattica.rpc.replicas.replica import Outcome
from lattica.rpc.replicas.replica_set import ReplicaSet
from lattica.rpc.replicas.settings import ReplicaSettings
from lattica.rpc.replicas.table import ReplicaStatus, ReplicaTable

__all__ = [
    "Outcome",
    "ReplicaSet",
    "ReplicaSettings",
    "ReplicaStatus",
    "ReplicaTable",
    "Replicas",
    "check_offer",
    "open_replicas",
]
