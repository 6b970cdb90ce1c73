import torch

from decision_seq.models.positions import TimestepConfig, WindowConfig

LENGTH, D = 9, 8  # three tokens per step


def test_the_tokens_of_a_step_share_its_timestep() -> None:
    positions = TimestepConfig(std=0.5).build(LENGTH, 20, D)
    tokens = torch.randn(2, 3, 3, D)
    timesteps = torch.tensor([[0, 1, 2], [7, 8, 9]])
    told = positions(tokens, timesteps)
    assert told.shape == (2, 9, D)
    expected = positions.norm(tokens[1, 2, 0] + positions.embed.weight[9])
    torch.testing.assert_close(told[1, 6], expected)


@torch.no_grad()
def test_a_window_knows_its_places_and_when_it_begins() -> None:
    positions = WindowConfig().build(LENGTH, 20, D)
    tokens, timesteps = torch.randn(2, 3, 3, D), torch.tensor([[0, 1, 2], [7, 8, 9]])
    # Both tables are initialised to zero, as in the original.
    torch.testing.assert_close(positions(tokens, timesteps), tokens.flatten(1, 2))
    positions.place.normal_()
    positions.begin.weight.normal_()
    told = positions(tokens, timesteps)
    expected = tokens[1, 2, 1] + positions.place[7] + positions.begin.weight[7]
    torch.testing.assert_close(told[1, 7], expected)
    # Steps after a whole window are padding; they do not change the steps before them.
    longer = positions(torch.cat([tokens, tokens], 1), torch.cat([timesteps, timesteps], 1))
    torch.testing.assert_close(longer[:, :9], told)
