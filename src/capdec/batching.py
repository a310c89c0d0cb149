"""Dynamic batching: items from many callers, each with a future of its own, go through one function together. It knows no model and no protocol.

    callers              waiting, oldest first                  a thread                         futures
    submit("a", 1)  ->   (a 1) (b 2) (a 3) (a 4)    batch = 2   run("a", [1, 3])             ->  1 and 3 are answered
    submit("b", 2)             (b 2)       (a 4)                run("b", [2])                ->  2
    ...                                    (a 4)                run("a", [4])                ->  4

A batch is what waits when a thread is free: the oldest item, and those after it that have an equal key. For a batch to fill up nothing waits longer
than the `linger`, which lets callers that were just answered ask again.
"""

import math
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from capdec.errors import ClosedError, DeadlineError, OverloadedError

Key = TypeVar("Key", bound=Hashable)
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class _Waiting(Generic[Key, Item]):
    key: Key
    item: Item
    deadline: float  # of time.monotonic, as is `since`
    since: float


class Batcher(Generic[Key, Item, Result]):
    """`run(key, items)` returns a result for each item, in order. It is called with at most `batch` items of one key, in so many `threads`.

    At most `queue` items wait or have a place reserved. `linger` (seconds) is how long an idle thread waits for a batch to grow. `observe` is told of
    each batch: the seconds that each of its items waited, and those that the batch took.

    A `run` that raises is tried again with each item alone, so that the error goes to the items that cause it. A future that is cancelled while it
    waits leaves the queue at once.
    """

    def __init__(
        self,
        run: Callable[[Key, list[Item]], Sequence[Result]],
        batch: int = 32,
        queue: int = 256,
        linger: float = 0.002,
        observe: Callable[[list[float], float], None] | None = None,
        threads: int = 1,
    ):
        self.run, self.batch, self.queue, self.linger, self.observe = run, batch, queue, linger, observe
        self._waiting: dict[Future[Result], _Waiting[Key, Item]] = {}  # in order of arrival; a future leaves in one step, wherever it is
        self._reserved = 0
        self._in_hand = 0
        self._closed = False
        self._rate = 0.0  # items a second of one thread, of late
        self._changed = threading.Condition(threading.RLock())  # a future's callback may run where the lock is held
        self._threads = [threading.Thread(target=self._work, name=f"batcher {number}", daemon=True) for number in range(threads)]
        for thread in self._threads:
            thread.start()

    @property
    def waiting(self) -> int:
        """How many items wait."""
        return len(self._waiting)

    @property
    def alive(self) -> bool:
        """Whether it takes items, and its threads live."""
        return not self._closed and all(thread.is_alive() for thread in self._threads)

    def submit(self, key: Key, item: Item, seconds: float = math.inf) -> "Future[Result]":
        """The future of one item, which has `seconds` to be begun: after that it is answered by a DeadlineError. Raises OverloadedError where the
        queue is full, ClosedError after `close`."""
        with self.reserve(1) as places:
            return places.submit(key, item, seconds)

    def reserve(self, count: int) -> "Places[Key, Item, Result]":
        """Places in the queue for items that are still being prepared: all or none. Raises as `submit` does."""
        with self._changed:
            if self._closed:
                raise ClosedError("no more is taken: this is shutting down. Ask another server, or this one when it is up again.")
            if len(self._waiting) + self._reserved + count > self.queue:
                taken = len(self._waiting) + self._reserved
                raise OverloadedError(
                    f"{count} more would not fit into the queue, where {taken} of {self.queue} places are taken. Try again later, or with fewer.",
                    self._until_free(count),
                )
            self._reserved += count
            return Places(self, count)

    def close(self, seconds: float = math.inf) -> None:
        """Takes nothing new and finishes what waits. What is not begun within `seconds` is answered by a ClosedError, and what is in hand then has as
        long again."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if not self._ended(seconds):
            with self._changed:
                left = list(self._waiting)
            for future in left:
                self._fail(future, ClosedError("it was not begun before the end of a shutdown. Ask again when the server is up."))
            self._ended(seconds)

    def _ended(self, seconds: float) -> bool:
        """Whether all threads end within so many seconds."""
        end = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(None if math.isinf(seconds) else max(0.0, end - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _until_free(self, count: int) -> float:
        """A guess, in seconds."""
        excess = len(self._waiting) + self._reserved + self._in_hand + count - self.queue
        return min(max(excess / (self._rate * len(self._threads)), 1.0), 60.0) if self._rate else 1.0

    def _enter(self, key: Key, item: Item, seconds: float) -> "Future[Result]":
        future: Future[Result] = Future()
        now = time.monotonic()
        with self._changed:
            self._reserved -= 1
            if self._closed:
                raise ClosedError("no more is taken: this is shutting down. Ask another server, or this one when it is up again.")
            self._waiting[future] = _Waiting(key, item, now + seconds, now)
            self._changed.notify_all()
        future.add_done_callback(self._forget)  # where it was cancelled
        return future

    def _forget(self, future: "Future[Result]") -> None:
        with self._changed:
            self._waiting.pop(future, None)

    def _fail(self, future: "Future[Result]", error: Exception) -> None:
        """Unless it was cancelled, or begun by a thread, meanwhile."""
        with self._changed:
            mine = self._waiting.pop(future, None) is not None and future.set_running_or_notify_cancel()
        if mine:
            future.set_exception(error)

    def _work(self) -> None:
        while batch := self._take():
            key, futures, items = batch
            began = time.monotonic()
            for future, outcome in zip(futures, self._outcomes(key, [one.item for one in items]), strict=True):
                if isinstance(outcome, _Failed):
                    future.set_exception(outcome.error)
                else:
                    future.set_result(outcome)
            took = time.monotonic() - began
            rate = len(items) / max(took, 1e-6)
            with self._changed:
                self._rate = 0.8 * self._rate + 0.2 * rate if self._rate else rate
                self._in_hand -= len(items)
            if self.observe is not None:
                self.observe([began - one.since for one in items], took)

    def _take(self) -> tuple[Key, list["Future[Result]"], list[_Waiting[Key, Item]]] | None:
        """The next batch; None where there is none and will be none."""
        with self._changed:
            while True:
                while not self._waiting and not self._closed:
                    self._changed.wait()
                if not self._waiting:
                    return None
                if len(self._waiting) < self.batch and not self._closed:
                    self._changed.wait_for(lambda: len(self._waiting) >= self.batch or self._closed, self.linger)
                now = time.monotonic()
                late = [future for future, one in self._waiting.items() if one.deadline <= now]
                for future in late:
                    self._fail(future, DeadlineError("its time was over before its turn came. Allow more, or try again when less is asked for."))
                key = next((one.key for one in self._waiting.values()), None)
                same = [(future, one) for future, one in self._waiting.items() if one.key == key][: self.batch]
                for future, _ in same:
                    del self._waiting[future]
                begun = [(future, one) for future, one in same if future.set_running_or_notify_cancel()]
                if begun:
                    self._in_hand += len(begun)
                    return begun[0][1].key, [future for future, _ in begun], [one for _, one in begun]

    def _outcomes(self, key: Key, items: list[Item]) -> "Sequence[Result | _Failed]":
        try:
            results = self.run(key, items)
            if len(results) != len(items):
                raise RuntimeError(f"{len(items)} items went in and {len(results)} results came out")
            return results
        except Exception as error:
            return [_Failed(error)] if len(items) == 1 else [self._outcomes(key, [item])[0] for item in items]


@dataclass(frozen=True)
class _Failed:
    error: Exception


class Places(Generic[Key, Item, Result]):
    """Places in a queue; those not used when the `with` block ends are given back."""

    def __init__(self, batcher: Batcher[Key, Item, Result], count: int):
        self._batcher, self._left = batcher, count

    def submit(self, key: Key, item: Item, seconds: float = math.inf) -> "Future[Result]":
        """As `Batcher.submit`, in one of the places. Raises ClosedError, and OverloadedError where none is left."""
        with self._batcher._changed:
            if not self._left:
                raise OverloadedError("all places that were reserved are used. Reserve as many as there are items.")
            self._left -= 1
            return self._batcher._enter(key, item, seconds)

    def give_back(self, count: int = 1) -> None:
        """Places that will not be needed."""
        with self._batcher._changed:
            count = min(count, self._left)
            self._left -= count
            self._batcher._reserved -= count

    def __enter__(self) -> "Places[Key, Item, Result]":
        return self

    def __exit__(self, *_: Any) -> None:
        self.give_back(self._left)
