"""Rehearsal: which rows are kept, which are drawn, and that both follow from the records alone."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from experiments.datasets import sklearn_dataset
from experiments.plain import plain_config
from superposed import MLPConfig, OptimizerConfig, TaskSchema, WeightStore, evaluate, learn, seeded_secret
from superposed.config import RehearsalConfig
from superposed.errors import UnknownTask, UpdateTooLarge
from superposed.learning.consolidation import consolidate
from superposed.learning.online import _rows_to_rehearse, optimizer_step
from superposed.nn import optimizers
from superposed.store.replay_buffer import Split
from superposed.store.reservoir import ReservoirAllocator
from superposed.tasks.targets import Targets
from tests.helpers.rehearsing_stores import BYTES_PER_ROW, NETWORK, new_store, rows


def kept_inputs(store: WeightStore, key: str) -> np.ndarray:
    """Return the rows kept of a task, by drawing besides all others until every row is seen."""
    others = [state.schema.key for state in store.tasks.all() if state.schema.key != key]
    drawn = store.replay_buffer.draw(store._resolver, 1, 0, (0, 20_000), others, 64)
    return np.zeros((0, 6)) if drawn is None else np.unique(drawn.batch.inputs.numpy(), axis=0)


class TestKeeping:
    def test_nothing_by_default(self) -> None:
        store = WeightStore(plain_config(network=NETWORK), secret=seeded_secret(1))
        store.register(TaskSchema(key="a", inputs=6, outputs=3))
        learn(store, "a", *rows(50))
        assert store.replay_buffer.bytes == 0
        assert store.draw(10) is None

    def test_rows_are_kept_to_half_a_level_and_targets_exactly(self) -> None:
        store = new_store()
        store.register(TaskSchema(key="line", inputs=4, outputs=2, loss="mse"))
        x, y = rows(20)
        x[0] = 5.0  # no spread at all
        learn(store, "t0", x, y)
        values = np.random.default_rng(5).normal(size=(8, 2)).astype(np.float32)
        learn(store, "line", x[:8, :4], values.tolist())
        drawn = store.draw(4000)
        assert drawn is not None
        batch, targets = drawn
        lines = targets.classes < 0
        for row, place in zip(batch.inputs[~lines].numpy(), targets.classes[~lines].tolist(), strict=True):
            distance = np.abs(x - row).max(1)
            nearest = int(distance.argmin())
            assert (np.abs(x[nearest] - row) <= np.ptp(x, axis=0) / 255 / 2 + 1e-6).all()
            assert place == y[nearest]
        assert int((~lines).sum()) > 1000
        assert targets.values is not None
        assert bool((batch.inputs[lines][:, 4:] == 0).all())  # beyond the task's own features
        for row, aim in zip(batch.inputs[lines].numpy(), targets.values[lines].numpy(), strict=True):
            nearest = int(np.abs(x[:8, :4] - row[:4]).max(1).argmin())
            assert np.array_equal(aim[:2], values[nearest])

    def test_rows_far_from_zero_keep_their_range(self) -> None:
        store = WeightStore(new_store().config.replace(dtype="float64"), secret=seeded_secret(1))
        store.register(TaskSchema(key="times", inputs=6, outputs=3))
        x = 1.7e9 + 100 * np.random.default_rng(0).normal(size=(5, 6))
        store.replay_buffer.keep(store.batch("times", x), Targets(torch.zeros(5, dtype=torch.int64), None), 1)
        drawn = store.draw(100)
        assert drawn is not None
        for row in drawn[0].inputs.numpy():
            assert np.abs(x - row).max(1).min() < 2.0

    def test_a_kept_sample_is_uniform_over_the_stream(self) -> None:
        """Each of 400 rows is kept with chance 40/400, early and late ones alike."""
        times = np.zeros(400)
        for seed in range(60):
            store = new_store(40, seed=seed, tasks=1)
            numbers = np.arange(400)
            digits = np.stack([numbers // 20, numbers % 20], axis=1).repeat(3, axis=1)
            batch = store.batch("t0", digits)
            targets = torch.zeros(400, dtype=torch.int64)
            for start in range(0, 400, 50):
                part = store.batch("t0", batch.inputs[start : start + 50])
                store.replay_buffer.keep(part, Targets(targets[:50], None), start + 1)
            found = np.rint(kept_inputs(store, "t0")).astype(int)
            kept = found[:, 0] * 20 + found[:, 3]
            assert len(kept) == 40
            times[kept] += 1
        # 8 blocks of 50 rows: each expects 300 of 2,400 with deviation below sqrt(300)
        assert np.abs(times.reshape(8, 50).sum(1) - 300).max() < 5 * np.sqrt(300)

    def test_the_bytes_are_shared_out_evenly(self) -> None:
        store = new_store(50, rows_in_all=60)
        for round_ in range(6):
            learn(store, "t0", *rows(20, round_))
        assert [store.replay_buffer.rows_kept(f"t{n}") for n in range(3)] == [50, 0, 0]
        for round_ in range(6):
            learn(store, "t1", *rows(20, 10 + round_))
            learn(store, "t2", *rows(20, 20 + round_))
        counts = [store.replay_buffer.rows_kept(f"t{n}") for n in range(3)]
        assert sum(counts) == 60
        assert max(counts) - min(counts) <= 2
        assert store.replay_buffer.bytes <= 60 * BYTES_PER_ROW + 3 * 6 * 16  # and the features' ranges

    def test_a_narrow_tasks_levels_lie_between_its_own_features(self) -> None:
        """Padding is no part of a row's range."""
        store = new_store(tasks=0)
        store.register(TaskSchema(key="years", inputs=3, outputs=3))
        x = (2000 + np.random.default_rng(2).uniform(0, 20, size=(10, 3))).astype(np.float32)
        learn(store, "years", x, [0] * 10)
        for row in kept_inputs(store, "years"):
            assert np.abs(x - row[:3]).max(1).min() <= 20 / 255 / 2 + 2e-4
            assert not row[3:].any()

    def test_rows_too_large_for_float32_are_not_kept(self) -> None:
        config = new_store().config.replace(dtype="float64")
        store = WeightStore(config, secret=seeded_secret(1))
        store.register(TaskSchema(key="a", inputs=6, outputs=3))
        store.register(TaskSchema(key="line", inputs=6, outputs=1, loss="mse"))
        x = rows(6)[0].astype(np.float64)
        x[2, 3], x[4, 0] = 1e200, -3e38
        store.replay_buffer.keep(store.batch("a", x), Targets(torch.zeros(6, dtype=torch.int64), None), 1)
        assert store.replay_buffer.rows_kept("a") == 4
        values = torch.tensor([[1.0, 0, 0], [1e39, 0, 0]], dtype=torch.float64)
        aims = Targets(torch.full((2,), -1), values)
        store.replay_buffer.keep(store.batch("line", x[:2]), aims, 2)
        assert store.replay_buffer.rows_kept("line") == 1
        drawn = store.draw(200)
        assert drawn is not None
        assert bool(drawn[0].inputs.isfinite().all())

    def test_only_of_tasks_that_allow_it(self) -> None:
        store = new_store()
        store.register(TaskSchema(key="private", inputs=6, outputs=3, keep_rows=False))
        for context in ("private", "mix(private:0.1,t0:0.9)", "mix(private:0.9,t0:0.1)"):
            learn(store, context, *rows(10))
        assert store.draw(100) is None

    def test_a_refused_update_keeps_nothing(self) -> None:
        store = new_store()
        store.register(TaskSchema(key="line", inputs=6, outputs=1, loss="mse"))
        learn(store, "t0", *rows(10))
        digest = store.digest()
        for steps in (1, 3):
            with pytest.raises(UpdateTooLarge):
                learn(store, "line", rows(10)[0], [1e9] * 10, steps=steps)
        assert store.digest() == digest
        assert store.replay_buffer.rows_kept("line") == 0


class TestRowsThatNobodyCanLearn:
    """Two rows whose gradients cancel: kept, and each alone far too long a step."""

    @staticmethod
    def poisoned() -> WeightStore:
        store = new_store()
        store.register(TaskSchema(key="wild", inputs=6, outputs=3, loss="mse"))
        x = np.ones((2, 6), dtype=np.float32)
        learn(store, "wild", x, [[1e7] * 3, [-1e7] * 3])
        assert store.replay_buffer.rows_kept("wild") == 2
        return store

    def test_others_learn_without_them(self) -> None:
        store, alone = self.poisoned(), new_store(0)
        alone.register(store.tasks.get("wild").schema)
        optimizers.load_state(alone.network, alone.optimizer, store.state())
        alone.sequence = store.sequence
        for one in (store, alone):
            assert learn(one, "t0", *rows(1)).rows == 1  # it draws one row: no other could balance it
        for name, value in alone.state().items():
            assert torch.equal(value, store.state()[name]), name

    def test_consolidation_leaves_such_steps_out(self) -> None:
        store = self.poisoned()
        learned = consolidate(store, 4)
        assert 0 <= learned < 4 * 256
        assert all(bool(torch.isfinite(value).all()) for value in store.state().values())


class TestDrawing:
    def test_rows_of_all_other_tasks_alike(self) -> None:
        store = new_store(tasks=4)
        for number, count in enumerate((20, 5, 20, 20)):
            learn(store, f"t{number}", *rows(count, number))
        drawn = store.draw_beside(store.batch("t3", rows(2)[0]), (0, 3000))
        assert drawn is not None
        batch = drawn.batch
        names = [batch.parts[place].text for place in batch.places().tolist()]
        shares = {name: names.count(name) / 3000 for name in set(names)}
        assert set(shares) == {"t0", "t1", "t2"}
        assert all(abs(share - 1 / 3) < 0.04 for share in shares.values())

    def test_rows_held_out_are_not_learned(self) -> None:
        """However often a row was sent, and to however many tasks."""
        store = new_store(200, tasks=2)
        x, y = rows(60)
        for number in (0, 1, 0, 1):
            learn(store, f"t{number}", x, y)
        seen: dict[Split, set[bytes]] = {}
        for share in Split:
            drawn = store.draw(4000, share=share)
            assert drawn is not None
            assert 3000 < len(drawn[0]) <= 4000
            seen[share] = {row.tobytes() for row in drawn[0].inputs.numpy()}
        assert not seen[Split.LEARNED] & seen[Split.HELD_OUT]
        assert seen[Split.LEARNED] | seen[Split.HELD_OUT] == seen[Split.ALL]
        assert len(seen[Split.ALL]) == 60
        assert 2 <= len(seen[Split.HELD_OUT]) <= 15

    def test_of_few_rows_none_may_be_held_out(self) -> None:
        store = new_store(tasks=1)
        learn(store, "t0", *rows(1))
        drawn = [store.draw(100, share=share) for share in (Split.LEARNED, Split.HELD_OUT)]
        assert sum(one is None for one in drawn) == 1

    def test_the_same_rows_are_drawn_for_the_same_sequence(self) -> None:
        store = new_store()
        learn(store, "t0", *rows(20))
        first = store.draw(8, sequence=5)
        store.sequence += 1
        again, following = store.draw(8, sequence=5), store.draw(8)
        assert first is not None
        assert again is not None
        assert following is not None
        assert torch.equal(first[0].inputs, again[0].inputs)
        assert not torch.equal(first[0].inputs, following[0].inputs)

    def test_tasks_in_quarantine_are_not_rehearsed(self) -> None:
        store = new_store()
        for number in range(2):
            learn(store, f"t{number}", *rows(20, number))
        store.tasks.quarantined["t0"] = 2
        drawn = store.draw(200)
        assert drawn is not None
        assert {part.text for part in drawn[0].parts} == {"t1"}

    def test_compositions_come_back_under_their_own_context(self) -> None:
        store = new_store()
        contexts = ("mix(t0:0.7,t1:0.3)", "t0^0.5", "mix(t0:0.5,t1^2.25:0.5)")
        for context in contexts:
            learn(store, context, *rows(5))
        drawn = store.draw(300)
        assert drawn is not None
        wanted = {store.resolve(text).context for text in ("mix(t0:0.7,t1:0.3)", "t0^0.5", "mix(t0:0.5,t1^2.25:0.5)")}
        assert {part.context for part in drawn[0].parts} == wanted

    def test_chance_decides_which_contexts_a_small_table_rehearses(self) -> None:
        """Not age: over many draws of two contexts each of eight tasks is among them."""
        store = new_store(tasks=8)
        for number in range(8):
            learn(store, f"t{number}", *rows(3, number))
        seen: set[str] = set()
        for sequence in range(40):
            drawn = store.replay_buffer.draw(store._resolver, sequence, 0, (0, 30), (), 2)
            assert drawn is not None
            assert len(drawn.batch.parts) == 2
            seen |= {part.text for part in drawn.batch.parts}
        assert len(seen) == 8

    def test_no_more_contexts_than_the_table_holds(self) -> None:
        store = new_store(tasks=30)
        for number in range(30):
            learn(store, f"t{number}", *rows(3, number))
        config = store.config.replace(context_table_bytes=4 * store.contexts.bytes_per_context)
        small = WeightStore(config, secret=store.secret)
        for number in range(30):
            small.register(TaskSchema(key=f"t{number}", inputs=6, outputs=3))
            learn(small, f"t{number}", *rows(3, number))
        drawn = small.draw_beside(small.batch("t0", rows(1)[0]), (0, 500))
        assert drawn is not None
        assert len(drawn.batch.parts) == 3
        assert 0 < len(drawn.batch) < 500

    def test_part_of_a_row_is_rehearsed_in_part_of_the_updates(self) -> None:
        """At ratio 0.25 one update of one row in four rehearses a row; whole numbers stay what they are."""
        store = new_store(ratio=0.25)
        drawn = []
        for sequence in range(400):
            store.sequence = sequence
            drawn.append(_rows_to_rehearse(store, 1, 0)[1])
        assert set(drawn) == {0, 1}
        assert abs(sum(drawn) - 100) < 5 * np.sqrt(400 * 0.25 * 0.75)
        assert [_rows_to_rehearse(store, count, 0)[1] for count in (4, 8, 400)] == [1, 2, 100]


class TestExactness:
    def test_tasks_keep_their_order_through_a_file(self) -> None:
        """Draws go by the order in which tasks were first taught, which need not be that of their keys."""
        store = new_store()
        for key in ("t2", "t0", "t1"):
            learn(store, key, *rows(16, int(key[1])))
        again = WeightStore.from_bytes(store.to_bytes())
        assert again.digest() == store.digest()
        for one in (store, again):
            learn(one, "t1", *rows(16, 9))
        assert again.digest() == store.digest()
        order = [key for key, _, _ in store.replay_buffer.to_json()["pools"]]
        assert order == ["t2", "t0", "t1"]

    def test_pools_as_earlier_releases_wrote_them(self) -> None:
        store, other = new_store(), new_store()
        learn(store, "t1", *rows(16))
        saved = store.replay_buffer.to_json()
        old = saved | {"pools": {key: [seen, places] for key, seen, places in saved["pools"]}}
        other.replay_buffer.load(store.replay_buffer.state(), old, store.tasks)
        assert other.replay_buffer.to_json() == saved

    def test_the_same_records_make_the_same_store(self) -> None:
        def taught(through: int, store: WeightStore) -> WeightStore:
            for number in range(through, 12):
                learn(store, f"t{number % 3}", *rows(16, number), steps=1 + number % 3)
            return store

        whole = taught(0, new_store(10))
        half = new_store(10)
        for number in range(6):
            learn(half, f"t{number % 3}", *rows(16, number), steps=1 + number % 3)
        again = WeightStore.from_bytes(half.to_bytes())
        assert again.digest() == half.digest()
        assert taught(6, again).digest() == whole.digest()
        assert taught(0, new_store(10, seed=2)).digest() != whole.digest()

    def test_the_digest_covers_kept_rows(self) -> None:
        store = new_store()
        learn(store, "t0", *rows(10))
        digest = store.digest()
        store.replay_buffer.state()["rehearsal.inputs"][3, 2] += 1
        assert store.digest() != digest

    def test_adopting_takes_the_rows_over(self) -> None:
        store, other = new_store(), new_store()
        learn(other, "t0", *rows(10))
        store.adopt(other)
        assert store.digest() == other.digest()
        assert store.replay_buffer.rows_kept("t0") == 10


class TestLogits:
    def test_rows_are_kept_with_what_they_were_answered(self) -> None:
        store = new_store(logit_share=0.5)
        x, y = rows(10)
        logits = store.logits(store.batch("t0", x))
        learn(store, "t0", x, y)
        kept = store.replay_buffer.state()
        distance = torch.cdist(kept["rehearsal.logits"], logits)
        assert bool((distance.amin(1) < 1e-5).all())
        assert distance.argmin(1).sort().values.tolist() == list(range(10))
        assert "rehearsal.logits" not in new_store().replay_buffer.state()

    def test_the_distance_from_them_is_a_share_of_the_loss(self) -> None:
        """The step beside them is that of a loss computed here, by hand."""
        store = new_store(logit_share=0.25)
        store.register(TaskSchema(key="narrow", inputs=4, outputs=2))
        learn(store, "narrow", rows(10)[0][:, :4], [0, 1] * 5, steps=3)
        expected = WeightStore.from_bytes(store.to_bytes())
        x, y = rows(8, 3)
        learn(store, "t1", x, y)

        drawn = expected.draw_beside(expected.batch("t1", x), (0, 8))
        assert drawn is not None
        old, aims = drawn.batch, drawn.targets
        assert aims.logits is not None
        new = expected.batch("t1", x)
        bound = [expected.bindings(batch) for batch in (old, new, old)]  # the table is full before it is used
        own = expected.network(new.inputs, bound[1])
        z = expected.network(old.inputs, bound[2])[:, :2]  # the narrow task's own outputs
        entropy = torch.nn.functional.cross_entropy
        kept = 0.75 * entropy(z, aims.classes) + 0.25 * (z - aims.logits[:, :2]).square().mean()
        expected.optimizer.zero_grad()
        (entropy(own, torch.tensor(y)) + kept).backward()
        expected.optimizer.step()
        for name, tensor in store.state().items():
            assert torch.allclose(tensor, expected.state()[name], rtol=1e-5, atol=1e-6), name

    def test_a_store_goes_on_from_a_file_as_if_it_had_not_stopped(self) -> None:
        def go_on(store: WeightStore) -> str:
            for number in range(4):
                learn(store, f"t{number % 3}", *rows(10, number))
            consolidate(store, 2)
            return store.digest()

        store = new_store(5, logit_share=0.5)
        go_on(store)
        again = WeightStore.from_bytes(store.to_bytes())
        assert go_on(again) == go_on(store)
        other = new_store(5, logit_share=0.25)
        go_on(other)
        assert go_on(other) != store.digest()


class TestForgetting:
    def test_a_tasks_rows_are_gone_also_those_of_its_compositions(self) -> None:
        store = new_store()
        learn(store, "t0", *rows(10))
        learn(store, "mix(t0:0.2,t1:0.8)", *rows(5))
        learn(store, "t1", *rows(5, 3))
        sequence = store.sequence
        assert store.forget_rows("t0") == 15
        assert store.sequence == sequence + 1
        assert (store.replay_buffer.rows_kept("t0"), store.replay_buffer.rows_kept("t1")) == (0, 5)
        free = store.replay_buffer.to_json()["free"]
        assert len(free) == 15
        assert all(
            not bool(rows[free].any())
            for name, rows in store.replay_buffer.state().items()
            if name != "rehearsal.ranges"
        )  # nothing is left
        learn(store, "t2", *rows(20, 4))  # their places are used again
        assert store.replay_buffer.to_json()["used"] == 25
        with pytest.raises(UnknownTask):
            store.forget_rows("nobody")

    def test_a_deleted_task_leaves_no_rows(self) -> None:
        store = new_store()
        learn(store, "t0", *rows(10))
        store.delete("t0")
        store.register(TaskSchema(key="t0", inputs=6, outputs=3))
        assert store.replay_buffer.rows_kept("t0") == 0
        assert store.draw(10) is None

    def test_names_of_contexts_do_not_pile_up(self) -> None:
        store = new_store(5, tasks=1)
        batch = store.batch("t0", rows(1)[0])
        targets = Targets(torch.zeros(1, dtype=torch.int64), None)
        for number in range(2500):
            part = store.resolve(f"t0^{number / 100}")
            one = type(batch)((part,), None, batch.inputs)
            store.replay_buffer.keep(one, targets, number + 1)
        assert len(store.replay_buffer.to_json()["names"]) < 1100
        drawn = store.draw(50)
        assert drawn is not None
        assert len(drawn[0].parts) <= 5


class TestPools:
    def test_a_late_place_is_taken_by_chance(self) -> None:
        """A task that was turned away for long does not fill free places with its latest rows."""
        chances = np.random.default_rng(0).uniform(size=(2, 3000)).T
        pools = ReservoirAllocator(rows_per_task=100, capacity=100)
        for chance, other in chances[:50]:
            pools.place_for("a", chance, other)
            pools.place_for("b", chance, other)
        for chance, other in chances[50:1000]:
            pools.place_for("a", chance, other)
        assert pools.kept("a") == pools.kept("b") == 50
        pools.forget("b", lambda place: place in set(pools.of_others(["a"])[0]))
        for chance, other in chances[1000:1600]:
            pools.place_for("a", chance, other)
        assert 60 < pools.kept("a") < 100  # about 50 x 1600/1000, and not at once

    def test_a_full_tasks_rows_are_placed_together_as_one_by_one(self) -> None:
        random = np.random.default_rng(0)
        together, alone = (ReservoirAllocator(rows_per_task=20, capacity=100) for _ in range(2))
        for pools in (together, alone):
            for _ in range(20):
                pools.place_for("a", 0.5, 0.5)
        for count in random.integers(1, 50, 40).tolist():
            chances = random.uniform(size=count)
            assert together.is_full("a")
            places = together.places_of_full("a", chances).tolist()
            assert [None if place < 0 else place for place in places] == [
                alone.place_for("a", chance, 0.5) for chance in chances.tolist()
            ]
            assert together.to_json() == alone.to_json()

    def test_a_store_keeps_the_same_rows_of_full_tasks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def taught() -> WeightStore:
            store = WeightStore(
                plain_config(
                    network=MLPConfig(inputs=4, hidden=(8,), outputs=2), rehearsal=RehearsalConfig(rows_per_task=10)
                ),
                secret=seeded_secret(0),
            )
            random = np.random.default_rng(0)
            for key in "ab":
                store.register(TaskSchema(key=key, inputs=4, outputs=2))
            for number in range(30):
                rows = random.normal(size=(8, 4)) * (1e6 if number % 7 == 6 else 1.0)  # some far outside
                learn(store, "ab"[number % 2], rows, random.integers(0, 2, 8).tolist())
            return store

        together = taught()
        monkeypatch.setattr(ReservoirAllocator, "is_full", lambda *_: False)
        alone = taught()
        assert together.replay_buffer.to_json() == alone.replay_buffer.to_json()
        assert together.digest() == alone.digest()

    def test_forgotten_rows_leave_room_for_new_ones(self) -> None:
        pools = ReservoirAllocator(rows_per_task=10, capacity=100)
        for place in range(1000):
            pools.place_for("a", (place % 97) / 97, 0.5)
        pools.forget("b", lambda place: True)
        assert pools.kept("a") == 0
        for _ in range(10):
            pools.place_for("a", 0.9, 0.5)
        assert pools.kept("a") == 10

    def test_the_largest_gives_up_a_place_also_among_many_and_after_a_file(self) -> None:
        """Against a plain search for the largest, in every step."""
        random = np.random.default_rng(3)
        pools = ReservoirAllocator(rows_per_task=40, capacity=200)
        for number in range(3000):
            key = f"k{int(random.integers(0, min(60, 2 + number // 20)))}"
            sizes = {one: len(places) for one, _, places in pools.to_json()["pools"]}
            full = pools.used == 200
            pools.place_for(key, 0.0 if sizes.get(key, 0) < 40 else 0.99, float(random.uniform()))
            after = {one: pools.kept(one) for one in sizes}
            lost = [one for one in sizes if after[one] < sizes[one]]
            if full and max(sizes.values()) > sizes.get(key, 0) + 1:
                assert lost == [max(sizes, key=lambda one: sizes[one])]
            else:
                assert not lost
            if number % 500 == 0:
                saved, pools = pools.to_json(), ReservoirAllocator(rows_per_task=40, capacity=200)
                pools.load(saved)


def test_rehearsed_tasks_are_remembered_better() -> None:
    """Five permutations of the digits: the mean over all of them, with and without rehearsal."""
    data = sklearn_dataset("digits")
    means = []
    for kept in (0, 200):
        config = plain_config(
            network=MLPConfig(inputs=64, hidden=(32, 32), outputs=10),
            optimizer=OptimizerConfig(learning_rate=2e-3),
            rehearsal=RehearsalConfig(rows_per_task=kept),
        )
        store = WeightStore(config, secret=seeded_secret(3))
        orders = [np.random.default_rng(task).permutation(64) for task in range(8)]
        for task, order in enumerate(orders):
            store.register(TaskSchema(key=f"p{task}", inputs=64, outputs=10))
            for start in range(0, 6 * 1024, 64):
                chosen = np.arange(start, start + 64) % 1024
                learn(store, f"p{task}", data.train_x[chosen][:, order], data.train_y[chosen].tolist())
        seen = [
            evaluate(store, f"p{task}", data.test_x[:, order], data.test_y.tolist()).accuracy
            for task, order in enumerate(orders)
        ]
        means.append(float(np.mean([one for one in seen if one is not None])))
    plain, rehearsed = means
    assert rehearsed > plain + 0.05


class TestOwnRows:
    """An update learns earlier rows of its own tasks again, and their logits follow."""

    def _store(self, **rehearsal: object) -> WeightStore:
        values = {"rows_per_task": 20, "own_ratio": 1.0, "ratio": 1.0, "logit_share": 0.5} | rehearsal
        config = plain_config(network=NETWORK, optimizer={"name": "adam", "learning_rate": 3e-3}, rehearsal=values)
        store = WeightStore(config, secret=seeded_secret(1))
        for number in range(3):
            store.register(TaskSchema(key=f"t{number}", inputs=6, outputs=3))
        return store

    def test_draw_beside_holds_own_rows_first(self) -> None:
        store = self._store()
        for number in range(3):
            learn(store, f"t{number}", *rows(12, number))
        drawn = store.draw_beside(store.batch("t1", rows(4, 9)[0]), (8, 6))
        assert drawn is not None
        names = [drawn.batch.parts[place].text for place in drawn.batch.places().tolist()]
        assert drawn.own == 8
        assert set(names[:8]) == {"t1"}
        assert len(names) == 14
        assert "t1" not in names[8:]

    def test_draw_beside_takes_each_own_row_once_where_they_are_few(self) -> None:
        store = self._store()
        learn(store, "t0", *rows(5))
        drawn = store.draw_beside(store.batch("t0", rows(4, 9)[0]), (8, 0))
        assert drawn is not None
        assert len(set(drawn.slots.tolist())) == len(drawn.batch) == 5

    def test_step_counts_own_rows_as_rows_of_the_batch(self) -> None:
        """The step is that of a loss computed here, by hand."""
        store = self._store(ratio=0.0)
        learn(store, "t0", *rows(5))
        expected = WeightStore.from_bytes(store.to_bytes())
        x, y = rows(6, 3)
        learn(store, "t0", x, y)
        drawn = expected.draw_beside(expected.batch("t0", x), (6, 0))
        assert drawn is not None
        inputs = torch.cat([torch.from_numpy(x), drawn.batch.inputs])
        logits = expected.network(inputs, expected.bindings(expected.batch("t0", inputs)))
        expected.optimizer.zero_grad()
        targets = torch.cat([torch.tensor(y), drawn.targets.classes])
        torch.nn.functional.cross_entropy(logits, targets).backward()
        expected.optimizer.step()
        for name, tensor in store.state().items():
            torch.testing.assert_close(tensor, expected.state()[name], rtol=1e-4, atol=1e-6)

    def test_update_refreshes_logits_of_own_rows_and_of_no_others(self) -> None:
        store = self._store(own_ratio=4.0)
        learn(store, "t0", *rows(10))
        learn(store, "t1", *rows(10, 1))
        before = store.replay_buffer.state()["rehearsal.logits"].clone()
        drawn = store.draw_beside(store.batch("t0", rows(4, 9)[0]), (16, 4))
        assert drawn is not None
        current = store.logits(drawn.batch)[: drawn.own]
        learn(store, "t0", *rows(4, 9))
        after = store.replay_buffer.state()["rehearsal.logits"]
        own = drawn.slots[: drawn.own]
        torch.testing.assert_close(after[own], current, rtol=1e-3, atol=1e-4)
        others = drawn.slots[drawn.own :]
        assert torch.equal(after[others], before[others])

    def test_failed_update_leaves_logits_as_they_were(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Its first steps refreshed nothing: logits follow once all steps were taken."""
        store = self._store(own_ratio=4.0)
        learn(store, "t0", *rows(10))
        digest, taken = store.digest(), itertools.count()

        def fails_late(store: WeightStore, loss: torch.Tensor) -> None:
            if next(taken) >= 2:  # the third step, with kept rows and without
                raise UpdateTooLarge("too long")
            optimizer_step(store, loss)

        monkeypatch.setattr("superposed.learning.online.optimizer_step", fails_late)
        with pytest.raises(UpdateTooLarge):
            learn(store, "t0", *rows(4, 9), steps=3)
        assert store.digest() == digest

    def test_least_rows_hold_for_each_sort_unless_its_ratio_is_0(self) -> None:
        for ratio, own, expected in ((1.0, 0.25, (32, 32)), (0.0, 0.25, (32, 0)), (0.0, 0.0, (0, 0))):
            store = self._store(ratio=ratio, own_ratio=own, least_rows=32)
            assert _rows_to_rehearse(store, 1, 0) == expected
        assert _rows_to_rehearse(self._store(ratio=0.5, own_ratio=0.25, least_rows=32), 128, 0) == (32, 64)

    def test_logits_of_grown_labels_are_refreshed_to_their_width(self) -> None:
        store = self._store(own_ratio=4.0)
        store.register(TaskSchema(key="grows", inputs=6, outputs=2, labels=("a", "b")))
        learn(store, "grows", rows(6)[0], ["a", "b"] * 3)
        store.alter("grows", store.altered("grows", add_labels=["c"]))
        learn(store, "grows", rows(3, 1)[0], ["a", "b", "c"])
        assert set(store.replay_buffer.state()["rehearsal.outputs"].tolist()) == {3}

    def test_small_table_rehearses_own_rows_and_others(self) -> None:
        """A context of the update takes no room from those of other tasks."""
        store = self._store()
        for number in range(3):
            learn(store, f"t{number}", *rows(12, number))
        config = store.config.replace(context_table_bytes=2 * store.contexts.bytes_per_context)
        small = WeightStore(config, secret=store.secret)
        for number in range(3):
            small.register(TaskSchema(key=f"t{number}", inputs=6, outputs=3))
            learn(small, f"t{number}", *rows(12, number))
        drawn = small.draw_beside(small.batch("t1", rows(4, 9)[0]), (8, 30))
        assert drawn is not None
        assert drawn.own == 8
        assert len(drawn.batch.parts) == 2
