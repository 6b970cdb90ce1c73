"""The logs of DQN Replay: shards of frames, read, drawn from and written."""
