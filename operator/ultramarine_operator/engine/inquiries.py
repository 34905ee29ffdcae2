"""Questions that the mirror cannot answer, asked beside the passes: who does not answer holds no worker up.

A pass whose questions are not answered yet ends without a word, and its key is rung when the answers are in. They
serve that one next pass, and are forgotten.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from ultramarine_contract.errors import GatewayError, StorageError
from ultramarine_contract.meta import Key

from ..outside import gateway
from ..shared.metrics import GATEWAY_QUESTIONS, STORAGE_QUESTION_SECONDS, STORAGE_QUESTIONS
from ..shared.plan import (
    MAX_HASHED,
    Answer,
    ArtifactFacts,
    AskGateway,
    AskRefusal,
    CheckArtifact,
    GatewayFacts,
    Question,
    ReadText,
    Refusal,
)

log = logging.getLogger(__name__)

THREADS = 8
# After a question that got no answer, further ones to the same are not asked for this long, and get the same for an
# answer: with thousands of objects each would wait out its own time-out.
AWAY_SECONDS = 5.0

Answers = dict[Question, Answer]


class Outside(Protocol):
    """What is asked of the object storage; it blocks, and raises StorageError."""

    def read(self, uri: str) -> bytes: ...

    def artifact_digest(self, uri: str) -> tuple[str, int, str]: ...

    def object_digest(self, uri: str, limit: int) -> str: ...


class Inquiries:
    """Questions that are being asked, and answers that wait for their pass, by key."""

    def __init__(
        self, storage: Outside, ring: Callable[[Key], None], refusal: Callable[[AskRefusal], Awaitable[Refusal]]
    ) -> None:
        self._storage = storage
        self._ring = ring
        self._refusal = refusal
        self._threads = ThreadPoolExecutor(THREADS, "storage")
        # Of their own: gateways that hang, in namespaces of somebody's, must not keep the storage waiting.
        self._gateway_threads = ThreadPoolExecutor(THREADS, "gateway")
        self._few_at_once = asyncio.Semaphore(THREADS)
        self._asking: dict[Key, asyncio.Task[None]] = {}
        self._answers: dict[Key, Answers] = {}
        self._away_until = 0.0
        self._away_for: tuple[str, str] = "", ""  # the URI that got no answer, and what was said of it
        self._gateways_away: dict[str, tuple[float, GatewayError]] = {}  # by address: until when, and what is said

    def answers(self, key: Key, questions: tuple[Question, ...]) -> Answers | None:
        """The answers to these questions, once; None while they are asked, and `key` is rung when they are in."""
        answers = self._answers.pop(key, {})
        if all(question in answers for question in questions):
            return {question: answers[question] for question in questions}
        if key not in self._asking:
            self._asking[key] = asyncio.create_task(self._ask(key, questions))
        return None

    async def _ask(self, key: Key, questions: tuple[Question, ...]) -> None:
        loop = asyncio.get_running_loop()
        try:
            context = contextvars.copy_context()  # so that lines logged there name the object
            asked: list[Awaitable[Answer]] = []
            for question in questions:
                match question:
                    case AskRefusal():
                        asked.append(self._ask_why(question))
                    case AskGateway():
                        run = context.copy().run
                        asked.append(loop.run_in_executor(self._gateway_threads, run, self._ask_gateway, question))
                    case _:
                        run = context.copy().run
                        asked.append(loop.run_in_executor(self._threads, run, self._answer, question))
            self._answers[key] = dict(zip(questions, await asyncio.gather(*asked), strict=True))
        except Exception as error:
            log.exception("%s: what is outside cannot be asked, by a bug of the operator", key)
            said = f"the operator failed to ask the storage or a gateway: {error!r}; see its log"
            self._answers[key] = {
                question: (GatewayError if isinstance(question, AskGateway) else StorageError)(said, "OperatorError")
                for question in questions
            }
        finally:
            del self._asking[key]
            self._ring(key)

    async def _ask_why(self, question: AskRefusal) -> Refusal:
        async with self._few_at_once:  # the API server looks through all events of the namespace each time
            return await self._refusal(question)

    def _ask_gateway(self, question: AskGateway) -> Answer:
        until, said = self._gateways_away.get(question.address, (0.0, None))
        if said is not None and time.monotonic() < until:
            return said
        outcome = "bug"
        try:
            asked = {"figures": question.figures, "signatures": question.signatures}
            facts = GatewayFacts(gateway.routes_of(question.address, question.endpoint, **asked))
            outcome = "ok"
            return facts
        except GatewayError as error:
            outcome = error.reason
            # One that answers, though in no words of ours, is not away: what it says of others may be well.
            if error.reason != "BadAnswer":
                self._gateways_away[question.address] = time.monotonic() + AWAY_SECONDS, error
            return error
        finally:
            GATEWAY_QUESTIONS.labels(outcome=outcome).inc()

    def _answer(self, question: ReadText | CheckArtifact) -> Answer:
        if time.monotonic() < self._away_until:
            # In the same words for all, and each time: other words in a status would be a write for nothing.
            asked, said = self._away_for
            return StorageError(said.replace(asked, question.uri), "Unreachable", transient=True)
        started, outcome = time.monotonic(), "bug"
        try:
            match question:
                case ReadText(uri):
                    answer: Answer = self._storage.read(uri).decode("utf-8", "replace")
                case CheckArtifact(uri, hashes):
                    digest, size, _ = self._storage.artifact_digest(uri)
                    if hashes and not digest and size <= MAX_HASHED:
                        digest = self._storage.object_digest(uri, MAX_HASHED)
                    answer = ArtifactFacts(digest, size)
            outcome = "ok"
            return answer
        except StorageError as error:
            outcome = error.reason
            if error.reason == "Unreachable":
                self._away_for = question.uri, error.message
                self._away_until = time.monotonic() + AWAY_SECONDS
            return error
        finally:
            STORAGE_QUESTIONS.labels(outcome=outcome).inc()
            STORAGE_QUESTION_SECONDS.observe(time.monotonic() - started)

    def forget(self, key: Key) -> None:
        """Let go of what was asked for an object that is gone."""
        self._answers.pop(key, None)

    def close(self) -> None:
        """Give up on what is being asked."""
        for threads in (self._threads, self._gateway_threads):
            threads.shutdown(wait=False, cancel_futures=True)
        for task in self._asking.values():
            task.cancel()
