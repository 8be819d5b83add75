"""Jobs on a cluster: what `kdse submit` asks SLURM for, and what happens when a job is stopped."""
