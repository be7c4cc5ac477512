"""Break the theory, and what keeps runs safe, in many small ways, one at a time: the tests must notice every one.

    python benchmarks/mutants.py            # all; exit 1 when a mutant survives
    python benchmarks/mutants.py k3         # those whose name holds a text

Each mutant is a copy of the sources with one replacement, under which the tests of its part must fail.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
MUTANTS = {
    # aggregate
    "rollout mean without its length": ("aggregate", "batch.mask_QKT / batch.mask_QKT.sum(-1, keepdim=True).clamp(min=1)", "batch.mask_QKT"),
    "token mean over prompts": ("aggregate", "(totals.rollouts / max(1, totals.tokens))", "(totals.prompts / max(1, totals.tokens))"),
    "token mean without its count": ("aggregate", "batch.mask_QKT * (totals.rollouts / max(1, totals.tokens))", "batch.mask_QKT / max(1, totals.tokens)"),
    "group token mean of its longest": ("aggregate", "batch.mask_QKT.sum((1, 2), keepdim=True)", "batch.mask_QKT.sum(2, keepdim=True).amax(1, keepdim=True)"),
    "group token mean by the group's own size": ("aggregate", "(totals.rollouts / max(1, totals.prompts)) / group_Q11", "batch.present_QK.sum(1)[:, None, None] / group_Q11"),
    "constant length left out": ("aggregate", "batch.mask_QKT / self.length", "batch.mask_QKT"),
    # advantage
    "raw reward of absent rollouts": ("advantage", "reward_QK.masked_fill(~present_QK, 0.0)\n\n\ndef centre", "reward_QK\n\n\ndef centre"),
    "mean reward not subtracted": ("advantage", "reward_QK - mean_of(reward_QK, present_QK).unsqueeze(1)", "reward_QK"),
    "leave one in": ("advantage", "(K_Q1 / (K_Q1 - 1).clamp(min=1))", "1.0"),
    "ddof swapped": ("advantage", "keepdim=True) - self.ddof)", "keepdim=True) - (1 - self.ddof))"),
    "variance for deviation": ("advantage", "freedom_Q1).sqrt()", "freedom_Q1)"),
    "eps left out": ("advantage", "(std_Q1 + self.eps)", "std_Q1"),
    "ties told apart": ("advantage", "lowest_Q1 <= SAME_REWARD", "lowest_Q1 <= -1.0"),
    # score
    "log-ratio upside down": ("score", "return logp_QKT - plan.batch.old_logp_QKT", "return plan.batch.old_logp_QKT - logp_QKT"),
    "beta left out": ("score", "self.beta * (plan.weight_QKT", "1.0 * (plan.weight_QKT"),
    "reference ignored": ("score", 'plan.batch.old_logp_QKT if self.to == "old" else', 'plan.batch.old_logp_QKT if True else'),
    "log-prob negated": ("score", "(plan.weight_QKT * logp_QKT).sum(-1)", "-(plan.weight_QKT * logp_QKT).sum(-1)"),
    "ratio without its weight": ("score", "(plan.weight_QKT * ratio(logp_QKT, plan)).sum(-1)", "ratio(logp_QKT, plan).sum(-1)"),
    "leash on the wrong sides": ("score", "masked_fill(side > 0, -MAX_LOG_RATIO)", "masked_fill(side < 0, -MAX_LOG_RATIO)"),
    "no upper clip": ("score", "min(high, MAX_LOG_RATIO))", "MAX_LOG_RATIO)"),
    "no lower clip": ("score", "max(low, -MAX_LOG_RATIO))", "-MAX_LOG_RATIO)"),
    "clip bounds swapped": ("score", "math.log1p(-low) if low < 1 else -math.inf, math.log1p(high)", "math.log1p(-high), math.log1p(low)"),
    "clip of the ratio taken for one of logs": ("score", "-math.inf, math.log1p(high)", "-math.inf, high"),
    "dual clip ignored": ("score", "MAX_LOG_RATIO if self.dual_clip is None else math.log(self.dual_clip)", "MAX_LOG_RATIO"),
    "sequence ratio is a sum of ratios": ("score", "*_in_logs(self.low, self.high)).exp(), plan)", "*_in_logs(self.low, self.high)), plan)"),
    "geometric mean without its exponential": ("score", "(plan.weight_QKT * held_QKT).sum(-1).exp(), plan)", "(plan.weight_QKT * held_QKT).sum(-1), plan)"),
    "empty completions scored": ("score", "score_QK.masked_fill(plan.hidden_QKT.all(-1), 0.0)", "score_QK"),
    "cap not detached": ("score", ".clamp(max=self.cap).detach()", ".clamp(max=self.cap)"),
    "cap left out": ("score", ".clamp(max=self.cap).detach()", ".detach()"),
    "soft gate temperatures swapped": ("score", "self.tau_negative).masked_fill(plan.side_QK > 0, self.tau_positive)", "self.tau_positive).masked_fill(plan.side_QK > 0, self.tau_negative)"),
    "soft gate not centred": ("score", "(ratio(logp_QKT, plan) - 1))", "ratio(logp_QKT, plan))"),
    "soft gate of half the slope": ("score", "4 / tau_QK1", "2 / tau_QK1"),
    # margin
    "margin on positives": ("margin", "torch.where(plan.side_QK < 0, self.alpha", "torch.where(plan.side_QK > 0, self.alpha"),
    "margin subtracted": ("margin", "self.alpha * (best_Q1 - reward_QK)", "self.alpha * (reward_QK - best_Q1)"),
    "constant margin negated": ("margin", "torch.where(plan.side_QK < 0, self.gap", "torch.where(plan.side_QK < 0, -self.gap"),
    "half the cosine": ("margin", "math.cos(math.pi * risen)", "math.cos(math.pi * risen / 2)"),
    "warm-up ignored": ("margin", "min(now.progress / self.warmup, 1.0)", "now.progress"),
    # contrast
    "positives compete in NCE": ("contrast", "log_sum_exp(logit_QK, plan.side_QK < 0).unsqueeze(1)\n        return mean_of(self.tau", "log_sum_exp(logit_QK, plan.side_QK != 0).unsqueeze(1)\n        return mean_of(self.tau"),
    "NCE without tau outside": ("contrast", "mean_of(self.tau * F.logsigmoid", "mean_of(F.logsigmoid"),
    "NCE without tau inside": ("contrast", "logit_QK = score_QK / self.tau\n        negatives", "logit_QK = score_QK\n        negatives"),
    "softmax over negatives": ("contrast", "everyone_Q1 = log_sum_exp(score_QK, plan.side_QK != 0)", "everyone_Q1 = log_sum_exp(score_QK, plan.side_QK < 0)"),
    "pairs upside down": ("contrast", "score_QK.unsqueeze(2) - score_QK.unsqueeze(1)", "score_QK.unsqueeze(1) - score_QK.unsqueeze(2)"),
    "random pair always the first": ("contrast", "lot_QK = torch.rand(side_QK.shape, generator=generator, dtype=torch.float64)", "lot_QK = torch.zeros(side_QK.shape, dtype=torch.float64)"),
    "DRO without tau outside": ("contrast", "negatives_Q = self.tau * (", "negatives_Q = ("),
    "DRO sums its negatives": ("contrast", " - several_Q.log())", ")"),
    "DRO upside down": ("contrast", "(mean_of(score_QK, plan.side_QK > 0) - negatives_Q)", "(mean_of(score_QK, plan.side_QK > 0) + negatives_Q)"),
    "mean sum": ("contrast", "mean_of(score_QK, plan.side_QK > 0) - mean_of(score_QK, plan.side_QK < 0)", "mean_of(score_QK, plan.side_QK > 0) + mean_of(score_QK, plan.side_QK < 0)"),
    "advantage of the wrong thing": ("contrast", 'batch.reward_QK if self.of == "reward" else', 'batch.reward_QK if self.of != "reward" else'),
    "linear without its denominator": ("contrast", ".sum(1) * (plan.totals.prompts / max(1, plan.totals.rollouts))", ".sum(1)"),
    "zero times infinity": ("contrast", "score_QK.masked_fill(plan.advantage_QK == 0, 0.0)", "score_QK"),
    "worst for best": ("contrast", "right_QK = reward_QK >= reward_QK.amax", "right_QK = reward_QK < reward_QK.amax"),
    "empty completions take sides": ("contrast", "batch.present_QK & (batch.mask_QKT.sum(-1) > 0)", "batch.present_QK"),
    "dead groups alive": ("contrast", "positive_QK.any(1, keepdim=True) & negative_QK.any(1, keepdim=True)", "positive_QK.any(1, keepdim=True) | negative_QK.any(1, keepdim=True)"),
    # trust
    "k3 slope of e^d": ("trust", "ctx.save_for_backward(slope)", "ctx.save_for_backward(slope + 1)"),
    "k3 is k1": ("trust", "return torch.where(held.abs_() < 1e-3, series, value)", "return -d"),
    "k3 without its series": ("trust", "torch.where(held.abs_() < 1e-3, series, value)", "value"),
    "KL from new to old": ("trust", "d_QKT = log_ratio(logp_QKT, plan)", "d_QKT = -log_ratio(logp_QKT, plan)"),
    "KL to the reference swapped": ("trust", "d_QKT = reference_of(plan.batch) - logp_QKT", "d_QKT = logp_QKT - reference_of(plan.batch)"),
    "token mean and sequence sum swapped": ("trust", 'if aggregate == "token_mean" else', 'if aggregate != "token_mean" else'),
    "controller the wrong way": ("trust", "(1 + error * rollouts / self.horizon)", "(1 - error * rollouts / self.horizon)"),
    "controller unclipped": ("trust", "min(max(kl[self.aggregate] / self.target - 1, -0.2), 0.2)", "kl[self.aggregate] / self.target - 1"),
    "reference penalty unweighted": ("trust", "(plan.weight_QKT * k3(d_QKT)).sum()", "k3(d_QKT).sum()"),
    "hinge upside down": ("trust", "-log_ratio(logp_QKT, plan).sum()", "log_ratio(logp_QKT, plan).sum()"),
    "hinge of twice the slope": ("trust", "excess * ((part - part.detach()) / tokens", "excess * (2 * (part - part.detach()) / tokens"),
    "hinge never closed": ("trust", "if kl <= self.delta or now.kl_coef == 0:", "if now.kl_coef == 0:"),
    "hinge of the part at hand": ("trust", "part.detach() if plan.totals.log_ratio is None else -plan.totals.log_ratio", "part.detach()"),
    # objective, plan and credit
    "trust added": ("objective", "J - self.trust(logp_QKT, plan, now)", "J + self.trust(logp_QKT, plan, now)"),
    "margin left out": ("objective", "score_QK = score_QK + self.margin(plan, now)", "self.margin(plan, now)"),
    "dead groups leave the denominator": ("plan", "prompts=int(batch.present_QK.any(1).sum())", "prompts=int((batch.reward_QK.amax(1) > batch.reward_QK.amin(1)).sum())"),
    "absent rollouts counted": ("plan", "rollouts=int(batch.present_QK.sum())", "rollouts=batch.present_QK.numel()"),
    "absent tokens counted": ("credit", "mask_QKT=batch.mask_QKT * batch.present_QK.unsqueeze(-1)", "mask_QKT=batch.mask_QKT"),
    "descent for ascent": ("credit", "return credit_QKT.contiguous()", "return -credit_QKT.contiguous()"),
    "step sums of one chunk": ("credit", "total += log_ratio(", "total = log_ratio("),
    "hinge of a part without the step's sum": ("credit", "if plan.totals.tokens != tokens_of(plan.batch):", "if False:"),
    "token weight left out": ("credit", "plan.masked(credit_QKT * token_weight.to(credit_QKT))", "credit_QKT"),
}  # fmt: skip
RELIABILITY = {
    "folders written in place": ("train/folders", 'return folder.with_name(f".{folder.name}.part")', "return folder"),
    "the old one removed first": ("train/folders", "            folder.rename(old)\n", "            shutil.rmtree(folder)\n            old.mkdir()\n"),
    "leftovers believed": ("train/folders", "if beside.is_dir() and not folder.exists() and damage(beside) is None:", "if beside.is_dir() and not folder.exists():"),
    "what lacks its name thrown away": ("train/folders", "if beside.is_dir() and not folder.exists() and damage(beside) is None:", "if False:"),
    "what was to be replaced thrown away": ("train/folders", "                old.rename(folder)\n", "                pass\n"),
    "hashes not looked at": ("train/folders", "return None if _digest(path) == digest else", "return None if True else"),
    "sizes and hashes not looked at": ("train/folders", "for name, entry in expected.items())", "for name, entry in [])"),
    "formats not looked at": ("train/folders", 'if manifest["format"] != FORMAT:', "if False:"),
    "half a folder left behind": ("train/folders", "_delete(beside)  # what is half written only takes room", "pass"),
    "files not flushed": ("train/folders", "# weights come as 0600, which nobody else could read\n        sync(path)\n", "\n"),
    "the name not flushed": ("train/folders", "        sync(folder.parent)\n", ""),
    "links followed": ("train/folders", "if path.is_dir() and not path.is_symlink():", "if path.is_dir():"),
    "a new run takes any folder": ("train/folders", "if not empty and path.name not in", "if False and path.name not in"),
    "the newest checkpoint believed": ("train/checkpoint", "wrong = damage(folder) or _lost_rows(folder)", "wrong = None"),
    "lost rows not looked at": ("train/checkpoint", "wrong = damage(folder) or _lost_rows(folder)", "wrong = damage(folder)"),
    "damaged ones left where they were": ("train/checkpoint", "    folder.rename(aside)\n", ""),
    "names for numbers": ("train/checkpoint", "if _NAME.fullmatch(p.name)), key=step_of)", "if _NAME.fullmatch(p.name)))"),
    "all checkpoints kept": ("train/checkpoint", "[: -max(1, keep)]", "[:0]"),
    "room not looked at": ("train/checkpoint", "if need > free:", "if False:"),
    "moments not saved": ("train/checkpoint", "for parameter, moments in optimizer.state.items()", "for parameter, moments in list(optimizer.state.items())[1:]"),
    "begun steps not saved": ("train/checkpoint", "        if work:\n            work.save(beside)\n", ""),
    "begun steps thrown away": ("train/run", "self.work = Work.load(found, self.model.device)", "self.work = None"),
    "updates done twice": ("train/loop", "if number == len(work.updates):", "if True:"),
    "a stop waits for the end of the step": ("train/loop", "                run.stop.check()\n", ""),
    "the folder not locked": ("train/run", "        self.metrics.claim()\n", ""),
    "rows not cut back": ("train/run", '            file.cut(state["sizes"][file.path.name])\n', "            pass\n"),
    "nothing to resume from is an error": ("train/run", "        if found is None:\n", "        assert found\n        if found is None:\n"),
    "half a row left behind": ("report/log", "self._file.truncate(before)  # a part of a row is no row", "pass"),
    "a full disk is a traceback": ("report/log", "    except OSError as error:\n        raise WriteFailed", "    except ZeroDivisionError as error:\n        raise WriteFailed"),
}  # fmt: skip
TESTS = {
    "objectives": ["tests/objectives"],
    "train": ["tests/train/test_checkpoint.py", "tests/train/test_run.py"],
    "report": ["tests/report/test_log.py"],
}
"""Where a mutant of a room must be noticed."""


def failing(file: str, old: str = "", new: str = "") -> bool:
    """Whether a test fails under one replacement, or under none. Raises when nothing could be tested.

    An import error or a replacement that does not apply exactly once proves nothing.
    """
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "src"
        shutil.copytree(ROOT / "src", source, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copytree(ROOT / "recipes", Path(folder) / "recipes")
        if old:
            path = source / "contrapose" / f"{file}.py"
            text = path.read_text()
            if text.count(old) != 1:
                raise SystemExit(f"{file}.py: {old!r} stands there {text.count(old)} times, not once")
            path.write_text(text.replace(old, new))
        environment = {**os.environ, "PYTHONPATH": str(source), "PYTHONDONTWRITEBYTECODE": "1"}
        command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", "-o", "addopts="]
        command += ["-m", "not slow", *TESTS[file.partition("/")[0]]]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    summary = done.stdout.strip().splitlines()[-1] if done.stdout.strip() else done.stderr
    if done.returncode not in (0, 1):  # 2: nothing could be imported
        raise SystemExit(f"{old!r} -> {new!r}: {summary}")
    return done.returncode == 1


if __name__ == "__main__":
    wanted = sys.argv[1] if len(sys.argv) > 1 else ""
    survivors, start = [], time.perf_counter()
    everything = {name: (f"objectives/{file}", *change) for name, (file, *change) in MUTANTS.items()} | RELIABILITY
    chosen = {name: mutant for name, mutant in everything.items() if wanted in name}
    for room in sorted({file.partition("/")[0] for file, *_ in chosen.values()}):
        if failing(room):
            raise SystemExit(f"{' '.join(TESTS[room])} fails without any mutant")
    for name, mutant in chosen.items():
        dead = failing(*mutant)
        survivors += [] if dead else [name]
        print(f"{'killed' if dead else 'SURVIVED':<9} {mutant[0]:<20} {name}", flush=True)
    print(f"{len(chosen) - len(survivors)} of {len(chosen)} mutants killed in {time.perf_counter() - start:.0f} s")
    sys.exit(1 if survivors else 0)
