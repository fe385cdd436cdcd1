"""Records on the followers' disks, which the answer to a change waits for. On the event loop only."""

import asyncio
import contextlib
import time
from collections.abc import Collection

from superposed_service.errors import TooFewFollowers
from superposed_service.storage.shipping import Place

# A follower asks at least once a second.
_SILENT_S, _LOOK_S = 3.0, 0.2


class Replication:
    """The followers of this server, and how far each has come.

    `needed` followers must have a change on their disks before it is answered; only the `members` count. `turn` is
    the number of times that this server began to lead or to follow: what it recorded before may be gone.
    """

    def __init__(self, needed: int) -> None:
        self.needed = needed
        self.members: Collection[str] = ()
        self.turn = 0
        self._sent: dict[str, tuple[int, str]] = {}
        self._places: dict[str, tuple[Place, float]] = {}  # and when it was heard of
        self._changed = asyncio.Event()

    def begin(self) -> None:
        """Forget how far followers are: this server begins to lead, or to follow another one."""
        self.turn += 1
        self._sent.clear()
        self._places.clear()

    def sent(self, member: str, sequence: int, chain: str) -> None:
        """Note the end of what was sent to a follower."""
        self._sent[member] = (sequence, chain)

    def knows(self, place: Place) -> bool:
        """Return True if a follower has reached the end of what was sent to it, and note that."""
        known = self._sent.get(place.member) == (place.sequence, place.chain)
        if known:
            self.reached(place)
        return known

    def reached(self, place: Place) -> None:
        """Note that a follower has the records up to a place of this journal on its disk."""
        self._places[place.member] = (place, time.monotonic())
        self._changed.set()
        self._changed = asyncio.Event()

    def behind(self, sequence: int, api_keys: str = "") -> int:
        """Return how many of the members have not yet reached a record, and a digest of the API keys."""
        places = [self._places[member][0] for member in self.members if member in self._places]
        there = sum(one.sequence >= sequence and api_keys in ("", one.api_keys) for one in places)
        return len(self.members) - there

    def check(self) -> None:
        """Raise `TooFewFollowers` where a change could not be answered now."""
        since = time.monotonic() - _SILENT_S
        heard = sum(self._places[member][1] > since for member in self.members if member in self._places)
        if heard < self.needed:
            text = "too few followers are reached: nothing is learned until they are; inference goes on"
            wanted = f"{self.needed} of SUPERPOSED_MEMBERS (SUPERPOSED_SYNC_FOLLOWERS)"
            raise TooFewFollowers(text, expected=wanted, received=heard)

    async def wait(self, turn: int, sequence: int, api_keys: str = "") -> None:
        """Wait until enough followers have a record of a turn, and the API keys of a digest, on their disks.

        Raise `TooFewFollowers` where they are not reached any more, or the turn is over.
        """
        known: dict[str, object] = {"expected": "the leader that took it", "received": "another one"}
        try:
            while turn == self.turn and len(self.members) - self.behind(sequence, api_keys) < self.needed:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._changed.wait(), _LOOK_S)
                self.check()
            if turn == self.turn:
                return
        except TooFewFollowers as error:
            known = {"expected": error.expected, "received": error.received}
        text = "the change was recorded, and not on enough followers yet: send it again with the same Idempotency-Key"
        raise TooFewFollowers(f"{text} for its answer", **known)
