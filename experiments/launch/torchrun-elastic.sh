#!/usr/bin/env bash
# Train on one machine, or on a varying number of machines. After the loss of a process or machine
# the run continues from its newest checkpoint, with a replacement or without.
#
#   experiments/launch/torchrun-elastic.sh --dataset hopper-medium --output runs/mine
#   NODES=1:4 ENDPOINT=head:29400 ID=mine experiments/launch/torchrun-elastic.sh ...   on each
#
# PROCESSES: number on each machine (default: one per GPU). The host of ENDPOINT runs the rendezvous
# and must outlive the others. The arguments are those of `decision-seq train`; omit --processes
# where the number of machines varies.
set -euo pipefail

nodes=${NODES:-1}
# Use c10d, never torchrun's static rendezvous (--master_addr, --node_rank): after a restart the
# static one always gives the new workers stale entries of its store.
rendezvous=(--rdzv-backend c10d --rdzv-endpoint "${ENDPOINT:-localhost:0}")
if [[ $nodes != 1 ]]; then
    : "${ENDPOINT:?HOST:PORT of the machine that runs the rendezvous}"
    : "${ID:?a name that the machines of this run share}"
fi
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
# By default the workers use the agent's store, which survives a restart. A new worker may then read
# the address of a dead one, and gloo waits for it for half an hour.
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1

# last_call_timeout: seconds to wait for more machines once the minimum has joined.
exec torchrun --nnodes "$nodes" --nproc-per-node "${PROCESSES:-gpu}" \
    "${rendezvous[@]}" --rdzv-id "${ID:-alone}" \
    --rdzv-conf "last_call_timeout=${LAST_CALL:-30}" \
    --max-restarts "${MAX_RESTARTS:-5}" \
    --signals-to-handle SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1 \
    --shutdown-timeout "${SAVE_SECONDS:-150}" \
    -m decision_seq train --resume auto "$@"
