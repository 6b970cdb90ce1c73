"""Facts of Atari games: reference scores, published target returns, and the evaluation protocol.

Games have the names of their ROMs.
"""

from __future__ import annotations

from typing import Any

ATARI = "atari/"  # namespace of the environments, and beginning of a task's name
FRAME_SKIP = 4  # emulator frames a step
MOST_STEPS = 27_000  # of an episode: 108,000 frames of the emulator, 30 minutes of play
NOOP_MAX = 30

# (random, human) mean returns in 57 games, for episodes of at most 30 minutes with up to 30 no-ops
# at the start (google-deepmind/dqn_zoo, dqn_zoo/atari_data.py, Apache-2.0). Human scores by other
# protocols, such as 5 minutes or human starts, differ a lot.
SCORES: dict[str, tuple[float, float]] = {
    "alien": (227.8, 7127.7),
    "amidar": (5.8, 1719.5),
    "assault": (222.4, 742.0),
    "asterix": (210.0, 8503.3),
    "asteroids": (719.1, 47388.7),
    "atlantis": (12850.0, 29028.1),
    "bank_heist": (14.2, 753.1),
    "battle_zone": (2360.0, 37187.5),
    "beam_rider": (363.9, 16926.5),
    "berzerk": (123.7, 2630.4),
    "bowling": (23.1, 160.7),
    "boxing": (0.1, 12.1),
    "breakout": (1.7, 30.5),
    "centipede": (2090.9, 12017.0),
    "chopper_command": (811.0, 7387.8),
    "crazy_climber": (10780.5, 35829.4),
    "defender": (2874.5, 18688.9),
    "demon_attack": (152.1, 1971.0),
    "double_dunk": (-18.6, -16.4),
    "enduro": (0.0, 860.5),
    "fishing_derby": (-91.7, -38.7),
    "freeway": (0.0, 29.6),
    "frostbite": (65.2, 4334.7),
    "gopher": (257.6, 2412.5),
    "gravitar": (173.0, 3351.4),
    "hero": (1027.0, 30826.4),
    "ice_hockey": (-11.2, 0.9),
    "jamesbond": (29.0, 302.8),
    "kangaroo": (52.0, 3035.0),
    "krull": (1598.0, 2665.5),
    "kung_fu_master": (258.5, 22736.3),
    "montezuma_revenge": (0.0, 4753.3),
    "ms_pacman": (307.3, 6951.6),
    "name_this_game": (2292.3, 8049.0),
    "phoenix": (761.4, 7242.6),
    "pitfall": (-229.4, 6463.7),
    "pong": (-20.7, 14.6),
    "private_eye": (24.9, 69571.3),
    "qbert": (163.9, 13455.0),
    "riverraid": (1338.5, 17118.0),
    "road_runner": (11.5, 7845.0),
    "robotank": (2.2, 11.9),
    "seaquest": (68.4, 42054.7),
    "skiing": (-17098.1, -4336.9),
    "solaris": (1236.3, 12326.7),
    "space_invaders": (148.0, 1668.7),
    "star_gunner": (664.0, 10250.0),
    "surround": (-10.0, 6.5),
    "tennis": (-23.8, -8.3),
    "time_pilot": (3568.0, 5229.2),
    "tutankham": (11.4, 167.6),
    "up_n_down": (533.4, 11693.2),
    "venture": (0.0, 1187.5),
    "video_pinball": (16256.9, 17667.9),
    "wizard_of_wor": (563.5, 4756.5),
    "yars_revenge": (3092.9, 54576.9),
    "zaxxon": (32.5, 9173.3),
}

# Target returns of the Decision Transformer's code (kzl/decision-transformer,
# atari/mingpt/trainer_atari.py): the best of this part of DQN-replay, or more.
TARGETS = {"breakout": 90.0, "seaquest": 1150.0, "qbert": 14000.0, "pong": 20.0}

# (random, gamer) returns that the Decision Transformer paper seems to normalise by: SCORES,
# rounded. Breakout's is confirmed (beanie00/Decision-ConvFormer#5), the others are reconstructed.
PAPER_SCORES = {
    "breakout": (2.0, 30.0),
    "qbert": (164.0, 13455.0),
    "pong": (-21.0, 15.0),
    "seaquest": (68.0, 42055.0),
}


def name_of(game: str) -> str:
    """A game's name in ids of environments and in DQN-replay: `ms_pacman` -> `MsPacman`."""
    return game.title().replace("_", "")


def family_of(game: str) -> str:
    """A game's key in `facts.FACTS`: `ms_pacman` -> `atari/mspacman`."""
    return ATARI + name_of(game).lower()


def env_id_of(game: str) -> str:
    """A game's environment id: `ms_pacman` -> `atari/MsPacman-v0`."""
    return f"{ATARI}{name_of(game)}-v0"


def protocol(options: dict[str, Any]) -> str:
    """Description of the evaluation protocol, given the keyword arguments of an environment id."""
    sticky = options.get("repeat_action_probability")
    steps = options.get("max_episode_steps") or MOST_STEPS
    repeated = f"actions stick with probability {sticky:g}" if sticky else "no sticky actions"
    return (
        f"0 to {options.get('noop_max', NOOP_MAX)} no-ops at the start, {repeated}, minimal"
        f" actions, each held for {FRAME_SKIP} frames, the last two maximised and resized by area"
        f" to 84 x 84 grey, 4 stacked; ends with the game, not a life, or after"
        f" {steps * FRAME_SKIP:,} frames"
    )
