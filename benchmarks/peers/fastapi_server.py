"""Plain FastAPI without batching: each request is answered by its own network at once."""

from __future__ import annotations

import os

import uvicorn
from fastapi import FastAPI
from networks import answer, networks
from pydantic import BaseModel

app, known = FastAPI(), networks()


class Body(BaseModel):
    task: str
    row: list[float]


@app.post("/predict")
def predict(body: Body) -> dict[str, int]:
    return {"label": answer(known, [body.task], [body.row])[0]}


if __name__ == "__main__":
    uvicorn.run(app, port=int(os.environ["PORT"]), log_level="error")
