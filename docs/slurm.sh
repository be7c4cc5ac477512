#!/bin/bash
#SBATCH --job-name=contrapose
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
# sbatch slurm.sh RUN RECIPE [--set KEY=VALUE ...]     begins RUN, or goes on with it where it is there
run=$1
shift
[ -e "$run/config.toml" ] && set -- --resume
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
srun torchrun --nnodes "$SLURM_NNODES" --nproc-per-node "${SLURM_GPUS_ON_NODE:-1}" \
    --rdzv-backend c10d --rdzv-id "$SLURM_JOB_ID" --rdzv-endpoint "$first:29500" \
    -m contrapose train "$@" --out "$run"
