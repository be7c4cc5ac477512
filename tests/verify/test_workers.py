"""The isolated graders: no item, and no death of a process, changes the verdict on another or keeps it waiting."""

import gc
import itertools
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
import warnings
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path

import pytest

from contrapose.types import ContraposeError
from contrapose.verify import grading as grading_module
from contrapose.verify.grading import Grading
from contrapose.verify.processes import GraderError, Limits
from contrapose.verify.workers import AT_ONCE, LONGEST_TEXT, Workers, shared

TESTS = Path(__file__).parents[1]
ACT = Grading("grader_functions:act", answer="text")
EXACT = Grading("exact", answer="text")
LIMITS = Limits(seconds=1, cpu_seconds=0.5, memory_gib=0.125, workers=2)
PATIENCE = 10
"""Seconds after which something hangs."""

needs_proc = pytest.mark.skipif(
    not Path(f"/proc/self/task/{os.getpid()}/children").exists(), reason="/proc lists no children"
)


@pytest.fixture(scope="module")
def acts():
    """A pool whose grader does what the response says."""
    with Workers(ACT, LIMITS) as pool:
        pool.check()
        yield pool


@pytest.fixture(scope="module")
def exact():
    with Workers(EXACT, Limits(workers=2)) as pool:
        pool.check()
        yield pool


def results(futures):
    """All findings, each of which must come."""
    assert not wait(futures, PATIENCE).not_done, "some items are never answered"
    return [future.result() for future in futures]


def children(pid):
    found = set()
    for file in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found.update(map(int, file.read_text().split()))
        except OSError:  # the thread is gone
            continue
    return found


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def processes_of(pool):
    nursery = pool.nursery.pid
    return {nursery} | children(nursery)


def gone(pids):
    """Whether all of them end before patience does."""
    deadline = time.monotonic() + PATIENCE
    while any(map(alive, pids)):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def script(code, *arguments, **options):
    """A Python process that can import what the tests can."""
    path = os.pathsep.join(filter(None, [str(TESTS), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-W", "error", *(["-c", code] if isinstance(code, str) else [str(code)]), *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path}, **pipes, **options)


# --- order and values ---


def test_every_item_of_many_threads_gets_its_own_finding(exact):
    def ask(thread):
        texts = [f"{thread}-{number}" for number in range(125)]
        futures = [exact.submit(text if number % 3 else "other", text) for number, text in enumerate(texts)]
        return [(text, future.result(PATIENCE)) for text, future in zip(texts, futures, strict=True)]

    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(ask, range(8)))
    for thread in answers:
        for number, (text, finding) in enumerate(thread):
            assert (finding.answer, finding.status) == (text, "correct" if number % 3 else "wrong")
            assert finding.score == (1.0 if number % 3 else 0.0)


def test_map_reads_ahead_but_not_to_the_end(exact):
    read = itertools.count()
    pairs = ((str(number), str(next(read))) for number in range(100_000))
    found = list(itertools.islice(exact.map(pairs), 50))
    assert [finding.answer for finding in found] == [str(number) for number in range(50)]
    assert all(finding.status == "correct" for finding in found)
    assert next(read) <= 50 + 8 * AT_ONCE * LIMITS.workers


def test_map_keeps_the_order_of_items_of_unequal_cost(acts):
    texts = ["wrong" if n % 2 else "right" for n in range(100)]
    texts[3], texts[50] = "spin", "exit 1"
    found = [finding.status for finding in acts.map(("", text) for text in texts)]
    assert found[3] == "timeout" and found[50] == "crashed"
    assert all(found[n] == ("wrong" if n % 2 else "correct") for n in range(100) if n not in (3, 50))


def test_map_of_nothing_is_nothing(exact):
    assert list(exact.map([])) == []


# --- what one item does is its own affair ---

POISONS = [
    ("sleep", "timeout", ""),
    ("stop", "timeout", ""),
    ("spin", "timeout", ""),
    ("stubborn-spin", "timeout", ""),
    ("bignum", "timeout", ""),
    ("leave", "timeout", ""),
    ("eat", "memory", ""),
    ("swallow wrong", "memory", ""),
    ("swallow right", "correct", ""),
    ("kill", "crashed", "its workers died"),
    ("exit 0", "crashed", "its workers died"),
    ("exit 1", "crashed", "its workers died"),
    ("segfault", "crashed", "its workers died"),
    ("raise", "crashed", "ValueError: two\nlines"),
    ("raise-unprintable", "crashed", ""),
    ("raise-exit", "crashed", ""),
    ("raise-interrupt", "crashed", ""),
    ("recurse", "crashed", "RecursionError"),
    ("return nan", "crashed", "ValueError: a score is a number from 0 to 1, found nan"),
    ("return text", "crashed", "ValueError: "),
    ("return two", "crashed", "ValueError: a score is a number from 0 to 1, found 2.0"),
    ("return negative", "crashed", "ValueError: "),
    ("return none", "crashed", "TypeError: "),
    ("return list", "crashed", "TypeError: "),
    ("unknown", "crashed", "KeyError: "),
    ("print 1", "correct", ""),
    ("descriptor 1", "correct", ""),
]
"""A response, its status and the beginning of its note."""


@pytest.mark.parametrize(("poison", "status", "note"), POISONS, ids=[poison for poison, _, _ in POISONS])
def test_a_poison_harms_no_neighbour(acts, poison, status, note):
    texts = ["wrong" if n % 2 else "right" for n in range(200)]
    texts[90] = poison
    found = results([acts.submit("", text) for text in texts])
    culprit = found.pop(90)
    texts.pop(90)
    assert [f.status for f in found] == ["wrong" if text == "wrong" else "correct" for text in texts]
    assert (culprit.status, culprit.score) == (status, float(status == "correct"))
    assert culprit.note.startswith(note)
    assert len(culprit.note) <= 300


def test_all_poisons_at_once(acts):
    found = results([acts.submit("", text) for poison, _, _ in POISONS for text in ("right", poison, "wrong")])
    assert [f.status for f in found[1::3]] == [status for _, status, _ in POISONS]
    assert {f.status for f in found[::3]} == {"correct"}
    assert {f.status for f in found[2::3]} == {"wrong"}


@pytest.mark.parametrize("line", ["x", '{"a": 1}', "[false]", '[false, "correct", null, 1.0, "", 0.0]\n' * 3])
def test_a_worker_that_does_not_keep_to_the_protocol_harms_no_neighbour(line):
    """A grader that writes to every descriptor may forge its own verdict, and that is all."""
    with Workers(ACT, LIMITS) as pool:
        texts = ["wrong" if n % 2 else "right" for n in range(200)]
        texts[90] = f"babble {line}"
        found = results([pool.submit("", text) for text in texts])
    found.pop(90)
    texts.pop(90)
    assert [f.status for f in found] == ["wrong" if text == "wrong" else "correct" for text in texts]


def test_an_overdue_item_is_answered_within_its_deadline(acts):
    """Each finding says how long it took; together they cannot take longer than one after the other."""
    start = time.monotonic()
    found = results([acts.submit("", text) for text in ("sleep", "spin", "stop", "bignum")])
    assert {f.status for f in found} == {"timeout"}
    assert all(f.seconds < LIMITS.seconds + 1 for f in found)
    assert time.monotonic() - start < 4 * (LIMITS.seconds + 1)


@needs_proc
def test_an_overdue_worker_is_ended():
    with Workers(ACT, Limits(seconds=0.3, workers=1)) as pool:
        pool.check()
        assert {f.status for f in results([pool.submit("", "sleep") for _ in range(3)])} == {"timeout"}
        assert pool.submit("", "right").result(PATIENCE).status == "correct"
        assert len(children(pool.nursery.pid)) == 1


@pytest.mark.parametrize("text", ["spin", "bignum"])
def test_processor_time_ends_what_works_long_before_the_deadline(text):
    with Workers(ACT, Limits(seconds=600, cpu_seconds=0.2, workers=1)) as pool:
        assert pool.submit("", text).result(PATIENCE).status == "timeout"


def test_a_hung_item_does_not_stop_the_feeding_of_its_worker():
    """What is sent to a worker beforehand may fill the pipe; then too the deadline holds."""
    with Workers(ACT, Limits(seconds=1, workers=1)) as pool:
        pool.check()
        texts = ["sleep", *["right " + "\U0001f600" * 3000] * 200]
        found = results([pool.submit("", text) for text in texts])
        assert [f.status for f in found] == ["timeout"] + ["correct"] * 200


def test_processor_time_is_counted_for_each_item_alone():
    """Many items that together use more than one of them may are all answered."""
    with Workers(ACT, Limits(cpu_seconds=0.3, workers=1)) as pool:
        found = results([pool.submit("", "spin 0.05") for _ in range(12)])
    assert {f.status for f in found} == {"correct"}


def test_the_memory_of_a_worker_is_bounded(acts):
    """The grader's error is its peak, as a share of the limit."""
    finding = acts.submit("", f"peak {int(LIMITS.memory_gib * 1024)}").result(PATIENCE)
    assert finding.status == "memory"
    assert 0.5 < float(finding.note.removeprefix("ValueError: ")) <= 1


def test_a_memory_bomb_earns_no_part_of_the_reward(acts):
    assert acts.submit("", "swallow half").result(PATIENCE)[:3:2] == ("memory", 0.0)


def test_what_many_answers_leave_behind_is_not_blamed_on_the_last():
    """The worker is replaced when it has grown, and nobody's verdict changes."""
    with Workers(ACT, Limits(memory_gib=0.25, workers=1)) as pool:
        found = results([pool.submit("", "hoard 10") for _ in range(30)])
    assert {f.status for f in found} == {"wrong"}


def test_memory_is_measured_from_what_the_grader_itself_needs(tmp_path, monkeypatch):
    """A module that is large when imported does not make every wrong answer a memory bomb."""
    (tmp_path / "large_grader.py").write_text("held = b'x' * 160_000_000\ndef judge(gold, text): return text == gold\n")
    monkeypatch.syspath_prepend(tmp_path)
    with Workers(Grading("large_grader:judge"), Limits(memory_gib=0.5, workers=1)) as pool:
        assert [f.status for f in pool.map([("a", "a"), ("a", "b"), ("a", "b")])] == ["correct", "wrong", "wrong"]


@pytest.mark.parametrize("text", ["print canary", "descriptor canary"])
def test_what_a_grader_prints_does_not_reach_our_stdout(capfd, text):
    with Workers(ACT, LIMITS) as pool:
        assert pool.submit("", text).result(PATIENCE).status == "correct"
    out, error = capfd.readouterr()
    assert out == ""
    assert "canary" in error


def test_what_a_grader_prints_when_imported_does_not_reach_our_stdout(capfd, tmp_path, monkeypatch):
    (tmp_path / "loud_grader.py").write_text("print('canary', flush=True)\ndef judge(gold, text): return True\n")
    monkeypatch.syspath_prepend(tmp_path)
    with Workers(Grading("loud_grader:judge"), LIMITS) as pool:
        pool.check()
    assert capfd.readouterr().out == ""


def test_a_future_that_is_cancelled_harms_no_other(acts):
    futures = [acts.submit("", "right") for _ in range(400)]
    cancelled = [future for future in futures[::3] if future.cancel()]
    assert {f.status for f in results([f for f in futures if f not in cancelled])} == {"correct"}
    found = results([acts.submit("", "right") for _ in range(2 * AT_ONCE)])
    assert {f.status for f in found} == {"correct"}


# --- deaths from outside ---


@needs_proc
def test_workers_that_are_killed_change_no_finding():
    """One of them, whichever, whenever fifty more items are done."""
    chance, killed = random.Random(0), 0
    with Workers(Grading("grader_functions:late"), Limits(workers=2)) as pool:
        pool.check()
        futures = [pool.submit(str(n), str(n) if n % 2 else "x") for n in range(2000)]
        for milestone in range(50, 1950, 50):
            futures[milestone].result(PATIENCE)
            for pid in chance.sample(sorted(children(pool.nursery.pid)), 1):
                os.kill(pid, signal.SIGKILL)
                killed += 1
        found = results(futures)
    assert [f.status for f in found] == ["correct" if n % 2 else "wrong" for n in range(2000)]
    assert killed == 38


@needs_proc
def test_a_nursery_that_is_killed_changes_no_finding():
    with Workers(Grading("grader_functions:late"), Limits(workers=2)) as pool:
        pool.check()
        futures = [pool.submit(str(n), str(n) if n % 2 else "x") for n in range(2000)]
        dead = []
        for milestone in (100, 600, 1200):
            futures[milestone].result(PATIENCE)
            dead.append(processes_of(pool))
            for pid in sorted(dead[-1], key=lambda pid: pid != pool.nursery.pid):  # the nursery first
                os.kill(pid, signal.SIGKILL)
        found = results(futures)
        assert [f.status for f in found] == ["correct" if n % 2 else "wrong" for n in range(2000)]
        assert not processes_of(pool) & set.union(*dead)
        last = processes_of(pool)
    assert gone(last)


def test_an_item_is_blamed_only_for_fresh_workers(acts):
    """It dies of every worker, so it is crashed; those that were sent with it are not even suspected."""
    texts = [text for _ in range(20) for text in ("right", "kill", "wrong", "right")]
    found = results([acts.submit("", text) for text in texts])
    expected = {"right": "correct", "kill": "crashed", "wrong": "wrong"}
    assert [f.status for f in found] == [expected[text] for text in texts]


# --- a grader that cannot grade ---


def assert_cannot_grade(pool, cause, code=4):
    """From check, from what was pending and from what comes later, with one line, and soon."""
    pending = [pool.submit("a", "b") for _ in range(5)]
    for _ in range(2):
        with pytest.raises(GraderError, match=cause) as caught:
            pool.check()
        assert "\n" not in str(caught.value)
        assert caught.value.exit_code == code
        assert isinstance(caught.value, ContraposeError)
    for future in (*pending, pool.submit("a", "b")):
        with pytest.raises(GraderError, match=cause):
            future.result(PATIENCE)
    with pytest.raises(GraderError, match=cause):
        list(pool.map([("a", "b")]))


MODULES = {
    "broken_syntax": ("def judge(:", "SyntaxError"),
    "broken_import": ("import no_such_module\n", r"'broken_import:judge' cannot be imported.*no_such_module"),
    "broken_value": ("raise ValueError('two\\nlines')\n", r"ValueError: two\\nlines"),
    "broken_exit": ("raise SystemExit(7)\n", "SystemExit|grader's process"),
    "broken_death": ("import os; os._exit(7)\n", "grader's process"),
    "no_function": ("judges = 1\n", "no_function has no function 'judge'"),
    "no_callable": ("judge = 1\n", "no_callable has no function 'judge'"),
}


@pytest.mark.parametrize("name", MODULES)
def test_a_grader_that_cannot_be_imported_says_so(name, tmp_path, monkeypatch, capfd):
    code, cause = MODULES[name]
    (tmp_path / f"{name}.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    with Workers(Grading(f"{name}:judge"), LIMITS) as pool:
        assert_cannot_grade(pool, cause, code=4 if name == "broken_death" else 2)


@pytest.mark.parametrize(
    ("domain", "cause"),
    [
        ("no_such_package.graders:judge", "cannot be imported.*no_such_package"),
        ("grader_functions:atc", "grader_functions has no function 'atc'"),
        ("grader_functions:ACTS", "grader_functions has no function 'ACTS'"),
        ("grader_functions:", "grader_functions has no function ''"),
        (":act", "the grader cannot start: "),
        (".:act", "the grader cannot start: "),
    ],
)
def test_a_domain_that_does_not_exist_is_one_line(domain, cause):
    with Workers(Grading(domain), LIMITS) as pool:
        assert_cannot_grade(pool, cause, code=2)


def test_a_grader_whose_every_worker_dies_is_no_grader():
    with Workers(Grading("grader_functions:die"), LIMITS) as pool:
        assert_cannot_grade(pool, "the grader cannot grade: its workers die")


def test_a_grader_that_judges_wrongly_is_no_grader(monkeypatch):
    monkeypatch.setitem(grading_module.PROBES, "exact", ([("a", "b")], []))
    with Workers(EXACT, LIMITS) as pool, pytest.raises(GraderError, match="should be correct, was wrong"):
        pool.check()
    monkeypatch.setitem(grading_module.PROBES, "exact", ([], [("a", "a")]))
    with Workers(EXACT, LIMITS) as pool:
        with pytest.raises(GraderError, match="should be wrong, was correct"):
            pool.check()
        assert_cannot_grade(pool, "should be wrong, was correct")


@pytest.mark.parametrize("verdict", ["correct", "wrong"])
def test_an_equality_that_always_says_the_same_does_not_pass_the_self_test(verdict, tmp_path, monkeypatch):
    code = f"import contrapose.verify.equal as equal\nequal.compare = lambda *_: {verdict!r}\n"
    (tmp_path / "sitecustomize.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    with Workers(Grading("math"), LIMITS) as pool, pytest.raises(GraderError, match=f"should be .*, was {verdict}"):
        pool.check()


@pytest.mark.parametrize("library", ["math_verify", "latex2sympy2_extended", "antlr4"])
def test_a_missing_library_is_one_line(library, tmp_path, monkeypatch):
    (tmp_path / f"{library}.py").write_text(f"raise ImportError('no module {library} here')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with Workers(Grading("math"), LIMITS) as pool:
        with pytest.raises(GraderError, match="math-verify|" + library):
            pool.check()
        assert_cannot_grade(pool, "math-verify|" + library)


@pytest.mark.parametrize("program", ["/no/such/python", "/dev/null", ""])
def test_an_interpreter_that_cannot_be_started_is_one_line(program, monkeypatch):
    monkeypatch.setattr(sys, "executable", program)
    with pytest.raises(GraderError, match="cannot be started"):
        Workers(EXACT, LIMITS)


def test_an_interpreter_that_ends_at_once_is_one_line(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with Workers(EXACT, LIMITS) as pool:
        assert_cannot_grade(pool, "cannot be started")


SELFISH = """
import os
depth = int(os.environ.get("DEPTH", 0)) + 1
os.environ["DEPTH"] = str(depth)
if depth > 3:
    print("graders start graders without end", flush=True)
    os._exit(1)
from contrapose.verify.grading import Grading
from contrapose.verify.processes import GraderError, Limits
from contrapose.verify.workers import Workers
def judge(gold, text):
    return text == gold
with Workers(Grading("selfish:judge"), Limits(workers=1)) as pool:
    try:
        print(pool.submit("a", "a").result(10).status, flush=True)
    except GraderError as error:
        print("refused", flush=True)
"""


def test_a_module_that_grades_when_imported_does_not_multiply(tmp_path):
    """A script without a main guard that names itself as its grader is told so, or works; it starts no endless row."""
    (tmp_path / "selfish.py").write_text(SELFISH)
    process = script(tmp_path / "selfish.py")
    try:
        out, error = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
    assert out in ("correct\n", "refused\n")
    assert "without end" not in error


# --- what a grader may not do ---


@pytest.mark.parametrize(
    "verb",
    [
        *("run", "system", "fork", "exec", "spawn", "write", "append", "create", "mkdir"),
        *("remove", "rename", "copy", "link", "truncate", "chmod"),
    ],
)
def test_a_grader_touches_nothing(acts, verb, tmp_path):
    kept, canary = tmp_path / "kept", tmp_path / "canary"
    kept.write_text("kept")
    existing = verb in ("append", "remove", "rename", "copy", "link", "truncate", "chmod")
    finding = acts.submit("", f"{verb} {kept if existing else canary}").result(PATIENCE)
    assert finding.status == "crashed"
    assert re.match("PermissionError: a grader may not do this: ", finding.note)
    assert [file.name for file in tmp_path.iterdir()] == ["kept"]
    assert kept.read_text() == "kept"


def test_a_grader_connects_to_nothing(acts):
    finding = acts.submit("", "connect 9").result(PATIENCE)
    assert finding.status == "crashed"
    assert finding.note.startswith("PermissionError: a grader may not do this: socket.")


def test_a_grader_may_read(acts, tmp_path):
    (tmp_path / "kept").write_text("kept")
    assert acts.submit("", f"read {tmp_path / 'kept'}").result(PATIENCE).status == "correct"


# --- the end ---


@needs_proc
def test_close_ends_every_process_and_every_wait():
    pool = Workers(ACT, Limits(seconds=60, workers=2))
    pool.check()
    futures = [pool.submit("", text) for text in ["right"] * 100 + ["sleep"] * 4]
    futures[0].result(PATIENCE)
    pids = processes_of(pool)
    assert len(pids) >= 2
    pool.close()
    assert gone(pids)
    assert not wait(futures, PATIENCE).not_done
    for future in futures[-4:]:
        with pytest.raises(GraderError, match="closed"):
            future.result()
    pool.close()
    with pytest.raises(GraderError, match="closed"):
        pool.submit("", "right").result(PATIENCE)
    with pytest.raises(GraderError, match="closed"):
        pool.check()


@needs_proc
def test_a_pool_that_is_closed_at_once_leaves_nothing():
    before = children(os.getpid())
    for _ in range(10):
        pool = Workers(EXACT, LIMITS)
        future = pool.submit("a", "a")
        pool.close()
        assert isinstance(future.exception(PATIENCE), GraderError | None)
    assert gone(children(os.getpid()) - before)


@needs_proc
def test_closing_while_processes_are_being_replaced_leaves_nothing():
    before = children(os.getpid())
    for pause in (0, 0.01, 0.03):
        pool = Workers(ACT, LIMITS)
        futures = [pool.submit("", "kill") for _ in range(50)]
        pool.check()
        os.kill(pool.nursery.pid, signal.SIGKILL)
        time.sleep(pause)
        pool.close()
        assert not wait(futures, PATIENCE).not_done
    assert gone(children(os.getpid()) - before)


HUNG = """
import sys
from contrapose.verify.grading import Grading
from contrapose.verify.processes import Limits
from contrapose.verify.workers import Workers
pool = Workers(Grading("grader_functions:act", answer="text"), Limits(seconds=600, cpu_seconds=600, workers=2))
pool.check()
futures = [pool.submit("", text) for text in ("sleep", "spin", "sleep", "spin")]
print(pool.nursery.pid, flush=True)
sys.stdin.read()
"""


@needs_proc
def test_a_parent_that_is_killed_leaves_nothing_behind():
    process = script(HUNG, stdin=subprocess.PIPE)
    nursery = int(process.stdout.readline())
    deadline = time.monotonic() + PATIENCE
    while len(children(nursery)) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    pids = {nursery} | children(nursery)
    process.kill()
    process.wait()
    try:
        assert len(pids) == 3
        assert gone(pids)
    finally:
        for pid in filter(alive, pids):
            os.kill(pid, signal.SIGKILL)
        process.communicate()


# --- wherever it is started ---

BODY = r"""
from contrapose.verify.grading import Grading
from contrapose.verify.processes import Limits
from contrapose.verify.workers import Workers, shared
print("once", flush=True)
pool = shared(Grading("exact"), Limits(workers=2))
print([f.status for f in pool.map([("a", r"\boxed{a}"), ("a", r"\boxed{b}"), ("a", "a")])], flush=True)
"""
SAID = "once\n['correct', 'wrong', 'no_answer']\n"
THREAD = f"""
import threading
def main():
{BODY.replace(chr(10), chr(10) + "    ")}
thread = threading.Thread(target=main)
thread.start()
thread.join()
"""
CHILD = """
import multiprocessing, sys
from contrapose.verify.grading import Grading
from contrapose.verify.processes import Limits
from contrapose.verify.workers import shared
def work():
    pool = shared(Grading("exact"), Limits(workers=2))
    print([f.status for f in pool.map([("a", r"\\boxed{a}"), ("a", r"\\boxed{b}"), ("a", "a")])], flush=True)
if __name__ == "__main__":
    print("once", flush=True)
    if sys.argv[2] == "used":
        shared(Grading("exact"), Limits(workers=2)).submit("a", "a").result()
    context = multiprocessing.get_context(sys.argv[1])
    child = context.Process(target=work, daemon=True)
    child.start()
    child.join(20)
    sys.exit(0 if child.exitcode == 0 else "the child hangs")
"""
PLACES = {
    "a script without a guard": (BODY, True, ()),
    "python -c": (BODY, False, ()),
    "a thread": (THREAD, True, ()),
    "a spawned daemon": (CHILD, True, ("spawn", "unused")),
    "a forked daemon": (CHILD, True, ("fork", "unused")),
    "a forked daemon of a process that grades": (CHILD, True, ("fork", "used")),
}


@pytest.mark.parametrize("place", PLACES)
def test_it_works_in(place, tmp_path):
    code, as_file, arguments = PLACES[place]
    file = tmp_path / "program.py"
    file.write_text(code)
    process = script(file if as_file else code, *arguments, start_new_session=True)
    try:
        out, error = process.communicate(timeout=PATIENCE)
        assert (out, error, process.returncode) == (SAID, "", 0)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


@needs_proc
def test_control_c_is_for_us_alone():
    """A signal to the whole group of the terminal does not reach the graders: what was asked is still answered."""
    code = """
import os, pathlib, signal
def children(pid):
    return set(pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
from contrapose.verify.grading import Grading
from contrapose.verify.processes import Limits
from contrapose.verify.workers import Workers
signal.signal(signal.SIGINT, lambda *_: print("interrupted", flush=True))
with Workers(Grading("grader_functions:act", answer="text"), Limits(workers=2)) as pool:
    pool.check()
    nursery = pool.nursery.pid
    workers = children(nursery)
    os.killpg(0, signal.SIGINT)
    print(pool.submit("", "right").result().status, flush=True)
    assert pool.nursery.pid == nursery
    print(bool(workers) and workers <= children(nursery))
"""
    process = script(code, start_new_session=True)
    try:
        out, error = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
    assert (out, error) == ("interrupted\ncorrect\nTrue\n", "")


# --- texts ---

TEXTS = {
    "nothing": "",
    "NUL": "a\x00b\x00",
    "lone surrogates": "\ud800 \udfff \udc80",
    "right to left": "\u202e\u200f abc \u2067\u202c",
    "line ends": "a\nb\r\nc\rd\u2028e\x85f\x0b\x0cg",
    "json": '"], ["x", "y"]\n[false, "correct"]\\n\\u0000',
    "a mebibyte": "0123456789abcdef" * 65_536,
    "a mebibyte of emoji": "\U0001f600" * 1_048_576,
    "a mebibyte of NUL": "\x00" * 1_048_576,
}


@pytest.mark.parametrize("name", TEXTS)
def test_texts_arrive_unharmed(name):
    text = TEXTS[name]
    with Workers(Grading("grader_functions:echo", answer="text"), Limits(workers=1)) as pool:
        same, other, gold = results([pool.submit(text, text), pool.submit(text, text + "."), pool.submit(text, "")])
    assert (same.status, same.answer) == ("correct", text.strip())
    assert other.status == "wrong"
    assert gold.status == ("correct" if text == "" else "wrong")


def test_a_text_beyond_all_reason_is_too_long_for_anyone(exact):
    finding = exact.submit("a", "a" * (LONGEST_TEXT + 1)).result(PATIENCE)
    assert (finding.status, finding.score, finding.answer) == ("too_long", 0.0, None)
    longest = exact.submit("a", "a" * LONGEST_TEXT).result(PATIENCE)
    assert longest.status == "wrong" and len(longest.answer) == LONGEST_TEXT


# --- sharing ---


def test_the_same_settings_share_a_pool():
    limits = Limits(workers=1)
    assert shared(EXACT, limits) is shared(Grading("exact", answer="text"), Limits(workers=1))
    assert shared(EXACT, limits) is not shared(Grading("exact"), limits)
    assert shared(EXACT, limits) is not shared(EXACT, Limits(workers=2))


def test_threads_that_ask_at_once_share_a_pool():
    limits = Limits(workers=1, seconds=7)
    barrier = threading.Barrier(8)

    def ask(_):
        barrier.wait()
        return shared(EXACT, limits)

    with ThreadPoolExecutor(8) as threads:
        assert len(set(threads.map(ask, range(8)))) == 1


def test_nothing_is_left_to_the_garbage_collector(tmp_path):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for grading in (EXACT, ACT, Grading("grader_functions:die"), Grading("no_such:judge")):
            with Workers(grading, LIMITS) as pool:
                pool.submit("", "kill").exception(PATIENCE)
            del pool
            gc.collect()
    assert [str(warning.message) for warning in caught if issubclass(warning.category, ResourceWarning)] == []


def test_a_future_is_an_ordinary_future(exact):
    seen = threading.Event()
    future = exact.submit("a", "a")
    assert isinstance(future, Future)
    future.add_done_callback(lambda _: seen.set())
    assert seen.wait(PATIENCE)


def test_the_number_of_workers_follows_the_processors():
    assert Limits(workers=3).count == 3
    assert 1 <= Limits().count <= 8
