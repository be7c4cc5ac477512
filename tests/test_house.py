"""The house keeps its rooms: who may import whom, what may be written where, and how large a thing may grow."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from contrapose.objectives.zoo import ZOO

SOURCE = Path(__file__).parents[1] / "src" / "contrapose"
FILES = sorted(SOURCE.rglob("*.py"))
ROOMS = {
    "types": set(),
    "config": set(),
    "objectives": set(),
    "prompts": set(),
    "verify": set(),
    "policy": set(),
    "report": set(),
    "rollout": {"policy"},
    "integrations": {"objectives", "prompts", "verify"},
    "evaluate": {"prompts", "verify", "rollout", "report"},
    "train": {"config", "objectives", "prompts", "verify", "policy", "rollout", "report", "evaluate"},
    "cli": {"config", "objectives", "verify", "train", "evaluate", "report"},
}
ROOM_OF_FILE = {"__main__": "cli", "settings": "config", "validation": "config"}


def room_of(path: Path) -> str:
    name = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    return ROOM_OF_FILE.get(name, name)


def imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def calls(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func)


@pytest.mark.parametrize("path", [f for f in FILES if f.name != "__init__.py" or f.parent != SOURCE], ids=str)
def test_a_room_imports_only_what_is_drawn(path):
    """Every room may know the types; beyond that only its arrows."""
    room = room_of(path)
    allowed = ROOMS[room] | {room, "types"}
    tree = ast.parse(path.read_text())
    assert not any(isinstance(n, ast.ImportFrom) and n.level for n in ast.walk(tree)), "imports are absolute"
    for module in imports(tree):
        package, _, rest = module.partition(".")
        if module == "contrapose":
            assert path.name == "facts.py", "only a run asks for the version; everything else names the room"
        elif package == "contrapose":
            target = rest.split(".")[0]
            assert ROOM_OF_FILE.get(target, target) in allowed, f"{room} must not import {module}"


def files_calling(*endings: str) -> set[str]:
    found = set()
    for path in FILES:
        if any(f".{call}".endswith(endings) for call in calls(ast.parse(path.read_text()))):
            found.add(str(path.relative_to(SOURCE)))
    return found


def test_gradients_are_taken_in_two_places():
    assert files_calling(".backward") == {"train/update.py", "train/pretrain.py"}
    assert files_calling(".optimizer.step") == {"train/update.py", "train/pretrain.py"}
    assert files_calling(".autograd.grad") == {"objectives/credit.py"}


def test_only_the_command_line_prints():
    assert {f for f in files_calling(".print") if not f.startswith("cli/")} == set()


def test_fates_are_decided_in_the_pool_alone():
    """No other room compares a rate with a threshold; it hands fates on."""
    for path in FILES:
        names = {n.attr for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Attribute)}
        if {"t_hard", "t_easy", "t_master"} & names:
            assert path.name == "pool.py"


def test_devices_are_named_only_by_the_machine():
    for path in FILES:
        text = path.read_text()
        if "torch.cuda" in text or '"cuda"' in text or '"cpu"' in text:
            assert room_of(path) in ("policy", "rollout", "train"), path


@pytest.mark.parametrize("path", FILES, ids=str)
def test_nothing_asks_which_objective_it_is(path):
    """What an objective needs follows from its factors: no name is compared, matched or used as a key of behaviour."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Compare | ast.MatchValue | ast.Dict):
            named = {n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str)}
            assert path.name == "template.py" or not named & set(ZOO)


@pytest.mark.parametrize("path", [f for f in FILES if f.parts[-2] in ("objectives", "methods")], ids=str)
def test_the_theory_stays_short(path):
    assert len(path.read_text().splitlines()) <= 250


@pytest.mark.parametrize("path", FILES, ids=str)
def test_nothing_grows_too_large(path):
    """Files stay under 300 lines and functions under 60 (a signature and docstring included, with some slack)."""
    tree = ast.parse(path.read_text())
    assert len(path.read_text().splitlines()) <= 300
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and room_of(path) != "cli":
            assert node.end_lineno - node.lineno < 75, f"{node.name} is too long"


def test_nothing_unsafe_is_called():
    forbidden = ("pickle.load", "torch.load", "joblib.load", "yaml.load", "os.system")
    assert files_calling(*forbidden) == set()
    for path in FILES:
        assert not {"eval", "exec"} & set(calls(ast.parse(path.read_text())))
        assert "shell=True" not in path.read_text()
