"""A pool of worker processes for independent jobs."""

from __future__ import annotations

import pickle
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

from decision_seq.machine.workers import Workers


class Job:
    """A job of a pool, and its result once it is done."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.done = False
        self.value: Any = None

    def result(self) -> Any:
        """Wait for the job -> its return value; its error is raised here."""
        self.pool.work_until(self)
        return self.value


class Pool(Workers):
    """At most `count` worker processes, each of which is started when there is a job for it.

    A process has one job at a time. All of them are killed at the end, so that neither an error
    nor Ctrl-C waits for the jobs that are under way.
    """

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count
        self.waiting: deque[tuple[Job, bytes]] = deque()
        self.running: dict[Connection, Job] = {}

    def submit(self, run: Callable[..., Any], *arguments: Any) -> Job:
        """Queue `run(*arguments)`, a module-level function, for the next idle process."""
        job = Job(self)
        self.waiting.append((job, pickle.dumps((run, arguments))))
        self._take_in(wait=False)
        return job

    def work_until(self, job: Job) -> None:
        """Exchange jobs and results with the processes until `job` is done."""
        while not job.done:
            self._take_in(wait=True)

    def _take_in(self, wait: bool) -> None:
        for connection, _, value in self.receive(wait):
            job = self.running.pop(connection)
            job.done, job.value = True, value
        while self.waiting:
            idle = next((c for c in self.connections if c not in self.running), None)
            if idle is None:
                if len(self.processes) == self.count:
                    return
                idle = self.start(_serve)
            self.running[idle], payload = self.waiting.popleft()
            self.send(idle, payload)


@contextmanager
def process_pool(workers: int) -> Iterator[Pool]:
    """A pool of worker processes, which end with this context."""
    pool = Pool(workers)
    try:
        yield pool
    finally:
        pool.end()


def _serve(connection: Connection, send: Callable[..., None]) -> None:
    while True:
        run, arguments = pickle.loads(connection.recv_bytes())
        send("value", run(*arguments))
