"""Every batch here is held at a gate, so that what waits behind it is known and no test depends on time."""

import asyncio
import threading
from concurrent.futures import CancelledError, ThreadPoolExecutor

import pytest

from capdec.batching import Batcher
from capdec.errors import ClosedError, DeadlineError, OverloadedError


class Gate:
    """Runs batches when told to; `ran` is what it was given."""

    def __init__(self):
        self.ran, self.open, self.entered = [], threading.Event(), threading.Semaphore(0)

    def __call__(self, key: str, items: list) -> list:
        self.ran.append((key, list(items)))
        self.entered.release()
        assert self.open.wait(10)
        if "bad" in items:
            raise ValueError(f"bad among {len(items)}")
        return [f"{key}{item}" for item in items]


@pytest.fixture
def gate():
    return Gate()


@pytest.fixture
def batcher(gate):
    made = Batcher(gate, batch=3, queue=6, linger=0.0)
    yield made
    gate.open.set()
    made.close(5)


@pytest.fixture
def busy(batcher, gate):
    """A batcher whose thread is at the gate with one item."""
    batcher.submit("first", 0)
    assert gate.entered.acquire(timeout=10)
    return batcher


def test_what_waits_goes_together_by_key_oldest_first(busy, gate):
    futures = [busy.submit(key, number) for number, key in enumerate("abaaab")]
    gate.open.set()
    assert [future.result(10) for future in futures] == ["a0", "b1", "a2", "a3", "a4", "b5"]
    assert gate.ran == [("first", [0]), ("a", [0, 2, 3]), ("b", [1, 5]), ("a", [4])]


def test_a_full_queue_refuses_and_says_when_to_come_again(busy, gate):
    waiting = [busy.submit("a", number) for number in range(6)]
    with pytest.raises(OverloadedError, match="6 of 6") as refused:
        busy.submit("a", 6)
    assert refused.value.retry_after >= 1 and busy.waiting == 6
    gate.open.set()
    assert [future.result(10) for future in waiting] == [f"a{number}" for number in range(6)]


def test_places_are_taken_all_or_none_and_given_back(busy):
    with busy.reserve(4) as places:
        with pytest.raises(OverloadedError):
            busy.reserve(3)
        places.give_back()
        with busy.reserve(3):
            pass
        places.submit("a", 1)
        places.submit("a", 2)
        places.submit("a", 3)
        with pytest.raises(OverloadedError, match="used"):
            places.submit("a", 4)
    assert busy.waiting == 3
    busy.reserve(3)
    with pytest.raises(OverloadedError):
        busy.reserve(1)


def test_a_cancelled_item_leaves_the_queue_at_once_and_the_model_never_sees_it(busy, gate):
    kept, left = busy.submit("a", 1), busy.submit("a", 2)
    assert left.cancel() and busy.waiting == 1
    gate.open.set()
    assert kept.result(10) == "a1" and gate.ran[1] == ("a", [1])


def test_an_item_whose_time_is_over_is_not_begun(busy, gate):
    late, kept = busy.submit("a", 1, seconds=0.0), busy.submit("a", 2, seconds=60)
    gate.open.set()
    with pytest.raises(DeadlineError, match="before its turn"):
        late.result(10)
    assert kept.result(10) == "a2" and ("a", [2]) in gate.ran


def test_an_error_goes_to_the_item_that_causes_it_alone(busy, gate):
    good, bad, other = (busy.submit("a", item) for item in ("good", "bad", "other"))
    gate.open.set()
    assert good.result(10) == "agood" and other.result(10) == "aother"
    with pytest.raises(ValueError, match="bad among 1"):
        bad.result(10)
    assert busy.submit("a", "next").result(10) == "anext", "the thread goes on"


def test_too_few_results_are_an_error_and_not_anothers_answer():
    batcher = Batcher(lambda key, items: items[1:])
    with pytest.raises(RuntimeError, match="1 items went in and 0 results came out"):
        batcher.submit("a", 1).result(10)
    batcher.close(5)


def test_closing_finishes_what_waits_and_takes_nothing_new(busy, gate):
    waiting = [busy.submit("a", number) for number in range(5)]
    reserved = busy.reserve(1)
    closing = threading.Thread(target=busy.close)
    closing.start()
    while busy.alive:
        pass
    with pytest.raises(ClosedError):
        busy.submit("a", 9)
    with pytest.raises(ClosedError):
        reserved.submit("a", 9)
    gate.open.set()
    closing.join(10)
    assert not closing.is_alive() and [future.result(0) for future in waiting] == [f"a{number}" for number in range(5)]


def test_closing_does_not_wait_for_ever(busy, gate):
    waiting = busy.submit("a", 1)
    busy.close(0.05)
    with pytest.raises(ClosedError, match="not begun"):
        waiting.result(10)


def test_many_threads_each_get_their_own():
    batcher = Batcher(lambda key, items: [(key, item) for item in items], batch=7, queue=10_000)

    def ask(number):
        return batcher.submit(number % 3, number).result(10)

    with ThreadPoolExecutor(32) as pool:
        assert list(pool.map(ask, range(2000))) == [(number % 3, number) for number in range(2000)]
    batcher.close(5)


def test_what_is_cancelled_while_batches_run_disturbs_nobody():
    batcher = Batcher(lambda key, items: list(items), batch=5, queue=10_000, linger=0.0)
    futures = [batcher.submit("a", number) for number in range(3000)]
    for future in futures[::2]:
        future.cancel()
    assert [future.result(10) for future in futures[1::2]] == list(range(1, 3000, 2))
    for number, future in enumerate(futures[::2]):
        try:
            assert future.result(10) == 2 * number
        except CancelledError:
            assert future.cancelled()
    assert batcher.waiting == 0
    batcher.close(5)


def test_asyncio_waits_on_the_same_futures_and_cancels_them(busy, gate):
    async def ask() -> str:
        left = asyncio.ensure_future(asyncio.wrap_future(busy.submit("a", 1)))
        await asyncio.sleep(0)
        left.cancel()
        await asyncio.wait({left})
        assert busy.waiting == 0
        gate.open.set()
        return await asyncio.wrap_future(busy.submit("a", 2))

    assert asyncio.run(ask()) == "a2"


def test_each_batch_is_observed(gate):
    seen = []
    batcher = Batcher(gate, batch=2, linger=0.0, observe=lambda waited, took: seen.append((len(waited), min(waited) >= 0, took >= 0)))
    gate.open.set()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: batcher.submit("a", number).result(10), range(10)))
    batcher.close(5)
    assert sum(size for size, *_ in seen) == 10 and all(size <= 2 and waited and took for size, waited, took in seen)
