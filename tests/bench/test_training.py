import torch

from decision_seq.bench.training import _batch, _ours, _theirs, bench_text, bench_train


def test_the_sides_are_of_one_size_and_learn_the_same_batch() -> None:
    """The peer's surplus parameters are those its loss never reaches, and its position table."""
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


def test_a_result_has_a_row_a_side() -> None:
    result = bench_train(rounds=1, threads=None)
    names = [row["name"] for row in result["rows"]]
    assert names == ["transformers fp32", "decision_seq fp32", "decision_seq bf16"]
    assert result["rows"][0]["speed"] == 1.0
    assert all(name in bench_text(result) for name in names)
