"""A process that has imported everything and forks a run for each line it is told, so that a run starts in no time.

A line is JSON: ``folder``, ``settings``; where the signal ``number`` (9, if it is not named) comes, ``at`` = [point,
which time] or ``after`` = seconds; ``limit``, the most bytes a file may have. The answer: ``code``, minus the signal
for a killed run, what it ``said``, and how often it passed which of the ``points``. These lie between and inside
rollout, verification, update, checkpoint and evaluation, and at every operation on a disk.
"""

import json
import os
import resource
import shutil
import signal
import sys
import time
import traceback
from collections import Counter
from pathlib import Path

import torch

from contrapose.cli import main
from contrapose.evaluate import command  # noqa: F401
from contrapose.policy.logprobs import LogProbs
from contrapose.policy.model import load_model, load_tokenizer
from contrapose.prompts.abacus import model_folder
from contrapose.report import log
from contrapose.rollout.decode import EmbeddedEngine
from contrapose.train import folders, shards, work
from contrapose.train.run import Run
from contrapose.verify.verifier import Verifier

MARK = "\0points\0"


class Points:
    """Counts the points that a run passes, and sends itself a signal at one of them."""

    def __init__(self, at, number):
        self.at, self.number = tuple(at) if at else None, number
        self.passed = Counter()
        self.inside = "step"

    def __call__(self, what):
        name = f"{self.inside}: {what}"
        self.passed[name] += 1
        if self.at == (name, self.passed[name]):
            os.kill(os.getpid(), self.number)

    def within(self, name, function):
        """``function``, whose points bear a name of their own."""

        def named(*args, **options):
            before, self.inside = self.inside, name
            try:
                return function(*args, **options)
            finally:
                self.inside = before

        return named

    def before(self, what, function):
        """``function`` with a point before it and one after it."""

        def watched(*args, **options):
            self(f"before {what}")
            result = function(*args, **options)
            self(f"after {what}")
            return result

        return watched

    def each(self, what, function):
        """A generator function with a point before every yield."""

        def watched(*args, **options):
            for value in function(*args, **options):
                self(what)
                yield value

        return watched

    def half_a_row(self, append):
        """Rows may be cut in the middle."""

        def watched(lines, row):
            before = lines.size()
            append(lines, row)
            name = f"{self.inside}: half a row"
            self.passed[name] += 1
            if self.at == (name, self.passed[name]):
                if self.number == signal.SIGKILL:
                    os.truncate(lines.path, (before + lines.size()) // 2)
                os.kill(os.getpid(), self.number)
            self("a row")

        return watched

    def watch(self):
        """Put the points where they belong."""
        Run.checkpoint = self.within("checkpoint", Run.checkpoint)
        Run.evaluate_if_due = self.within("evaluation", Run.evaluate_if_due)
        Run.finish = self.within("finish", Run.finish)
        EmbeddedEngine.generate = self.each("sampling", EmbeddedEngine.generate)
        Verifier.groups = self.each("verification", Verifier.groups)
        LogProbs.states = self.before("a pass", LogProbs.states)
        torch.optim.AdamW.step = self.before("an update", torch.optim.AdamW.step)
        log.JsonLines.append = self.half_a_row(log.JsonLines.append)
        os.replace = self.before("replace", os.replace)
        Path.rename = self.before("rename", Path.rename)
        Path.write_text = self.before("write", Path.write_text)
        shutil.rmtree = self.before("rmtree", shutil.rmtree)
        for module in (shards, work):
            module.save_file = self.before("tensors", module.save_file)
        for module in (log, folders):
            module.sync = self.before("sync", module.sync)


def run(told, out):
    """In the child: the run, from its beginning or from where it was; never returns. It says everything to ``out``."""
    folder, points, code = Path(told["folder"]), Points(told.get("at"), told.get("number", signal.SIGKILL)), 0
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if limit := told.get("limit"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    points.watch()
    begun = (folder / "config.toml").exists()
    if begun:
        sys.argv = ["contrapose", "train", "--resume", "--out", str(folder)]
    else:
        sys.argv = ["contrapose", "train", "--out", str(folder)] + [w for s in told["settings"] for w in ("--set", s)]
    os.dup2(out, 1), os.dup2(out, 2)
    try:
        main()
    except SystemExit as exit_:
        code = exit_.code or 0
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.write(MARK + json.dumps(points.passed))
    sys.stdout.flush()
    os._exit(code)


def serve():
    load_tokenizer(model_folder("abacus")), load_model(model_folder("abacus"))  # what is imported lazily
    for line in sys.stdin:
        told = json.loads(line)
        said, out = os.pipe()
        pid = os.fork()
        if not pid:
            os.close(said)
            run(told, out)
        os.close(out)
        if "after" in told:
            time.sleep(told["after"])
            os.kill(pid, told.get("number", signal.SIGKILL))
        with os.fdopen(said) as text:
            said, _, points = text.read().partition(MARK)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        sys.stdout.write(json.dumps({"code": code, "said": said, "points": json.loads(points or "{}")}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    serve()
