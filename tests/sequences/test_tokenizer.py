"""Tests of the tokenizer's bins against their definition, for various distributions."""

import tempfile
import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from decision_seq.sequences.tokenizer import CUTS, Binning, Tokenizer
from decision_seq.types import UserError

BINNINGS: list[Binning] = ["quantile", "uniform"]
Draw = Callable[[np.random.Generator, int], np.ndarray]
SHAPES: dict[str, Draw] = {
    "normal": lambda rng, n: rng.normal(3, 2, n),
    "constant": lambda rng, n: np.full(n, 0.1),
    "zero": lambda rng, n: np.zeros(n),
    "mostly zero": lambda rng, n: np.where(rng.random(n) < 0.97, 0, rng.normal(0, 1, n)),
    "two values": lambda rng, n: rng.integers(0, 2, n) * 1.0,
    "few values": lambda rng, n: rng.choice([-100, -0.3, 0, 1e-3, 7], n),
    "heavy tails": lambda rng, n: rng.standard_cauchy(n) * 10.0 ** rng.integers(-3, 8, n),
    "tiny range": lambda rng, n: 1000 + 1e-4 * rng.random(n),
    "denormal": lambda rng, n: rng.integers(-5, 6, n) * 1e-45,
    "rounded": lambda rng, n: np.round(rng.normal(0, 1, n), 1),
}


def fitted(columns: np.ndarray, bins: int, binning: Binning, block: int = 100) -> Tokenizer:
    made = Tokenizer(columns.shape[1], bins)
    made.fit((columns[at : at + block] for at in range(0, len(columns), block)), binning)
    return made


def check(made: Tokenizer, columns: np.ndarray) -> None:
    """Check that numbers are in their bins and decode within half a width; centres are stable."""
    values = torch.tensor(columns, dtype=torch.float32)
    tokens = made.encode(values)
    assert tokens.dtype == torch.int64
    assert 0 <= tokens.min() <= tokens.max() < made.bins
    rows = torch.arange(made.dimensions)
    low, high = made.edges[rows, tokens], made.edges[rows, tokens + 1]
    assert (low <= values).all()
    assert ((values < high) | (values == made.edges[:, -1])).all()
    assert (low < high).all()
    decoded = made.decode(tokens)
    rounded = np.spacing(torch.maximum(low.abs(), high.abs()).numpy()) + np.finfo(np.float32).tiny
    wide = (high.double() - low.double()) / 2 + torch.tensor(rounded)
    assert ((decoded.double() - values.double()).abs() <= wide).all()
    assert torch.equal(made.encode(decoded), tokens)
    assert (made.edges.diff() >= 0).all()
    assert made.edges.isfinite().all()
    assert made.centers.isfinite().all()


@pytest.mark.parametrize("change", [lambda e: e.flip(1), torch.zeros_like])
def test_edges_that_do_not_ascend_are_refused(change) -> None:
    state = Tokenizer(2, 4).state_dict()
    with pytest.raises(UserError, match="do not ascend"):
        Tokenizer(2, 4).load_state_dict({**state, "edges": change(state["edges"])})


def test_the_worked_example() -> None:
    made = fitted(np.arange(10.0)[:, None], 5, "quantile", block=3)
    assert made.edges.tolist() == [[0, 2, 4, 6, 8, 9]]
    assert made.centers.tolist() == [[1, 3, 5, 7, 8.5]]
    values = torch.tensor([-3, 1.9, 2, 8.5, 99, torch.inf, -torch.inf])[:, None]
    assert made.encode(values)[:, 0].tolist() == [0, 0, 1, 4, 4, 4, 0]
    between = fitted(np.array([[20.0], [0.0], [10.0]]), 2, "quantile")
    assert between.edges.tolist() == [[0, 15, 20]]  # one and a half numbers per bin
    uniform = fitted(np.array([[0.0], [10.0], [1.0]]), 5, "uniform")
    assert uniform.edges.tolist() == [[0, 2, 4, 6, 8, 10]]


@pytest.mark.parametrize("binning", BINNINGS)
@pytest.mark.parametrize("rows", [1, 2, 7, 99, 100, 101, 1001])
def test_any_number_of_rows_and_any_shape(binning: Binning, rows: int) -> None:
    rng = np.random.default_rng(rows)
    columns = np.stack([draw(rng, rows) for draw in SHAPES.values()], 1)
    for bins in (1, 2, 3, 100):
        check(fitted(columns, bins, binning), columns)


@given(
    arrays(
        np.float32,
        st.tuples(st.integers(1, 40), st.just(2)),
        elements=st.floats(-(2.0**100), 2.0**100, width=32),
    ),
    st.integers(1, 30),
    st.sampled_from(BINNINGS),
)
def test_any_numbers(columns: np.ndarray, bins: int, binning: Binning) -> None:
    check(fitted(columns, bins, binning), columns)


def test_quantile_bins_are_equally_full() -> None:
    columns = np.random.default_rng(0).normal(size=(1001, 2))
    made = fitted(columns, 100, "quantile")
    for dimension in range(2):
        tokens = made.encode(torch.tensor(columns))[:, dimension]
        counts = torch.bincount(tokens, minlength=100)
        assert counts.min() >= 9
        assert counts.max() <= 12


def test_a_number_at_several_edges_has_a_bin_of_its_own() -> None:
    """Rewards that are mostly 0: zeros decode to 0, and neighbouring values to other numbers."""
    rng = np.random.default_rng(0)
    column = np.where(rng.random(2000) < 0.9, 0, rng.normal(0, 1, 2000)).astype(np.float32)
    made = fitted(column[:, None], 100, "quantile")
    tokens = made.encode(torch.tensor(column)[:, None])[:, 0]
    zero = tokens[column == 0].unique()
    assert len(zero) == 1
    assert made.centers[0, zero].tolist() == [0.0]
    assert not (tokens[column != 0] == zero).any()
    assert len(tokens[column != 0].unique()) >= 9  # a tenth of the data has a tenth of the bins


def test_zero_has_its_bin_where_the_least_numbers_are_taken_for_zero() -> None:
    column = np.repeat([0.0, 1.0, 2.0], [80, 10, 10])[:, None]
    made, zero = fitted(column, 20, "quantile"), torch.zeros(1)
    assert torch.set_flush_denormal(True)
    try:
        assert made.decode(made.encode(zero)).tolist() == [0.0]
    finally:
        torch.set_flush_denormal(False)


@pytest.mark.parametrize("binning", BINNINGS)
def test_a_constant_is_one_bin_and_the_rest_are_empty(binning: Binning) -> None:
    made = fitted(np.full((50, 1), 0.1), 10, binning)
    number = torch.tensor(0.1)
    assert (made.centers == number).all()
    assert made.edges[0, 0] == number < made.edges[0, 1]
    assert (made.edges[0, 1:] == made.edges[0, 1]).all()
    for value in (-5.0, 0.1, 0.2, torch.nan):
        assert made.encode(torch.tensor([value])).item() == 0


def test_dimensions_are_named_by_the_first() -> None:
    rng = np.random.default_rng(0)
    columns = np.stack([rng.normal(10 * d, 1 + d, 500) for d in range(6)], 1)
    made = fitted(columns, 20, "quantile")
    values = torch.tensor(columns).reshape(5, 100, 6)
    tokens = made.encode(values)
    assert tokens.shape == values.shape
    assert torch.equal(made.encode(values[..., 2:5], 2), tokens[..., 2:5])
    assert torch.equal(made.decode(tokens[..., 2:5], 2), made.decode(tokens)[..., 2:5])
    probabilities = torch.rand(4, 3, 20)
    expected = [
        [(p * made.centers[2 + d]).sum() for d, p in enumerate(row)] for row in probabilities
    ]
    torch.testing.assert_close(made.expect(probabilities, 2), torch.tensor(expected))
    for alone in (values[0, 0], values[:0]):
        assert made.decode(made.encode(alone)).shape == alone.shape


@pytest.mark.parametrize("token", [20, -1])
def test_a_token_without_a_bin_is_not_decoded(token: int) -> None:
    with pytest.raises((IndexError, RuntimeError)):
        Tokenizer(3, 20).decode(torch.tensor([0, 0, token]))


def test_a_million_numbers_against_a_plain_search() -> None:
    column = np.random.default_rng(0).gamma(0.3, 2, 1_000_000).astype(np.float32)
    column[::3] = 0.25
    made = fitted(column[:, None], 100, "quantile", block=65_536)
    ordered, edges = np.sort(column), made.edges[0].numpy()
    distinct = sorted({ordered[k * 10_000] for k in range(100)} | {ordered[-1]})
    found = set(edges.tolist())
    assert set(map(float, distinct)) <= found
    assert found - set(map(float, distinct)) == {float(np.nextafter(np.float32(0.25), np.inf))}
    tokens = made.encode(torch.tensor(column)[:, None])[:, 0].numpy()
    reachable = len(found) - 1
    plain = np.minimum(np.searchsorted(edges[:reachable], column, "right") - 1, reachable - 1)
    np.testing.assert_array_equal(tokens, plain)
    for index in range(0, len(column), 9973):  # and without any search
        bins = [i for i in range(100) if edges[i] <= column[index] < edges[i + 1]]
        assert bins == [tokens[index]] or column[index] == ordered[-1]


@pytest.mark.parametrize("binning", BINNINGS)
def test_blocks_do_not_matter_and_doubles_are_rounded_first(binning: Binning) -> None:
    columns = np.random.default_rng(0).normal(size=(1000, 3))
    whole = fitted(columns, 30, binning, block=1000)
    for block in (1, 7, 999):
        other = fitted(columns, 30, binning, block)
        assert torch.equal(other.edges, whole.edges)
        assert torch.equal(other.centers, whole.centers)
    assert torch.equal(fitted(columns.astype(np.float32), 30, binning).edges, whole.edges)


def test_what_was_fitted_travels_with_the_weights() -> None:
    columns = np.random.default_rng(0).normal(size=(500, 3))
    made, other = fitted(columns, 30, "quantile"), Tokenizer(3, 30)
    assert not torch.equal(made.edges, other.edges)
    other.load_state_dict(made.state_dict())
    assert torch.equal(made.edges, other.edges)
    assert torch.equal(made.centers, other.centers)
    values = torch.tensor(columns)
    assert torch.equal(made.double().encode(values), other.encode(values))


@pytest.mark.parametrize("binning", BINNINGS)
@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf, 1e300, np.finfo(np.float32).max])
def test_what_is_no_number_is_named(binning: Binning, wrong: float) -> None:
    columns = np.zeros((500, 3))
    columns[321, 1] = wrong
    with pytest.raises(UserError, match="dimension 1 of 3"):
        fitted(columns, 30, binning)


@pytest.mark.parametrize("binning", BINNINGS)
def test_nothing_and_other_widths_are_refused(binning: Binning) -> None:
    with pytest.raises(UserError, match="no row"):
        Tokenizer(3, 5).fit([np.zeros((0, 3))], binning)
    with pytest.raises(ValueError, match=r"\(4, 2\), not \[n, 3\]"):
        Tokenizer(3, 5).fit([np.zeros((4, 2))], binning)
    with pytest.raises(KeyError):
        Tokenizer(3, 5).fit([np.zeros((4, 3))], "kmeans")  # type: ignore
    assert set(CUTS) == set(BINNINGS)


def test_memory_is_bounded_and_nothing_is_left(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    rows, dimensions, block = 100_000, 40, 1000
    rng = np.random.default_rng(0)
    made = Tokenizer(dimensions, 100)
    tracemalloc.start()
    made.fit((rng.normal(size=(block, dimensions)) for _ in range(rows // block)), "quantile")
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 4 * rows * dimensions / 4  # a quarter of the data
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_one_line(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "absent"))
    with pytest.raises(UserError, match=r"No such file.*TMPDIR"):
        fitted(np.zeros((10, 2)), 5, "quantile")
    full = open("/dev/full", "r+b", buffering=0)  # noqa: SIM115 (closed by the scratch)
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: full)
    with pytest.raises(UserError, match=r"No space left.*TMPDIR"):
        fitted(np.zeros((10, 2)), 5, "quantile")
    assert full.closed
