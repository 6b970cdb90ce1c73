from dataclasses import replace

import pytest
import torch

from decision_seq.models.backbones import GPTConfig
from decision_seq.policies import DecisionTransformer, DecisionTransformerConfig
from decision_seq.types import Batch, Spec, UserError

K, S, A = 20, 11, 3


def random_batch(rows: int, padded: bool = True) -> Batch:
    lengths = torch.randint(1, K + 1, (rows, 1)) if padded else torch.full((rows, 1), K)
    return Batch(
        observations=torch.randn(rows, K, S) * 3,
        actions=torch.rand(rows, K, A) * 2 - 1,
        rewards=torch.randn(rows, K),
        conditions=torch.rand(rows, K, 1) * 4,
        timesteps=torch.randint(0, 900, (rows, 1)) + torch.arange(K),
        mask=torch.arange(K) < lengths,
    )


def as_transformers(policy: DecisionTransformer):
    """The same weights in transformers' model, with its constant position vector set to zero."""
    from transformers import DecisionTransformerConfig as TheirConfig
    from transformers import DecisionTransformerModel

    backbone = policy.config.backbone
    model = DecisionTransformerModel(
        TheirConfig(
            state_dim=S,
            act_dim=A,
            hidden_size=backbone.width,
            max_ep_len=1000,
            n_layer=backbone.layers,
            n_head=backbone.heads,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
        )
    ).eval()
    pairs = [
        (model.embed_timestep, policy.positions.embed),
        (model.embed_return, policy.embed_condition),
        (model.embed_state, policy.encoder.embed),
        (model.embed_action, policy.actions.embed),
        (model.embed_ln, policy.positions.norm),
        (model.predict_action[0], policy.actions.head),
        (model.encoder.ln_f, policy.backbone.norm),
    ]
    for theirs, ours in pairs:
        theirs.load_state_dict(ours.state_dict())
    with torch.no_grad():
        model.encoder.wpe.weight.zero_()
        for theirs, ours in zip(model.encoder.h, policy.backbone.blocks, strict=True):
            theirs.ln_1.load_state_dict(ours.attention_norm.state_dict())
            theirs.ln_2.load_state_dict(ours.mlp_norm.state_dict())
            for conv, linear in (
                (theirs.attn.c_attn, ours.attention.query_key_value),
                (theirs.attn.c_proj, ours.attention.output),
                (theirs.mlp.c_fc, ours.mlp[0]),
                (theirs.mlp.c_proj, ours.mlp[2]),
            ):
                conv.weight.copy_(linear.weight.T)
                conv.bias.copy_(linear.bias)
    return model


@pytest.mark.parametrize("heads", [1, 4])
@pytest.mark.parametrize("padded", [False, True])
@torch.no_grad()
def test_the_same_weights_in_transformers_give_the_same_actions(heads: int, padded: bool) -> None:
    torch.manual_seed(heads)
    config = DecisionTransformerConfig(K, GPTConfig(heads=heads))
    policy = config.build(Spec((S,), A, "continuous", 1, 1000)).eval()
    for parameter in policy.backbone.parameters():  # larger than the small initial values
        parameter += torch.randn_like(parameter) * 0.05
    policy.encoder.take(torch.randn(S).numpy(), torch.rand(S).numpy() + 0.5)
    model = as_transformers(policy)
    for _ in range(5):
        batch = random_batch(32, padded)
        theirs = model(
            states=(batch.observations - policy.encoder.mean) / policy.encoder.std,
            actions=batch.actions,
            returns_to_go=batch.conditions,
            timesteps=batch.timesteps,
            attention_mask=batch.mask.long(),
        ).action_preds
        hidden, _ = policy.backbone(policy.tokens(policy.encoded(batch)), slice(1, None, 3))
        ours = policy.actions.predict(hidden)
        assert (ours - theirs)[batch.mask].abs().max() < 1e-5
        newest = theirs[torch.arange(32), batch.lengths - 1]
        assert (policy.act(batch)[0] - newest).abs().max() < 1e-5


@torch.no_grad()
def test_the_loss_is_that_of_the_actions_it_would_choose(spec: Spec) -> None:
    """`forward` and `act` read the same token, so each step's error is that of its own action."""
    torch.manual_seed(0)
    policy = DecisionTransformerConfig(K, GPTConfig(width=32)).build(spec).eval()
    batch = random_batch(6, padded=False)
    rng = torch.Generator()
    values, weights = policy(batch, rng).losses["action"], policy.weights(batch, rng)["action"]
    assert values.shape == (6, K)
    assert torch.equal(weights, batch.mask)
    for step in range(K):
        mask = (torch.arange(K) <= step).expand(6, K)
        chosen, _ = policy.act(replace(batch, mask=mask))
        expected = (chosen - batch.actions[:, step]).square().mean(-1)
        torch.testing.assert_close(values[:, step], expected, rtol=1e-4, atol=1e-6)


def test_tokens_are_interleaved(spec: Spec) -> None:
    """R_1, s_1, a_1, R_2, ...: concatenated streams spoilt a port's scores (tinkoff-ai/CORL#3)."""
    policy = DecisionTransformerConfig(K, GPTConfig(dropout=0)).build(spec).eval()
    batch = random_batch(2, padded=False)
    before = policy.tokens(policy.encoded(batch))
    assert before.shape == (2, 3 * K - 1, 128)
    for name, offset in (("conditions", 0), ("observations", 1), ("actions", 2)):
        changed = getattr(batch, name).clone()
        changed[:, 4] += 1
        moved = (policy.tokens(policy.encoded(replace(batch, **{name: changed}))) != before).any(-1)
        assert moved.nonzero()[:, 1].unique().tolist() == [3 * 4 + offset]


def test_without_a_condition_two_tokens_make_a_step(spec: Spec) -> None:
    """s_1, a_1, s_2, a_2, ...: the action is read at s, and there are no unused parameters."""
    unconditioned = replace(spec, condition_size=0)
    policy = DecisionTransformerConfig(K, GPTConfig(dropout=0)).build(unconditioned).eval()
    assert not [name for name, _ in policy.named_parameters() if "condition" in name]
    batch = replace(random_batch(2, padded=False), conditions=torch.empty(2, K, 0))
    before = policy.tokens(policy.encoded(batch))
    assert before.shape == (2, 2 * K - 1, 128)
    for name, offset in (("observations", 0), ("actions", 1)):
        changed = getattr(batch, name).clone()
        changed[:, 4] += 1
        moved = (policy.tokens(policy.encoded(replace(batch, **{name: changed}))) != before).any(-1)
        assert moved.nonzero()[:, 1].unique().tolist() == [2 * 4 + offset]


def test_the_paper_sized_model_has_726019_parameters(spec: Spec) -> None:
    """The original's count without the heads that do not affect its loss."""
    policy = DecisionTransformerConfig().build(spec)
    assert sum(parameter.numel() for parameter in policy.parameters()) == 726_019


def test_a_context_of_one_step_trains_no_action_embedding(spec: Spec) -> None:
    policy = DecisionTransformerConfig(1, GPTConfig()).build(spec)
    assert not policy.actions.embed.weight.requires_grad
    assert policy.act(random_batch(3))[0].shape == (3, A)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(UserError, match="context_length 20 exceeds the 10 timesteps"):
        DecisionTransformerConfig().build(Spec((S,), A, "continuous", 1, 10))
    with pytest.raises(UserError, match=r"vector observations, not ones of shape \(3, 8, 8\)"):
        DecisionTransformerConfig().build(Spec((3, 8, 8), A, "discrete", 1, 1000))
