#!/usr/bin/env bash
# Runs a command beside a SLURM of its own: two nodes on this host, started before it and removed after it.
#
#   tests/cluster/slurm/with_slurm.sh COMMAND [ARGUMENT...]
#
# Installs slurmctld, slurmd, slurm-client, munge and libfaketime with apt-get if they are missing, hence needs root on
# Debian or Ubuntu. Nothing of it touches /etc/slurm or a SLURM that runs already: configuration, key, sockets, logs and spool lie
# in a temporary folder, the ports are free ones, and COMMAND finds the cluster through SLURM_CONF.
# With SLURM_TEST_LOGS=FOLDER the daemons' logs are copied there at the end.
set -euo pipefail

if [ "$#" = 0 ]; then
  sed -n '2,9s/^# \{0,1\}//p' "$0"
  exit 2
fi
if [ "$(id -u)" != 0 ]; then
  echo "with_slurm.sh: needs root: it starts slurmctld, slurmd and munged" >&2
  exit 1
fi

install_packages() {
  local missing=()
  command -v slurmctld > /dev/null || missing+=(slurmctld)
  command -v slurmd > /dev/null || missing+=(slurmd)
  command -v sinfo > /dev/null || missing+=(slurm-client)
  command -v munged > /dev/null || missing+=(munge)
  compgen -G "/usr/lib/*/faketime/libfaketime.so.1" > /dev/null || missing+=(libfaketime) # a node with another clock
  [ "${#missing[@]}" = 0 ] && return
  echo "with_slurm.sh: installing ${missing[*]}"
  apt-get update -qq
  # a package's own service must not start: this script starts the daemons itself
  DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install -y -qq --no-install-recommends "${missing[@]}" > /dev/null
}

free_ports() { # COUNT: so many free TCP ports, one a line
  python3 - "$1" << 'PYTHON'
import socket
import sys

sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(int(sys.argv[1]))]
print("\n".join(str(s.getsockname()[1]) for s in sockets))
PYTHON
}

write_config() {
  local ports host
  mapfile -t ports < <(free_ports 3)
  host="$(hostname -s)"
  cat > "$state/slurm.conf" << CONF
ClusterName=kdse
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=${ports[0]}
AuthType=auth/munge
AuthInfo=socket=$state/munge.socket
CredType=cred/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation=$state/ctld
SlurmdSpoolDir=$state/spool-%n
SlurmctldPidFile=$state/slurmctld.pid
SlurmdPidFile=$state/slurmd-%n.pid
SlurmctldLogFile=$state/slurmctld.log
SlurmdLogFile=$state/slurmd-%n.log

# no accounting, no control groups: nothing of the host is needed but processes
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SlurmdParameters=config_overrides
ReturnToService=2

# what the tests need: requeue, preemption by a partition of higher priority, and no long waits
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,sched_interval=2,batch_sched_delay=0,sched_min_interval=0
KillWait=30
CompleteWait=0
MinJobAge=300

# two nodes of this one host; what they promise need not be there
GresTypes=gpu
NodeName=node1 NodeHostname=$host NodeAddr=127.0.0.1 Port=${ports[1]} CPUs=16 RealMemory=65536 Gres=gpu:2 State=UNKNOWN
NodeName=node2 NodeHostname=$host NodeAddr=127.0.0.1 Port=${ports[2]} CPUs=16 RealMemory=65536 Gres=gpu:2 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=1440 State=UP PriorityTier=1
PartitionName=urgent Nodes=ALL MaxTime=1440 State=UP PriorityTier=10 PreemptMode=OFF
CONF
  touch "$state/gpu0" "$state/gpu1"
  echo "Name=gpu File=$state/gpu[0-1]" > "$state/gres.conf"
}

start() {
  mkdir -m 0700 "$state/ctld" "$state/munge"
  dd if=/dev/urandom of="$state/munge/key" bs=128 count=1 status=none
  chmod 0400 "$state/munge/key"
  # in the foreground of this script, which can then wait for them: not every container has an init that does
  munged --foreground --force --key-file="$state/munge/key" --socket="$state/munge.socket" \
    --pid-file="$state/munged.pid" --seed-file="$state/munge/seed" > "$state/munged.log" 2>&1 &
  daemons+=("$!")
  until [ -S "$state/munge.socket" ]; do sleep 0.05; done
  slurmctld -D -f "$SLURM_CONF" > /dev/null 2>&1 &
  daemons+=("$!")
  slurmd -D -f "$SLURM_CONF" -N node1 > /dev/null 2>&1 &
  daemons+=("$!")
  slurmd -D -f "$SLURM_CONF" -N node2 > /dev/null 2>&1 &
  daemons+=("$!")
  for _ in $(seq 60); do
    [ "$(sinfo --noheader --Node --partition=main --format=%t 2> /dev/null | sort -u)" = idle ] && return
    sleep 0.5
  done
  echo "with_slurm.sh: the nodes did not become idle within 30 s:" >&2
  sinfo --long --Node >&2 || true
  tail -n 20 "$state"/*.log >&2
  return 1
}

stop() {
  set +e
  scancel --quiet --user="$(id -un)" 2> /dev/null
  for _ in $(seq 20); do
    [ -z "$(squeue --noheader 2> /dev/null)" ] && break
    sleep 0.5
  done
  local i
  for ((i = ${#daemons[@]} - 1; i >= 0; i--)); do # munged last
    kill "${daemons[i]}" 2> /dev/null && wait "${daemons[i]}" 2> /dev/null
  done
  if [ -n "${SLURM_TEST_LOGS:-}" ]; then
    mkdir -p "$SLURM_TEST_LOGS"
    cp "$state"/*.log "$state/slurm.conf" "$SLURM_TEST_LOGS"
  fi
  rm -rf "$state"
}

install_packages
daemons=()
state="$(mktemp -d)"
chmod 0755 "$state" # munged wants its folder to be readable by its clients
export SLURM_CONF="$state/slurm.conf"
export KDSE_TEST_SLURM=1 # the tests submit jobs only here, not to whatever cluster they are run on
trap stop EXIT
write_config
start
"$@"
