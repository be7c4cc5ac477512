"""``contrapose verify`` as others run it: rows in, a verdict for each out, whatever is in them."""

import io
import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from contrapose.cli import main

TESTS = Path(__file__).parents[1]
PATIENCE = 40
FIELDS = {"status", "reward", "correct", "seconds", "boxed"}
ACT = ("--set", "verify.domain=grader_functions:act", "--set", "verify.answer=text", "--set", "verify.cpu_seconds=0.3")


def start(*arguments, **options):
    path = os.pathsep.join(filter(None, [str(TESTS), os.environ.get("PYTHONPATH")]))
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    command = [sys.executable, "-m", "contrapose", "verify", *map(str, arguments)]
    return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path}, **(pipes | options))


def verify(*arguments, rows=()):
    """Exit code, verdicts and what is said to a person. A row that is not bytes is written as JSON."""
    given = b"".join(row if isinstance(row, bytes) else json.dumps(row).encode() + b"\n" for row in rows)
    process = start(*arguments)
    try:
        out, error = process.communicate(given, timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise
    return process.returncode, [json.loads(line) for line in out.splitlines()], error.decode()


def pair(gold, prediction):
    return {"gold": gold, "prediction": prediction}


def test_rows_of_stdin_are_judged_in_order():
    """Boxed, stated or bare; a gold that is a number; under a convention, and another scheme."""
    rows = [
        pair("2", r"so \boxed{2}"),
        pair("2", r"so \boxed{3}"),
        pair("2", "The answer is 2."),
        pair("2", "2.0"),
        pair(2, "2"),
        pair(0.5, r"\frac{1}{2}"),
        pair("1/2", 0.5),
        pair("0.333", r"\boxed{0.3331}"),
        b"\n",
        pair("2", ""),
        pair("2", "\ud800 \x00 \u202e"),
    ]
    code, verdicts, said = verify("--scheme", "sign", "--set", "verify.conventions.tolerance=1e-3", rows=rows)
    assert code == 0
    right = [True, False, True, True, True, True, True, True, False, False]
    assert [v["correct"] for v in verdicts] == right
    assert [v["reward"] for v in verdicts] == [1.0 if correct else -1.0 for correct in right]
    assert [v["status"] for v in verdicts[:8]] == ["correct" if correct else "wrong" for correct in right[:8]]
    assert verdicts[8]["status"] == "no_answer"
    assert [v["boxed"] for v in verdicts[:4]] == ["2", "3", "2", "2.0"]
    assert all(v.keys() == FIELDS and v["seconds"] >= 0 for v in verdicts)
    assert said.startswith("10 rows, 70.0% correct") and "correct 7" in said


def test_a_file_with_other_keys(tmp_path, monkeypatch, capsys):
    """Many more rows than are read ahead."""
    file = tmp_path / "rows.jsonl"
    rows = ({"answer": str(n), "text": rf"\boxed{{{n % 500}}}"} for n in range(3000))
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setattr("sys.argv", ["contrapose", "verify", str(file), "--gold", "answer", "--prediction", "text"])
    with pytest.raises(SystemExit) as ended:
        main()
    out, said = capsys.readouterr()
    assert not ended.value.code
    assert [json.loads(line)["correct"] for line in out.splitlines()] == [n < 500 for n in range(3000)]
    assert said.startswith("3000 rows, 16.7% correct") and "correct 500" in said


def test_answers_come_while_the_input_goes_on():
    """Each row is answered before the next one is even written."""
    process = start(*ACT)
    lines = []
    watch = threading.Timer(PATIENCE, process.kill)
    watch.start()
    try:
        for text in ("right", "spin", "wrong", "kill", "right"):
            process.stdin.write(json.dumps(pair("", text)).encode() + b"\n")
            process.stdin.flush()
            lines.append(json.loads(process.stdout.readline() or b'{"status": "never"}')["status"])
        out, said = process.communicate(timeout=PATIENCE)
    finally:
        watch.cancel()
        process.kill()
    assert lines == ["correct", "timeout", "wrong", "crashed", "correct"]
    assert (process.returncode, out) == (0, b"")
    assert "line 2: timeout" in said.decode() and "line 4: crashed: its workers died" in said.decode()


BROKEN = [
    (b"not json\n", "not JSON"),
    (b'{"gold": "1", "prediction": "1"\n', "not JSON"),
    (b"[1, 2]\n", "expected an object with 'gold' and 'prediction', found list"),
    (b"null\n", "found NoneType"),
    (b'{"gold": "1"}\n', "no text under 'prediction' (it has 'gold')"),
    (b"{}\n", "no text under 'gold'"),
    (b'{"gold": null, "prediction": "1"}\n', "no text under 'gold'"),
    (b'{"gold": ["1"], "prediction": "1"}\n', "no text under 'gold'"),
    (b'{"gold": "\xff", "prediction": "1"}\n', "not JSON"),
    (b"[" * 100_000 + b"\n", "not JSON"),
    (b'{"gold": ' + b"9" * 5000 + b', "prediction": "1"}\n', "not JSON"),
    (b'{"gold": "1", "prediction": "1"} {"gold": "1", "prediction": "1"}\n', "not JSON"),
    (b"\x00\x00\x00\n", "not JSON"),
]


def test_lines_that_cannot_be_read_have_an_error_and_the_others_a_verdict():
    rows = [row for line, _ in BROKEN for row in (pair("1", "right"), line, pair("1", "wrong"))]
    code, verdicts, said = verify(*ACT, rows=rows)
    assert code == 2
    assert [v["status"] for v in verdicts[::3]] == ["correct"] * len(BROKEN)
    assert [v["status"] for v in verdicts[2::3]] == ["wrong"] * len(BROKEN)
    for number, (verdict, (_, why)) in enumerate(zip(verdicts[1::3], BROKEN, strict=True)):
        assert verdict.keys() == FIELDS - {"boxed"} | {"error"}
        assert (verdict["status"], verdict["correct"], verdict["reward"]) == (None, False, None)
        assert verdict["error"].startswith(f"line {3 * number + 2}: ") and why in verdict["error"]
    assert "Traceback" not in said
    last = said.splitlines()[-1]
    assert last.startswith(f"error: -: {len(BROKEN)} lines could not be read; the first: line 2: not JSON")


@pytest.mark.parametrize(
    ("arguments", "message", "code"),
    [
        (("no/such/file.jsonl",), "error: no/such/file.jsonl: No such file or directory", 2),
        ((TESTS,), "Is a directory", 2),
        (("--set", "verify.conventions.tolerence=1"), "verify.conventions.tolerence: no such key (did you mean", 2),
        (("--set", "verify.domian=math"), "verify.domian: no such key (did you mean 'verify.domain'?)", 2),
        (("--set", "verify.domain=mth"), "verify.domain: 'mth' is unknown (did you mean 'math'?)", 2),
        (("--set", "verify.domain=grader_functions:atc"), "grader_functions has no function 'atc'", 2),
        (("--set", "verify.domain=grader_functions:die"), "the grader cannot grade: its workers die", 4),
    ],
)
def test_a_mistake_is_one_line(arguments, message, code, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["contrapose", "verify", *map(str, arguments)])
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(json.dumps(pair("1", "1")).encode())))
    with pytest.raises(SystemExit) as ended:
        main()
    out, said = capsys.readouterr()
    assert (ended.value.code, out) == (code, "")
    assert message in said and said.startswith("error: ") and said.count("\n") == 1


def test_the_reader_may_leave_early():
    """As ``head -1`` does: no traceback, and no waiting for the rest of the input."""
    process = start(*ACT)
    row = json.dumps(pair("", "right")).encode() + b"\n"
    process.stdin.write(row)
    process.stdin.flush()
    assert json.loads(process.stdout.readline())["status"] == "correct"
    process.stdout.close()
    with suppress(BrokenPipeError):
        process.stdin.write(row * 5000)
        process.stdin.flush()
    try:
        assert process.wait(PATIENCE / 2) in (0, 1, -signal.SIGPIPE)  # the input is still open
    finally:
        process.kill()
        said = process.stderr.read().decode()
        process.stderr.close()
        with suppress(BrokenPipeError):
            process.stdin.close()
    assert "Traceback" not in said and "Error" not in said


def test_control_c_ends_it_while_it_waits_for_input():
    process = start(*ACT, start_new_session=True)
    process.stdin.write(json.dumps(pair("", "right")).encode() + b"\n")
    process.stdin.flush()
    assert process.stdout.readline()
    os.killpg(process.pid, signal.SIGINT)
    try:
        code = process.wait(PATIENCE / 2)
    finally:
        process.kill()
        _, said = process.communicate()
    assert code not in (0, -signal.SIGABRT)
    assert "Traceback" not in said.decode() and "Fatal" not in said.decode()
