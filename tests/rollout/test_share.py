"""What each of several processes is given to do; that they do it together is tested in ``train/test_ranks.py``."""

import pytest

from contrapose.rollout.ranks import ALONE, Ranks
from contrapose.types import Stopped


class Rank(Ranks):
    """One of several, whose others are remembered."""

    def __init__(self, rank, world, others=()):
        super().__init__(rank, world)
        self.others = list(others)

    def gather(self, value):
        return [*self.others, value]


def shares(world, samplers, items="abcdefg"):
    taken, parts = [], []
    for number in range(world):
        rank = Rank(number, world, parts)
        rank.samplers = samplers

        def work(own, taken=taken):
            taken.append("".join(own))
            return own

        parts.append(rank.share(items, work)[sum(map(len, parts)) :])
    return taken, ["".join(part) for part in parts]


def test_every_item_is_one_ranks():
    assert shares(3, 3) == (["adg", "be", "cf"], ["adg", "be", "cf"])


def test_where_few_sample_the_others_have_nothing_to_do():
    assert shares(3, 2) == (["aceg", "bdf"], ["aceg", "bdf", ""])
    assert shares(3, 1, "ab") == (["ab"], ["ab", "", ""])


def test_a_stop_in_one_rank_is_a_stop_in_all():
    with pytest.raises(Stopped):
        Rank(1, 2, [None]).share("abc", list)

    def stop(_):
        raise Stopped

    said = []
    rank = Rank(0, 2)
    rank.gather = lambda value: said.append(value) or [value, ["b"]]
    with pytest.raises(Stopped):
        rank.share("abc", list, stop)
    assert said == [None]


def test_alone_nothing_is_gathered_and_a_flag_is_its_own():
    seen = []
    assert ALONE.share("abc", list, seen.append) == ["a", "b", "c"] == seen
    assert ALONE.any(True) and not ALONE.any(False)
    with pytest.raises(ZeroDivisionError):
        ALONE.first(lambda: 1 / 0)
