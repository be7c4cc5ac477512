"""What a plan says, against what is there: weights by count, what autograd keeps by bytes, and memory as measured."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from contrapose.config import resolve
from contrapose.policy.logprobs import LogProbs, Row
from contrapose.train.planning.activations import kept_per_token
from contrapose.train.planning.hours import GPUS, gpu_named, rates, work_of
from contrapose.train.planning.job import GIB, Devices, Job
from contrapose.train.planning.memory import memory_of
from contrapose.train.planning.mend import mends
from contrapose.train.planning.shape import PUBLISHED, parsed, shape_of
from contrapose.types import ContraposeError
from models import VARIANTS, tiny, variant

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
COUNTS = {
    "Qwen/Qwen2.5-0.5B-Instruct": 494_032_768,
    "Qwen/Qwen2.5-1.5B-Instruct": 1_543_714_304,
    "Qwen/Qwen3-4B": 4_022_468_096,
    "Qwen/Qwen3-4B-Base": 4_022_468_096,
    "deepseek-ai/DeepSeek-R1-Distill-Llama-8B": 8_030_261_248,
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B": 1_777_088_000,
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B": 7_615_616_512,
    "meta-llama/Llama-3.2-3B-Instruct": 3_212_749_824,
}
"""Weights as their pages on the hub have them."""


def job(recipe, *sets, count=1, memory=80, gpu=True, prompt=None, length=None):
    config, _ = resolve(recipe, ["data.path=y.jsonl", *sets])
    most = config.data.max_prompt_tokens, config.rollout.max_tokens
    devices = Devices(count, memory * GIB, gpu)
    return Job(config, shape_of(config.model.path), devices, prompt or most[0], length or most[1])


def whole(parts):
    return sum(parts.values())


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_shapes_are_what_transformers_builds_of_them(name):
    config = AutoConfig.for_model(**PUBLISHED[name])
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    assert shape_of(name).weights == model.num_parameters() == COUNTS[name]


@pytest.mark.parametrize("name", VARIANTS)
def test_a_shape_is_read_from_a_config(tmp_path, name):
    model = variant(name)
    model.config.save_pretrained(tmp_path)
    shape = shape_of(str(tmp_path))
    assert shape.weights == model.num_parameters()
    assert shape == shape_of("any/name", tmp_path / "config.json")


@pytest.mark.parametrize("length", [40, 300], ids=["short", "long"])
@pytest.mark.parametrize("name", ["qwen2", "qwen3", "llama, a head for each query"])
def test_what_autograd_keeps_of_a_token_is_what_is_planned(name, length):
    """Between models of two and of six layers; all rows are one padded block, and no two have one prompt."""
    family, special = VARIANTS[name]
    kept = {}
    for layers in (2, 6):
        sizes = {"hidden_size": 64, "intermediate_size": 96, "max_position_embeddings": 512}
        model = tiny(family, num_hidden_layers=layers, **{**special, **sizes})
        rows = [Row((first, 5, 6), tuple(range(7, 47)) * 8) for first in range(3)]
        rows = [Row(row.prompt, row.response[: length - 3]) for row in rows]
        own = {p.untyped_storage().data_ptr() for p in model.parameters()}
        seen, alive = {}, []

        def keep(x, seen=seen, alive=alive):
            alive.append(x.detach())
            seen[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
            return x.detach()

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
            LogProbs(model).states(rows)
        kept[layers] = sum(size for at, size in seen.items() if at not in own)
    tokens = 3 * (length - 1)
    shape = parsed(model.config.to_dict(), name)
    planned = tokens * kept_per_token(shape, 4, gpu=False, short=length <= 128)
    assert (kept[6] - kept[2]) / 4 == pytest.approx(planned, rel=1e-6)


def test_an_update_on_an_h100_takes_what_was_measured():
    """docs/results.md: 33.3 GiB of torch's own at the peak. Its prompts are shared by the rows at hand, which a plan
    does not count on; nothing is sampled there."""
    sets = ["model.path=Qwen/Qwen2.5-0.5B-Instruct", "model.dtype=bfloat16"]
    sets += ["batch.prompts=64", "batch.updates=4", "batch.max_tokens=25600", "rollout.k=8", "filter.mode=none"]
    parts = memory_of(job("grpo", *sets, "objective.reference_coef=0.0", prompt=72, length=512)).phases["update"]
    beside = ("keys and values", "matrices joined to decode", "logits, states of decoding")
    torchs = whole({k: v for k, v in parts.items() if k not in beside and "assumed" not in k})
    assert torchs / GIB == pytest.approx(33.3, rel=0.15)


def test_what_is_split_is_split_and_what_is_not_is_not():
    alone, four = (memory_of(job("rence/rence", count=n)).phases["update"] for n in (1, 4))
    for name in ("weights", "gradients", "moments"):
        assert alone[name] == pytest.approx(4 * four[name])
    assert alone["copy to sample from"] == four["copy to sample from"] == 4_022_468_096 * 2
    every = memory_of(job("rence/rence", "parallel.shard=1", count=4)).phases["update"]
    assert every["weights"] == alone["weights"]
    offloaded = memory_of(job("rence/rence", "parallel.offload=true", count=4))
    assert "moments" not in offloaded.phases["update"]
    moved = sum(four[name] for name in ("weights", "gradients", "moments"))
    assert offloaded.host["weights, gradients, moments"] == pytest.approx(moved)
    with pytest.raises(ContraposeError, match=r"^parallel\.shard: 3 does not divide the 4 devices$"):
        job("rence/rence", "parallel.shard=3", count=4)


def test_moments_adapters_and_engines_weigh_what_they_weigh():
    n = COUNTS["Qwen/Qwen3-4B"]
    bfloat16 = ("model.dtype=bfloat16", "model.compute=")
    for sets, each in (((), 8), (bfloat16, 4), (("optim.moments=8bit",), 2 + 8 / 256)):
        found = memory_of(job("rence/rence", *sets)).phases["update"]["moments"]
        assert found == pytest.approx(n * each)
    found = memory_of(job("rence/rence", *bfloat16, "lora.rank=16", "parallel.shard=1")).phases["update"]
    assert found["weights"] == n * 2 + found["gradients"]
    assert found["copy to sample from"] == n * 2
    adapted = memory_of(job("rence/rence", "lora.rank=16")).phases["update"]
    # 36 layers: queries, keys, values, what attention gives, gate, up, down
    pairs = (2560 + 4096) + 2 * (2560 + 1024) + (4096 + 2560) + 3 * (2560 + 9728)
    assert adapted["gradients"] == 36 * 16 * pairs * 4
    some = memory_of(job("rence/rence", "lora.rank=16", 'lora.targets=["q_proj", "v_proj"]')).phases["update"]
    assert some["gradients"] == 36 * 16 * ((2560 + 4096) + (2560 + 1024)) * 4
    with pytest.raises(ContraposeError, match=r"lora\.targets: 'q_prj' is no linear map.*q_proj"):
        memory_of(job("rence/rence", "lora.rank=16", "lora.targets=q_prj"))
    shared = memory_of(job("rence/rence", "rollout.engine=vllm", "rollout.gpu_share=0.3"))
    assert shared.phases["update"]["vLLM"] == pytest.approx(24 * GIB)
    assert shared.phases["update"]["copy to sample from"] == n * 2  # from which vLLM takes them
    apart = memory_of(job("rence/rence", "rollout.engine=vllm", 'rollout.servers=["http://a:1"]'))
    assert "vLLM" not in apart.phases["update"]


def test_more_of_anything_never_takes_less():
    base = ["rollout.max_tokens=512", "batch.max_tokens=4096"]
    for more in ("batch.max_tokens=8192", "rollout.cache_gib=40", "batch.prompts=1024", "rollout.max_tokens=1024"):
        for phase in ("sampling", "update"):
            least, most = (whole(memory_of(job("rence/rence", *base, *sets)).phases[phase]) for sets in ([], [more]))
            assert most >= 0.99 * least, (more, phase)  # of longer rollouts fewer fill the same cache


def test_a_mend_is_one_change_where_one_is_enough_and_the_cheapest():
    tight = job("gsm8k", "batch.max_tokens=16384", memory=24)
    assert memory_of(tight).peak > 24 * GIB
    mend = mends(tight, 24 * GIB)
    assert mend.sets == ("batch.max_tokens=1408",)
    mended = job("gsm8k", *mend.sets, memory=24)
    assert memory_of(mended).peak == pytest.approx(memory_of(tight).peak - mend.saves)
    assert memory_of(mended).peak <= 24 * GIB


def test_mends_together_make_it_fit_and_none_is_there_in_vain():
    own = ["model.path=Qwen/Qwen3-4B"]
    large = job("rence", *own, count=8, memory=32)
    mend = mends(large, 32 * GIB)
    assert len(mend.sets) == len(mend.costs) > 1
    assert memory_of(job("rence", *own, *mend.sets, count=8, memory=32)).peak <= 32 * GIB
    for left_out in mend.sets:
        rest = [pair for pair in mend.sets if pair != left_out]
        assert memory_of(job("rence", *own, *rest, count=8, memory=32)).peak > 32 * GIB
    assert mends(large, GIB) is None


def test_hours_follow_from_operations_and_bytes():
    """Six operations a weight and token, one of which is looked at twice more: old log-probs and a first pass."""
    sets = ["model.gradient_checkpointing=false", "diagnose.every=0", "batch.updates=1", "data.max_prompt_tokens=16"]
    plain = job("conspo/r1_qwen_1.5b/grpo", *sets, prompt=1, length=32)
    device = rates(plain, GPUS["h100"], None, None)
    work = work_of(plain, device, 1.0)
    tokens = 256 * 8 * 32
    assert work.sampled == work.trained == tokens
    own = plain.shape.weights - plain.shape.table  # the embedding is looked up
    assert work.updates == pytest.approx((6 + 2) * own * tokens / device.operations, rel=0.02)
    assert work_of(replace(plain, devices=Devices(4, 80 * GIB)), device, 1.0).updates == pytest.approx(work.updates / 4)
    assert work_of(plain, device, 0.5).sampled == 2 * tokens
    again = job("conspo/r1_qwen_1.5b/grpo", *sets[1:], prompt=1, length=32)
    assert work_of(again, device, 1.0).updates == pytest.approx(work.updates * 10 / 8, rel=0.05)
    # decoding: all rows side by side, the weights once a step
    steps, rows = 32 * math.ceil(2048 / 256), 256
    least = steps * own * 2 / device.bytes
    assert plain.side_by_side == rows
    assert least < work.sampling < 1.5 * least


def test_a_gpu_is_known_by_name_or_by_its_memory():
    assert [gpu_named("", memory) for memory in (None, 80, 24, 40, 141)] == [
        "h100",
        "h100",
        "rtx4090",
        "a100-40",
        "h200",
    ]
    with pytest.raises(ContraposeError, match=r"--gpu: 'h10' is not one of .*h100"):
        gpu_named("h10", None)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("{", "cannot be read"),
        ("[]", "is not a JSON object"),
        ('{"model_type": "gpt2"}', "no plan for a model of type 'gpt2'"),
        ('{"model_type": "llama", "hidden_size": 0}', "hidden_size: expected a number above 0, found 0"),
        ('{"model_type": "llama", "hidden_size": "8"}', "hidden_size: expected a number above 0, found '8'"),
    ],
)
def test_a_config_that_is_none_is_one_line(tmp_path, text, fault):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ContraposeError) as caught:
        shape_of("any/name", tmp_path / "config.json")
    assert fault in str(caught.value) and "\n" not in str(caught.value)


def test_a_model_that_nobody_knows_is_one_line(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # nobody asks, and nobody waits
    with pytest.raises(
        ContraposeError, match=r"^model\.path: the shape of no/where is not known here .*--shape"
    ) as caught:
        shape_of("no/where")
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="memory is measured on Linux alone")
@pytest.mark.parametrize("keeps", [False, True], ids=["freed at once", "as it runs"])
@pytest.mark.parametrize("recompute", [False, True], ids=["all kept", "computed again"])
@pytest.mark.parametrize("family", ["qwen2", "qwen3", "llama"])
def test_a_run_takes_the_memory_that_was_planned(tmp_path, monkeypatch, family, recompute, keeps):
    """benchmarks/memory.py: a real run in a process of its own, within 15 %; what can be counted, to the byte."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    memory = pytest.importorskip("memory")
    found = memory.measured(family, recompute, tmp_path, keeps=keeps)
    assert abs(memory.error(found)) <= 0.15, json.dumps(found)
    for phase, parts in found["planned"].items() if not keeps else ():
        assert whole(parts) == pytest.approx(found["peaks"][phase], rel=0.15)
    sampling = found["planned"]["sampling"]
    assert sampling["weights"] == found["parts"]["weights"] and "gradients" not in sampling
    assert sampling["moments"] == pytest.approx(found["parts"]["moments"], rel=1e-4)
