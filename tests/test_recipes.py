"""Every row of both papers' results tables has a recipe, and every recipe the published values.

The values stand here a second time, as read from the papers and released codes; ``None`` is a hyper-parameter set to
"none". What a paper leaves open is in the recipe's comment and not in this table.
"""

import math
import re
from pathlib import Path

import pytest

from contrapose.config import resolve
from contrapose.objectives.zoo import ZOO
from contrapose.prompts.catalogue import find
from contrapose.train.run import make_objective

RECIPES = Path(__file__).parents[1] / "recipes"
SHIPPED = sorted(p.relative_to(RECIPES).with_suffix("").as_posix() for p in RECIPES.rglob("*.toml"))

ALL_DRAWN = {"filter.mode": "none"}
MIXED = {
    "filter.mode": "band",
    "filter.t_hard": 0.0,
    "filter.t_easy": 0.99,
    "filter.t_master": 1.0,
    "filter.refill": True,
}
NOT_CACHED = {"filter.cache": False, "filter.max_rounds": 10}
RIGHT_OR_WRONG = {"reward.scheme": "binary", "reward.overlong": 0.0}
ON_ONES_OWN_SAMPLES = {"rollout.temperature": 1.0, "rollout.top_p": 1.0}

METHODS = {
    "rence": {
        "steps": 50,
        "objective.beta": 0.1,
        "objective.alpha": 0.5,
        "objective.kl_coef": 0.001,
        "objective.kl_target": 0.01,
        "objective.kl_horizon": 25600.0,
        "filter.mode": "band",
        "filter.rho": "correct",
        "filter.t_hard": 0.0,
        "filter.t_easy": 0.5,
        "filter.t_master": 0.8,
        "filter.refill": True,
        "filter.cache": True,
        "reward.scheme": "format",
        "reward.overlong": 0.0,
        "rollout.k": 8,
        "rollout.max_tokens": 6656,
        "data.max_prompt_tokens": 1536,
        "data.template": "rence",
        "batch.prompts": 512,
        "batch.updates": 16,
        "optim.lr": 1e-6,
        "optim.betas": (0.9, 0.999),
        "optim.weight_decay": 0.01,
        "optim.clip": 1.0,
        "optim.warmup": 0,
        "eval.temperature": 0.7,
        "eval.samples": 4,
        "eval.every": 5,
        **ON_ONES_OWN_SAMPLES,
    },
    "conspo": {
        "steps": 4 * math.ceil(40_000 / 256),  # four epochs
        "objective.tau": 10.0,
        "objective.M": 0.01,
        "objective.warmup": 0.3,
        "rollout.k": 8,
        "rollout.max_tokens": 8192,
        "data.max_prompt_tokens": 1024,
        "data.template": "conspo",
        "batch.prompts": 256,
        "batch.updates": 1,
        "optim.lr": 2e-6,
        "optim.warmup": 0,
        "eval.temperature": 0.6,
        "eval.top_p": 0.95,
        "eval.samples": 32,
        "eval.every": 100,
        **ALL_DRAWN,
        **RIGHT_OR_WRONG,
        **ON_ONES_OWN_SAMPLES,
    },
    "grpo": {
        "objective.clip_low": 0.2,
        "objective.clip_high": 0.2,
        "objective.reference_coef": 0.04,
        "rollout.k": 64,
        "rollout.max_tokens": 1024,
        "batch.prompts": 1024 // 64,
        "batch.updates": 1,
        "optim.lr": 1e-6,
        **ALL_DRAWN,
        **RIGHT_OR_WRONG,
    },
    "dapo": {
        "objective.clip_low": 0.2,
        "objective.clip_high": 0.28,
        "objective.aggregate": "token_mean",
        "rollout.k": 16,
        "rollout.max_tokens": 20480,
        "reward.scheme": "sign",
        "reward.overlong": 4096 / 20480,
        "batch.prompts": 512,
        "batch.updates": 512 // 32,
        "optim.lr": 1e-6,
        "optim.weight_decay": 0.1,
        "optim.clip": 1.0,
        "optim.warmup": 10,
        "eval.temperature": 1.0,
        "eval.top_p": 0.7,
        "eval.samples": 32,
        **MIXED,
        **NOT_CACHED,
        **ON_ONES_OWN_SAMPLES,
    },
    "dr_grpo": {
        "objective.clip_low": 0.2,
        "objective.clip_high": 0.2,
        "rollout.k": 8,
        "rollout.max_tokens": 3000,  # and the constant length
        "batch.prompts": 128,
        "batch.updates": 8,
        "optim.lr": 1e-6,
        **ALL_DRAWN,
        **RIGHT_OR_WRONG,
        **ON_ONES_OWN_SAMPLES,
    },
    "gspo": {
        "objective.clip_low": 3e-4,
        "objective.clip_high": 4e-4,
        "batch.updates": 4,
        **ALL_DRAWN,
        **RIGHT_OR_WRONG,
    },
    "gmpo": {
        "objective.clip_low": 0.4,
        "objective.clip_high": 0.4,
        "rollout.k": 8,
        "rollout.max_tokens": 3000,
        "batch.prompts": 128,
        "batch.updates": 8,
        "optim.lr": 1e-6,
        "eval.temperature": 0.6,
        "eval.top_p": 0.95,
        "eval.samples": 16,
        **ALL_DRAWN,
        **RIGHT_OR_WRONG,
        **ON_ONES_OWN_SAMPLES,
    },
    "cispo": {"objective.cap": 5.0, **MIXED, **NOT_CACHED, **RIGHT_OR_WRONG},
    "sapo": {
        "objective.tau_positive": 1.0,
        "objective.tau_negative": 1.05,
        "batch.updates": 4,
        **ALL_DRAWN,
        **RIGHT_OR_WRONG,
    },
    "disco": {
        "objective.score": "log_prob",
        "objective.delta": 1e-4,
        "objective.hinge": 1e3,
        "rollout.k": 8,
        "rollout.temperature": 0.6,
        "rollout.max_tokens": 8192,
        "batch.prompts": 128,
        "batch.updates": 128 // 32,
        "optim.lr": 2e-6,
        "eval.temperature": 0.6,
        "eval.top_p": 0.95,
        "eval.samples": 16,
        **ALL_DRAWN,
        **RIGHT_OR_WRONG,
    },
    "dpo": {
        "objective.beta": 0.1,
        "objective.contrast": "all_pairs",
        "objective.reference": "old",
        "rollout.max_tokens": 2048,
        "optim.lr": 1e-6,
        "optim.eps": 1e-4,
        "optim.clip": 0.1,
        **ALL_DRAWN,
        **RIGHT_OR_WRONG,
        **ON_ONES_OWN_SAMPLES,
    },
    "rloo": {**ALL_DRAWN, **RIGHT_OR_WRONG},
    "reinforce": {**ALL_DRAWN, **RIGHT_OR_WRONG},
}
METHODS["disco_b"] = METHODS["disco"]
METHODS["disco_ratio"] = {**METHODS["disco"], "objective.score": "ratio"}


def own(method):
    """A method's hyper-parameters, filter and reward, wherever it is run."""
    settings = METHODS[method].items()
    return {key: value for key, value in settings if key.partition(".")[0] in ("objective", "filter", "reward")}


def sized(table):
    """What a setting fixes for all methods of a table."""
    settings = METHODS[table].items()
    shared = ("rollout", "data", "batch", "optim", "eval", "steps")
    return {key: value for key, value in settings if key.partition(".")[0] in shared}


QWEN3 = {"model.path": "Qwen/Qwen3-4B"}
RENCE = {**METHODS["rence"], **QWEN3, "objective.name": "rence"}
GRADED = {"reward.scheme": "format"}
RENCE_ROWS = {
    "Table 1 GRPO": ("grpo", {**sized("rence"), **own("grpo"), **GRADED, **QWEN3, "objective.name": "grpo",
                              "objective.reference_coef": 0.001, "steps": 200, "batch.updates": 4}),
    "Table 1 DAPO": ("dapo", {**sized("rence"), **own("dapo"), **GRADED, **QWEN3, "objective.name": "dapo",
                              "steps": 80}),
    "Table 1 Semi-online DPO": ("semi_online_dpo", {**sized("rence"), **QWEN3, **MIXED, "objective.name": "dpo",
                                "objective.beta": 0.1, "objective.contrast": "all_pairs", "objective.reference": "old",
                                "steps": 80}),
    "Table 1 ReNCE": ("rence", RENCE),
    "Table 2 No Trust-Region KL": ("no_kl", {**RENCE, "objective.trust": None}),
    "Table 2 No Margin": ("no_margin", {**RENCE, "objective.margin": None}),
    "Table 2 Constant Margin": ("constant_margin", {**RENCE, "objective.margin": "constant", "objective.alpha": 0.5}),
    "Table 2 Iterative": ("iterative", {**RENCE, "objective.trust": None, "batch.prompts": 128 * 32,
                                        "batch.updates": 128, "steps": 800 // 128}),
    "Table 3 ReNCE t_easy=0.5": ("rence", RENCE),
    "Table 3 ReNCE t_easy=0.99": ("t_easy_099", {**RENCE, "filter.t_easy": 0.99}),
    "Table 3 DAPO t_easy=0.5": ("dapo_t_easy_050", {**sized("rence"), **own("dapo"), **GRADED, **QWEN3, "steps": 80,
                                                    "objective.name": "dapo", "filter.t_easy": 0.5}),
    "Table 4 mNCE": ("no_margin", {**RENCE, "objective.margin": None}),
    "Table 4 Softmax": ("softmax", {**RENCE, "objective.margin": None, "objective.contrast": "softmax"}),
    "Table 4 Random pair": ("random_pair", {**RENCE, "objective.margin": None, "objective.contrast": "random_pair"}),
    "Table 4 All pairs": ("all_pairs", {**RENCE, "objective.margin": None, "objective.contrast": "all_pairs"}),
}  # fmt: skip

MODELS = {
    "Table 1": ("r1_qwen_1.5b", "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B", {}),
    "Table 2 7B": ("r1_qwen_7b", "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B", {}),
    "Table 2 8B": ("r1_llama_8b", "deepseek-ai/DeepSeek-R1-Distill-Llama-8B", {}),
    "Table 3": (
        "qwen3_4b_base",
        "Qwen/Qwen3-4B-Base",
        {"rollout.max_tokens": 4096, "steps": 2 * math.ceil(40_000 / 256)},
    ),
    "Table 4": ("llama3_3b", "meta-llama/Llama-3.2-3B-Instruct", {"rollout.max_tokens": 4096}),
    "Table 5": ("dapo_math", "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B", {"steps": 4 * math.ceil(17_000 / 256)}),
}
UPDATES = {"conspo": 1, "grpo": 1, "dapo": 16, "dr_grpo": 8, "disco": 4, "gmpo": 8, "cispo": 16, "sapo": 4}
COMPARED = ("conspo", "grpo", "dapo", "dr_grpo", "disco")
CONSPO_ROWS = {
    f"{table} {method}": (
        f"{folder}/{method}",
        {**sized("conspo"), **own(method), "objective.name": method, "model.path": model, **different}
        | {"batch.updates": UPDATES[method]}
        | ({"objective.reference_coef": 0.0} if method == "grpo" else {}),
    )
    for table, (folder, model, different) in MODELS.items()
    for method in (*COMPARED, *(("gmpo", "cispo", "sapo") if table == "Table 1" else ()))
}
CONSPO = CONSPO_ROWS["Table 1 conspo"][1]
CONSPO_ROWS |= {
    "Table 6 w/o contrastive objective": ("r1_qwen_1.5b/linear", {**CONSPO, "objective.contrast": "linear"}),
    "Table 6 w/o log-likelihood scores": ("r1_qwen_1.5b/clipped_ratio", {**CONSPO, "objective.score": "clipped_ratio"}),
    "Table 6 w/o scheduled margin": ("r1_qwen_1.5b/no_margin", {**CONSPO, "objective.margin": None}),
    "Table 6 w/ fixed margin": ("r1_qwen_1.5b/fixed_margin", {**CONSPO, "objective.margin": "constant"}),
}
PUBLISHED = {
    **{name: (name, values) for name, values in METHODS.items()},
    **{f"ReNCE {row}": (f"rence/{name}", values) for row, (name, values) in RENCE_ROWS.items()},
    **{f"ConSPO {row}": (f"conspo/{name}", values) for row, (name, values) in CONSPO_ROWS.items()},
}


def settings(recipe):
    """The resolved settings, dotted."""
    needed = ["data.path=problems.jsonl", *(["model.path=m"] if "/" not in recipe else [])]
    config, _ = resolve(recipe, needed)
    tree = config.model_dump()
    tree["objective"] = {"name": config.objective.name, **config.objective.hyperparameters}
    flat = {}
    for section, value in tree.items():
        flat |= {f"{section}.{key}": v for key, v in value.items()} if isinstance(value, dict) else {section: value}
    return config, flat


@pytest.mark.parametrize("row", PUBLISHED)
def test_a_recipe_has_the_published_values(row):
    recipe, published = PUBLISHED[row]
    config, found = settings(recipe)
    assert {key: found[key] for key in published} == published
    make_objective(config)


def test_every_recipe_is_in_the_table():
    assert {recipe for recipe, _ in PUBLISHED.values()} | {"abacus", "cluster", "gsm8k"} == set(SHIPPED)


TRAINED_ON = {"rence": ["dapo-math-17k", "math"], "dapo_math": ["dapo-math-17k"], "conspo": ["deepscaler"]}


@pytest.mark.parametrize("recipe", [name for name in SHIPPED if "/" in name])
def test_a_row_of_a_table_is_trained_on_that_tables_data(recipe):
    paper, model = recipe.split("/")[:2]
    data = resolve(recipe)[0].data
    assert data.sources == TRAINED_ON[model if model in TRAINED_ON and paper == "conspo" else paper]
    assert all(find(source).split == "train" for source in data.sources)


def test_every_objective_has_a_recipe_of_its_name():
    assert set(ZOO) <= set(SHIPPED)
    for name in ZOO:
        assert settings(name)[0].objective.name == name


@pytest.mark.parametrize(
    ("recipe", "settings", "tau"),
    [
        ("disco", [], 10.0),
        ("disco", ["objective.score=ratio"], 1.0),
        ("disco_ratio", [], 1.0),
        ("disco_ratio", ["objective.score=log_prob"], 10.0),
        ("disco_ratio", ["objective.tau=3.0"], 3.0),
        ("conspo/r1_qwen_7b/disco", [], 10.0),
    ],
)
def test_discos_temperature_is_that_of_its_score(recipe, settings, tau):
    config, _ = resolve(recipe, ["data.path=y.jsonl", "model.path=m", *settings])
    assert make_objective(config).contrast.temperature == tau


def test_a_recipe_for_every_objective_says_what_is_still_to_be_set():
    for name in ZOO:
        comment = (RECIPES / f"{name}.toml").read_text().partition("[objective]")[0]
        assert "Set model.path and data.path." in comment


def test_another_objective_brings_its_own_filter_and_reward():
    """Over any recipe: what belongs to a method is not mixed with another's."""
    for recipe in ("rence", "conspo", "rence/no_margin", "conspo/r1_qwen_7b/dapo"):
        for name in ZOO:
            config, _ = resolve(recipe, ["data.path=y.jsonl", "model.path=m", f"objective.name={name}"])
            alone = settings(name)[0]
            if name != resolve(recipe, ["data.path=y.jsonl", "model.path=m"])[0].objective.name:
                assert (config.objective, config.filter, config.reward) == (alone.objective, alone.filter, alone.reward)


def test_the_constant_length_is_the_response_limit():
    for recipe, length in (
        ("dr_grpo", 3000),
        ("conspo/r1_qwen_1.5b/dr_grpo", 8192),
        ("conspo/llama3_3b/dr_grpo", 4096),
    ):
        assert make_objective(settings(recipe)[0]).aggregate.length == length


@pytest.mark.parametrize("recipe", SHIPPED)
def test_a_recipe_begins_with_what_it_is(recipe):
    first = (RECIPES / f"{recipe}.toml").read_text().splitlines()[0]
    assert re.match(r"# \S", first) and len(first) <= 120


def test_abacus_is_one_scale_and_one_optimizer_for_every_objective():
    """A comparison on abacus compares objectives with their own filter and reward, and nothing else."""
    same = ("rollout", "batch", "optim", "model", "data", "eval", "steps")
    seen = [{key: resolve("abacus", [f"objective.name={name}"])[0].model_dump()[key] for key in same} for name in ZOO]
    assert all(tree == seen[0] for tree in seen)
