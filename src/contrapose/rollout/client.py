"""One vLLM server, as a trainer talks to it: patiently where it is busy, in one line where it is broken."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Mapping
from contextlib import suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any, Literal, TypeVar
from urllib.parse import urlsplit

from pydantic import BaseModel, Field, ValidationError

from contrapose.rollout.answers import Answer
from contrapose.rollout.engine import EngineFailed, StaleEngine
from contrapose.types import ContraposeError, told

PAUSES = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Seconds, give or take half, before a server that is busy or away is asked again."""

CONNECT_SECONDS = 10.0
OK, BUSY, NOT_FOUND = 200, 503, 404
SHOWN = 200
"""Characters of a server's own words that are shown."""


class _Reply(BaseModel):
    """Of a reply only what is read."""


class _Nothing(_Reply):
    pass


class _Model(_Reply):
    max_model_len: int | None = None


class _Models(_Reply):
    data: list[_Model] = Field(min_length=1)


class _Weights(_Reply):
    weight_version: str


class _Reset(_Reply):
    success: bool


class _Logprobs(_Reply):
    token_logprobs: list[float]


class _Choice(_Reply):
    token_ids: list[int]
    logprobs: _Logprobs | None = None
    finish_reason: Literal["stop", "length", "abort"]


class _Completion(_Reply):
    choices: tuple[_Choice]


R = TypeVar("R", bound=_Reply)


class Server:
    """The server at ``http://host:port``. ``seconds`` bound one request."""

    def __init__(self, address: str, seconds: float) -> None:
        self.address, self.seconds = address, seconds

    def context(self) -> int | None:
        """How many tokens a prompt and its answer may have. Raises ContraposeError where it takes no weights."""
        self._label()
        return self._ask(_Models, "GET", "/v1/models").data[0].max_model_len

    def take(self, folder: Path, label: str) -> None:
        """Let it sample from the weights in ``folder``, under this label. What it was doing is aborted."""
        try:
            self._ask(_Nothing, "POST", "/pause?mode=abort")
            reload = {"method": "reload_weights", "kwargs": {"weights_path": str(folder)}}
            self._ask(_Nothing, "POST", "/collective_rpc", reload, again=False)
            if not self._ask(_Reset, "POST", "/reset_prefix_cache").success:
                raise EngineFailed(f"{self.address}: did not reset its prefix cache")
            self._ask(_Nothing, "POST", "/update_weight_version", {"new_version": label})
            self._ask(_Nothing, "POST", "/resume")
            self.check(label)
        except EngineFailed as error:  # half of its weights may be gone, and it may not tell
            sees = f"it must see {folder.parent} (rollout.weights) under that path"
            raise EngineFailed(f"{error}; until then it may hold half of its weights; {sees}") from None

    def check(self, label: str) -> None:
        """Raise StaleEngine where its weights are not those of ``label``."""
        if (found := self._label()) != label:
            raise StaleEngine(
                f"{self.address}: samples from the weights {found!r}, not the {label!r} that it was given: it was "
                "restarted, or another run gives it weights; nothing was learned from it, go on with --resume"
            )

    def answer(self, body: Mapping[str, Any], number: int, label: str | None) -> Answer:
        """The answer to a request. Its weights are asked for afterwards: no restart in between goes unseen."""
        (choice,) = self._ask(_Completion, "POST", "/v1/completions", body).choices
        if label:
            self.check(label)
        logp = choice.logprobs.token_logprobs if choice.logprobs else []
        if len(logp) != len(choice.token_ids):
            raise EngineFailed(f"{self.address}: {len(choice.token_ids)} tokens have {len(logp)} log-probs")
        return Answer(number, choice.token_ids, logp, choice.finish_reason == "abort")

    def abort(self, names: list[str]) -> None:
        """End these requests: each is answered with what it has."""
        with suppress(OSError, HTTPException, ValueError):  # then they end by themselves, or tell why not
            self._once("POST", "/abort_requests", {"request_ids": names}, CONNECT_SECONDS)

    def _label(self) -> str:
        return self._ask(_Weights, "GET", "/weight_info").weight_version

    def _ask(self, kind: type[R], method: str, path: str, body: Any = None, *, again: bool = True) -> R:
        """A request and its reply. With ``again``, one that meets a busy server, or none, is made again, and again."""
        for pause in (*PAUSES, None) if again else (None,):
            try:
                status, found = self._once(method, path, body, self.seconds)
            except TimeoutError:
                raise EngineFailed(
                    f"{self.address}: {path} took more than {self.seconds:g} seconds: it hangs (restart it), or has "
                    "more to do (raise rollout.timeout)"
                ) from None
            except (OSError, HTTPException, ValueError) as error:  # the last of a host or port that cannot be one
                status, found = 0, told(error).encode()
            if status == OK:
                return self._read(kind, path, found)
            if status not in (0, BUSY) or pause is None:
                break
            time.sleep(pause * random.uniform(0.5, 1.5))
        raise self._fault(path, status, found)

    def _once(self, method: str, path: str, body: Any, seconds: float) -> tuple[int, bytes]:
        address = urlsplit(self.address)
        connection = HTTPConnection(address.hostname or "", address.port, timeout=CONNECT_SECONDS)
        try:
            try:
                connection.connect()
            except TimeoutError as error:
                raise ConnectionError("it cannot be reached") from error
            connection.sock.settimeout(seconds)
            connection.request(method, path, json.dumps(body), {"Content-Type": "application/json"})
            reply = connection.getresponse()
            return reply.status, reply.read()
        finally:
            connection.close()

    def _read(self, kind: type[R], path: str, found: bytes) -> R:
        if kind is _Nothing:
            return kind()
        try:
            return kind.model_validate_json(found)
        except ValidationError as error:
            (first, *_) = error.errors()
            where = ".".join(map(str, first["loc"])) or "all of it"
            raise EngineFailed(
                f"{self.address}: {path} was answered with what no vLLM server says ({where}: {first['msg']}): what "
                "runs there?"
            ) from None

    def _fault(self, path: str, status: int, found: bytes) -> ContraposeError:
        if status == NOT_FOUND and path == "/weight_info":
            mend = "start it with VLLM_SERVER_DEV_MODE=1, on an address that nobody else can reach"
            return ContraposeError(f"rollout.servers: {self.address} takes no weights: {mend}")
        said = found.decode(errors="replace")[:SHOWN]
        what = f"{path} failed with status {status}" if status else f"{path} was not answered"
        return EngineFailed(f"{self.address}: {what} ({said}): see its log, restart it, and go on with --resume")
