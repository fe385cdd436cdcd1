"""A Vowpal Wabbit workspace a task behind FastAPI; nothing is written."""

from __future__ import annotations

import asyncio
import os

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from vowpalwabbit import Workspace

app = FastAPI()
workspaces: dict[str, Workspace] = {}


class Body(BaseModel):
    task: str
    row: list[float]
    label: int


@app.post("/learn")
async def learn(body: Body) -> dict[str, float]:
    await asyncio.sleep(0)
    workspace = workspaces.get(body.task)
    if workspace is None:
        workspace = workspaces[body.task] = Workspace("--loss_function logistic --link logistic --quiet")
    features = " ".join(f"{place}:{value}" for place, value in enumerate(body.row))
    example = workspace.parse(f"{2 * body.label - 1} | {features}")
    before = workspace.predict(example)
    workspace.learn(example)
    workspace.finish_example(example)
    return {"probability": float(before)}


if __name__ == "__main__":
    uvicorn.run(app, port=int(os.environ["PORT"]), log_level="error")
