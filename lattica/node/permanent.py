"""Documents that a node keeps because its settings say so."""

from __future__ import annotations

import asyncio
import logging

from lattica.errors import LatticaError
from lattica.store import NamespaceId, ReplicatedStore

logger = logging.getLogger(__name__)

RETRY_PAUSE_S = 5.0
"""Seconds until a document that nobody seems to have, or that the disk did not take, is looked for again."""


async def keep_open(store: ReplicatedStore, namespace: NamespaceId) -> None:
    """Open a document, as soon as anybody is there who has it; from then on the store keeps it up to date."""
    while True:
        try:
            await store.open(namespace)
        except LatticaError as error:
            logger.warning("document not replicated yet namespace=%s reason=%s", namespace, error)
            await asyncio.sleep(RETRY_PAUSE_S)
        else:
            logger.info("document replicated namespace=%s", namespace)
            return
