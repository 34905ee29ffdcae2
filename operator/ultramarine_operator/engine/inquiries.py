"""Questions that the mirror cannot answer, asked beside the passes: a source that does not answer holds up no worker.

A pass whose questions are not answered yet ends without a write, and its key is rung when the answers are in. They
serve the next pass that asks for nothing more, and are forgotten.
"""

from __future__ import annotations

import asyncio
import copy
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from ultramarine_contract.errors import UltramarineError
from ultramarine_contract.meta import Key

from ..shared.questions import Clients, Question

log = logging.getLogger(__name__)

AT_ONCE = 8  # questions to one kind of source
# After a question without an answer, further ones to the same source get the same error for this long: with thousands
# of objects each question would wait for its own timeout.
AWAY_SECONDS = 5.0

Answers = dict[Question, Any]


class Inquiries:
    """Questions that are being asked, and answers that wait for their pass, by key."""

    def __init__(self, clients: Clients, ring: Callable[[Key], None]) -> None:
        self._clients = clients
        self._ring = ring
        # By kind of source: gateways that hang, in the namespace of a tenant, do not hold up the storage.
        self._pools: dict[str, tuple[Clients, asyncio.Semaphore, ThreadPoolExecutor]] = {}
        self._asking: dict[Key, asyncio.Task[None]] = {}
        self._answers: dict[Key, Answers] = {}
        self._away: dict[str, tuple[float, str, UltramarineError]] = {}  # by source: until when, whose subject, error

    def so_far(self, key: Key) -> Answers:
        """Return the answers that wait for the pass of a key: some of its questions may follow from them."""
        return self._answers.get(key, {})

    def answers(self, key: Key, questions: tuple[Question, ...]) -> Answers | None:
        """Return the answers to these questions, once; None while they are asked, and `key` is rung afterwards."""
        answers = self._answers.pop(key, {})
        if all(question in answers for question in questions):
            return {question: answers[question] for question in questions}
        if key not in self._asking:
            kept = {question: answers[question] for question in questions if question in answers}
            missing = tuple(question for question in questions if question not in kept)
            self._asking[key] = asyncio.create_task(self._ask_all(key, missing, kept))
        return None

    async def _ask_all(self, key: Key, questions: tuple[Question, ...], kept: Answers) -> None:
        try:
            answers = await asyncio.gather(*(self._ask(question) for question in questions))
            self._answers[key] = {**kept, **dict(zip(questions, answers, strict=True))}
        except Exception as error:
            log.exception("%s: a question failed by a bug of the operator", key)
            message = f"the operator failed to ask the storage or a gateway: {error!r}; see its log"
            self._answers[key] = {question: question.failure(message, "OperatorError") for question in questions}
        finally:
            del self._asking[key]
            self._ring(key)

    async def _ask(self, question: Question) -> Any:
        clients, slots, _ = self._pool(question.source.partition("/")[0])
        async with slots:
            until, subject, error = self._away.get(question.source, (0.0, "", None))
            if error is not None and time.monotonic() < until:
                return _about(error, subject, question.subject)
            try:
                return await question.ask(clients)
            except UltramarineError as error:
                if question.is_away(error):
                    self._away[question.source] = time.monotonic() + AWAY_SECONDS, question.subject, error
                return error

    def _pool(self, name: str) -> tuple[Clients, asyncio.Semaphore, ThreadPoolExecutor]:
        if name not in self._pools:
            threads = ThreadPoolExecutor(AT_ONCE, name)
            self._pools[name] = replace(self._clients, threads=threads), asyncio.Semaphore(AT_ONCE), threads
        return self._pools[name]

    def forget(self, key: Key) -> None:
        """Drop the answers for an object that is gone, or asks nothing now."""
        self._answers.pop(key, None)

    def clear(self) -> None:
        """Drop all answers."""
        self._answers.clear()

    def close(self) -> None:
        """Give up on what is being asked."""
        for _, _, threads in self._pools.values():
            threads.shutdown(wait=False, cancel_futures=True)
        for task in self._asking.values():
            task.cancel()


def _about(error: UltramarineError, subject: str, other: str) -> UltramarineError:
    """Return the error with another subject: any other difference in a status would be a write without need."""
    if not subject:
        return error
    copied = copy.copy(error)
    copied.message = error.message.replace(subject, other)
    return copied
