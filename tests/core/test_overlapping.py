"""Reading, predicting and writing at the same time: in order, bounded, and with nothing lost on a failure."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any

import pytest
from bson import ObjectId

from valflow import overlapping
from valflow.batch_size import BatchSize
from valflow.models.calling import is_out_of_memory, predict_readable
from valflow.models.source import OutOfMemory

IDS = [ObjectId() for _ in range(50)]


class Recorder:
    """A source that keeps count of what was read, and predicts the id itself.

    Args:
        most: images that fit into its memory.
    """

    read_at_once = 4

    def __init__(self, most: int = 1000) -> None:
        self.most, self.read, self.predicted, self.ahead = most, 0, 0, 0
        self.sizes: list[int] = []
        self._lock = threading.Lock()

    def fetch(self, dataset: Any, sample_ids: Sequence[ObjectId]) -> list[Any]:
        with self._lock:
            self.read += len(sample_ids)
            self.ahead = max(self.ahead, self.read - self.predicted)
        return list(sample_ids)

    def predict(self, inputs: Sequence[Any]) -> list[Any]:
        self.sizes.append(len(inputs))
        if len(inputs) > self.most:
            raise OutOfMemory("too many")
        with self._lock:
            self.predicted += len(inputs)
        return list(inputs)


class Preparing(Recorder):
    """One that wants its batches put together, and notes what happens when."""

    def __init__(self, most: int = 1000) -> None:
        super().__init__(most)
        self.both = threading.Barrier(2)
        self.together: list[int] = []
        self.meet = False

    def prepare(self, inputs: Sequence[Any]) -> Any:
        if self.meet:
            self._meet()
        return ("batch", list(inputs))

    def predict_prepared(self, batch: Any) -> list[Any]:
        word, inputs = batch
        assert word == "batch"
        if self.meet:
            self._meet()
        return self.predict(inputs)

    def _meet(self) -> None:
        self.both.wait(20)
        self.together.append(1)

    def label_class(self, dataset: Any) -> None: ...
    def classes(self, dataset: Any) -> list[str]: ...
    def describe(self) -> dict[str, Any]: ...


def run(source: Any, size: int, ids: Sequence[ObjectId] = IDS) -> list[tuple[ObjectId, Any]]:
    found = []
    for batch, predictions in overlapping.predictions(source, None, ids, BatchSize(size)):
        found += list(zip(batch, predictions, strict=True))
    return found


class TestPredictions:
    @pytest.mark.parametrize("size", [1, 3, 8, 64])
    def test_come_in_order_each_once(self, size: int) -> None:
        source = Recorder()
        assert run(source, size) == [(i, i) for i in IDS]
        assert source.sizes == [size] * (50 // size) + [50 % size] * bool(50 % size)

    def test_of_nothing(self) -> None:
        assert run(Recorder(), 4, []) == []

    def test_that_do_not_fit_are_asked_again_in_smaller_batches(self) -> None:
        source = Recorder(most=5)
        assert run(source, 16) == [(i, i) for i in IDS]
        assert source.sizes[:3] == [16, 8, 4]
        assert set(source.sizes[2:]) <= {4, 2}

    def test_are_read_ahead_but_not_far(self) -> None:
        source = Recorder()
        ids = [ObjectId() for _ in range(400)]
        batches = overlapping.predictions(source, None, ids, BatchSize(8))
        next(batches)
        time.sleep(0.2)  # the readers go as far as they may
        assert source.ahead <= 8 + 2 * 8 + source.read_at_once
        assert source.read > 8
        batches.close()

    def test_batches_are_put_together_while_the_one_before_is_predicted(self) -> None:
        source = Preparing()
        batches = overlapping.predictions(source, None, IDS[:24], BatchSize(8))
        source.meet = True  # each waits for the other: batch 0 prepares with nobody, so the main thread helps
        threading.Thread(target=source.both.wait, args=(20,)).start()
        first = next(batches)
        source.meet = False
        rest = list(batches)
        assert len(source.together) >= 3  # batch 0, then batch 1 prepared as batch 0 was predicted
        assert [i for ids, _ in [first, *rest] for i in ids] == IDS[:24]

    @pytest.mark.parametrize("most", [5, 1])
    def test_prepared_batches_that_do_not_fit_are_asked_again_in_parts(self, most: int) -> None:
        source = Preparing(most=most)
        assert run(source, 16) == [(i, i) for i in IDS]
        assert source.sizes[:3] == [16, 8, 4]
        assert max(source.sizes[6:]) <= 5

    def test_a_failure_of_the_source_comes_through(self) -> None:
        class Broken(Recorder):
            def fetch(self, dataset: Any, sample_ids: Sequence[ObjectId]) -> list[Any]:
                raise ConnectionError("the database is gone")

        with pytest.raises(ConnectionError):
            run(Broken(), 4)


class TestWrites:
    def test_are_all_done_at_the_end_in_order(self) -> None:
        written: list[int] = []
        with overlapping.in_background(lambda batch: written.append(batch[1][0])) as put:
            for number in range(10):
                put(([], [number]))
        assert written == list(range(10))

    def test_do_not_hold_up_the_model_but_do_not_pile_up(self) -> None:
        release, begun = threading.Event(), []

        def slow(batch: overlapping.Batch) -> None:
            begun.append(batch[1][0])
            assert release.wait(20)

        with overlapping.in_background(slow) as put:
            put(([], [0]))
            put(([], [1]))  # comes back while the first is still being written
            third = threading.Thread(target=put, args=(([], [2]),))
            third.start()
            third.join(0.3)
            assert third.is_alive()  # two are waiting already
            assert begun == [0]
            release.set()
            third.join(20)
            assert not third.is_alive()
        assert begun == [0, 1, 2]

    def test_after_one_that_failed_none_is_begun(self) -> None:
        begun = []

        def fail(batch: overlapping.Batch) -> None:
            begun.append(batch[1][0])
            raise KeyboardInterrupt

        def go() -> None:
            with overlapping.in_background(fail) as put:
                for number in range(50):
                    put(([], [number]))

        with pytest.raises(KeyboardInterrupt):
            go()
        assert len(begun) <= 3
        assert begun == list(range(len(begun)))

    def test_a_failure_of_the_model_ends_them(self) -> None:
        def go() -> None:
            with overlapping.in_background(lambda batch: time.sleep(0.01)) as put:
                put(([], []))
                raise ValueError("the model")

        with pytest.raises(ValueError, match="the model"):
            go()
        assert not [t for t in threading.enumerate() if t.name.startswith("valflow-write")]

    def test_are_joined_until_they_are_worth_it(self) -> None:
        batches = [([ObjectId()] * n, list(range(n))) for n in (3, 3, 5, 1)]
        assert [len(ids) for ids, _ in overlapping.grouped(batches, 6)] == [6, 6]
        assert [len(ids) for ids, _ in overlapping.grouped(batches, 100)] == [12]


class TestBatchSize:
    @pytest.mark.parametrize(
        ("rate", "expected"),
        [
            pytest.param(lambda n: 100.0, 4, id="no-faster-in-larger-ones"),
            pytest.param(lambda n: min(n, 32) * 10.0, 32, id="faster-up-to-32"),
            pytest.param(lambda n: n * 10.0, 256, id="ever-faster"),
        ],
    )
    def test_is_found_by_trying(self, rate: Any, expected: int) -> None:
        size = BatchSize("auto")
        size.took(size.size, 100.0)  # the first call pays for set-up, which must not count
        for _ in range(40):
            size.took(size.size, size.size / rate(size.size))
        assert size.size == expected

    def test_of_a_number_stays(self) -> None:
        size = BatchSize(16)
        for _ in range(10):
            size.took(16, 0.001)
        assert size.size == 16

    def test_is_halved_when_memory_runs_out_and_not_tried_again(self) -> None:
        size = BatchSize("auto")
        size.too_many(64)
        for _ in range(10):
            size.took(32, 0.0001)
        assert size.size == 32
        size.too_many(1)
        assert size.size == 1


class TestOutOfMemory:
    @pytest.mark.parametrize(
        ("error", "expected"),
        [
            pytest.param(MemoryError(), True, id="python"),
            pytest.param(RuntimeError("CUDA out of memory. Tried to allocate"), True, id="torch"),
            pytest.param(RuntimeError("shapes differ"), False, id="other"),
            pytest.param(ValueError("out of memory"), False, id="words-alone"),
        ],
    )
    def test_is_told_from_other_failures(self, error: Exception, expected: bool) -> None:
        assert is_out_of_memory(error) == expected

    def test_of_one_image_is_its_failure(self) -> None:
        def full(inputs: list[Any]) -> list[Any]:
            raise MemoryError("too large")

        with pytest.raises(OutOfMemory, match="2 images at once are too many"):
            predict_readable(full, [1, 2])
        lost = FileNotFoundError("no such file")
        [first, second] = predict_readable(full, [lost, 1])
        assert first is lost
        assert "the model failed: MemoryError" in str(second)
