"""What papers and other programs call our keys and options: one table of aliases.

A key of the table is never accepted. It only completes the message about an unknown key.
"""

from __future__ import annotations

from typing import NamedTuple


class Alias(NamedTuple):
    """Other names of a key or an option."""

    names: str
    """The names, separated by spaces, in small letters with `_` between words."""
    means: str
    """Our key, whole or from its last part on; or an option, with its dashes; empty for none."""
    example: str = ""
    """A value to show; by default that of `EXAMPLES`, or else the key's default."""
    note: str = ""
    """What is different here, in a few words."""


ALIASES = (
    # Training.
    Alias("lr rate alpha step_size learning_rate_init lr_init policy_lr", "train.learning_rate"),
    Alias(
        "steps max_steps num_steps n_steps train_steps training_steps total_steps updates"
        " num_updates num_train_steps iterations iters max_iters num_iters n_iters max_iterations"
        " gradient_steps grad_steps num_gradient_steps num_steps_per_iter update_steps",
        "train.steps",
    ),
    Alias(
        "epochs epoch num_epochs n_epochs max_epochs num_train_epochs train_epochs",
        "train.steps",
        note="a run is measured in updates, not epochs",
    ),
    Alias(
        "batch bs batchsize minibatch_size mini_batch_size train_batch_size n_batch"
        " per_device_train_batch_size per_device_batch_size",
        "train.batch_size",
    ),
    Alias("warmup warmup_updates lr_warmup num_warmup_steps warmup_iters", "train.warmup_steps"),
    Alias("warmup_tokens warmup_ratio", "train.warmup_steps", note="it is counted in updates"),
    Alias("wd l2 decay_rate l2_reg", "train.weight_decay"),
    Alias(
        "grad_clip clip_grad max_grad_norm grad_norm_clip gradient_clip grad_norm clip_norm"
        " gradient_clip_val max_norm",
        "train.clip",
    ),
    Alias("scheduler lr_schedule lr_scheduler lr_scheduler_type lr_decay", "train.schedule"),
    Alias("beta beta1 beta2 adam_betas", "train.betas"),
    Alias("optim optimizer optimizer_type optimizer_name", "train.optimizer.name"),
    Alias("eps adam_eps adam_epsilon epsilon", "train.optimizer.eps"),
    Alias("dtype amp mixed_precision use_amp", "train.precision", "bf16"),
    Alias("fp16 half", "train.precision", "fp16"),
    Alias("bf16 bfloat16", "train.precision", "bf16"),
    Alias("grad_accumulation gradient_accumulation_steps grad_accum", "train.accumulation"),
    Alias("gradient_checkpointing grad_checkpoint remat", "train.checkpoint_activations"),
    Alias("torch_compile jit compile_model", "train.compile"),
    Alias("ema_decay polyak use_ema", "train.ema"),
    Alias("fsdp ddp strategy distributed sharding", "train.parallel", "fsdp"),
    Alias(
        "save_every save_interval save_freq save_steps checkpoint_interval ckpt_every"
        " save_checkpoint_every",
        "train.checkpoint_every",
    ),
    Alias("log_interval log_freq logging_steps print_every log_steps", "train.log_every"),
    Alias("save_total_limit keep_last keep_last_n", "train.keep_checkpoints"),
    Alias("save_best keep_best_model best", "train.keep_best"),
    Alias(
        "tracker logger log_with report_to wandb use_wandb log_to_wandb log_wandb wandb_project",
        "train.trackers",
        "[tensorboard, wandb]",
    ),
    Alias("tensorboard use_tensorboard tb", "train.trackers"),
    # The policy.
    Alias(
        "k context context_len max_length max_len seq_len sequence_length block_size window"
        " window_size history history_length max_context context_size",
        "policy.context_length",
    ),
    Alias("horizon planning_horizon", "policy.planner.horizon"),
    Alias("horizon", "policy.context_length"),
    Alias("beam_width beam_size num_beams n_beams", "policy.planner.beams"),
    Alias("layer n_layer n_layers num_layers num_hidden_layers depth n_blocks blocks", "layers"),
    Alias("n_head n_heads num_heads nhead num_attention_heads attention_heads", "heads"),
    Alias(
        "embed_dim embedding_dim embed_size n_embd n_embed emb_dim d_model hidden hidden_size"
        " hidden_dim hidden_dims dim model_dim",
        "width",
    ),
    Alias(
        "resid_dropout attn_dropout residual_dropout attention_dropout embedding_dropout embd_pdrop"
        " resid_pdrop attn_pdrop dropout_p p_drop",
        "dropout",
    ),
    Alias("activation_function act activation_fn nonlinearity", "activation"),
    Alias("model algo algorithm agent policy_type model_type method_type", "policy.name"),
    Alias("backbone arch architecture transformer model_name", "policy.backbone.name"),
    Alias("cnn image_encoder vision_encoder", "policy.encoder.name", "image"),
    Alias("stochastic_policy stochastic", "policy.head", "stochastic"),
    Alias("max_ep_len_embedding position_embedding positional_encoding", "policy.positions.name"),
    Alias("embed_tanh", "policy.squash"),
    # Conditioning and data.
    Alias("return_scale reward_scale rtg_scale", "conditioning.scale"),
    Alias("gamma discount_factor", "conditioning.discount"),
    Alias("clip_reward reward_clip clip_rewards", "conditioning.clip"),
    Alias(
        "data path dataset_name data_path dataset_path data_dir dataset_dir dataset_id dataset_path"
        " data_dir_prefix trajectories",
        "dataset",
    ),
    Alias("pct_traj percent top_fraction pct", "best_fraction"),
    Alias("validation val_split test_split holdout hold_out val_fraction", "held_out"),
    Alias("random_seed rng manual_seed train_seed seeds", "seed"),
    Alias("sparse delayed_reward delayed_rewards", "delayed"),
    # Evaluation.
    Alias(
        "env env_name environment gym_id env_id task task_name game",
        "evaluation.env_id",
        note="--dataset names the data and, for known ones, the environment too",
    ),
    Alias(
        "target rtg target_return target_returns target_rtg desired_return desired_returns"
        " env_targets eval_rtg target_reward eval_target initial_rtg",
        "evaluation.targets",
    ),
    Alias(
        "episodes eval_episodes num_eval_episodes n_eval n_eval_episodes num_eval eval_rollouts"
        " num_episodes n_episodes test_episodes eval",
        "evaluation.episodes",
    ),
    Alias(
        "eval_every eval_freq eval_interval eval_steps evaluate_every eval_period evaluation_every",
        "evaluation.every",
        "500",
    ),
    Alias("eval_seed test_seed", "evaluation.seed"),
    Alias("num_workers n_workers n_jobs jobs", "evaluation.workers"),
    Alias("num_envs n_envs envs n_env num_env", "evaluation.environments"),
    Alias(
        "max_ep_len max_episode_length max_episode_len time_limit episode_length ep_len",
        "evaluation.max_episode_steps",
    ),
    Alias("temp sampling_temperature", "evaluation.temperature"),
    # Options.
    Alias(
        "out output_dir out_dir save_dir save_path save_folder log_dir logdir run_dir workdir"
        " work_dir exp_dir checkpoint_dir default_root_dir output_path",
        "--output",
    ),
    Alias("recipe config_file config_path cfg yaml", "--config"),
    Alias(
        "nproc nproc_per_node num_processes n_processes world_size num_gpus n_gpus n_gpu gpus"
        " devices num_devices nprocs",
        "--processes",
        note="it is checked only; `accelerate launch` or `torchrun` starts them",
    ),
    Alias("run_name exp_name experiment_name run_id exp experiment", "--name"),
    Alias(
        "pretrained load load_path load_from checkpoint ckpt checkpoint_path ckpt_path model_path"
        " init init_checkpoint finetune_from pretrained_model pretrained_path",
        "--init-from",
        note="--resume goes on with a run instead",
    ),
    Alias("import_module extension extensions", "--plugin"),
    Alias("continue resume_training restore restart resume_from_checkpoint", "--resume"),
    # What no key sets.
    Alias(
        "device cuda gpu cpu use_gpu use_cuda no_cuda accelerator",
        "",
        note="a GPU is used where there is one; ACCELERATE_USE_CPU=true before the command keeps"
        " it on the CPU, CUDA_VISIBLE_DEVICES=1 chooses a GPU",
    ),
)

# Values to show for keys that have no default, or whose default explains little.
EXAMPLES = {
    "dataset": "hopper-medium",
    "method": "mine",
    "least_return": "1",
    "held_out": "0.1",
    "best_fraction": "0.1",
    "collection.steps": "100000",
    "conditioning.scale": "1000",
    "conditioning.clip": "false",
    "train.fall_steps": "50000",
    "train.ema": "0.999",
    "train.keep_best": "return",
    "train.peak_tflops": "100",
    "evaluation.env_id": "Hopper-v4",
    "evaluation.targets": "[3600, 1800]",
    "evaluation.every": "500",
    "evaluation.environments": "8",
    "evaluation.workers": "2",
    "evaluation.max_episode_steps": "1000",
    "--output": "runs/mine",
    "--config": "dt/gym",
    "--processes": "2",
    "--resume": "",
    "--name": "mine",
    "--init-from": "runs/first",
    "--plugin": "my_module",
}
