"""Server-sent events, read line by line: sans IO, like the rest of the core."""

import json
from collections.abc import Iterator
from typing import Any

from superposed_client.models import Event


class EventReader:
    """Puts lines of a stream together to events."""

    def __init__(self) -> None:
        self._kind = ""
        self._data: list[str] = []

    def read(self, line: str) -> Iterator[Event]:
        """Take the next line, without its end; gives an event where one is complete."""
        name, _, value = line.partition(": ")
        if name == "event":
            self._kind = value
        elif name == "data":
            self._data.append(value)
        elif not line and self._data:
            data: dict[str, Any] = json.loads("\n".join(self._data))
            yield Event(kind=self._kind, sequence=data.pop("sequence", None), data=data)
            self._kind, self._data = "", []
