"""River's logistic regression a task behind Flask, each model put back into a shelf, as chantilly does.

gunicorn --threads 4 river_flask:app
"""

from __future__ import annotations

import os
import shelve
import tempfile
import threading
from pathlib import Path
from typing import Any

from flask import Flask, jsonify, request
from river import compose, linear_model, preprocessing

app, lock = Flask(__name__), threading.Lock()
models = shelve.open(str(Path(tempfile.mkdtemp(dir=os.environ.get("FOLDER"))) / "models"))  # noqa: SIM115 - open to the end


@app.post("/learn")
def learn() -> Any:
    body = request.get_json()
    row = {str(place): value for place, value in enumerate(body["row"])}
    with lock:
        model = models.get(body["task"]) or compose.Pipeline(
            preprocessing.StandardScaler(), linear_model.LogisticRegression()
        )
        before = model.predict_proba_one(row).get(True, 0.5)
        model.learn_one(row, bool(body["label"]))
        models[body["task"]] = model
        models.sync()
    return jsonify({"probability": before})
