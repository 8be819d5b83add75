#!/usr/bin/env bash
# Trains on several GPUs of one machine, or of several, without SLURM.
#
# One machine:
#   PROCESSES=4 bash experiments/cluster/torchrun.sh --config my.yaml --run_dir runs/mine
#
# Two machines that share a disk; type this on each, with NODE=0 on the first and NODE=1 on the second:
#   NODES=2 NODE=0 FIRST=address.of.the.first PROCESSES=4 bash experiments/cluster/torchrun.sh --config my.yaml
#
# If a process dies, torchrun ends the others and starts all of them again, up to RESTARTS times; they go on from the
# last checkpoint (--save_every_n_steps says how often one is written). After Ctrl-C, a kill of torchrun or a reboot,
# type the same line again. The exit code is torchrun's own: 1 also where kdse says 75 (stopped by a signal).

# ---- Set these, here or before the command ---------------------------------------------------------------------------
VENV="${VENV:-.venv}" # the Python environment that kdse is installed in
PROCESSES="${PROCESSES:-2}"         # on each machine: its number of GPUs
NODES="${NODES:-1}"                 # machines
NODE="${NODE:-0}"                   # which of them this is
FIRST="${FIRST:-127.0.0.1}"         # address of machine 0
PORT="${PORT:-29500}"               # a free port of machine 0
RESTARTS="${RESTARTS:-3}"
FLAGS=(--config experiments/two_step/base.yaml --config experiments/two_step/two_step.yaml
  --data.batch_size=8 --data.num_workers=7) # batch_size: of one process; the step of base.yaml is on 16
# ----------------------------------------------------------------------------------------------------------------------

set -euo pipefail
[ "$#" = 0 ] || FLAGS=("$@")
# shellcheck source=/dev/null
source "$VENV/bin/activate"

# exec: a signal to this script is one to torchrun. Lightning reads ranks from torchrun's variables; devices and
# num_nodes must agree with them.
exec torchrun --nnodes="$NODES" --node-rank="$NODE" --nproc-per-node="$PROCESSES" \
  --master-addr="$FIRST" --master-port="$PORT" --max-restarts="$RESTARTS" \
  -m kdse.cli fit "${FLAGS[@]}" --resume=true --trainer.devices="$PROCESSES" --trainer.num_nodes="$NODES"
