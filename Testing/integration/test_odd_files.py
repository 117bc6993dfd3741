"""Some files of every format, damaged: what `Testing/benchmarks/odd_files.py` tries by the hundred."""

from __future__ import annotations

import random
import sys
import warnings
from pathlib import Path

import pytest

pytest.importorskip("resource", reason="bounds the memory of forks")
sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
import odd_files


def test_no_damaged_file_is_taken_for_whole_or_ends_in_more_than_a_sentence(tmp_path):
    slow = (odd_files.MANIFEST, odd_files.TRAINING)
    known = [sample for sample in odd_files.samples(tmp_path) if sample.lines not in slow]
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what was assumed, as commands do where they fail
        for number, case in enumerate(odd_files.cases(known, tmp_path, len(known), random.Random(1))):
            quick = [line for line in case.sample.lines if line[0] != "register"]
            line = quick[number % len(quick)]
            for what, fault in ((line[0], odd_files.tried(case, line, tmp_path)), ("reading", odd_files.misread(case))):
                if fault:
                    found.append(f"{case.path.name}, {case.fate}, {what}: {fault}")
    assert not found


@pytest.mark.parametrize(
    ("status", "out", "said", "written", "wrong"),
    [
        (0, "done", "warning: a unit is missing\n", ["a.nrrd"], None),
        (2, "", "error: it is damaged\n", [], None),
        (0, "", "HDF5-DIAG: Error detected\n", [], "says"),
        (1, "", "Traceback\nKeyError: 'a'\n", [], "status 1"),
        (-11, "", "", [], "status -11"),
        (2, "", "MetaImage: cannot read\nerror: it is damaged\n", [], "one line"),
        (2, "half", "error: it is damaged\n", [], "one line"),
        (2, "", "error: it is damaged\n", ["half.nrrd"], "leaves"),
    ],
)
def test_what_is_wrong_is_seen(status, out, said, written, wrong):
    found = odd_files.fault(status, out, said, written)
    assert found is None if wrong is None else wrong in found
