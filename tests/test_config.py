"""Settings: which layer wins, which recipes ship, and that every mistake is one line naming its key."""

import tomllib

import pytest

import contrapose
from contrapose.config import Config, merge, read_toml, resolve, validate
from contrapose.train.run import make_objective
from contrapose.types import ContraposeError

OWN = ["model.path=x", "data.path=y.jsonl"]
SHIPPED = list(contrapose.objectives())
EXACT = [name for name in SHIPPED if name != "grpo"]  # its paper has a KL to a reference, which is 0 by default


def refusal(recipe="abacus", *overrides):
    """The one line with which these settings are refused."""
    with pytest.raises(ContraposeError) as error:
        resolve(recipe, overrides)
    line = str(error.value)
    assert line.strip()
    assert "\n" not in line
    return line


def config(recipe="abacus", *overrides):
    return resolve(recipe, overrides)[0]


@pytest.fixture
def recipe(tmp_path):
    """Writes a recipe file and returns its path."""

    def write(text):
        path = tmp_path / "own.toml"
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write


OWN_TABLES = '[model]\npath = "x"\n[data]\npath = "y.jsonl"\n'


# --- what ships -------------------------------------------------------------------------------------------------------


def test_the_defaults_are_rences_published_settings():
    defaults = validate({"model": {"path": "x"}, "data": {"path": "y.jsonl"}})
    recipe = config("rence", *OWN)
    spelled = recipe.model_dump() | {"objective": {"name": "rence"}}
    spelled["eval"]["every"] = defaults.eval.every  # the paper evaluates every five steps; by default nothing waits
    assert spelled == defaults.model_dump()
    assert recipe.eval.every == 5


def test_rences_published_settings():
    c = config("rence", *OWN)
    assert (c.rollout.k, c.rollout.temperature, c.rollout.max_tokens) == (8, 1.0, 6656)
    assert c.data.max_prompt_tokens == 1536
    assert (c.batch.prompts, c.batch.updates, c.steps) == (512, 16, 50)
    assert (c.filter.mode, c.filter.t_hard, c.filter.t_easy, c.filter.t_master) == ("band", 0.0, 0.5, 0.8)
    assert (c.filter.rho, c.filter.require_correct, c.filter.patience) == ("correct", False, 1)
    assert (c.filter.refill, c.filter.cache) == (True, True)
    assert (c.reward.scheme, c.data.template) == ("format", "rence")
    assert (c.optim.lr, c.optim.betas, c.optim.weight_decay, c.optim.clip) == (1e-6, (0.9, 0.999), 0.01, 1.0)
    assert (c.eval.samples, c.eval.temperature) == (4, 0.7)


def test_conspos_published_settings():
    c = config("conspo", *OWN)
    assert (c.rollout.k, c.rollout.temperature, c.rollout.max_tokens) == (8, 1.0, 8192)
    assert (c.batch.prompts, c.batch.updates, c.data.max_prompt_tokens) == (256, 1, 1024)
    assert (c.filter.mode, c.reward.scheme, c.data.template, c.optim.lr) == ("none", "binary", "conspo", 2e-6)
    assert (c.eval.every, c.eval.samples, c.eval.temperature, c.eval.top_p) == (100, 32, 0.6, 0.95)


@pytest.mark.parametrize("name", EXACT)
def test_the_hyperparameters_that_a_recipe_spells_out_are_the_objectives_defaults(name):
    assert make_objective(config(name, *OWN)) == make_objective(config(name, *OWN), name)


@pytest.mark.parametrize("name", ["abacus", *SHIPPED])
def test_every_shipped_recipe_resolves_under_its_name(name):
    resolved, called = resolve(name, [] if name == "abacus" else OWN)
    assert called == name
    assert resolved.objective.name == ("rence" if name == "abacus" else name)


@pytest.mark.parametrize(
    ("name", "mode", "scheme"), [("rence", "band", "format"), ("conspo", "none", "binary"), ("dapo", "band", "sign")]
)
def test_abacus_lies_over_the_objectives_own_recipe(name, mode, scheme):
    c, own = config("abacus", f"objective.name={name}"), config(name, *OWN)
    assert (c.filter.mode, c.reward.scheme) == (mode, scheme)
    assert (c.objective, c.filter, c.reward) == (own.objective, own.filter, own.reward)
    assert (c.model.path, c.data.path, c.data.template, c.eval.data) == ("abacus", "abacus", "plain", "abacus")
    assert (c.steps, c.batch.prompts, c.batch.updates, c.rollout.max_tokens, c.optim.lr) == (20, 32, 4, 64, 1e-4)


def test_abacus_is_the_default():
    assert resolve(None) == resolve("abacus")
    assert resolve(None, ["objective.name=grpo"]) == resolve("abacus", ["objective.name=grpo"])
    assert resolve(None, ["data.path=abacus"])[1] == "abacus"


@pytest.mark.parametrize("name", SHIPPED)
def test_without_a_recipe_own_data_take_the_objectives_own(name):
    assert resolve(None, [f"objective.name={name}", *OWN]) == resolve(name, OWN)
    assert resolve(None, OWN) == resolve("rence", OWN)


# --- layers -----------------------------------------------------------------------------------------------------------


def test_a_recipe_file_lies_over_its_objectives_own_recipe(recipe):
    path = recipe("steps = 7\n[optim]\nlr = 3e-6\n" + OWN_TABLES)
    c, called = resolve(path)
    assert called == path
    own = resolve("rence", OWN)[0]
    assert c == own.model_copy(update={"steps": 7, "optim": own.optim.model_copy(update={"lr": 3e-6})})


def test_what_lies_below_follows_the_override_then_the_file(recipe):
    path = recipe('[objective]\nname = "grpo"\n' + OWN_TABLES)
    assert (config(path).rollout.k, config(path).filter.mode) == (64, "none")
    assert config(path, "objective.name=dapo").rollout.k == 16
    assert config(path, "objective.name=conspo").objective.name == "conspo"


def test_a_recipe_lies_over_its_base_and_that_over_its_own(tmp_path, recipe):
    below = tmp_path / "below.toml"
    below.write_text('base = "conspo"\nsteps = 5\n[objective]\nmargin = "none"\n' + OWN_TABLES)
    c = config(recipe(f'base = "{below}"\nsteps = 6\n'))
    assert (c.steps, c.objective.name, c.objective.hyperparameters["margin"], c.batch.prompts) == (
        6,
        "conspo",
        None,
        256,
    )


def test_of_several_bases_each_lies_over_those_before(tmp_path, recipe):
    for name, lr in (("a", 1e-3), ("b", 2e-3)):
        (tmp_path / f"{name}.toml").write_text(f"[optim]\nlr = {lr}\n" + ("eps = 1e-6\n" if name == "a" else ""))
    c = config(recipe(f'base = ["conspo", "{tmp_path}/a.toml", "{tmp_path}/b.toml"]\n' + OWN_TABLES))
    assert (c.optim.lr, c.optim.eps, c.objective.name, c.rollout.max_tokens) == (2e-3, 1e-6, "conspo", 8192)
    c = config(recipe(f'base = ["{tmp_path}/b.toml", "{tmp_path}/a.toml"]\n' + OWN_TABLES))
    assert c.optim.lr == 1e-3


def test_hyperparameters_of_a_base_are_those_of_its_objective(tmp_path, recipe):
    """Another objective takes the base's setting, not its hyper-parameters; the override comes last."""
    path = recipe('base = "conspo/r1_qwen_7b/conspo"\n[objective]\nname = "grpo"\n[data]\npath = "y.jsonl"\n')
    c = config(path)
    assert (c.model.path, c.batch.prompts) == ("deepseek-ai/DeepSeek-R1-Distill-Qwen-7B", 256)
    assert c.objective.hyperparameters == {"clip_low": 0.2, "clip_high": 0.2, "reference_coef": 0.04}
    assert (
        "margin" not in config("rence/no_margin", "data.path=y.jsonl", "objective.name=grpo").objective.hyperparameters
    )
    assert (
        config("rence/no_margin", "data.path=y.jsonl", "objective.alpha=2.0").objective.hyperparameters["margin"]
        is None
    )


@pytest.mark.parametrize("base", ['"itself.toml"', "3", '"nowhere"'])
def test_a_base_that_leads_nowhere_is_named(tmp_path, monkeypatch, base):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "itself.toml").write_text(f"base = {base}\n" + OWN_TABLES)
    assert base.strip('"') in refusal("itself.toml")


def test_the_config_of_a_run_is_a_recipe_for_the_same_run(recipe):
    c = config("abacus", "objective.name=grpo", "seed=3", "objective.clip_high=0.3")
    assert config(recipe(c.to_toml({"torch": "2", "threads": 1}))) == c


def test_overrides_win_and_the_last_one_most():
    c = config("abacus", "optim.lr=1e-3", "steps=3", "optim.lr=2e-3", "optim.clip=0.5")
    assert (c.optim.lr, c.optim.clip, c.steps) == (2e-3, 0.5, 3)


def test_named_values_win_over_overrides_unless_they_are_none():
    assert resolve("abacus", ["seed=3"], seed=4)[0].seed == 4
    assert resolve("abacus", ["seed=3"], seed=None)[0].seed == 3


def test_merge_goes_leaf_by_leaf_and_changes_neither():
    below, above = {"a": {"x": 1, "y": [1, 2]}, "b": 1}, {"a": {"y": [3]}, "c": 2}
    assert merge(below, above) == {"a": {"x": 1, "y": [3]}, "b": 1, "c": 2}
    assert below == {"a": {"x": 1, "y": [1, 2]}, "b": 1}
    assert above == {"a": {"y": [3]}, "c": 2}


def test_settings_cannot_be_changed_afterwards():
    with pytest.raises(ValueError, match="frozen"):
        config().steps = 3


# --- --set ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("optim.lr=2e-6", "optim.lr", 2e-6),
        ("optim.lr=1", "optim.lr", 1.0),
        ("steps=1_000", "steps", 1000),
        ("optim.betas=[0.8, 0.99]", "optim.betas", (0.8, 0.99)),
        ("filter.refill=false", "filter.refill", False),
        ("filter.cache=true", "filter.cache", True),
        ("filter.mode=none", "filter.mode", "none"),
        ('filter.mode="none"', "filter.mode", "none"),
        ("data.template=conspo", "data.template", "conspo"),
        ("data.path=/home/me/my data/a=b.jsonl", "data.path", "/home/me/my data/a=b.jsonl"),
        ("model.path=Qwen/Qwen3-4B", "model.path", "Qwen/Qwen3-4B"),
        ("data.problem_key='the question'", "data.problem_key", "the question"),
        (" seed = 5", "seed", 5),
        ("filter.t_hard=-1", "filter.t_hard", -1.0),
        ("eval.data=", "eval.data", ""),
    ],
)
def test_set_parses_toml_values_and_takes_bare_words_as_text(override, key, value):
    found = config("abacus", override)
    for part in key.split("."):
        found = getattr(found, part)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("objective.beta=0.2", 0.2),
        ("objective.beta=none", None),
        ('objective.beta="none"', None),
        ("objective.beta=false", False),
        ("objective.beta=all_pairs", "all_pairs"),
        ("objective.beta=None", "None"),
    ],
)
def test_hyperparameters_are_set_too_and_none_is_none(override, value):
    found = config("abacus", override).objective.hyperparameters
    assert found["beta"] == value
    assert type(found["beta"]) is type(value)
    assert "name" not in found


@pytest.mark.parametrize("pair", ["optim.lr", "=3", "", "  =3", "lr 3"])
def test_what_is_no_pair_is_shown_how_to_write_one(pair):
    line = refusal("abacus", pair)
    assert line.startswith("--set ")
    assert pair.strip() in line
    assert "--set optim.lr=2e-6" in line


def test_a_pair_with_a_line_break_is_still_one_line():
    assert "--set" in refusal("abacus", "steps\n3")
    assert "no such key" in refusal("abacus", "optim.l\nr=3")


def test_a_value_is_one_value():
    refusal("abacus", "steps=3\nseed = 7")  # not the first line alone


# --- mistakes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "key", "near"),
    [
        ("optim.lrr=1", "optim.lrr", "optim.lr"),
        ("optm.lr=1", "optm", "optim.lr"),
        ("step=3", "step", "steps"),
        ("rollout.n=8", "rollout.n", "rollout.k"),
        ("rollout.temprature=1", "rollout.temprature", "rollout.temperature"),
        ("filter.teasy=0.5", "filter.teasy", "filter.t_easy"),
        ("data.anwser_key=a", "data.anwser_key", "data.answer_key"),
        ("checkpoint.evry=3", "checkpoint.evry", "checkpoint.every"),
    ],
)
def test_an_unknown_key_names_the_nearest(override, key, near):
    line = refusal("abacus", override)
    assert line.startswith(f"{key}: no such key")
    assert f"did you mean {near!r}?" in line


def test_an_unknown_key_in_a_file_names_the_nearest(recipe):
    assert "optim.lrr: no such key (did you mean 'optim.lr'?)" in refusal(recipe("[optim]\nlrr = 1\n" + OWN_TABLES))


@pytest.mark.parametrize(
    ("override", "found"),
    [
        ("steps=ten", "'ten'"),
        ("steps=1.5", "1.5"),
        ("steps=true", "True"),
        ("steps=[1]", "[1]"),
        ("steps=0", "0"),
        ("steps=-1", "-1"),
        ("seed=abc", "'abc'"),
        ("seed.x=3", "{'x': 3}"),
        ("optim.lr=fast", "'fast'"),
        ("optim.lr=", "''"),
        ("optim.lr=0", "0"),
        ("optim.lr=true", "True"),
        ("optim.lr=nan", "nan"),
        ("optim.lr=inf", "inf"),
        ("optim.weight_decay=-1", "-1"),
        ("optim=3", "3"),
        ("objective=grpo", "'grpo'"),
        ("objective.name=3", "3"),
        ("filter.mode=bnad", "'bnad'"),
        ("filter.refill=maybe", "'maybe'"),
        ("filter.rho=wrong", "'wrong'"),
        ("filter.patience=0", "0"),
        ("reward.scheme=generous", "'generous'"),
        ("reward.truncated=no", "'no'"),
        ("model.dtype=int8", "'int8'"),
        ("data.path=3", "3"),
        ("batch.prompts=0", "0"),
        ("batch.updates=0", "0"),
        ("rollout.k=0", "0"),
        ("rollout.temperature=0", "0"),
        ("rollout.temperature=-1", "-1"),
        ("rollout.top_p=0.95", "0.95"),
        ("rollout.top_p=1.5", "1.5"),
        ("rollout.is_cap=-1", "-1"),
        ("eval.samples=0", "0"),
        ("eval.temperature=-0.1", "-0.1"),
        ("eval.top_p=0", "0"),
        ("eval.top_p=1.1", "1.1"),
        ("checkpoint.keep=0", "0"),
    ],
)
def test_a_wrong_value_is_named_with_its_key(override, found):
    key = override.partition("=")[0]
    line = refusal("abacus", override)
    assert line.startswith((f"{key}: ", f"{key.rpartition('.')[0] or key}: "))
    assert line.endswith(f"found {found}")


@pytest.mark.parametrize("betas", ["[0.9]", "[0.9, 0.99, 0.999]", "[0.9, 2]", "[-0.1, 0.9]", "0.9", "high"])
def test_wrong_betas_are_refused(betas):
    assert refusal("abacus", f"optim.betas={betas}").startswith("optim.betas")


def test_greedy_and_nucleus_sampling_are_for_evaluation():
    c = config("abacus", "eval.temperature=0", "eval.top_p=0.5")
    assert (c.eval.temperature, c.eval.top_p) == (0, 0.5)


def test_every_mistake_is_named_at_once():
    line = refusal("abacus", "steps=0", "optim.lrr=1", "filter.mode=x")
    assert all(key in line for key in ("steps: ", "optim.lrr: ", "filter.mode: "))


def test_a_batch_must_divide_into_its_updates():
    line = refusal("abacus", "batch.prompts=33")
    assert "batch.prompts: 33 is not divisible by batch.updates = 4" in line
    assert config("abacus", "batch.prompts=33", "batch.updates=3").batch.prompts == 33


@pytest.mark.parametrize(
    ("overrides", "missing"),
    [([], "model.path"), (["data.path=y.jsonl"], "model.path"), (["model.path=x"], "data.path")],
)
@pytest.mark.parametrize("name", SHIPPED)
def test_a_model_and_data_must_be_given(name, overrides, missing):
    line = refusal(name, *overrides)
    assert line.startswith(f"{missing} is not set")
    assert f"--set {missing}=" in line


@pytest.mark.parametrize(
    ("text", "line"),
    [("steps = \n", "line 1"), ("steps = 3\nlr\n", "line 2"), ("a = 1\n\n[b\n", "line 3"), ("steps=1\nsteps=2\n", "")],
)
def test_what_is_not_toml_is_named_by_file_and_line(recipe, text, line):
    path = recipe(text)
    error = refusal(path)
    assert error.startswith(f"{path}: not TOML")
    assert line in error


def test_a_recipe_that_is_no_text_is_named(tmp_path):
    (tmp_path / "own.toml").write_bytes(b"\xff\xfe")
    assert refusal(str(tmp_path / "own.toml")).startswith(f"{tmp_path / 'own.toml'}: not TOML")


def test_a_recipe_file_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "folder.toml").mkdir()
    assert str(tmp_path / "gone.toml") in refusal(str(tmp_path / "gone.toml"))
    assert str(tmp_path / "folder.toml") in refusal(str(tmp_path / "folder.toml"))


@pytest.mark.parametrize(("wrong", "near"), [("rense", "rence"), ("abacuss", "abacus"), ("Conspo", "conspo")])
def test_an_unknown_recipe_names_the_nearest(wrong, near):
    assert f"recipe {wrong!r} is unknown (did you mean {near!r}?)" in refusal(wrong)


def test_an_unknown_recipe_without_a_near_one_names_them_all():
    assert "one of: abacus, cispo, cluster, conspo, dapo, " in refusal("zzz")
    assert "did you mean 'conspo/r1_qwen_7b/grpo'?" in refusal("conspo/r1_qwen_7b/gprpo")


def test_an_unknown_objective_names_the_nearest():
    assert "'rense'" in refusal(None, "objective.name=rense")
    assert "did you mean 'rence'?" in refusal(None, "objective.name=rense")


@pytest.mark.parametrize("name", ["abacus", "disco_ratio", "conspo/r1_qwen_7b/grpo"])
def test_a_recipe_is_no_objective(name):
    assert f"objective.name: {name!r} is unknown" in refusal(None, f"objective.name={name}")


def test_a_circle_of_bases_is_found_however_it_is_written(tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "a.toml").write_text('base = "../x/b.toml"\n')
    (tmp_path / "x" / "b.toml").write_text('base = "../x/../x/a.toml"\n')
    assert "base: expected the name of another recipe" in refusal(str(tmp_path / "x" / "a.toml"))


def test_a_recipe_whose_objective_has_no_text_for_a_name(recipe):
    assert "objective" in refusal(recipe("[objective]\nname = 3\n" + OWN_TABLES))


# --- there and back ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["abacus", *SHIPPED])
@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["objective.margin=none", "objective.x=[1, 2]", "optim.betas=[0.8, 0.95]", "seed=-3"],
        ["data.problem_key='a \"quoted\" ½ key\\'", "filter.t_hard=-0.5", "optim.lr=1.2345678901234567e-7"],
    ],
)
def test_the_settings_survive_their_own_file(tmp_path, name, overrides):
    given = config(name, *overrides, *([] if name == "abacus" else OWN))
    run = {"version": "0.1.0", "revision": "abc"}
    (tmp_path / "config.toml").write_text(given.to_toml(run), encoding="utf-8")
    tree = read_toml(tmp_path / "config.toml")
    assert tree.pop("run") == run
    again = validate(tree)
    assert again == given
    assert again.objective.hyperparameters == given.objective.hyperparameters


def test_the_file_spells_every_setting_out():
    tree = tomllib.loads(config().to_toml({}))
    assert tree.keys() == {*Config.model_fields, "run"}
    for name, field in Config.model_fields.items():
        if isinstance(tree[name], dict):
            assert tree[name].keys() >= field.annotation.model_fields.keys()
