"""vLLM servers that are busy, hang, die or talk nonsense, and engines whose weights are not those they were given.

The servers here are scripts, and only for faults; what a real one does is tested in ``test_vllm.py``.
"""

import copy
import json
import math
import socket
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from safetensors.torch import load_file

from contrapose.policy.model import weights_of
from contrapose.rollout import client
from contrapose.rollout.answers import Answer
from contrapose.rollout.colocated import Colocated
from contrapose.rollout.decode import EmbeddedEngine, decoder_for
from contrapose.rollout.engine import EngineFailed, StaleEngine
from contrapose.rollout.growing import grow
from contrapose.rollout.sampler import Sampling
from contrapose.rollout.servers import Servers
from contrapose.rollout.vllm import Ask, VllmEngine
from contrapose.types import ContraposeError, Prompt
from models import tiny, tokenizer
from train_scripted import by_prompt

ASKS = [Ask(q, (3, 4, q), 7 * q) for q in range(4)]
SAMPLING = Sampling(max_tokens=3)
FINE = {
    "/weight_info": {"weight_version": "now"},
    "/v1/models": {"data": [{"id": "m", "max_model_len": 64}]},
    "/reset_prefix_cache": {"success": True},
    **{path: {} for path in ("/pause", "/resume", "/collective_rpc", "/update_weight_version", "/abort_requests")},
}


def completion(tokens=(5, 1), logp=(-1.0, -2.0), reason="stop"):
    choice = {"token_ids": tokens, "logprobs": {"token_logprobs": logp}, "finish_reason": reason, "text": "?"}
    return {"choices": [choice]}


class Scripted:
    """A server. ``says`` has for a path what it answers: JSON, bytes, a status, or a function of the request that
    returns one of these; in a list, one after the other, the last for ever."""

    def __init__(self):
        self.says, self.asked = {**FINE, "/v1/completions": completion()}, []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or "null")
                path = self.path.partition("?")[0]
                outer.asked.append((path, body))
                found = outer.says[path]
                if isinstance(found, list):
                    found = found.pop(0) if len(found) > 1 else found[0]
                found = found(body) if callable(found) else found
                if found is None:  # dies with the request
                    self.connection.shutdown(socket.SHUT_RDWR)
                    return
                self.send_response(found if isinstance(found, int) else 200)
                self.end_headers()
                self.wfile.write(found if isinstance(found, bytes) else json.dumps(found).encode())

            do_GET = do_POST

            def log_message(self, *_):
                pass

        class Quiet(ThreadingHTTPServer):
            def handle_error(self, *_):
                """Whoever asked is gone."""

        self.http = Quiet(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    def paths(self):
        return [path for path, _ in self.asked]


@pytest.fixture
def servers(monkeypatch):
    monkeypatch.setattr(client, "PAUSES", (0.01, 0.01, 0.01))
    made = [Scripted(), Scripted()]
    yield made
    for server in made:
        server.http.shutdown()
        server.http.server_close()


def place(servers, **more):
    return Servers([server.address for server in servers], **more)


def answered(servers, asks=ASKS, label="now", dropped=(), **more):
    found = place(servers, **more).answers(asks, SAMPLING, (1,), label, dropped)
    return sorted(answer for ended in found for answer in ended)


def refused(error, servers, match, **more):
    with pytest.raises(error, match=match) as caught:
        answered(servers, **more)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- requests ---------------------------------------------------------------------------------------------------------


def test_prompts_are_dealt_out_and_every_setting_is_named(servers):
    assert answered(servers) == [Answer(n, [5, 1], [-1.0, -2.0], False) for n in range(4)]
    for part, server in enumerate(servers):
        bodies = [body for path, body in server.asked if path == "/v1/completions"]
        assert sorted((tuple(body["prompt"]), body["seed"]) for body in bodies) == [a[1:] for a in ASKS[part::2]]
        assert all(body["max_tokens"] == 3 and body["stop_token_ids"] == [1] for body in bodies)
        assert len({body["request_id"] for body in bodies}) == 2
    assert place(servers).context == 64


@pytest.mark.parametrize("busy", [503, lambda body: None], ids=["503", "reset"])
def test_a_server_that_is_busy_or_away_is_asked_again(servers, busy):
    servers[1].says["/v1/completions"] = [busy, busy, completion()]
    assert len(answered(servers)) == 4
    assert servers[1].paths().count("/v1/completions") == 4


@pytest.mark.parametrize("busy", [503, lambda body: None], ids=["503", "reset"])
def test_one_that_stays_so_is_given_up(servers, busy):
    servers[1].says["/v1/completions"] = busy
    told = refused(EngineFailed, servers, "/v1/completions (failed with status 503|was not answered)")
    assert servers[1].address in told and "restart it" in told


def test_a_hang_ends(servers):
    hang = threading.Event()
    servers[0].says["/v1/completions"] = lambda body: hang.wait(30) and completion()
    told = refused(EngineFailed, servers, "took more than 0.3 seconds: it hangs", seconds=0.3)
    hang.set()
    assert servers[0].address in told and "rollout.timeout" in told


GARBAGE = {
    "no JSON": (b"<html>gateway</html>", "all of it"),
    "nothing": (b"", "all of it"),
    "another shape": ({"choices": []}, "choices"),
    "no tokens": ({"choices": [{"text": "hi", "finish_reason": "stop"}]}, "token_ids"),
    "tokens that are none": (completion(tokens=["a"]), "token_ids"),
    "an end that is none": (completion(reason="error"), "finish_reason"),
    "deep": (b"[" * 100_000, "all of it"),
}


@pytest.mark.parametrize("said", GARBAGE)
def test_nonsense_is_told_in_one_line(servers, said):
    servers[0].says["/v1/completions"], where = GARBAGE[said]
    refused(EngineFailed, servers, f"/v1/completions was answered with what no vLLM server says.*{where}")


def test_tokens_without_log_probs_are_refused(servers):
    servers[0].says["/v1/completions"] = completion(logp=(-1.0,))
    refused(EngineFailed, servers, "2 tokens have 1 log-probs")


def test_an_error_is_told_in_the_servers_words_and_not_asked_again(servers):
    servers[0].says["/v1/completions"] = 400
    refused(EngineFailed, servers, "/v1/completions failed with status 400", asks=ASKS[:1])
    assert servers[0].paths().count("/v1/completions") == 1


def test_requests_that_somebody_else_aborts_are_no_answers(servers):
    servers[0].says["/v1/completions"] = completion(reason="abort")
    refused(EngineFailed, servers, "somebody else aborts requests")


def test_other_weights_than_those_given_are_stale(servers):
    """Restarted between two readings: the label is that of a new server."""
    servers[1].says["/weight_info"] = [{"weight_version": "now"}, {"weight_version": "default"}]
    told = refused(StaleEngine, servers, "samples from the weights 'default', not the 'now' that it was given")
    assert servers[1].address in told


def test_a_server_that_takes_no_weights_is_refused_at_once(servers):
    servers[1].says["/weight_info"] = 404
    refused(ContraposeError, servers, r"rollout.servers: http://\S+ takes no weights: start it with VLLM_SERVER_DEV_M")


def test_nobody_there(servers):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(EngineFailed, match=f"{address}: /weight_info was not answered .*refused"):
        Servers([address])


@pytest.mark.parametrize("address", ["http://127.0.0.1:99999", "http://a..b:80"])
def test_no_address_at_all(servers, address):
    with pytest.raises(EngineFailed, match=f"{address}: /weight_info was not answered"):
        Servers([address])


def test_vllm_that_is_not_installed_is_told_with_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(ContraposeError, match=r"rollout\.engine: vllm cannot be imported .*'contrapose\[vllm\]'"):
        Colocated("m", "float32", 0.4)


def test_what_is_dropped_is_aborted_or_never_sent(servers, monkeypatch):
    """One request at a time: the second ask of each server waits."""
    monkeypatch.setattr("contrapose.rollout.servers.AT_ONCE", 1)
    aborted = threading.Event()
    servers[0].says["/v1/completions"] = lambda body: aborted.wait(30) and completion((5,), (-1.0,), "abort")
    servers[0].says["/abort_requests"] = lambda body: aborted.set() or {}
    dropped, ended = set(), []
    for step in place(servers).answers(ASKS, SAMPLING, (1,), "now", dropped):
        ended += step
        dropped |= {0, 2}
    found = {answer.number: answer[1:] for answer in ended}
    assert found[0] == ([5], [-1.0], True) and found[2] == ([], [], True)
    (name,) = [body["request_id"] for path, body in servers[0].asked if path == "/v1/completions"]
    assert ("/abort_requests", {"request_ids": [f"cmpl-{name}-0"]}) in servers[0].asked


def test_who_goes_away_aborts_what_runs(servers):
    aborted = threading.Event()
    servers[0].says["/v1/completions"] = lambda body: aborted.wait(30) and completion(reason="abort")
    servers[0].says["/abort_requests"] = lambda body: aborted.set() or {}
    steps = place(servers).answers(ASKS, SAMPLING, (1,), "now")
    next(steps)
    steps.close()
    assert aborted.is_set()


# --- weights ----------------------------------------------------------------------------------------------------------


def test_weights_arrive_in_order_with_a_head_and_leave_nothing_behind(servers, tmp_path, monkeypatch):
    """In several files; each server has the whole of them before the next rollout."""
    monkeypatch.setattr("contrapose.rollout.servers.FILE_BYTES", 5000)
    model, seen = tiny("qwen3", tie_word_embeddings=True), []

    def read(body):
        (folder,) = tmp_path.iterdir()
        assert body["kwargs"] == {"weights_path": str(folder)}
        parts = [load_file(file) for file in sorted(folder.glob("*.safetensors"))]
        seen.append({name: x for part in parts for name, x in part.items()})
        assert len(parts) > 3
        return {}

    for server in servers:
        server.says["/collective_rpc"] = read
    made = place(servers, folder=str(tmp_path))
    before = len(servers[0].asked)
    made.hand_over(model, "now")
    order = ["/pause", "/collective_rpc", "/reset_prefix_cache", "/update_weight_version", "/resume", "/weight_info"]
    assert servers[0].paths()[before:] == order == servers[1].paths()[before:]
    assert len(seen) == 2
    for weights in seen:
        assert torch.equal(weights["lm_head.weight"], weights["model.embed_tokens.weight"])
        assert all(torch.equal(weights[name], x) for name, x in weights_of(model))
    assert not list(tmp_path.iterdir())


DEATHS = {
    "dies": ("/collective_rpc", lambda body: None, "/collective_rpc was not answered"),
    "fails": ("/collective_rpc", 500, "/collective_rpc failed with status 500"),
    "keeps its cache": ("/reset_prefix_cache", {"success": False}, "did not reset its prefix cache"),
    "is dead afterwards": ("/resume", lambda body: None, "/resume was not answered"),
}


@pytest.mark.parametrize("how", DEATHS)
def test_a_failed_update_names_the_server_and_the_mend(servers, tmp_path, how):
    path, what, told = DEATHS[how]
    servers[1].says[path] = what
    with pytest.raises(EngineFailed, match=told) as caught:
        place(servers, folder=str(tmp_path)).hand_over(tiny("qwen3"), "now")
    line = str(caught.value)
    assert servers[1].address in line and "half of its weights" in line and f"see {tmp_path}" in line
    assert servers[1].paths().count("/collective_rpc") == 1  # never twice
    assert not list(tmp_path.iterdir())


def test_a_label_that_did_not_stay_is_stale(servers):
    with pytest.raises(StaleEngine, match="samples from the weights 'now', not the 'next'"):
        place(servers).hand_over(tiny("qwen3"), "next")


def test_weights_that_cannot_be_written(servers, tmp_path):
    with pytest.raises(ContraposeError, match=r"rollout\.weights: \S+ is not a folder"):
        place(servers, folder=str(tmp_path / "no"))


# --- the engine, over a copy of the model -----------------------------------------------------------------------------

PROMPTS = [Prompt(f"p{i}", "", "", tokens=tokens) for i, tokens in enumerate([(5, 9, 3), (8,), (11, 2, 3, 4), (63,)])]


class Copied:
    """A place that samples from a copy of the model, as well as it is told to."""

    def __init__(self, model, parts=1):
        self.names, self.context, self.side_by_side = [f"part {i}" for i in range(parts)], 100, 64
        self.model, self.label, self.takes, self.open = copy.deepcopy(model), None, True, False
        self.off = 0.0

    def hand_over(self, model, label):
        assert self.open
        self.label = label
        if self.takes:
            self.model.load_state_dict(dict(weights_of(model)))

    def answers(self, asks, sampling, eos, label, dropped=()):
        assert self.open and label in (None, self.label)
        prompts, seeds = [ask.tokens for ask in asks], [ask.seed for ask in asks]
        eos = eos or (-1,)
        for ended in grow(decoder_for(self.model), prompts, 1, seeds, sampling, eos, len(asks), dropped):
            yield [Answer(n, tokens, [x + self.off for x in logp], n in dropped) for n, tokens, logp in ended]

    @contextmanager
    def awake(self):
        self.open = True
        yield
        self.open = False


def engine(model, **settings):
    return VllmEngine(Copied(model, **settings), model, tokenizer(), (1, 7, 30), temperature=0.7)


def drawn(engine, prompts=PROMPTS, k=3, cancelled=()):
    return by_prompt(engine.generate(prompts, k, 5, Sampling(0.7, max_tokens=20), cancelled))


def moved(model):
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(3)))


def test_it_samples_what_the_embedded_engine_samples():
    model = tiny("qwen3").double()
    ours = drawn(engine(model))
    theirs = by_prompt(EmbeddedEngine(model, tokenizer(), (1, 7, 30)).generate(PROMPTS, 3, 5, Sampling(0.7, 1.0, 20)))
    assert {name: [(r.tokens, r.text, r.finished) for r in group] for name, group in ours.items()} == {
        name: [(r.tokens, r.text, r.finished) for r in group] for name, group in theirs.items()
    }
    assert {r.finished for group in ours.values() for r in group} == {"stop", "length"}


def test_weights_travel_once_a_sync_and_rollouts_bear_its_version():
    model = tiny("qwen3")
    made = engine(model, parts=2)
    labels = []
    for version in (0, 0, 1):
        made.sync(model, version)
        for _ in range(2):
            assert {r.version for group in drawn(made).values() for r in group} == {version}
            labels.append(made.place.label)
        moved(model)
    assert labels[::2] == labels[1::2] and len(set(labels)) == 3


@pytest.mark.parametrize("parts", [1, 3])
def test_weights_that_did_not_arrive_are_noticed_before_anything_is_sampled(parts):
    model = tiny("qwen3")
    made = engine(model, parts=parts)
    drawn(made)
    moved(model)
    made.place.takes = False
    made.sync(model, 1)
    with pytest.raises(StaleEngine, match=r"^part 0: .* nats a token from the trainer's \(at most 0.0001 in torch.flo"):
        drawn(made)
    with pytest.raises(StaleEngine):  # nor the next time
        drawn(made)
    made.place.takes = True
    drawn(made)


@pytest.mark.parametrize("off", [2e-4, math.nan])
def test_log_probs_of_another_kind_are_noticed(off):
    made = engine(tiny("qwen3"))
    made.place.off = off
    with pytest.raises(StaleEngine, match="nats a token"):
        drawn(made)
    made.max_drift = 3e-4
    if off == off:
        drawn(made)


def test_what_is_cancelled_is_handed_over_as_it_is():
    model = tiny("qwen3").double()
    cancelled, found = set(), []
    whole = drawn(engine(model))
    for step in engine(model).generate(PROMPTS, 3, 5, Sampling(0.7, max_tokens=20), cancelled):
        found.append(step)
        cancelled.add("p0")
    cut = by_prompt(found)
    assert any(r.finished == "cancelled" for r in cut["p0"])
    for name, group in cut.items():
        for rollout, other in zip(group, whole[name], strict=True):
            assert rollout.tokens == other.tokens[: len(rollout.tokens)]
            assert name == "p0" or rollout.tokens == other.tokens


def test_a_short_context_leaves_less_room():
    made = engine(tiny("qwen3"))
    assert made.room_after(PROMPTS) == 100 - 4
    made.place.context = 9999
    assert made.room_after(PROMPTS) == 128 - 4
    with pytest.raises(ContraposeError, match="holds the token"):
        made.room_after([Prompt("p", "", "", tokens=(64,))])
