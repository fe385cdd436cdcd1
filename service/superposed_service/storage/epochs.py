"""Epochs: which of a store's servers may append to its journal, and from which record on."""

import json
import math
import secrets
from collections.abc import Sequence
from typing import NamedTuple

from superposed_service.errors import NotLeader, NotReady
from superposed_service.storage.database import Database, Statement

_NOTE = "epochs"


class Position(NamedTuple):
    """End of a journal: the epoch of its newest record, and that record's sequence number; the greater is newer."""

    epoch: int
    sequence: int


class Epochs:
    """The epochs of one journal, and what its server has promised. One thread at a time.

    An epoch begins with a promotion: its first record is the new leader's own. A server that has promised an epoch
    takes no record of an older one. So of two leaders only the one with the newer epoch finds followers.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        noted = json.loads(database.noted(_NOTE) or "{}")
        self.member: str = noted.get("member") or secrets.token_hex(8)  # of this directory among the store's servers
        self.promised: int = noted.get("promised", 1)  # the newest epoch that this server has promised
        self.led: int = noted.get("led", 1)  # the newest epoch that it led, or could lead without a promotion
        # Epoch and first record of every epoch after the first, oldest first
        self.starts: list[tuple[int, int]] = [(epoch, first) for epoch, first in noted.get("starts", [])]
        self.open = True  # whether this server may append records of its own
        self.leader = ""  # URL of the server that may, where it is known

    def epoch_of(self, sequence: int) -> int:
        """Return the epoch of a record."""
        return max((epoch for epoch, first in self.starts if first <= sequence), default=1)

    def end_of(self, epoch: int) -> float:
        """Return the first record after an epoch's; infinite where it is the last one."""
        return min((first for later, first in self.starts if later > epoch), default=math.inf)

    def check_open(self) -> None:
        """Raise `NotLeader` where another server takes changes, and `NotReady` where none does yet."""
        if self.leader:
            text = "this server follows another one, which takes changes"
            raise NotLeader(text, expected=f"a request to {self.leader}", leader=self.leader)
        if not self.open:
            raise NotReady("this server waits for a leader: `superposed promote` names one")

    def promise(self, epoch: int) -> None:
        """Promise an epoch, on the disk: nothing of an older one is taken any more."""
        self.open, self.leader = False, ""
        self._database.write(self.noting(epoch, self.starts))

    def lead(self, first: int) -> Statement:
        """Begin the promised epoch with the record `first`; what notes it belongs in that record's transaction."""
        self.led, self.open, self.leader = self.promised, True, ""
        return self.noting(self.promised, [*self.starts, (self.promised, first)])

    def noting(self, promised: int, starts: Sequence[tuple[int, int]]) -> Statement:
        """Take over epochs, and return the statement that notes them."""
        self.promised, self.starts = promised, list(starts)
        noted = {"member": self.member, "promised": promised, "led": self.led, "starts": self.starts}
        return self._database.noting(_NOTE, json.dumps(noted))

    def keep(self, promised: int | None = None, starts: Sequence[tuple[int, int]] | None = None) -> None:
        """Note the directory's name and epochs, those of a leader where they are given."""
        self._database.write(self.noting(promised or self.promised, self.starts if starts is None else starts))
