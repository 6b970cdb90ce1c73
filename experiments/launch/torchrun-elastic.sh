#!/usr/bin/env bash
# Train on one machine, or on a number of machines that may change; a lost process or machine is
# replaced, or done without, and the run goes on from its newest checkpoint.
#
#   experiments/launch/torchrun-elastic.sh --dataset hopper-medium --output runs/mine
#   NODES=1:4 ENDPOINT=head:29400 ID=mine experiments/launch/torchrun-elastic.sh ...   on each
#
# PROCESSES: on each machine (default: one a GPU). The head of ENDPOINT must outlive the others: it
# keeps the rendezvous. The arguments are those of `decision-seq train`; leave out --processes where
# the number of machines may change.
set -euo pipefail

nodes=${NODES:-1}
# c10d, never torchrun's static rendezvous (--master_addr, --node_rank): after a restart that always
# hands the new workers what the old ones left in its store.
rendezvous=(--rdzv-backend c10d --rdzv-endpoint "${ENDPOINT:-localhost:0}")
if [[ $nodes != 1 ]]; then
    : "${ENDPOINT:?HOST:PORT of the machine that keeps the rendezvous}"
    : "${ID:?a name that the machines of this run share}"
fi
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
# By default the workers' store is one of the agent's, kept from one life to the next: a new worker
# may read there the address of a dead one, and gloo then waits for it for half an hour.
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1

# last_call_timeout: how long, in seconds, fewer machines than the most wait for another to come.
exec torchrun --nnodes "$nodes" --nproc-per-node "${PROCESSES:-gpu}" \
    "${rendezvous[@]}" --rdzv-id "${ID:-alone}" \
    --rdzv-conf "last_call_timeout=${LAST_CALL:-30}" \
    --max-restarts "${MAX_RESTARTS:-5}" \
    --signals-to-handle SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1 \
    --shutdown-timeout "${SAVE_SECONDS:-150}" \
    -m decision_seq train --resume auto "$@"
