import json

import pytest
import torch

from decision_seq.bench.counting import counted
from decision_seq.bench.training import (
    BF16,
    FP32,
    _batch,
    _ours,
    _theirs,
    bench_text,
    bench_train,
    record_lines,
)


@pytest.fixture(autouse=True)
def small_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("decision_seq.bench.training.BATCH", 8)


def test_the_sides_are_of_one_size_and_learn_the_same_batch() -> None:
    """The peer's surplus parameters are its position table and those outside its loss."""
    torch.manual_seed(0)
    batch = _batch()
    ours, theirs = _ours("ours", batch, bf16=False), _theirs("theirs", batch)
    unread = ("wpe", "wte", "predict_state", "predict_return")
    sizes = [
        sum(p.numel() for n, p in side.model.named_parameters() if not any(u in n for u in unread))
        for side in (ours, theirs)
    ]
    assert sizes[0] == sizes[1]
    for side in (ours, theirs):
        before = side.loss().item()
        for _ in range(5):
            side.update()
        assert side.loss().item() < before
        assert side.model.training


def test_a_result_has_a_row_a_side_and_one_for_its_products(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("decision_seq.bench.training.WARMUP_ROUNDS", 1)
    result = json.loads(json.dumps(bench_train(rounds=1, threads=None)))
    rows = {row["name"]: row for row in result["rows"]}
    assert list(rows) == [
        "transformers fp32",
        "decision_seq fp32",
        "decision_seq fp32, products alone",
        "decision_seq bf16",
        "decision_seq bf16, products alone",
    ]
    assert result["rows"][0]["speed"] == 1.0
    assert result["gflop_counted"] == result["gflop_by_formula"] == rows[FP32]["gflop"]
    for name, row in rows.items():
        assert row["gflop_per_second"] == pytest.approx(row["gflop"] / row["median_ms"] * 1e3)
        assert (row["share"] is None) != name.endswith("alone")
    for name in (FP32, BF16):
        products = rows[f"{name}, products alone"]
        assert products["gflop"] == rows[name]["gflop"]
        # With one round, the paired share equals that of the two medians.
        share = products["median_ms"] / rows[name]["median_ms"]
        assert products["share"] == pytest.approx(share)
    assert all(name in bench_text(result) for name in rows)
    head, rule, row = (line.strip("|").split("|") for line in record_lines(result))
    assert len(head) == len(rule) == len(row)
    assert float(row[head.index(" fp32 ms ")]) == pytest.approx(rows[FP32]["median_ms"], abs=0.1)


def test_products_are_those_of_each_precision() -> None:
    """All products are recorded with their shapes, strides and dtypes."""
    left, right = torch.ones(2, 3, 4), torch.ones(4, 5, requires_grad=True)

    def compute() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            (left @ right).sum().backward()

    counts = counted(compute)
    forward, backward = counts.products
    assert [product.flops for product in counts.products] == [2 * 6 * 4 * 5] * 2
    for product in (forward, backward):
        assert {like.dtype for like in product.arguments} == {torch.bfloat16}
    assert forward.arguments[1].strides == (5, 1)
    assert backward.arguments[0].strides == (1, 4)  # transposed, not copied
    made = backward.arguments[0].made()
    assert (made.shape, made.stride(), made.dtype) == ((4, 6), (1, 4), torch.bfloat16)
