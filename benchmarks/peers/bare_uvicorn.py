"""A bare ASGI application: reads each body, with `parse` also as JSON, and gives a fixed answer.

python bare_uvicorn.py read | parse
"""

from __future__ import annotations

import os
import sys
from typing import Any

import orjson
import uvicorn

PARSE = sys.argv[1] == "parse"


async def answer(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] != "http":
        return
    parts = []
    while True:
        message = await receive()
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            break
    body = b"".join(parts)
    if PARSE:
        orjson.loads(body)
    text = b'{"labels":[0]}'
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(text))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": text})


if __name__ == "__main__":
    uvicorn.run(answer, port=int(os.environ["PORT"]), lifespan="off", access_log=False, log_level="warning")
