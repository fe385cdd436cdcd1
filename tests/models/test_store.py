from __future__ import annotations

import stat
from pathlib import Path

import numpy as np
import pytest
import torch

from experiments.plain import plain_config
from superposed import MLPConfig, OptimizerConfig, StoreConfig, TaskSchema, WeightStore, evaluate, learn, seeded_secret
from superposed.config import validated
from superposed.contexts import FAMILIES
from superposed.errors import (
    CapacityExceeded,
    CompositionNotSupported,
    ConfigError,
    EmptyBatch,
    ExpressionInvalid,
    LabelOutOfRange,
    NonFiniteInput,
    NonFiniteUpdate,
    ShapeError,
    TaskExists,
    UnknownTask,
    UpdateTooLarge,
)
from superposed.learning.online import atomic
from superposed.tasks.batch import merge
from tests.helpers.small_stores import data

SMALL = MLPConfig(inputs=12, hidden=(24, 16), outputs=5)


def new_store(seed: int = 1, **changes: object) -> WeightStore:
    store = WeightStore(plain_config(**({"network": SMALL} | changes)), secret=seeded_secret(seed))
    store.register(TaskSchema(key="wide", inputs=12, outputs=5))
    store.register(
        TaskSchema(
            key="narrow",
            inputs=4,
            outputs=3,
            labels=("x", "y", "z"),
            offset=(1.0, 2.0, 3.0, 4.0),
            scale=(2.0, 2.0, 0.5, -1.0),
        )
    )
    store.register(TaskSchema(key="line", inputs=6, outputs=2, loss="mse"))
    return store


class TestRegistry:
    def test_a_task_costs_no_weights(self) -> None:
        store = new_store()
        before = store.weight_bytes
        for number in range(1000):
            store.register(TaskSchema(key=f"task{number}", inputs=12, outputs=5))
        assert store.weight_bytes == before
        assert len(store.tasks) == 1003

    def test_the_same_schema_again_changes_nothing(self) -> None:
        store = new_store()
        digest = store.digest()
        state, new = store.register(TaskSchema(key="wide", inputs=12, outputs=5))
        assert not new
        assert state is store.tasks.get("wide")
        assert store.digest() == digest

    def test_another_schema_is_refused_and_named(self) -> None:
        with pytest.raises(TaskExists, match="outputs"):
            new_store().register(TaskSchema(key="wide", inputs=12, outputs=4))

    def test_a_task_must_fit_the_store(self) -> None:
        for wrong in ({"inputs": 13, "outputs": 5}, {"inputs": 12, "outputs": 6}):
            with pytest.raises(ShapeError, match="at most"):
                new_store().register(TaskSchema(key="big", **wrong))

    def test_a_deleted_key_comes_back_as_another_context(self) -> None:
        store = new_store()
        x = data(4, 12)
        before = store.logits(store.batch("wide", x))
        store.delete("wide")
        with pytest.raises(UnknownTask):
            store.batch("wide", x)
        store.register(TaskSchema(key="wide", inputs=12, outputs=5))
        assert store.tasks.get("wide").generation == 1
        assert float((store.logits(store.batch("wide", x)) - before).abs().max()) > 0.05

    def test_pages_follow_the_order_of_keys(self) -> None:
        store = new_store()
        first, last = store.tasks.page("", "", 2)
        assert [state.schema.key for state in first] == ["line", "narrow"]
        assert last == "narrow"
        rest, end = store.tasks.page("", last, 2)
        assert [state.schema.key for state in rest] == ["wide"]
        assert end is None
        assert store.tasks.page("na", "", 9)[0][0].schema.key == "narrow"

    @pytest.mark.parametrize(
        "schema",
        [
            {"key": "mix", "inputs": 1, "outputs": 1},
            {"key": "a/b", "inputs": 1, "outputs": 1},
            {"key": "a", "inputs": 0, "outputs": 1},
            {"key": "a", "inputs": 2, "outputs": 1, "scale": [1.0, 0.0]},
            {"key": "a", "inputs": 2, "outputs": 1, "offset": [1.0]},
            {"key": "a", "inputs": 2, "outputs": 1, "offset": [1.0, float("nan")]},
            {"key": "a", "inputs": 2, "outputs": 2, "labels": ["x", "x"]},
            {"key": "a", "inputs": 2, "outputs": 3, "labels": ["x", "y"]},
            {"key": "a", "inputs": 2, "outputs": 2, "labels": ["x", "y"], "loss": "mse"},
            {"key": "a", "inputs": 2, "outputs": 2, "group": "a"},
        ],
    )
    def test_bad_schemas(self, schema: dict[str, object]) -> None:
        with pytest.raises((ConfigError, ExpressionInvalid)):
            validated(TaskSchema, schema)


class TestBatches:
    def test_rows_are_scaled_and_padded(self) -> None:
        batch = new_store().batch("narrow", [[3.0, 2.0, 4.0, 4.5]])
        assert batch.inputs.tolist() == [[1.0, 0.0, 2.0, -0.5] + [0.0] * 8]

    @pytest.mark.parametrize("family", sorted(FAMILIES))
    def test_a_mixed_batch_answers_each_row_as_if_alone(self, family: str) -> None:
        store = new_store(family=family)
        contexts = ["wide", "narrow", "wide", "mix(wide:0.4,wide:0.6)", "narrow"]
        inputs = [data(1, 4 if name == "narrow" else 12, seed)[0] for seed, name in enumerate(contexts)]
        mixed = store.logits(store.batch_per_row(contexts, inputs))
        merged = store.logits(merge([store.batch(c, [x]) for c, x in zip(contexts, inputs, strict=True)]))
        for row, (name, x) in enumerate(zip(contexts, inputs, strict=True)):
            alone = store.logits(store.batch(name, [x]))[0]
            torch.testing.assert_close(mixed[row], alone, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(merged[row], alone, rtol=1e-4, atol=1e-5)

    def test_an_answer_does_not_depend_on_its_neighbours(self) -> None:
        store = new_store(dtype="float64")
        x = data(6, 12)
        alone = store.logits(store.batch("wide", x[:1]))
        torch.testing.assert_close(store.logits(store.batch("wide", x))[:1], alone, rtol=1e-12, atol=1e-12)

    @pytest.mark.parametrize(
        ("inputs", "error"),
        [
            ([], EmptyBatch),
            ([[]], EmptyBatch),
            ([1.0, 2.0], ShapeError),
            ([[1.0] * 11], ShapeError),
            ([[1.0] * 12, [1.0] * 11], ShapeError),
            ([["a"] * 12], ShapeError),
            ([[None] * 12], ShapeError),
            ([[10**400] * 12], ShapeError),
            ([[float("nan")] + [0.0] * 11], NonFiniteInput),
            ([[float("inf")] + [0.0] * 11], NonFiniteInput),
            ([[1e300] * 12], NonFiniteInput),
            (3, ShapeError),
            ("abc", ShapeError),
            ({"a": 1}, ShapeError),
        ],
    )
    def test_bad_inputs(self, inputs: object, error: type[Exception]) -> None:
        with pytest.raises(error):
            new_store().batch("wide", inputs)

    def test_bad_rows_of_many_contexts(self) -> None:
        store = new_store()
        with pytest.raises(ShapeError, match="do not match"):
            store.batch_per_row(["wide"], [[0.0] * 12] * 2)
        with pytest.raises(EmptyBatch):
            store.batch_per_row([], [])
        with pytest.raises(ShapeError, match="narrow"):
            store.batch_per_row(["wide", "narrow"], [[0.0] * 12] * 2)
        with pytest.raises(UnknownTask, match="nobody"):
            store.batch_per_row(["wide", "nobody"], [[0.0] * 12] * 2)

    def test_what_one_batch_may_make_the_store_derive_is_bounded(self) -> None:
        store = new_store()
        mixtures = [
            "mix(" + ",".join(f"wide^{row + part / 100}:1" for part in range(64)) + ")"
            for row in [*range(-63, 63)] + [0.5 + n for n in range(10)]
        ]
        with pytest.raises(CapacityExceeded, match="8192"):
            store.batch_per_row(mixtures, [[0.0] * 12] * len(mixtures))

    def test_parts_of_a_composition_must_agree(self) -> None:
        with pytest.raises(CompositionNotSupported, match="3 outputs"):
            new_store().resolve("mix(wide:0.5,narrow:0.5)")

    def test_the_heaviest_part_gives_the_face_and_the_first_wins_ties(self) -> None:
        store = new_store()
        store.register(TaskSchema(key="wide2", inputs=9, outputs=5))
        for text, key in (
            ("mix(wide:0.4,wide2:0.6)", "wide2"),
            ("mix(wide2:1,wide:1)", "wide2"),
            ("mix(wide:1,wide2:1)", "wide"),
            ("mix(wide:0.3,wide2:0.4,wide^2:0.3)", "wide"),
        ):
            assert store.resolve(text).task.schema.key == key


class TestLearning:
    def test_loss_and_accuracy_are_those_before_the_step(self) -> None:
        store = new_store()
        x, y = data(32, 12), [row % 5 for row in range(32)]
        before = evaluate(store, "wide", x, y)
        result = learn(store, "wide", x, y, steps=3)
        assert (result.loss, result.accuracy) == (before.loss, before.accuracy)
        assert result.sequence == store.sequence == 4
        after = evaluate(store, "wide", x, y)
        learn(store, "wide", x, y, steps=3)
        assert evaluate(store, "wide", x, y).loss < after.loss

    @pytest.mark.parametrize("family", sorted(FAMILIES))
    @pytest.mark.parametrize("optimizer", ["rmsprop", "adam", "sgd"])
    def test_it_learns(self, family: str, optimizer: str) -> None:
        rate = {"rmsprop": 2e-3, "adam": 5e-3, "sgd": 0.2}[optimizer]
        store = new_store(
            family=family,
            optimizer=OptimizerConfig(name=optimizer, learning_rate=rate),  # type: ignore[arg-type]
        )
        standard = data(60, 4)
        x = standard * [2.0, 2.0, 0.5, -1.0] + [1.0, 2.0, 3.0, 4.0]
        y = ["xyz"[int(row[0] > 0) + int(row[1] > 0)] for row in standard]
        for _ in range(150):
            learn(store, "narrow", x, y)
        accuracy = evaluate(store, "narrow", x, y).accuracy
        assert accuracy is not None
        assert accuracy > 0.9

    def test_mse_tasks_learn_numbers(self) -> None:
        store = new_store(optimizer=OptimizerConfig(name="adam", learning_rate=5e-3))
        x = data(64, 6)
        y = np.stack([x[:, 0], x[:, 1] - x[:, 2]], 1).tolist()
        first = learn(store, "line", x, y)
        assert first.accuracy is None
        logits = store.logits(store.batch("line", x))[:, :2].double()
        for _ in range(100):
            learn(store, "line", x, y)
        assert evaluate(store, "line", x, y).loss < 0.2 * first.loss
        assert first.loss != pytest.approx(0.0)
        assert logits.shape == (64, 2)

    def test_losses_of_a_mixed_batch_are_each_rows_own(self) -> None:
        store = new_store(dtype="float64")
        contexts = ["wide", "narrow", "line"]
        inputs = [data(1, width)[0] for width in (12, 4, 6)]
        targets: list[object] = [2, "z", [0.5, -0.5]]
        batch = store.batch_per_row(contexts, inputs)
        from superposed.learning.online import measure_batch
        from superposed.tasks.targets import read_targets

        measured = measure_batch(store, batch, read_targets(batch, targets, 5))  # type: ignore[arg-type]
        alone = [
            evaluate(store, c, [x], [t]).loss  # type: ignore[list-item]
            for c, x, t in zip(contexts, inputs, targets, strict=True)
        ]
        assert measured.loss == pytest.approx(np.mean(alone), rel=1e-9)

    def test_one_task_does_not_undo_another(self) -> None:
        store = WeightStore(
            plain_config(
                network=MLPConfig(inputs=12, hidden=(128, 128), outputs=5),
                optimizer=OptimizerConfig(learning_rate=1e-3),
            ),
            secret=seeded_secret(0),
        )
        x = data(200, 12)
        answers = {key: np.random.default_rng(n).integers(0, 5, 200) for n, key in enumerate("abcd")}
        y = {key: (x @ data(12, 5, 10 + n)).argmax(1) for n, key in enumerate(answers)}
        for key in answers:
            store.register(TaskSchema(key=key, inputs=12, outputs=5))
            for _ in range(60):
                learn(store, key, x, y[key].tolist())
        for key in answers:
            accuracy = evaluate(store, key, x, y[key].tolist()).accuracy
            assert accuracy is not None
            assert accuracy > 0.9, key

    def test_learning_is_deterministic(self) -> None:
        digests = set()
        for _ in range(2):
            store = new_store()
            for step in range(5):
                learn(store, "wide", data(16, 12, step), [row % 5 for row in range(16)])
            digests.add(store.digest())
        assert len(digests) == 1

    @pytest.mark.parametrize(
        ("context", "targets", "error"),
        [
            ("wide", [0], ShapeError),
            ("wide", 5, ShapeError),
            ("wide", "01", ShapeError),
            ("wide", [0, 5], LabelOutOfRange),
            ("wide", [0, -1], LabelOutOfRange),
            ("wide", [0, True], LabelOutOfRange),
            ("wide", [0, 1.5], LabelOutOfRange),
            ("wide", [0, "1"], LabelOutOfRange),
            ("narrow", ["x", "w"], LabelOutOfRange),
            ("narrow", ["x", 0], LabelOutOfRange),
            ("line", [0.0, 1.0], ShapeError),
            ("line", [[0.0, 1.0], [0.0]], ShapeError),
            ("line", [[0.0, 1.0], ["a", "b"]], ShapeError),
            ("line", [[0.0, 1.0], [0.0, float("nan")]], NonFiniteInput),
        ],
    )
    def test_bad_targets_change_nothing(self, context: str, targets: object, error: type[Exception]) -> None:
        store = new_store()
        digest = store.digest()
        width = store.tasks.get(context).schema.inputs
        with pytest.raises(error):
            learn(store, context, data(2, width), targets)  # type: ignore[arg-type]
        assert store.digest() == digest

    @pytest.mark.parametrize("steps", [1, 3])
    @pytest.mark.parametrize("fresh", [True, False])
    def test_a_refused_update_leaves_every_bit(self, steps: int, fresh: bool) -> None:
        store = new_store(gradient_norm_cap=50.0)
        if not fresh:
            learn(store, "wide", data(8, 12), [0] * 8)
        digest = store.digest()
        with pytest.raises(UpdateTooLarge, match="at most"):
            learn(store, "line", data(4, 6), [[1e6, -1e6]] * 4, steps=steps)
        assert store.digest() == digest
        with pytest.raises(NonFiniteUpdate):
            learn(store, "line", data(4, 6), [[3e38, -3e38]] * 4, steps=steps)
        assert store.digest() == digest

    def test_a_step_that_fails_half_way_is_taken_back(self) -> None:
        store = new_store(gradient_norm_cap=1e3, optimizer=OptimizerConfig(name="sgd", learning_rate=10.0))
        learn(store, "wide", data(8, 12), [0] * 8)
        digest = store.digest()
        with pytest.raises(UpdateTooLarge):  # the first step passes and throws the weights far away
            learn(store, "line", data(4, 6), [[50.0, -50.0]] * 4, steps=20)
        assert store.digest() == digest

    def test_a_weight_that_an_update_steps_first_is_taken_back_too(self) -> None:
        store = new_store()
        learn(store, "wide", data(8, 12), [0] * 8)
        state = store.optimizer.state
        weight = next(iter(state))
        taken = state.pop(weight)  # as of a module that does not always use it
        names = set(store.state())

        def step() -> None:
            with atomic(store):
                state[weight] = taken
                raise NonFiniteUpdate("half way")

        with pytest.raises(NonFiniteUpdate):
            step()
        assert set(store.state()) == names

    def test_counters_follow_the_stream(self) -> None:
        store = new_store()
        x = data(10, 4)
        first = learn(store, "narrow", x, ["x"] * 10)
        second = learn(store, "narrow", x[:5], ["y"] * 5)
        state = store.tasks.get("narrow")
        assert (state.updates, state.prequential.rows, state.last_sequence) == (2, 15, second.sequence)
        assert state.prequential.loss == pytest.approx((10 * first.loss + 5 * second.loss) / 15, rel=1e-6)
        assert first.accuracy is not None
        assert second.accuracy is not None
        assert state.prequential.accuracy("cross_entropy") == pytest.approx(
            (10 * first.accuracy + 5 * second.accuracy) / 15
        )
        assert store.tasks.get("wide").updates == 0

    def test_a_composition_counts_for_its_heaviest_part(self) -> None:
        store = new_store()
        store.register(TaskSchema(key="wide2", inputs=12, outputs=5))
        learn(store, "mix(wide:0.3,wide2:0.7)", data(4, 12), [0] * 4)
        assert store.tasks.get("wide2").prequential.rows == 4
        assert store.tasks.get("wide").prequential.rows == 0
        assert store.tasks.get("wide").updates == 0

    def test_a_step_count_below_one_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="at least one step"):
            learn(new_store(), "wide", data(2, 12), [0, 1], steps=0)

    def test_no_tensor_belongs_to_a_task(self) -> None:
        store = new_store()
        before = {name: tuple(tensor.shape) for name, tensor in store.state().items()}
        for key in ("wide", "narrow", "line"):
            width = store.tasks.get(key).schema.inputs
            learn(store, key, data(4, width), {"line": [[0.0, 1.0]], "wide": [0], "narrow": ["x"]}[key] * 4)
        weights = {name: shape for name, shape in before.items() if name.startswith("network")}
        after = {name: tuple(t.shape) for name, t in store.state().items() if name.startswith("network")}
        assert after == weights
        layers = len(store.network.superposed_layers())
        assert len(store.state()) == layers * 3  # a weight, and what RMSprop keeps of it


class TestSaving:
    @pytest.mark.parametrize("optimizer", ["rmsprop", "adam", "sgd"])
    @pytest.mark.parametrize("family", ["phase", "complex"])
    def test_a_loaded_store_goes_on_bit_for_bit(self, tmp_path: Path, optimizer: str, family: str) -> None:
        store = new_store(optimizer={"name": optimizer, "learning_rate": 1e-3}, family=family)
        for step in range(3):
            learn(store, "wide", data(16, 12, step), [row % 5 for row in range(16)])
        evaluate(store, "wide", data(16, 12), [0] * 16)
        store.delete("narrow")
        path = tmp_path / "store.safetensors"
        store.save(path)
        loaded = WeightStore.load(path)
        assert loaded.digest() == store.digest()
        assert loaded.evaluations.all() == store.evaluations.all() != []
        for each in (store, loaded):
            each.register(TaskSchema(key="narrow", inputs=4, outputs=3))
            learn(each, "narrow", data(8, 4), [0] * 8)
        assert loaded.digest() == store.digest()
        assert loaded.tasks.get("narrow").generation == 1

    def test_the_file_is_private_and_replaced_whole(self, tmp_path: Path) -> None:
        path = tmp_path / "store.safetensors"
        store = new_store()
        store.save(path)
        store.save(path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert [entry.name for entry in tmp_path.iterdir()] == [path.name]

    def test_other_files_are_refused(self, tmp_path: Path) -> None:
        good = new_store().to_bytes()
        for data_ in (b"", b"nonsense", good[:200], good[: len(good) // 2]):
            with pytest.raises(ConfigError):
                WeightStore.from_bytes(data_)
        with pytest.raises(ConfigError, match="format"):
            WeightStore.from_bytes(good.replace(b'\\"format\\":3', b'\\"format\\":9'))

    def test_thousands_of_tasks_fit_in_a_file(self) -> None:
        store = WeightStore(plain_config(network=SMALL.replace(inputs=784)))
        numbers = tuple(np.linspace(0, 1, 784).tolist())
        for number in range(300):
            store.register(TaskSchema(key=f"t{number}", inputs=784, outputs=2, offset=numbers, scale=(3.0,) * 784))
        data_ = store.to_bytes()
        assert int.from_bytes(data_[:8], "little") < 10_000  # the header, which safetensors bounds
        assert WeightStore.from_bytes(data_).digest() == store.digest()

    def test_secrets_decide_contexts_and_weights(self) -> None:
        x = data(3, 12)
        answers = [store.logits(store.batch("wide", x)) for store in (new_store(1), new_store(1), new_store(2))]
        torch.testing.assert_close(answers[0], answers[1], rtol=0, atol=0)
        assert float((answers[0] - answers[2]).abs().max()) > 0.01
        assert WeightStore(plain_config(network=SMALL)).secret != WeightStore(plain_config(network=SMALL)).secret


@pytest.mark.parametrize(
    "values",
    [
        {"family": "hadamard"},
        {"optimizer": {"name": "lion"}},
        {"optimizer": {"learning_rate": 0}},
        {"network": {"inputs": 0}},
        {"network": {"hidden": [0]}},
        {"dtype": "float16"},
        {"surprise": 1},
    ],
)
def test_bad_configurations(values: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        WeightStore(validated(StoreConfig, values))


def test_mixtures_of_the_same_parts_keep_their_own_faces() -> None:
    store = WeightStore(plain_config(network=MLPConfig(inputs=4, hidden=(5,), outputs=2)))
    store.register(TaskSchema(key="a", inputs=4, outputs=2, labels=("a0", "a1"), scale=(2.0,) * 4))
    store.register(TaskSchema(key="b", inputs=4, outputs=2, labels=("b0", "b1")))
    texts = ["mix(a:0.5,b:0.5)", "mix(b:0.5,a:0.5)"]
    rows = [[1.0, 2.0, 3.0, 4.0]] * 2
    together = store.batch_per_row(texts, rows)
    assert [part.task.schema.key for part in together.parts] == ["a", "b"]
    for place, text in enumerate(texts):
        alone = store.batch(text, rows[:1])
        assert torch.equal(together.inputs[place], alone.inputs[0])
        torch.testing.assert_close(store.logits(together)[place], store.logits(alone)[0])
    assert len(store.contexts._slots) == 1
