"""What decoders are asked for, written down."""

from itertools import pairwise
from types import SimpleNamespace

from contrapose.rollout.cached import LlamaDecoder
from contrapose.rollout.foreign import ForeignDecoder


class Seen(SimpleNamespace):
    """``steps``: rows of each step; ``admitted``: rows of each admission; ``read``: prompts in the order they came;
    ``opened``: what each new cache was asked for, rows first and columns last."""

    def clear(self):
        self.steps, self.admitted, self.read, self.opened, self.opened_at = [], [], [], [], []

    def steps_of_one_cache(self):
        """The most steps that were taken between two openings."""
        return max(b - a for a, b in pairwise([*self.opened_at, len(self.steps)]))

    def note_opened(self, *sizes):
        self.opened.append(sizes)
        self.opened_at.append(len(self.steps))


def watched(monkeypatch):
    """Both kinds of decoder write down what they are asked for from now on, and answer as ever."""
    seen = Seen()
    seen.clear()

    def watch(kind, name, note):
        plain = getattr(kind, name)
        monkeypatch.setattr(kind, name, lambda self, *args: note(*args) or plain(self, *args))

    for kind in (LlamaDecoder, ForeignDecoder):
        watch(kind, "open", seen.note_opened)
        watch(kind, "step", lambda token_N: seen.steps.append(len(token_N)))
        watch(kind, "admit", lambda prompts, k, rows: seen.admitted.append(len(rows)) or seen.read.extend(prompts))
    return seen
