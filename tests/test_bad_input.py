"""Whatever a person gets wrong is told on one line, with the culprit and the mend, and leaves nothing behind."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from contrapose.cli.app import LONGEST_NAME, check_out, run_name
from contrapose.config import LARGEST, resolve, saved
from contrapose.objectives.zoo import ZOO, check_group_size, objective
from contrapose.prompts.abacus import BASE_MODEL
from contrapose.types import ContraposeError
from user import contrapose, few_sums

WEIGHTS = "model.safetensors"
SUMS = "".join(json.dumps({"problem": f"{i}+1=", "answer": i + 1}) + "\n" for i in range(1, 9))


@pytest.fixture(autouse=True)
def short_sums():
    with few_sums():
        yield


# --- what is there before the command is typed ------------------------------------------------------------------------


def nothing(here):
    """An empty folder."""


def file(name, content):
    def write(here):
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_bytes(content if isinstance(content, bytes) else content.encode())

    return write


def recipe(content):
    """A recipe over abacus, two lines of it above ``content``."""
    return file("own.toml", f'# mine\nbase = "abacus"\n{content}\n')


def each(*setups):
    def write(here):
        for setup in setups:
            setup(here)

    return write


def folder(name):
    return lambda here: (here / name).mkdir(parents=True)


def model(*changes, of=BASE_MODEL):
    """A model in the folder ``m``, with these changes."""

    def write(here):
        shutil.copytree(of, here / "m")
        for change in changes:
            change(here / "m")

    return write


def settings(name, **changed):
    def change(m):
        found = json.loads((m / name).read_text()) | changed
        (m / name).write_text(json.dumps({key: value for key, value in found.items() if value is not None}))

    return change


def weights(edit):
    def change(m):
        tensors = load_file(m / WEIGHTS)
        edit(tensors)
        save_file(tensors, m / WEIGHTS, metadata={"format": "pt"})

    return change


def cut(size):
    return lambda m: (m / WEIGHTS).write_bytes((m / WEIGHTS).read_bytes()[:size])


def without(name):
    return lambda m: (m / name).unlink()


def flipped(m):
    data = bytearray((m / WEIGHTS).read_bytes())
    data[10] ^= 0xFF
    (m / WEIGHTS).write_bytes(data)


def sharded(content):
    """Weights under another name, and an index."""

    def change(m):
        (m / WEIGHTS).rename(m.parent / "x.safetensors")
        (m / f"{WEIGHTS}.index.json").write_text(content if isinstance(content, str) else json.dumps(content))

    return change


def run_with(table):
    """A run folder whose ``config.toml`` has another ``table``."""

    def write(here):
        whole = resolve("abacus")[0].to_toml({})
        name = re.match(r"\[?(\w+)", table)[1]
        whole = re.sub(rf"(?ms)^\[{name}[.\]].*?(?=^\[(?!{name}\.)|\Z)", "", whole)
        tables = table.startswith("[")
        file("run/config.toml", whole + "\n" + table if tables else table + "\n" + whole)(here)
        file("run/metrics.jsonl", "")(here)
        shutil.copytree(BASE_MODEL, here / "run" / "model")

    return write


def asked(*values):
    return "".join(json.dumps(v) + "\n" if isinstance(v, dict) else v + "\n" for v in values)


NOTHING_TO_GRADE = asked(*({"problem": f"{i}+1=", "answer": r"\frac{0}{0}"} for i in range(1, 6)))
STEP = {"step": 1, "generated_tokens": 1, "kept_tokens": 1, "surplus_tokens": 0, "cancelled_tokens": 0}
STEP |= {"filtered_tokens": {"too_hard": 0, "too_easy": 0, "mastered": 0}, "saved_tokens": 0, "drawn_groups": 1}
STEP |= {"accepted_groups": 1}

OWN = "train own.toml --out run"
SET = "train --out run --set "
SERVER = 'rollout.servers=["http://h:1"]'
VLLM = SET + "rollout.engine=vllm"
WITH_MODEL = "train --out run --set eval.data= --set model.path=m"
WITH_DATA = "train --out run --set eval.data= --set model.path=abacus --set data.template=plain --set batch.prompts=2 "
WITH_DATA += "--set batch.updates=1 --set rollout.max_tokens=32 --set data.path="
CHAT = "train --out run --set data.path=d.jsonl --set model.path=chat --set data.template=rence --set batch.prompts=2 "
CHAT += "--set batch.updates=1 --set rollout.max_tokens=32"
TAUGHT = {"problem": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "answer": "1"}

RECIPES = [
    ("syntax", recipe("steps = "), OWN, r"own\.toml: not TOML: .*line 3"),
    ("key twice", recipe("steps = 1\nsteps = 2"), OWN, r"own\.toml: not TOML: .*line 4"),
    ("table twice", recipe("[optim]\n[optim]"), OWN, r"own\.toml: not TOML: .*'optim'.* twice .*line 4"),
    ("binary", file("own.toml", bytes(range(256))), OWN, r"own\.toml: not TOML: .*save it as UTF-8"),
    ("another encoding", file("own.toml", "steps = 1".encode("utf-16")), OWN, r"own\.toml: not TOML.*UTF-8"),
    ("deep", recipe("a = " + "[" * 9999), OWN, r"own\.toml: not TOML: nested too deeply"),
    ("long number", recipe("seed = " + "9" * 9999), OWN, r"own\.toml: not TOML: .*4300 digits"),
    ("large file", file("own.toml", b"#" * (LARGEST + 1)), OWN, r"own\.toml: settings are at most 1,048,576 bytes"),
    ("folder for a file", folder("own.toml"), OWN, r"own\.toml cannot be read: Is a directory"),
    ("no file", nothing, OWN, r"own\.toml does not exist: paths are taken from /"),
    ("no such name", nothing, "train abacuz --out run", r"'abacuz' is unknown \(did you mean 'abacus'\?\)"),
    ("long name", nothing, ["train", "a" * 300 + ".toml"], r"a\.toml cannot be read: File name too long"),
    ("NUL in a name", nothing, ["train", "a\0b.toml"], r"a b\.toml cannot be read: embedded null"),
    ("base is itself", file("own.toml", 'base = "own.toml"'), OWN, r"own\.toml: base: expected the name of another"),
    ("base is a number", file("own.toml", "base = 3"), OWN, r"own\.toml: base: expected the name of another.*3"),
    ("base is nowhere", file("own.toml", 'base = "x.toml"'), OWN, r"x\.toml does not exist"),
    (
        "circle of bases",
        each(file("own.toml", 'base = "b.toml"'), file("b.toml", 'base = "own.toml"')),
        OWN,
        r"b\.toml: base: expected the name of another recipe, found 'own\.toml'",
    ),
    ("unknown key", recipe("[optim]\nlrr = 1"), OWN, r"own\.toml:4: optim\.lrr: .*did you mean 'optim\.lr'"),
    ("unknown section", recipe("[optm]\nlr = 1.0"), OWN, r"own\.toml:3: optm: .*did you mean 'optim\.lr'"),
    ("key of another section", recipe("[batch]\nlr = 1.0"), OWN, r"own\.toml:4: batch\.lr: .*mean 'optim\.lr'"),
    ("key of others", recipe("[optim]\nevery = 1"), OWN, r"own\.toml:4: optim\.every: .*eval\.every, .*checkpoint\.ev"),
    ("key in no section", recipe("lr = 1.0"), OWN, r"own\.toml:3: lr: .*did you mean 'optim\.lr'"),
    ("inline table", recipe("optim = {lr = 1.0, lrr = 2}"), OWN, r"own\.toml:3: optim\.lrr: .*mean 'optim\.lr'"),
    ("quoted key", recipe('"optim" . "lrr" = 2'), OWN, r"own\.toml:3: optim\.lrr: .*mean 'optim\.lr'"),
    ("a text for a number", recipe('[optim]\nlr = "fast"'), OWN, r"own\.toml:4: optim\.lr: .*valid number.*'fast'"),
    ("a date for a number", recipe("steps = 2020-01-01"), OWN, r"own\.toml:3: steps: .*valid integer"),
    ("a fraction of a step", recipe("steps = 1.5"), OWN, r"own\.toml:3: steps: .*valid integer.*1\.5"),
    ("out of range", recipe("[optim]\nclip = 0"), OWN, r"own\.toml:4: optim\.clip: .*greater than 0, found 0"),
    ("infinite", recipe("[optim]\nlr = inf"), OWN, r"own\.toml:4: optim\.lr: .*finite"),
    ("a seed of many digits", recipe("seed = " + "9" * 30), OWN, r"own\.toml:3: seed: .*less than 9223372036854775808"),
    ("one beta", recipe("[optim]\nbetas = [0.9]"), OWN, r"own\.toml:4: optim\.betas\.1: field required"),
    ("a number for a section", recipe("data = 3"), OWN, r"own\.toml:3: data: expected a table of settings, found 3"),
    ("a text for a section", recipe('objective = "x"'), OWN, r"own\.toml:3: objective: expected a table.*'x'"),
    ("a list of sections", recipe("[[optim]]\nlr = 1.0"), OWN, r"own\.toml:3: optim: expected a table"),
    ("no model", file("own.toml", ""), OWN, r"model\.path is not set: add --set model\.path="),
    (
        "indivisible",
        recipe("[batch]\nupdates = 5"),
        OWN,
        r"own\.toml:4: batch\.prompts: 32 is not divisible by batch\.updates = 5: take 30 or 35",
    ),
    ("no such objective", recipe('[objective]\nname = "rense"'), OWN, r"objective\.name: 'rense' .*mean 'rence'"),
    ("no such convention", recipe("[verify.conventions]\nunit = true"), OWN, r"conventions\.unit: .*mean 'units'"),
    (
        "all at once",
        recipe('[filter]\nmode = "x"\n[optim]\nlrr = 1\nclip = 0'),
        OWN,
        r"own\.toml:4: filter\.mode: .*'band'.*; own\.toml:7: optim\.clip: .*; own\.toml:6: optim\.lrr: ",
    ),
]
OVERRIDES = [
    ("no pair", nothing, SET + "optim.lr", r"--set optim\.lr: write it as key=value, for example --set optim"),
    ("an empty part", nothing, SET + "optim..lr=1", r"--set optim\.\.lr=1: write it as key=value"),
    ("two values", nothing, [*SET.split(), "steps=1\nseed=2"], r"--set steps=1\\nseed=2: one key and one value"),
    ("deep value", nothing, SET + "steps=" + "[" * 9999, r"steps: .*valid integer, found '\[\[.*\.\.\.$"),
    ("long value", nothing, SET + "seed=" + "9" * 9999, r"seed: .*valid integer"),
    ("deep key", nothing, SET + ".".join("a" * 3000) + "=1", r"a: no such key"),
    ("over a file", recipe("[optim]\nlr = 1.0"), OWN + " --set optim.lr=x", r"error: optim\.lr: .*valid number.*'x'"),
    ("no table", nothing, SET + "verify.conventions=3", r"verify\.conventions: expected a table of settings"),
    ("no rollouts", nothing, SET + "rollout.k=0", r"rollout\.k: .*greater than or equal to \d, found 0"),
    ("one rollout", nothing, SET + "rollout.k=1", r"rollout\.k: 1, but rence compares .*: take 2 or more"),
    ("hard above easy", nothing, SET + "filter.t_hard=0.7", r"t_hard: 0\.7 must be below filter\.t_easy = 0\.5"),
    ("no mastery", nothing, SET + "filter.t_master=0", r"filter\.t_master: .*above 0 and at most 1"),
    ("hyper-parameter", nothing, SET + "objective.btea=1", r"objective\.btea: .*rence \(did you mean 'beta'\?\)"),
    ("no choice", nothing, SET + "objective.margin=x", r"objective\.margin: 'x' .*one of: reward_gap, constant, none"),
    ("negative beta", nothing, SET + "objective.beta=-1", r"beta must be above 0, found -1"),
    ("test chooses", nothing, SET + "eval.validation=abacus:test", r"eval\.validation: abacus:test is for testing"),
    ("source twice", nothing, SET + 'data.path=["abacus","abacus"] --set model.path=abacus', r"'abacus' stands twice"),
    ("weights", nothing, SET + "data.weights=[1.0,2.0]", r"data\.weights: expected a number above 0 for each of the 1"),
    ("too many prompts", nothing, SET + "batch.prompts=100000", r"batch\.prompts: 100000, but only \d+ prompts"),
    ("long responses", nothing, SET + "rollout.max_tokens=9999", r"rollout\.max_tokens: 9999, but .* leaves \d+ of"),
    ("long prompts", nothing, SET + "data.max_prompt_tokens=1", r"data\.max_prompt_tokens: all .* longer than 1"),
    ("no template", nothing, SET + "data.template=rance", r"data\.template: 'rance' .*did you mean 'rence'"),
    ("no chat template", nothing, SET + "data.template=chat", r"data\.template: 'chat' needs .*; try 'plain'"),
    ("no switch", nothing, SET + "data.thinking=true", r"data\.thinking: 'plain' is not put into a chat template"),
    ("no module", nothing, SET + "verify.domain=x_y:f", r"'x_y:f' cannot be imported .*package\.module:function"),
    ("no function", nothing, SET + "verify.domain=math:cosh2", r"math has no function 'cosh2' \(did you mean 'cosh'"),
    ("a module that ends", file("ends.py", "exit()"), SET + "verify.domain=ends:f", r"'ends:f' cannot .*SystemExit"),
    ("a module that is none", file("no.py", "def ("), SET + "verify.domain=no:f", r"'no:f' cannot .*SyntaxError"),
    ("no domain", nothing, SET + "verify.domain=mth", r"verify\.domain: 'mth' .*did you mean 'math'"),
    ("no engine", nothing, SET + "rollout.engine=vlm", r"rollout\.engine: .*'embedded' or 'vllm', found 'vlm'"),
    ("idle servers", nothing, SET + SERVER, r"rollout\.servers: the embedded engine asks none: add .*engine=vllm"),
    ("no address", nothing, VLLM + " --set rollout.servers=['h:1']", r"rollout\.servers\.0: .* match pattern .*http"),
    (
        "a server twice",
        nothing,
        VLLM + " --set rollout.servers=['http://h:1','http://h:1']",
        r"rollout\.servers: .*twice",
    ),
    ("no reader", nothing, VLLM + " --set rollout.weights=w", r"rollout\.weights: only servers read it"),
    ("vllm, float64", nothing, VLLM + " --set model.dtype=float64", r"rollout\.engine: vllm has no float64: take"),
]
MODELS = [
    ("no folder", nothing, SET + "model.path=./m", r"model\.path: \./m is not a folder: give one, or a hub name"),
    ("a file", file("m", "x"), WITH_MODEL, r"model\.path: m is not a folder: give one, or a hub name"),
    ("an empty folder", folder("m"), WITH_MODEL, r"model\.path: m has no config\.json"),
    (
        "a long name",
        nothing,
        SET + "model.path=./" + "a" * 300,
        r"model\.path: \./a+ cannot be read: File name too long",
    ),
    ("config.json cut", model(file("config.json", "{")), WITH_MODEL, r"m/config\.json is not JSON"),
    ("config.json deep", model(file("config.json", "[" * 99999)), WITH_MODEL, r"m/config\.json is not JSON"),
    ("config.json a list", model(file("config.json", "[]")), WITH_MODEL, r"m/config\.json is not a JSON object"),
    ("no such type", model(settings("config.json", model_type="x")), WITH_MODEL, r"load m: .*`x`.*take another$"),
    ("another type", model(settings("config.json", model_type="t5")), WITH_MODEL, r"load m: .*T5Config.*take another$"),
    ("a size of text", model(settings("config.json", hidden_size="x")), WITH_MODEL, r"load m: .*'hidden_size'.*'x'"),
    ("quantized", model(settings("config.json", quantization_config={})), WITH_MODEL, r"quantized .*as it was before"),
    ("adapter", model(file("adapter_config.json", "{}")), WITH_MODEL, r"m is an adapter: merge it into its base"),
    ("no weights", model(without(WEIGHTS)), WITH_MODEL, r"m holds no weights at all; safetensors .*: convert it"),
    ("empty weights", model(cut(0)), WITH_MODEL, r"m/model\.safetensors cannot be read .*: copy it anew"),
    ("weights cut", model(cut(-100)), WITH_MODEL, r"m/model\.safetensors cannot be read .*: copy it anew"),
    ("header cut", model(cut(50)), WITH_MODEL, r"m/model\.safetensors cannot be read .*: copy it anew"),
    ("header flipped", model(flipped), WITH_MODEL, r"m/model\.safetensors cannot be read .*: copy it anew"),
    ("a pointer", model(file(WEIGHTS, "version https://git-lfs")), WITH_MODEL, r"cannot be read .*: copy it anew"),
    (
        "a tensor less",
        model(weights(lambda w: w.pop("model.norm.weight"))),
        WITH_MODEL,
        r"in m lack model\.norm\.weight",
    ),
    (
        "another shape",
        model(weights(lambda w: w.update({"model.norm.weight": torch.ones(7)}))),
        WITH_MODEL,
        r"model\.norm\.weight in m is of shape \[7\], and its config\.json asks for \[96\]",
    ),
    (
        "NaN",
        model(weights(lambda w: w["model.norm.weight"].fill_(torch.nan))),
        WITH_MODEL,
        r"model\.norm\.weight in m holds NaN or infinity: start from sound weights",
    ),
    ("index cut", model(sharded("{")), WITH_MODEL, r"index\.json is not JSON"),
    ("index without files", model(sharded({})), WITH_MODEL, r"index\.json lists no files \(weight_map\): copy"),
    (
        "shard missing",
        model(sharded({"weight_map": {"a": "b.safetensors"}})),
        WITH_MODEL,
        r"m/b\.safetensors cannot be",
    ),
    ("no tokenizer", model(without("tokenizer.json")), WITH_MODEL, r"m has no tokenizer \(none of tokenizer\.json,"),
    ("tokenizer cut", model(file("tokenizer.json", "{")), WITH_MODEL, r"cannot load m: .*: copy it anew"),
    (
        "its settings cut",
        model(file("tokenizer_config.json", "{")),
        WITH_MODEL,
        r"m/tokenizer_config\.json is not JSON",
    ),
    (
        "no end",
        model(
            without("generation_config.json"),
            settings("config.json", eos_token_id=None),
            settings("tokenizer_config.json", eos_token=None),
        ),
        WITH_MODEL,
        r"no EOS token that the model knows: set eos_token in its tokenizer_config\.json",
    ),
    (
        "an end that the model lacks",
        model(
            without("generation_config.json"),
            settings("config.json", eos_token_id=None),
            settings("tokenizer_config.json", eos_token="<over>"),
        ),
        WITH_MODEL,
        r"no EOS token that the model knows: set eos_token",
    ),
]
DATA = [
    ("missing", nothing, WITH_DATA + "d.jsonl", r"d\.jsonl does not exist: paths are taken from /"),
    ("folder", folder("d.jsonl"), WITH_DATA + "d.jsonl", r"d\.jsonl is not a file"),
    ("empty", file("d.jsonl", ""), WITH_DATA + "d.jsonl", r"d\.jsonl holds no rows: each is a problem with its answer"),
    ("no kind", file("d.txt", SUMS), WITH_DATA + "d.txt", r"'d\.txt' is no named data set.* a \.jsonl, \.parquet"),
    ("column", file("d.jsonl", asked({"q": 1})), WITH_DATA + "d.jsonl", r"d\.jsonl:1 has no column 'problem' .*set da"),
    ("not UTF-8", file("d.jsonl", b'{"problem": "\xff"}'), WITH_DATA + "d.jsonl", r"d\.jsonl:1 is not JSON: .*utf-8"),
    ("a broken row", file("d.jsonl", SUMS + "{\n"), WITH_DATA + "d.jsonl", r"1 of 9 rows .*data\.max_broken.*jsonl:9"),
    (
        "no gold",
        file("d.jsonl", NOTHING_TO_GRADE),
        WITH_DATA + "d.jsonl",
        r"no prompt is left .*cannot be graded: 5 .*",
    ),
    (
        "one prompt",
        file("d.jsonl", SUMS.split("\n")[0]),
        WITH_DATA + "d.jsonl",
        r"batch\.prompts: 2, but only 1 prompt",
    ),
    ("a dialogue", file("d.jsonl", asked(TAUGHT)), WITH_DATA + "d.jsonl", r"d\.jsonl:1 column 'problem': .*one turn"),
    ("words", file("d.jsonl", asked({"problem": "How?", "answer": 1})), WITH_DATA + "d.jsonl", r"cannot spell: 1 \(d/"),
    ("csv of latin-1", file("d.csv", "problèm,b\n1,2".encode("latin-1")), WITH_DATA + "d.csv", r"UTF-8: save it so"),
    ("no parquet", file("d.parquet", "x"), WITH_DATA + "d.parquet", r"d\.parquet is not a parquet file .*copy it anew"),
    ("abacus split", nothing, WITH_DATA + "abacus:tset", r"'abacus:tset' has no such split \(did you mean 'test'\?\)"),
    (
        "excluded",
        file("d.jsonl", SUMS),
        WITH_DATA + 'd.jsonl --set data.exclude=["x.jsonl"]',
        r"x\.jsonl does not exist",
    ),
    ("eval data", nothing, SET + "eval.data=x.jsonl", r"x\.jsonl does not exist: paths are taken from /"),
]
COMMANDS = [
    ("no such command", nothing, "trian", r"'trian'.*[Dd]id you mean 'train'.*contrapose --help"),
    ("no such option", nothing, "train --outt run", r"--outt.*--out\b.*: contrapose train --help tells"),
    ("an option's value", nothing, "train --seed x", r"--seed.*integer.*: contrapose train --help tells"),
    ("no value", nothing, "train --out", r"--out.*requires an argument"),
    ("two recipes", nothing, "train a b", r"unexpected extra argument.*b.*: contrapose train --help tells"),
    ("resume nothing", nothing, "train --resume", r"--resume: give --out RUN and nothing else"),
    ("resume and set", nothing, "train --resume --out run --set seed=1", r"--resume: give --out RUN and nothing else"),
    ("resume no run", folder("run"), "train --resume --out run", r"run/config\.toml does not exist"),
    (
        "resume a section",
        run_with("data = 3"),
        "train --resume --out run",
        r"run/config\.toml:1: data: expected a table",
    ),
    (
        "out is a file",
        file("run", "x"),
        "train --out run",
        r"--out: run cannot be written \(run is not a folder\): choose",
    ),
    ("out below a file", file("f", "x"), "train --out f/run", r"--out: f/run cannot be written \(f is not a folder\)"),
    ("out too long", nothing, "train --out " + "a" * 300, r"--out: a+ cannot be written \(File name too long\)"),
    ("readmit", nothing, "train --readmit p", r"--readmit: give --resume --out RUN with it"),
    ("out is taken", file("run/config.toml", ""), "train --out run", r"--out: run already holds a run: choose another"),
    ("eval nothing", nothing, "eval", r"MODEL is missing: a model or run folder, a hub name, or abacus"),
    ("eval NUL", nothing, ["eval", "a\0b"], r"MODEL: a b cannot be read: .*: give a folder or a hub name"),
    ("eval no folder", nothing, "eval ./m --out ev", r"model\.path: \./m is not a folder: give one"),
    ("eval a long name", nothing, "eval ./" + "m" * 300, r"MODEL: .* cannot be read: File name too long"),
    ("eval data = 3", run_with("data = 3"), "eval run", r"run/config\.toml:1: data: expected a table .*found 3"),
    ("eval verify = 3", run_with("verify = 3"), "eval run", r"run/config\.toml:1: verify: expected a table"),
    ("eval reward = []", run_with("reward = []"), "eval run", r"run/config\.toml:1: reward: expected a table"),
    ("eval a template", run_with("[data]\ntemplate = 3"), "eval run", r"config\.toml:\d+: data\.template: .*string"),
    ("eval no data", nothing, "eval abacus --data x.jsonl", r"x\.jsonl does not exist"),
    ("eval no template", nothing, "eval abacus --template conspp", r"'conspp' .*did you mean 'conspo'"),
    ("eval heat", nothing, "eval abacus --temperature inf", r"--temperature.*less than or equal to 100"),
    ("eval resume", nothing, "eval abacus --resume", r"--resume: say with --out where"),
    ("eval compare one", nothing, "eval --compare a", r"--compare.*requires 2 arguments"),
    ("eval compare none", nothing, "eval --compare a b", r"a has no settings\.json: .*contrapose eval --out"),
    ("eval protocol", nothing, "eval abacus --protocol rense", r"--protocol: 'rense' .*mean 'rence'"),
    ("eval a run's key", nothing, "eval abacus --set optim.lr=1", r"--set optim: only the keys of verify can be set"),
    ("verify no file", nothing, "verify x.jsonl", r"x\.jsonl: No such file .*: give a file of jsonl, or - for stdin"),
    ("verify a folder", folder("x"), "verify x", r"x: Is a directory: give a file of jsonl"),
    ("verify NUL", nothing, ["verify", "a\0b"], r"a b: embedded null byte: give a file"),
    ("verify scheme", nothing, "verify --scheme x", r"--scheme.*'x'.*'format', 'binary', 'sign'"),
    ("verify domain", file("v", ""), "verify v --set verify.domain=exct", r"verify\.domain: 'exct' .*mean 'exact'"),
    ("verify key", file("v", ""), "verify v --set verify.conventions.unit=true", r"conventions\.unit: .*mean 'units'"),
    ("data nothing", nothing, "data", r"Missing argument 'SPEC\.\.\.'.*contrapose data --help"),
    ("data unknown", nothing, "data math50", r"'math50' is no named data set \(did you mean 'math500'\?\)"),
    ("data limit", file("d.jsonl", SUMS), "data d.jsonl --limit 0", r"--limit.*greater than or equal to 1"),
    (
        "data out",
        file("d.jsonl", SUMS),
        "data d.jsonl --out x/y.json",
        r"--out: x/y\.json cannot be written: give a file",
    ),
    ("data exclude", file("d.jsonl", SUMS), "data d.jsonl --exclude all", r"--data-dir: \. holds the file of no bench"),
    ("data tokenizer", file("d.jsonl", SUMS), "data d.jsonl --tokenizer ./m", r"\./m is not a folder: give one"),
    ("ledger nothing", nothing, "ledger", r"Missing argument 'runs'.*contrapose ledger --help"),
    ("ledger no run", folder("run"), "ledger run", r"run: not the folder of a run \(contrapose train --out\)"),
    (
        "ledger deep",
        file("run/metrics.jsonl", "[" * 9999 + "\n"),
        "ledger run",
        r"run: not the folder of a run.*jsonl:1",
    ),
    (
        "ledger other rows",
        file("run/metrics.jsonl", asked(STEP, {**STEP, "step": "x"})),
        "ledger run",
        r"run: not written by this version: metrics\.jsonl:2: step: .*integer",
    ),
    (
        "ledger other tests",
        each(
            file("run/metrics.jsonl", asked(STEP)), file("run/eval.json", '[{"step": 1, "split": "test", "data": 3}]')
        ),
        "ledger run",
        r"run: not written by this version: eval\.json: 0\.data: .*string",
    ),
    ("objectives", nothing, "objectives renc", r"'renc' is unknown \(did you mean 'rence'\?\)"),
    ("recipes", nothing, "recipes x", r"unexpected extra argument.*x.*contrapose recipes --help"),
    ("abacus build", nothing, "abacus build", r"Missing argument 'out'.*contrapose abacus build --help"),
    ("abacus a file", file("m", "x"), "abacus build m", r"--out: m cannot be written \(m is not a folder\): choose"),
    ("abacus below a file", file("m", "x"), "abacus build m/n", r"--out: m/n cannot be written \(m is not a folder\)"),
    ("abacus seed", nothing, "abacus build m --seed -1", r"--seed.*greater than or equal to 0"),
]
TABLE = [
    pytest.param(*row[1:], id=f"{kind}: {row[0]}")
    for kind, rows in {"recipe": RECIPES, "set": OVERRIDES, "model": MODELS, "data": DATA, "command": COMMANDS}.items()
    for row in rows
]


def everything(here):
    return sorted(here.rglob("*"))


@pytest.mark.parametrize(("setup", "command", "told"), TABLE)
def test_a_mistake_is_one_line_with_culprit_and_mend(monkeypatch, capsys, tmp_path, setup, command, told):
    monkeypatch.chdir(tmp_path)
    setup(tmp_path)
    before = everything(tmp_path)
    assert contrapose(monkeypatch, *(command if isinstance(command, list) else command.split())) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.endswith("\n") and error.count("\n") == 1
    assert re.search(told, error.removesuffix("\n")), error
    assert everything(tmp_path) == before


def test_there_are_enough_of_them():
    assert len(TABLE) >= 120
    assert len({row.id for row in TABLE}) == len(TABLE)


# --- typos ------------------------------------------------------------------------------------------------------------

TYPOS = """
stes=steps  sead=seed  optim.lrr=optim.lr  optim.rl=optim.lr  optim.beta=optim.betas
optim.weight_deacy=optim.weight_decay  optim.wramup=optim.warmup  optim.esp=optim.eps  optim.clp=optim.clip
model.paht=model.path  model.dtyp=model.dtype  model.refrence=model.reference  data.pth=data.path
data.weigths=data.weights  data.dri=data.dir  data.problem_ky=data.problem_key  data.anwser_key=data.answer_key
data.exlude=data.exclude  data.maxbroken=data.max_broken  data.templat=data.template  data.thinkng=data.thinking
data.max_prompt_token=data.max_prompt_tokens  rollout.kk=rollout.k  rollout.temprature=rollout.temperature
rollout.topp=rollout.top_p  rollout.max_token=rollout.max_tokens  rollout.cachegib=rollout.cache_gib
rollout.iscap=rollout.is_cap  batch.prompt=batch.prompts  batch.udpates=batch.updates
batch.max_toknes=batch.max_tokens  filter.mod=filter.mode  filter.teasy=filter.t_easy  filter.t_mastr=filter.t_master
filter.require_corect=filter.require_correct  filter.patiance=filter.patience  filter.earlystop=filter.early_stop
reward.schme=reward.scheme  reward.truncted=reward.truncated  verify.domian=verify.domain  eval.evrey=eval.every
eval.dat=eval.data  eval.sampels=eval.samples  checkpoint.evry=checkpoint.every  checkpoint.kepe=checkpoint.keep
diagnose.evry=diagnose.every  modle.path=model.path  rolout.k=rollout.k  chekpoint.keep=checkpoint.keep
fitler.t_easy=filter.t_easy
""".split()  # noqa: SIM905


def test_a_typo_is_told_with_the_right_key():
    right = []
    for typo, meant in (pair.split("=") for pair in TYPOS):
        with pytest.raises(ContraposeError, match=re.escape(typo.split(".")[0])) as caught:
            resolve("abacus", [f"{typo}=1"])
        assert "\n" not in str(caught.value)
        right.append(f"did you mean {meant!r}?" in str(caught.value))
    assert len(right) == 50
    assert sum(right) >= 0.95 * len(right)


# --- where, and when --------------------------------------------------------------------------------------------------


def test_a_wrong_key_is_told_before_anything_heavy_is_imported(tmp_path):
    (tmp_path / "own.toml").write_text('base = "abacus"\n[optim]\nlrr = 1\nclip = 0\n[data]\nmax_broken = "x"\n')
    code = (
        "import sys\nsys.argv = ['contrapose', 'train', 'own.toml']\n"
        "from contrapose.cli import main\n"
        "try: main()\n"
        "except SystemExit as end: assert end.code == 2\n"
        "assert not {'torch', 'transformers', 'sympy', 'numpy'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for told in ("own.toml:3: optim.lrr: ", "own.toml:4: optim.clip: ", "own.toml:6: data.max_broken: "):
        assert told in done.stderr


def test_the_place_is_that_of_the_file_that_wins(tmp_path):
    """A base is to blame for what it says and nobody above it says otherwise."""
    (tmp_path / "below.toml").write_text('base = "abacus"\n\n[optim]\nlr = 0\nclip = 0\n')
    (tmp_path / "own.toml").write_text(f'base = "{tmp_path}/below.toml"\n[optim]\nlr = "x"\n')
    with pytest.raises(ContraposeError) as caught:
        resolve(str(tmp_path / "own.toml"))
    assert f"{tmp_path}/own.toml:3: optim.lr: " in str(caught.value)
    assert f"{tmp_path}/below.toml:5: optim.clip: " in str(caught.value)


def test_what_only_looks_like_a_key_has_no_place(tmp_path):
    text = 'base = "abacus"\n[data]\nproblem_key = """\nlr = 3\n[optim]\n"""\ntemplate = 3\n'
    (tmp_path / "own.toml").write_text(text)
    with pytest.raises(ContraposeError, match=r"data\.template: .*found 3"):
        resolve(str(tmp_path / "own.toml"))


def test_settings_of_a_run_are_read_by_section(tmp_path):
    (tmp_path / "config.toml").write_text('unknown = 1\n[data]\ntemplate = "chat"\n[optim]\nlr = "x"\n')
    assert saved(tmp_path, "data").data.template == "chat"
    with pytest.raises(ContraposeError, match=rf"{tmp_path}/config\.toml:5: optim\.lr"):
        saved(tmp_path, "optim")


# --- groups of one ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ZOO)
def test_one_rollout_is_enough_only_where_none_is_compared(name):
    made = objective(name, **({"length": 8.0} if name == "dr_grpo" else {}))
    check_group_size(made, name, 2)
    if name == "reinforce":
        check_group_size(made, name, 1)
        return
    with pytest.raises(ValueError, match=rf"rollout\.k: 1, but {name} compares the rollouts of a group: take 2"):
        check_group_size(made, name, 1)


def test_whether_rollouts_are_compared_is_asked_without_a_trace():
    """The pairs that a run draws stay the same."""
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    assert objective("dpo", contrast="random_pair").compares
    assert torch.equal(torch.rand(2), expected)


# --- folders ----------------------------------------------------------------------------------------------------------

HOSTILE = [
    "../x.toml",
    "/etc/passwd.toml",
    "a\0b.toml",
    "a\nb.toml",
    "a" * 300 + ".toml",
    "\U0001f4a4.toml",
    "con.toml",
]
HOSTILE += [".hidden.toml", "...toml", ".toml", "..", "../../..", "[red]x[/].toml", "a b.toml", "é.toml", "-rf.toml"]
HOSTILE += ["~.toml", "$(x).toml", "`x`.toml", "a;b.toml", "a|b.toml", "a\\b.toml", "c:x.toml", "*.toml", "?.toml"]
HOSTILE += ["\x1b[31m.toml", "\u202e.toml", "a/../../b", "rence/../../x", "%2e%2e.toml", "\udcff.toml", "nul.toml", ""]


@pytest.mark.parametrize("hostile", HOSTILE, ids=ascii)
def test_the_name_of_a_run_is_a_plain_name(hostile):
    name = run_name(hostile, "conspo", -(2**63), "1231-235959")
    assert re.fullmatch(rf"[A-Za-z0-9_][A-Za-z0-9._-]{{0,{LONGEST_NAME - 1}}}", name)
    assert name.endswith("-conspo--9223372036854775808-1231-235959")
    assert (Path("runs") / name).resolve().parent == Path("runs").resolve()


def test_the_name_of_a_run_says_what_it_is():
    assert run_name("my/own recipe.toml", "rence", 3, "0102-030405") == "own-recipe-rence-3-0102-030405"
    assert run_name("rence/all_pairs", "rence", 0, "0102-030405") == "rence-all_pairs-rence-0-0102-030405"
    assert run_name("conspo/r1_qwen_1.5b/sapo", "sapo", 0, "x") == "conspo-r1_qwen_1.5b-sapo-sapo-0-x"
    assert len(run_name("a", "b", 10**100, "c")) == LONGEST_NAME


def test_a_folder_is_checked_without_being_made(tmp_path):
    (tmp_path / "file").touch()
    check_out(tmp_path / "a" / "b")
    check_out(tmp_path)
    for folder_, fault in ((tmp_path / "file", "is not a folder"), (tmp_path / "file" / "x", "is not a folder")):
        with pytest.raises(
            ContraposeError, match=rf"--out: {folder_} cannot be written \({tmp_path}/file {fault}\): cho"
        ):
            check_out(folder_)
    with pytest.raises(ContraposeError, match="File name too long"):
        check_out(tmp_path / ("a" * 300))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
