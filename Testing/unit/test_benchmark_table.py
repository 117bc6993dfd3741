"""Statistics and tables of a benchmark against hand values and a second implementation."""

from __future__ import annotations

import html
import re
from itertools import product

import numpy as np
import pandas as pd
import pytest
from scipy.stats import rankdata

from RecurrentRegistrationLib.benchmark import table
from RecurrentRegistrationLib.benchmark.ledger import COLUMNS, Ledger
from RecurrentRegistrationLib.benchmark.measures import MEASURES, accuracy

DICE = {
    "none": [0.5, 0.6, 0.55, 0.4, 0.52, 0.45],
    "a": [0.8, 0.7, 0.9, 0.6, 0.75, 0.65],
    "b": [0.8, 0.71, 0.88, 0.6, 0.7, 0.66],
}


def rows(values: dict[str, list[float]], measure: str = "dice") -> pd.DataFrame:
    frame = pd.DataFrame(
        [
            {"pair": f"p{n}", "method": method, "repeat": 0, "status": "done", measure: value}
            for method, each in values.items()
            for n, value in enumerate(each)
        ],
        columns=list(COLUMNS),
    )
    for name in MEASURES:
        frame[name] = pd.to_numeric(frame[name])
    return frame


def test_holm_by_hand():
    # sorted 0.01, 0.02, 0.03, 0.5 times 4, 3, 2, 1; never falling
    assert table.holm([0.03, 0.01, 0.5, 0.02]) == pytest.approx([0.06, 0.04, 0.5, 0.06])
    assert table.holm([0.6, 0.7]) == pytest.approx([1, 1])
    assert table.holm([]) == []


def exact_wilcoxon(differences: np.ndarray) -> float:
    """Two-sided p by going through all signs."""
    ranks = rankdata(np.abs(differences))
    observed = abs((np.sign(differences) * ranks).sum())
    sums = [abs(np.dot(signs, ranks)) for signs in product((-1, 1), repeat=len(ranks))]
    return np.mean([s >= observed - 1e-9 for s in sums])


def test_tests_equal_the_enumeration_of_all_signs():
    frame = rows({"a": [0.8, 0.7, 0.9, 0.6, 0.75, 0.65], "c": [0.7, 0.72, 0.85, 0.52, 0.69, 0.61]})
    found = table.tests(frame, "dice", "a")
    difference = np.subtract([0.7, 0.72, 0.85, 0.52, 0.69, 0.61], [0.8, 0.7, 0.9, 0.6, 0.75, 0.65])
    assert found["p"].tolist() == pytest.approx([exact_wilcoxon(difference)])
    assert found["median"].tolist() == pytest.approx([np.median(difference)])


def test_six_pairs_better_throughout_are_significant_and_equals_are_not():
    found = table.tests(rows({**DICE, "same": DICE["a"]}), "dice", "a").set_index("method")
    assert found.loc["none", "p"] == pytest.approx(2 / 2**6)
    assert found.loc["same", "p"] == 1
    assert found.loc["none", "corrected"] == pytest.approx(3 * 2 / 2**6)
    assert (found["pairs"] == 6).all()


def test_a_method_that_failed_on_pairs_is_compared_on_the_others():
    frame = rows(DICE)
    frame.loc[(frame["method"] == "b") & (frame["pair"] != "p0"), "status"] = "failed"
    assert table.tests(frame, "dice", "a")["method"].tolist() == ["none"]  # one pair in common is too few
    found = table.summary(frame, ["dice"])
    assert found.loc["b", "pairs"] == 1
    assert found.loc["b", "failed"] == 5
    assert np.isnan(found.loc["b", "dice sd"])


def test_repeats_count_as_one_pair():
    frame = pd.concat([rows({"a": [0.6, 0.8]}), rows({"a": [0.8, 0.8]}).assign(repeat=1)])
    assert table.per_pair(frame, "dice")["a"].tolist() == pytest.approx([0.7, 0.8])
    assert table.summary(frame, ["dice"]).loc["a", "pairs"] == 2


def test_best_mean_is_bold_in_the_right_direction_and_nothing_is_no_contender():
    high = table.cells(rows(DICE), ["dice"], {"a": "*"})
    assert high["method"].tolist() == ["none", "a*", "b"]
    assert high["Dice"].tolist() == ["0.503 ± 0.071", "**0.733 ± 0.108**", "0.725 ± 0.100"]
    low = table.cells(rows({"none": [0.0, 0.0], "a": [2, 3], "b": [1, 2]}, "tre_mm"), ["tre_mm"])
    assert low["TRE (mm)"].tolist() == ["0.00 ± 0.00", "2.50 ± 0.71", "**1.50 ± 0.71**"]


def test_a_mean_over_fewer_pairs_is_not_the_best():
    frame = rows({"a": [0.6, 0.7], "b": [0.5, 0.6], "c": [0.9]})
    assert table.cells(frame, ["dice"])["Dice"].tolist() == ["**0.650 ± 0.071**", "0.550 ± 0.071", "0.900"]


def test_markdown_and_latex():
    text = pd.DataFrame({"method": ["a_b", "c|d"], "std log J": ["**0.10 ± 0.01**", "5 %"]})
    assert table.markdown(text) == ("| method | std log J |\n|---|---:|\n| a_b | **0.10 ± 0.01** |\n| c\\|d | 5 % |\n")
    tex = table.latex(text, "50 %")
    assert r"a\_b & \textbf{0.10 $\pm$ 0.01} \\" in tex
    assert r"c|d & 5 \% \\" in tex
    assert r"\caption{50 \%}" in tex


def test_landmarks_are_more_telling_than_labels():
    assert accuracy({"dice", "tre_mm", "foreground_dice"}) == "tre_mm"
    assert accuracy({"foreground_dice"}) == "foreground_dice"


def test_ledger_appends_whole_rows_and_drops_half_ones(tmp_path):
    ledger = Ledger(tmp_path / "rows.csv")
    ledger.append({"key": "1", "pair": "p", "method": 'a, "b"', "status": "done", "dice": 0.5})
    ledger.append({"key": "2", "pair": "q", "method": "a", "status": "failed", "message": "two\nlines"})
    with ledger.path.open("a") as file:
        file.write("3,r,a,0,done,0.")
    again = Ledger(ledger.path)
    assert again.done() == {"1"}
    found = list(again.rows())
    assert [row["key"] for row in found] == ["1", "2"]
    assert found[0]["method"] == 'a, "b"'
    assert found[1]["message"] == "two lines"
    again.append({"key": "2", "pair": "q", "method": "a", "status": "declined"})
    assert again.done() == {"1", "2"}


@pytest.mark.parametrize(
    "name", ["<script>alert(1)</script>", "a|b", "a\\|b", "`x` <b>", "[a](javascript:b)", "![x](y)", "a\n# b", "&lt;"]
)
def test_markdown_shows_a_hostile_name_and_does_nothing_else(name):
    cell = table.escape(name)
    assert not set("<>`[]\n") & set(cell)
    assert len(re.split(r"(?<!\\)\|", f"| {cell} | 1 |")) == 4
    assert html.unescape(cell).replace("\\|", "|").split() == name.split()


@pytest.mark.parametrize(
    ("name", "written"),
    [
        (r"\input{/etc/passwd}", r"\textbackslash{}input\{/etc/passwd\}"),
        ("a_b & 5 %", r"a\_b \& 5 \%"),
        ("x^2 ~ <y>\n$z$", r"x\textasciicircum{}2 \textasciitilde{} \textless{}y\textgreater{} \$z\$"),
    ],
)
def test_latex_shows_a_hostile_name(name, written):
    assert f"{written} & 1" in table.latex(pd.DataFrame({"method": [name], "n": ["1"]}), "c")


@pytest.mark.parametrize("name", ["=1+1", "+a", "-a", "@SUM(A1)", "'=a", "plain"])
def test_no_cell_of_the_rows_is_a_formula_and_all_are_read_back(name, tmp_path):
    ledger = Ledger(tmp_path / "rows.csv")
    ledger.append({"key": "k", "pair": name, "method": name, "status": "done", "message": name, "seconds": -1.5})
    cells = (tmp_path / "rows.csv").read_text(encoding="utf-8").splitlines()[1].split(",")
    assert not [cell for cell in cells if cell.startswith(("=", "+", "@")) or cell == "-a"]
    (row,) = ledger.rows()
    assert (row["pair"], row["method"], row["message"], float(row["seconds"])) == (name, name, name, -1.5)
