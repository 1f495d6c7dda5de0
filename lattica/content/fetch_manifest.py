"""Getting a manifest: several providers are asked, the first right answer counts."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from lattica.background import Background, background_tasks
from lattica.content.cid import Cid
from lattica.content.fetch_report import Patience
from lattica.content.fetch_search import ProviderSearch
from lattica.content.manifest import Manifest
from lattica.content.ports import PeerChannels
from lattica.content.provider_client import get_manifest
from lattica.content.transfer_threads import run_to_end
from lattica.errors import ContentNotFoundError, IntegrityError, ManifestError, NetworkError
from lattica.identity import PeerId

logger = logging.getLogger(__name__)

MANIFEST_RACE = 32
"""Providers asked at a time: many of those that the DHT names may be gone."""
LARGE_RACE = 2
"""Providers that may send more than one part at a time: up to `MAX_MANIFEST` bytes each, right or wrong."""
MANIFEST_TIMEOUT_S = 15.0
"""Seconds for one provider to connect and send the manifest."""


class ManifestRace:
    """Asks the providers of a root for its manifest.

    Attributes:
        wrong: Providers that sent something else.
        attempts: Why each provider failed, by its ID.
    """

    def __init__(self, cid: Cid, channels: PeerChannels, search: ProviderSearch) -> None:
        self.wrong: set[PeerId] = set()
        self.attempts: dict[str, str] = {}
        self._cid = cid
        self._channels = channels
        self._search = search
        self._asking: set[PeerId] = set()
        self._places = asyncio.Semaphore(MANIFEST_RACE)
        self._large = asyncio.Semaphore(LARGE_RACE)
        self._winner: asyncio.Future[tuple[Manifest, bytes]] = asyncio.get_running_loop().create_future()

    async def run(self, patience: Patience, found: Callable[[], None]) -> tuple[Manifest, bytes]:
        """The manifest, and its encoded form. ``found`` is called when there is somebody to ask.

        Raises:
            ContentNotFoundError: Nobody was found, or nobody could give it, in the time that `patience` allows.
            IntegrityError: The same, and somebody sent something else.
            ManifestError: It is not acceptable; as the hash is right, no other provider has a better one.
        """
        async with background_tasks() as tasks:
            tasks.start(self._ask_all(tasks))
            try:
                async with asyncio.timeout(patience.nobody):
                    await self._search.somebody.wait()
                found()
                async with asyncio.timeout(patience.manifest):
                    return await self._winner
            except TimeoutError:
                raise self._failure() from None
            finally:
                self._winner.cancel()

    def _failure(self) -> Exception:
        if self._search.failure:
            self.attempts["search"] = self._search.failure
        if self.wrong:
            return IntegrityError(self._cid, tuple(sorted(map(str, self.wrong))))
        return ContentNotFoundError(self._cid, self.attempts)

    async def _ask_all(self, tasks: Background) -> None:
        while True:
            peer = await self._search.next_peer()
            if peer not in self._asking and peer not in self.wrong:
                self._asking.add(peer)
                tasks.start(self._ask(peer))

    async def _ask(self, peer: PeerId) -> None:
        try:
            async with self._places, asyncio.timeout(MANIFEST_TIMEOUT_S):
                data = await get_manifest(self._channels.channel(peer), self._cid, self._large)
                manifest = await run_to_end(Manifest.decode, self._cid, data)
        except TimeoutError:
            self._note(peer, f"no manifest within {MANIFEST_TIMEOUT_S:.0f} s")
        except NetworkError as error:
            self._note(peer, str(error))
        except IntegrityError:
            self.wrong.add(peer)
            self._note(peer, "sent another manifest")
        except ManifestError as error:
            if not self._winner.done():
                self._winner.set_exception(error)
        else:
            if not self._winner.done():
                self._winner.set_result((manifest, data))
        finally:
            self._asking.discard(peer)

    def _note(self, peer: PeerId, reason: str) -> None:
        self.attempts[str(peer)] = reason
        logger.info("no manifest cid=%s peer=%s reason=%s", self._cid, peer, reason)
