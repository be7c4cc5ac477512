"""vLLM itself, in this process and on servers: ``make test-vllm``, which has a build of it for CPUs."""

import copy
import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from urllib.request import urlopen

import pytest
import torch

from contrapose.config import resolve
from contrapose.policy.logprobs import LogProbs, Row
from contrapose.policy.model import eos_ids, load_model, load_tokenizer, save_model, weights_of
from contrapose.prompts import abacus
from contrapose.prompts.template import render_all
from contrapose.rollout import client, colocated, servers
from contrapose.rollout.client import Server
from contrapose.rollout.colocated import Colocated
from contrapose.rollout.decode import EmbeddedEngine
from contrapose.rollout.engine import EngineFailed, StaleEngine
from contrapose.rollout.sampler import Sampling
from contrapose.rollout.servers import Servers
from contrapose.rollout.vllm import VllmEngine
from contrapose.train.loop import train
from contrapose.train.run import Run
from contrapose.types import Prompt
from models import tiny, tokenizer
from train_scripted import by_prompt
from user import few_sums
from wide_abacus import write_wide_abacus

pytestmark = [
    pytest.mark.skipif(not find_spec("vllm"), reason="needs vLLM: make test-vllm"),
    pytest.mark.filterwarnings("ignore"),  # its own, of which there are many
]

os.environ["VLLM_CPU_KVCACHE_SPACE"] = "1"
TEMPERATURE = 0.7
SAMPLING = Sampling(TEMPERATURE, max_tokens=24)
PROCESSED = ("--logprobs-mode", "processed_logprobs")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_wide_abacus(tmp_path_factory.mktemp("model"))


@contextmanager
def serving(folder, *more):
    """A server, from start to end. Its log is shown where it does not come up."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", folder, "--port", str(port)]
    command += ["--dtype", "float32", "--enforce-eager", *more]
    log = Path(folder).parent / f"server-{port}.log"
    with log.open("w") as out:
        environment = {**os.environ, "VLLM_SERVER_DEV_MODE": "1", "VLLM_NO_USAGE_STATS": "1"}
        process = subprocess.Popen(
            list(map(str, command)), stdout=out, stderr=out, env=environment, start_new_session=True
        )
    try:
        yield f"http://127.0.0.1:{port}", process, log
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def ready(address, process, log):
    while process.poll() is None:
        try:
            urlopen(f"{address}/health").close()
            return address
        except OSError:
            time.sleep(0.5)
    pytest.fail(log.read_text()[-3000:])


@pytest.fixture(scope="module")
def addresses(folder):
    with serving(folder, *PROCESSED) as one, serving(folder, *PROCESSED) as other:
        yield [ready(*one), ready(*other)]


@pytest.fixture(scope="module")
def here(folder):
    """vLLM in this process, for all tests: it can be started once."""
    return Colocated(str(folder), "float32", 0.4)


@pytest.fixture(params=["colocated", "servers"])
def place(request, tmp_path):
    if request.param == "colocated":
        return request.getfixturevalue("here")
    return Servers(request.getfixturevalue("addresses"), str(tmp_path), 60)


@pytest.fixture
def model(folder):
    return load_model(folder)


def engine(place, model, folder, temperature=TEMPERATURE):
    known = load_tokenizer(folder)
    return VllmEngine(place, model, known, eos_ids(model, known), temperature)


@pytest.fixture(scope="module")
def prompts(folder):
    return render_all(abacus.problems("train", 12), "plain", load_tokenizer(folder), max_tokens=32)[0]


def drawn(engine, prompts, k=4, seed=3, sampling=SAMPLING):
    found = by_prompt(engine.generate(prompts, k, seed, sampling))
    assert sorted(found) == sorted(p.id for p in prompts)
    return found


def tokens_of(found):
    return {name: [r.tokens for r in group] for name, group in found.items()}


def moved(model, by=0.02, seed=1):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn(p.shape, generator=generator), alpha=by)


def gap(found, prompts, model, temperature=TEMPERATURE):
    rows = [(Row(p.tokens, r.tokens), r.logp) for p in prompts for r in found[p.id]]
    own_NT, _ = LogProbs(model, temperature).without_grad([row for row, _ in rows])
    stated_NT = torch.zeros_like(own_NT)
    for n, (_, logp) in enumerate(rows):
        stated_NT[n, : len(logp)] = torch.tensor(logp)
    return float((stated_NT - own_NT).abs().max())


# --- what is sampled --------------------------------------------------------------------------------------------------


def test_log_probs_are_the_trainers_under_the_weights_of_each_sync(place, model, folder, prompts):
    """The head is tied, prompts and their cached beginnings are the same each time, and an EOS ends an answer."""
    made = engine(place, model, folder)
    for version in range(3):
        made.sync(model, version)
        found = drawn(made, prompts)
        assert gap(found, prompts, model) < 1e-4
        rollouts = [r for group in found.values() for r in group]
        assert {r.version for r in rollouts} == {version}
        assert {r.finished for r in rollouts} == {"stop", "length"}
        for r in rollouts:
            assert (r.finished == "stop") == (r.tokens[-1] in made.eos)
            assert r.finished == "stop" or len(r.tokens) == SAMPLING.max_tokens
            assert not set(r.tokens[:-1]) & set(made.eos)
        moved(model)


def test_greedy_answers_are_those_of_the_embedded_engine(place, model, folder, prompts):
    greedy = Sampling(0.0, max_tokens=24)
    ours = drawn(engine(place, model, folder), prompts, 1, sampling=greedy)
    embedded = EmbeddedEngine(model, load_tokenizer(folder), (1,))
    theirs = by_prompt(embedded.generate(prompts, 1, 0, greedy))
    told = {name: [(r.tokens, r.text, r.finished) for r in group] for name, group in ours.items()}
    assert told == {name: [(r.tokens, r.text, r.finished) for r in group] for name, group in theirs.items()}


def test_only_the_seed_decides_what_is_drawn(here, addresses, tmp_path, model, folder, prompts):
    """Not the order of prompts, their company, the number of rollouts or of servers, or where vLLM runs."""
    found = tokens_of(drawn(engine(here, model, folder), prompts))
    assert len({tokens for group in found.values() for tokens in group}) > 12
    assert tokens_of(drawn(engine(here, model, folder), prompts, seed=4)) != found
    places = [here, Servers(addresses, str(tmp_path)), Servers(addresses[:1], str(tmp_path))]
    for made in (engine(place, model, folder) for place in places):
        assert tokens_of(drawn(made, prompts)) == found
        assert tokens_of(drawn(made, prompts[::-1])) == found
        assert tokens_of(drawn(made, prompts[5:6]))[prompts[5].id] == found[prompts[5].id]
        fewer = tokens_of(drawn(made, prompts, k=2))
        assert all(group[:2] == fewer[name] for name, group in found.items())


def test_what_is_cancelled_is_aborted(place, model, folder, prompts):
    """And handed over as far as it came; others go on as if nothing had been. A model that rambles."""
    moved(model, by=0.5)
    made, some, cancelled, steps = engine(place, model, folder), prompts[:2], set(), []
    whole = drawn(made, some, 8, sampling=Sampling(TEMPERATURE, max_tokens=400))
    for step in made.generate(some, 8, 3, Sampling(TEMPERATURE, max_tokens=400), cancelled):
        steps.append(step)
        cancelled.add(some[1].id)
    found = by_prompt(steps)
    assert tokens_of(found)[some[0].id] == tokens_of(whole)[some[0].id]
    ends = [r.finished for r in found[some[1].id]]
    assert "cancelled" in ends and "cancelled" not in [r.finished for r in found[some[0].id]]
    for end, rollout, other in zip(ends, found[some[1].id], whole[some[1].id], strict=True):
        assert rollout.tokens == other.tokens[: len(rollout.tokens)]
        assert end != "cancelled" or len(rollout.tokens) < len(other.tokens)


# --- the canary -------------------------------------------------------------------------------------------------------


def keep_the_cache(patch, place):
    """A server forgets it twice: when it pauses, and when it is told to."""
    if isinstance(place, Colocated):
        patch.setattr(place._llm, "reset_prefix_cache", lambda: True)
        return
    ask = Server._ask

    def asks(self, kind, method, path, *more, **how):
        if path == "/reset_prefix_cache":
            return client._Reset(success=True)
        return ask(self, kind, method, path.replace("abort", "abort&clear_cache=false"), *more, **how)

    patch.setattr(Server, "_ask", asks)


def forget_the_head(patch, place):
    def without(model):
        return ((name, x) for name, x in weights_of(model) if name != "lm_head.weight")

    for module in (colocated, servers):
        patch.setattr(module, "weights_of", without)


@pytest.mark.parametrize("sabotage", [keep_the_cache, forget_the_head], ids=lambda f: f.__name__)
def test_sabotage_is_noticed_before_anything_is_sampled(place, model, folder, prompts, monkeypatch, sabotage):
    made = engine(place, model, folder)
    drawn(made, prompts)
    for seed in range(2):
        moved(model, seed=seed)
        made.sync(model, 1)
        with monkeypatch.context() as patch:
            sabotage(patch, place)
            with pytest.raises(StaleEngine, match="nats a token from the trainer's"):
                next(made.generate(prompts, 4, 3, SAMPLING))
        assert gap(drawn(made, prompts), prompts, model) < 1e-4  # an honest hand-over mends it


def test_log_probs_before_the_temperature_are_noticed_in_this_process(here, folder, model, prompts):
    def states(mode):
        def told(worker):
            worker.model_runner.sampler.logprobs_mode = mode
            worker.model_runner.sampler.topk_topp_sampler.logprobs_mode = mode

        here._llm.collective_rpc(told)

    states("raw_logprobs")
    with pytest.raises(StaleEngine, match="processed_logprobs"):
        drawn(engine(here, model, folder), prompts)
    states("processed_logprobs")
    drawn(engine(here, model, folder), prompts)


def test_log_probs_before_the_temperature_are_noticed_on_a_server(folder, model, prompts, tmp_path):
    """As vLLM states them where nobody says otherwise; at temperature 1 they are the same. Then it is killed."""
    with serving(folder) as (address, process, log):
        raw = Servers([ready(address, process, log)], str(tmp_path), 60)
        with pytest.raises(StaleEngine, match=f"{address}: .*processed_logprobs"):
            drawn(engine(raw, model, folder), prompts)
        drawn(engine(raw, model, folder, temperature=1.0), prompts, sampling=Sampling(1.0, max_tokens=8))
        process.kill()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(client, "PAUSES", (0.1,))
            with pytest.raises(EngineFailed, match=f"{address}: /v1/completions was not answered"):
                drawn(engine(raw, model, folder, temperature=1.0), prompts)


def test_weights_of_somebody_else_are_noticed(addresses, folder, model, prompts, tmp_path):
    made = engine(Servers(addresses, str(tmp_path)), model, folder)
    drawn(made, prompts)
    other = copy.deepcopy(model)
    moved(other)
    drawn(engine(Servers(addresses[1:], str(tmp_path)), other, folder), prompts)
    with pytest.raises(StaleEngine, match=f"{addresses[1]}: samples from the weights"):
        drawn(made, prompts)
    made.sync(model, 1)
    assert gap(drawn(made, prompts), prompts, model) < 1e-4


FAMILIES = {
    "qwen3": {"head_dim": 32},  # its head is its own
    "llama": {"head_dim": 32, "tie_word_embeddings": True},
    "granite": {"hidden_size": 128},
}


@pytest.mark.parametrize("family", FAMILIES)
def test_models_of_other_families(family, tmp_path):
    """In files of which none has all weights; the prompts are longer than a block."""
    model, known = tiny(family, max_position_embeddings=512, **FAMILIES[family]), tokenizer()
    save_model(model, known, tmp_path / "model")
    asked = [Prompt(f"p{i}", "", "", tokens=(5, 9, 3 + i) * 60) for i in range(3)]
    with serving(tmp_path / "model", *PROCESSED) as started, pytest.MonkeyPatch.context() as patch:
        patch.setattr(servers, "FILE_BYTES", 20_000)
        made = VllmEngine(Servers([ready(*started)], str(tmp_path)), model, known, (1,), TEMPERATURE)
        for version in range(3):
            made.sync(model, version)
            assert gap(drawn(made, asked), asked, model) < 2e-4
            moved(model, by=0.05)


# --- a run ------------------------------------------------------------------------------------------------------------

FEW = ["steps=16", "objective.name=conspo", "eval.samples=4", "rollout.max_tokens=32"]


def came_of(out):
    """Accuracy before and after, and how far the engine was from the trainer in the worst step."""
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    values = [row["accuracy"]["value"] for row in json.loads((out / "eval.json").read_text())]
    return *values, max(row["engine_drift"] for row in rows if row["engine_drift"] is not None)


def test_runs_learn_as_with_the_embedded_engine(folder, addresses, tmp_path):
    """Over the same 320 answers to test problems; vLLM draws other ones, so that runs differ as two seeds do."""
    vllm = [f"model.path={folder}", "rollout.engine=vllm"]
    how = {"embedded": vllm[:1], "servers": [*vllm, f"rollout.servers={json.dumps(addresses)}"]}
    for name, settings in how.items():
        with few_sums(), Run(resolve("abacus", [*FEW, *settings])[0], tmp_path / name) as run:
            assert train(run)
    program = "from user import few_sums\nfrom contrapose.cli import main\nwith few_sums(): main()"
    sets = [x for setting in (*FEW, *vllm) for x in ("--set", setting)]
    command = [sys.executable, "-c", program, "train", "--out", tmp_path / "colocated", *sets]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])})
    before, after, _ = came_of(tmp_path / "embedded")
    for name in ("servers", "colocated"):
        first, last, drift = came_of(tmp_path / name)
        assert drift < 1e-5
        assert abs(first - before) < 0.12 and abs(last - after) < 0.15
        assert last > first + 0.15
