"""The list of planted faults fits today's files, and what plants them sees what there is to see."""

import ast
from collections import Counter
from functools import partial

import pytest

from benchmarks import planting
from benchmarks.witness.cases import CASES
from benchmarks.witness.fault import ROOT, Fault
from benchmarks.witness.fault_list import FAULTS
from benchmarks.witness.mapping import paths_of
from benchmarks.witness.record import Record
from benchmarks.witness.truth import truth
from benchmarks.witness.verification import judged, outcome, outcomes


@pytest.mark.parametrize("file", sorted({fault.file for fault in FAULTS}))
def test_every_fault_can_be_planted(file):
    """Its text stands in exactly one place, where the edit gives other code that can be read."""
    faults = [fault for fault in FAULTS if fault.file == file]
    before = ast.dump(ast.parse((ROOT / faults[0].path).read_text()))
    for fault in faults:
        assert ast.dump(ast.parse(fault.planted())) != before, fault
        assert all((ROOT / path).exists() for path in paths_of(fault)), fault


def test_there_are_enough_of_all_parts():
    assert len({fault.name for fault in FAULTS}) == len(FAULTS) >= 120
    rooms = Counter(fault.file.partition("/")[0] for fault in FAULTS)
    wanted = "_engine _model _operations _schemes _pool _results _process active cli integrations"
    assert {*wanted.split()} <= {*rooms}
    assert min(rooms[room] for room in wanted.split()) >= 5


def test_an_edit_needs_one_place():
    assert planting.replaced("a b", "b", "c") == "a c"
    assert planting.replaced("a b a", "a", "c", 1) == "a b c"
    for source, index in (("a b a", None), ("b", None), ("a b", 1)):
        with pytest.raises(ValueError, match="cannot be replaced"):
            planting.replaced(source, "a", "c", index)


def _reports(code, report):
    report.write_text(f'{{"code": {code}, "first": "test_it"}}')


def _dies(report):
    import os
    import signal

    os.kill(os.getpid(), signal.SIGSEGV)


def _never_ends(report):
    import time

    time.sleep(60)


def _computes_for_ever(report):
    while True:
        pass


def _is_killed(report):
    import os
    import signal

    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
def test_what_runs_make_of_a_fault():
    runs = [partial(_reports, 1), partial(_reports, 0), partial(_reports, 5), _dies]
    runs += [_computes_for_ever, _is_killed]
    found = dict(planting.in_forks(runs, 6, 1.0, patience=50.0))
    assert [found[i].caught for i in range(6)] == [True, False, False, True, True, None]
    assert found[0].first_failure == "test_it"
    assert found[4].first_failure == "more than 1 s of processor time"
    assert "signal" in found[3].first_failure
    ((_, verdict),) = planting.in_forks([_never_ends], 1, 1.0, patience=0.5)
    assert verdict.caught is None
    assert "by the clock" in verdict.first_failure
    with pytest.raises(RuntimeError, match="could not run the tests: code 4"):
        list(planting.in_forks([partial(_reports, 4)], 1, 2.0))


@pytest.mark.slow
def test_results_are_kept_and_go_on(tmp_path):
    first, second = FAULTS[:2]
    record = Record(tmp_path / "witness.json", FAULTS[:2])
    record.judged(first, planting.Verdict(False, "", 1.0), "quick")
    record.judged(second, planting.Verdict(True, "test_it", 1.0), "quick")
    again = Record(tmp_path / "witness.json", FAULTS[:3])
    assert again.waits(FAULTS[2], "quick", False)
    assert not again.waits(first, "quick", False)
    assert again.waits(first, "quick", True)
    assert again.waits(first, "whole", False)  # for survivors alone
    assert not again.waits(second, "whole", True)
    again.judged(FAULTS[2], planting.Verdict(None, "no end", 1.0), "quick")
    assert again.waits(FAULTS[2], "quick", False)  # nothing was decided
    assert not again.waits(FAULTS[2], "slow", False)
    edited = Fault(first.file, first.kind, first.old, first.new + " ", first.told)
    assert Record(tmp_path / "witness.json", [edited]).waits(edited, "quick", False)


@pytest.mark.slow
def test_nothing_planted_is_right_everywhere():
    """Or a fault would be seen where there is none."""
    truths = {case.name: truth(case) for case in CASES}
    for way, by_case in outcomes(truths, everywhere=True).items():
        assert {*by_case.values()} == {"right"}, (way, by_case)


@pytest.mark.slow
def test_what_verification_makes_of_a_fault(monkeypatch):
    """One that it can see, and one in what it compares with."""
    from fastgradnorm._operations import rules

    cases = [case for case in CASES if case.name in ("tied words", "classes")]
    truths = {case.name: truth(case) for case in cases}
    exact = rules.outer_sq_norm
    monkeypatch.setattr(rules, "outer_sq_norm", lambda *args: 1.2 * exact(*args))
    found = {
        way: {case.name: outcome(case, truths[case.name], verify) for case in cases}
        for way, verify in (("none", False), ("default", True))
    }
    assert {*found["none"].values()} == {"wrong"}
    assert {*found["default"].values()} == {"VerificationError"}
    assert judged(found, 1.0) == {
        "matters": [case.name for case in cases], "raises": [], "seconds": 1.0, "default": 2
    }  # fmt: skip
