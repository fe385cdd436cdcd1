"""Values of a user are converted or rejected in words, and a call that fails registers nothing."""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import Iterator
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import scipy.sparse
import torch

from experiments.plain import plain_config
from superposed import MLPConfig
from superposed.config import ConvNetConfig
from superposed_client import ApiError, AsyncClient, Client, ConnectionFailed, RetryPolicy, task
from tests.conftest import make_directory, serving

ROWS = np.asarray([[0, 1, 0.5], [2, 0, 1], [1, 1, 0], [0, 0, 2]])
Y = [0, 1, 1, 0]


class Frame:
    """Stand in for a pandas object: `to_numpy` and a number of dimensions."""

    def __init__(self, values: Any) -> None:
        self.values = np.asarray(values, dtype=object)

    @property
    def ndim(self) -> int:
        return self.values.ndim

    def to_numpy(self) -> Any:
        return self.values

    def __len__(self) -> int:
        return len(self.values)


class NAType:
    """pandas.NA is of a class with this name."""


@pytest.fixture(scope="module")
def http(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    config = plain_config(network=MLPConfig(inputs=9, hidden=(8,), outputs=4))
    path = make_directory(tmp_path_factory.mktemp("inputs") / "store", config)
    with serving(path, quota_updates_per_s=0.0) as http:
        yield http


@pytest.fixture
def client(http: httpx.Client) -> Iterator[Client]:
    with Client(str(http.base_url), retries=RetryPolicy(retries=0)) as client:
        yield client


GOOD: dict[str, Any] = {
    "lists": ROWS.tolist(),
    "tuples": tuple(map(tuple, ROWS.tolist())),
    "longdouble": ROWS.astype(np.longdouble),
    "float16": ROWS.astype(np.float16),
    "object": ROWS.astype(object),
    "not contiguous": np.repeat(ROWS, 2, axis=1)[:, ::2],
    "big endian": ROWS.astype(">f8"),
    "decimals": [[Decimal(str(number)) for number in row] for row in ROWS.tolist()],
    "an array of decimals": np.asarray([[Decimal(str(n)) for n in row] for row in ROWS.tolist()]),
    "fractions": [[Fraction(number) for number in row] for row in ROWS.tolist()],
    "csr": scipy.sparse.csr_matrix(ROWS),
    "coo array": scipy.sparse.coo_array(ROWS),
    "a data frame": Frame(ROWS),
    "needs grad": torch.tensor(ROWS, requires_grad=True),
    "bfloat16": torch.tensor(ROWS, dtype=torch.bfloat16),
    "a list of tensors": [torch.tensor(row) for row in ROWS],
}
BAD: dict[str, tuple[Any, str]] = {
    "images": (np.zeros((4, 2, 2)), r"no image as an array, uint8 .* float64; .* flatten each row"),
    "a series": (Frame([1, 2, 3, 4]), "a Series"),
    "one row": ([1.0, 2.0, 3.0], "wrap one row in a list"),
    "a dict": ({"a": [1, 2]}, r"by name \(a dict\): wrap it in a list"),
    "a name that is no text": ([{1: 1}] * 4, "a name that is no text: 1"),
    "an object by name": ([{"a": object()}] * 4, "at row 0, 'a': a object"),
    "a missing value": (Frame([[1, NAType()], [1, 2], [1, 2], [1, 2]]), "row 0, column 1: a missing value"),
    "text": ([["a", "b"]] * 4, "not numbers"),
    "mixed": (np.asarray([[1, "b"]] * 4, dtype=object), "not numbers"),
    "dates": (np.zeros((4, 2), "datetime64[s]"), "dates or durations"),
    "a date": (np.asarray([[datetime.date(2026, 1, 1)]] * 4, dtype=object), "a date"),
    "ragged": ([[1, 2], [1, 2], [1], [1, 2]], "rows of numbers, all of one length"),
    "ragged arrays": ([np.ones(2), np.ones(2), np.ones(3), np.ones(2)], "rows of numbers, all of one length"),
    "a number as a row": ([[1, 2], 5, [1, 2], [1, 2]], "rows of numbers, all of one length"),
    "nothing": (None, "shape"),
    "an object": (object(), "object"),
    "complex": (ROWS.astype(complex), "not numbers"),
    "too few": (ROWS[:3], "3 rows, but 4 targets"),
}


@pytest.mark.parametrize("name", GOOD)
def test_numbers_of_any_form_are_learned_as_the_same_numbers(client: Client, name: str) -> None:
    key = f"good-{list(GOOD).index(name)}"
    task = client.task(key, outputs=2).partial_fit(GOOD[name], Y)
    expected = client.infer(key, ROWS).probabilities
    np.testing.assert_allclose(client.infer(key, GOOD[name]).probabilities, expected, rtol=1e-6)
    np.testing.assert_array_equal(task.predict_proba(GOOD[name]), expected)
    assert task.score(GOOD[name], Y) == task.score(ROWS, Y)
    client.evaluate(key, GOOD[name], Y)
    client.update(key, GOOD[name], Y)


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_rows_is_refused_in_words_and_registers_nothing(client: Client, name: str) -> None:
    inputs, words = BAD[name]
    before = client.store().sequence
    task = client.task("bad", outputs=2)
    with pytest.raises(ValueError, match=words):
        task.partial_fit(inputs, Y)
    with pytest.raises(ValueError, match=words):
        task.fit(inputs, Y, epochs=1)
    for call in (client.infer, lambda *a: client.update(*a, Y), lambda *a: client.evaluate(*a, Y)):
        with pytest.raises((ApiError, ValueError)):
            call("bad", inputs)
    assert "bad" not in {one.key for one in client.list_tasks()}
    assert client.store().sequence == before
    task.partial_fit(ROWS, Y)  # the same handle, with the right rows
    client.delete_task("bad")


@pytest.mark.parametrize(
    ("inputs", "y"),
    [
        (np.zeros((4, 10)), Y),  # wider than the store
        (ROWS, [0, 1, 2, 0]),  # no such class
        (ROWS, ["a", "b", "a", "b"]),
        (np.full((4, 3), np.nan), Y),
        (ROWS * 1e30, Y),  # a gradient that the arithmetic refuses
    ],
    ids=["too wide", "no class", "no label", "nan", "refused"],
)
def test_what_the_server_refuses_registers_nothing(client: Client, inputs: Any, y: Any) -> None:
    with pytest.raises(ApiError):
        client.task("refused", outputs=2, scaling="none").partial_fit(inputs, y)
    assert "refused" not in {one.key for one in client.list_tasks()}
    task = client.task("refused", outputs=2, scaling="none").partial_fit(ROWS, Y)
    with pytest.raises(ApiError):
        task.partial_fit(inputs, y)
    with pytest.raises(ApiError):
        client.task("refused", outputs=2, scaling="none").partial_fit(inputs, y)
    assert client.get_task("refused").updates == 1  # a task that was there stays
    client.delete_task("refused")


def test_the_async_client_registers_nothing_either(http: httpx.Client) -> None:
    asyncio.run(_refused(http))


async def _refused(http: httpx.Client) -> None:
    async with AsyncClient(str(http.base_url)) as client:
        with pytest.raises(ApiError):
            await client.task("refused", outputs=2).partial_fit(ROWS, [5, 5, 5, 5])
        assert "refused" not in {one.key for one in await client.list_tasks()}


@pytest.mark.parametrize(
    "y", [np.asarray(Y)[:, None], Frame(np.asarray(Y)[:, None]), torch.tensor(Y), [np.int8(1)] * 4]
)
def test_one_column_of_targets_is_one_target_a_row(client: Client, y: Any) -> None:
    task = client.task("column", outputs=2).partial_fit(ROWS, y)
    assert 0 <= task.score(ROWS, y) <= 1
    client.update("column", ROWS, y)
    task = client.task("numbers", outputs=1, loss="mse").partial_fit(ROWS, np.ones((4, 1)))
    assert task.score(ROWS, np.ones((4, 1))) <= 1


@pytest.mark.parametrize("y", [[NAType()] * 4, [object()] * 4, 3, [datetime.date(2026, 1, 1)] * 4])
def test_targets_that_are_none_are_refused_in_words(client: Client, y: Any) -> None:
    for call in (client.task("targets", outputs=2).partial_fit, lambda *a: client.update("targets", *a)):
        with pytest.raises((ValueError, ApiError)):
            call(ROWS, y)
    assert "targets" not in {one.key for one in client.list_tasks()}


def test_a_store_of_images_refuses_rows_that_are_none(tmp_path: Path) -> None:
    config = plain_config(network=ConvNetConfig(input_shape=(1, 8, 8), channels=(2,), hidden=(), outputs=2))
    with serving(make_directory(tmp_path / "store", config)) as http, Client(str(http.base_url)) as client:
        with pytest.raises(ApiError, match="no images") as refused:
            client.task("small", outputs=2).partial_fit(np.zeros((4, 36)), Y)
        assert refused.value.expected == "64 numbers: 1 x 8 x 8"
        assert client.list_tasks() == []
        client.task("whole", outputs=2).partial_fit(np.zeros((4, 64)), Y)


class TestMessages:
    @pytest.mark.parametrize(
        ("key", "suggested"), [("my task", "my-task"), ("a@b.c", "a-b.c"), ("user:42", "user-42"), ("é", "my-task")]
    )
    def test_a_key_of_other_characters(self, client: Client, key: str, suggested: str) -> None:
        with pytest.raises(ValueError, match=f"is not a task key.*'{suggested}'"):
            client.task(key, outputs=2)

    @pytest.mark.parametrize("context", ["mix(a:1,b:1)", "a^1.5"])
    def test_a_composed_context_registers_no_task(self, client: Client, context: str) -> None:
        with pytest.raises(ValueError, match="is a composed context"):
            client.task(context, outputs=2)

    def test_a_key_that_is_no_text(self, client: Client) -> None:
        with pytest.raises(TypeError, match=r"a task key is text, not int: client\.task\('42'\)"):
            client.task(42, outputs=2)  # type: ignore[arg-type]

    def test_forgotten_labels(self, client: Client) -> None:
        with pytest.raises(ApiError, match=r"client\.task\('forgotten', labels=\[…\]\) or outputs=n"):
            client.task("forgotten").partial_fit(ROWS, Y)

    def test_another_schema_says_what_differs(self, client: Client) -> None:
        client.task("twice", labels=["cat", "dog"]).partial_fit(ROWS, ["cat", "dog", "cat", "dog"])
        with pytest.raises(ApiError) as refused:
            client.task("twice", labels=["cat", "cow"]).partial_fit(ROWS, ["cat", "cow", "cat", "cow"])
        assert refused.value.expected != refused.value.received or "at place 1" in str(refused.value)
        assert "at place 1" in str(refused.value)

    def test_only_what_was_sent_is_another(self, client: Client) -> None:
        client.task("other", labels=["cat", "dog"]).partial_fit(ROWS, ["cat", "dog", "cat", "dog"])
        with pytest.raises(ApiError, match="take that one, delete the task, or take another key") as refused:
            client.task("other", labels=["cat", "cow"], scale=[1.0] * 3).partial_fit(ROWS, ["cat", "cow"] * 2)
        assert refused.value.expected == str({"labels": "a list of 2", "scale": "null", "scaling": "running"})
        assert refused.value.received.startswith("{'labels': 'a list of 2, another str at place 1', 'scale'")

    def test_a_group_that_is_not_there(self, client: Client) -> None:
        with pytest.raises(ApiError, match=r"client\.task\('nowhere/kid', labels"):
            client.task("nowhere/kid").partial_fit(ROWS, Y)
        with pytest.raises(ApiError, match="received nowhere/kid"):
            client.infer("nowhere/kid", ROWS)

    def test_a_context_is_shown_by_its_task(self, client: Client) -> None:
        with pytest.raises(ApiError, match=r"client\.task\('nope', labels"):
            client.task(task("nope")).partial_fit(ROWS, Y)

    def test_more_values_than_the_store_has_outputs(self, client: Client) -> None:
        with pytest.raises(ApiError, match="more outputs than the store") as refused:
            client.register_task("many", inputs=3, outputs=100_000, loss="mse")
        assert "loss mse" not in str(refused.value)

    def test_an_image_that_is_not_there(self, client: Client) -> None:
        with pytest.raises(FileNotFoundError):
            client.task("pictures", labels=["a"]).predict([Path("none.png")])

    def test_what_a_composed_context_has_not(self, client: Client) -> None:
        with pytest.raises(ApiError, match=r"not a task key.*received 'season\^0\.3'"):
            client.task("season^0.3").info()

    def test_a_registration_that_is_refused_is_all_that_is_raised(self, client: Client) -> None:
        with pytest.raises(ApiError, match="more own layers") as refused:
            client.task("layers", labels=["a", "b"], group="some", own_layers=9).predict(ROWS)
        assert refused.value.__context__ is None

    def test_values_without_their_loss(self, client: Client) -> None:
        with pytest.raises(ApiError, match="values need a task with loss mse"):
            client.task("values", outputs=1).partial_fit(ROWS, [0.5, 1.5, 2.5, 3.5])

    def test_a_rollback_of_nothing_and_of_two_things(self, client: Client) -> None:
        for given in ({}, {"to_sequence": 0, "task": "a"}, {"task": "a", "api_key": "b"}):
            with pytest.raises(ValueError, match="exactly one of to_sequence, task, sequences and api_key"):
                client.roll_back(**given)  # type: ignore[arg-type]  # of several types

    def test_an_address_without_its_scheme(self, client: Client) -> None:
        address = str(client._http.base_url).removeprefix("http://").strip("/")
        with Client(address) as same:
            assert same.ready()
        with Client(httpx.URL(f"http://{address}")) as same:  # type: ignore[arg-type]  # it worked in 0.1.0
            assert same.ready()

    def test_a_wrong_label_and_its_row(self, client: Client) -> None:
        task = client.task("wrong", labels=["cat", "dog"])
        with pytest.raises(ApiError, match="the first is 'kangaroo!' at row 2"):
            task.partial_fit(ROWS, ["cat", "dog", "kangaroo!", "cat"])
        with pytest.raises(ApiError, match="the first is 7 at row 1"):
            client.task("wrong", outputs=2).partial_fit(ROWS, [0, 7, 1, 0])

    def test_no_server(self) -> None:
        with (
            Client("http://127.0.0.1:9", retries=RetryPolicy(retries=0)) as nobody,
            pytest.raises(ConnectionFailed, match=r"superposed serve DIR") as failed,
        ):
            nobody.store()
        assert failed.value.__cause__ is None
        assert failed.value.__suppress_context__
