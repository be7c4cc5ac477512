"""The protocols of the papers, and what data sets bring along."""

import pytest

from contrapose.evaluate.protocols import (
    CONSPO,
    PROTOCOLS,
    RENCE,
    conventions,
    full_name,
    has_own_columns,
    protocol,
    verify_of,
)
from contrapose.prompts.catalogue import BENCHMARKS, DataSet
from contrapose.prompts.template import TEMPLATES
from contrapose.types import ContraposeError
from contrapose.verify.grading import grading_of


def test_every_protocol_names_benchmarks_and_a_template():
    for known in PROTOCOLS.values():
        assert set(known.data) <= set(BENCHMARKS)
        assert known.template in TEMPLATES
        assert protocol(known.name) is known


def test_rence_draws_four_samples_of_six_benchmarks():
    assert sum(BENCHMARKS[name].rows for name in RENCE.data) == 500 + 30 + 30 + 83 + 272 + 675
    assert set(RENCE.data.values()) == {4}
    assert (RENCE.temperature, RENCE.top_p, RENCE.max_tokens) == (0.7, 1.0, 6656)


def test_conspo_draws_one_of_the_large_and_32_of_the_small():
    samples = {name: CONSPO.samples_of(name) for name in CONSPO.data}
    assert {name for name, n in samples.items() if n == 1} == {"math500", "olympiadbench"}
    assert {BENCHMARKS[name].rows for name, n in samples.items() if n == 32} == {30, 83}
    assert (CONSPO.temperature, CONSPO.top_p, CONSPO.max_tokens) == (0.6, 0.95, 8192)


def test_what_a_protocol_does_not_say_is_asked_for():
    with pytest.raises(ContraposeError, match=r"--samples: the protocol conspo does not say how many of gsm8k_test"):
        CONSPO.samples_of("gsm8k_test")
    assert protocol(None).samples_of("anything.jsonl") == 4


def test_an_unknown_protocol_names_the_nearest():
    with pytest.raises(ContraposeError, match=r"--protocol: 'conpso' is unknown \(did you mean 'conspo'\?\)"):
        protocol("conpso")


def test_the_gym_brings_its_scorers_and_benchmarks_their_conventions(monkeypatch):
    rounded = DataSet("rounded", rows=1, conventions={"tolerance": 0.01})
    monkeypatch.setitem(BENCHMARKS, "rounded", rounded)
    assert conventions("gym:basic_arithmetic:test") == {"domain": "reasoning_gym"}
    assert conventions("rounded") == {"domain": "math", "conventions": {"tolerance": 0.01}}
    assert conventions("abacus") == conventions("math500.jsonl") == conventions("hub:a/b") == {}


def test_what_was_chosen_wins_over_what_is_customary_and_a_domain_belongs_to_its_data():
    settings = {"domain": "reasoning_gym", "seconds": 3.0, "conventions": {"tolerance": 0.5, "units": False}}
    assert verify_of("minerva_math", settings) == {**settings, "domain": "math"}
    assert verify_of("gym:chain_sum", {"domain": "math", "conventions": {}})["domain"] == "reasoning_gym"
    assert verify_of("mine.jsonl", settings) == settings
    customary = verify_of("minerva_math", {"conventions": {"units": False}})["conventions"]
    assert customary == {**BENCHMARKS["minerva_math"].conventions, "units": False}


def test_the_conventions_of_every_benchmark_are_ones_that_exist():
    for name in BENCHMARKS:
        grading_of("math", "boxed", conventions(name).get("conventions", {}))


def test_short_names_stand_for_long_ones():
    assert full_name("minerva") == "minerva_math"
    assert full_name("abacus:validation") == "abacus:validation"
    assert full_name("gym:chain_sum") == "gym:chain_sum"
    assert [has_own_columns(x) for x in ("minerva", "math500:test", "problems.jsonl", "abacus")] == [1, 1, 0, 0]
