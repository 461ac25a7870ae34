"""A cluster of this machine alone: sbatch, srun, sacct and scancel as programs.

They take what submitit gives Slurm's. Jobs run at once, each in a session of its own.
"""

import os
import stat
import sys

SBATCH = """
import os, re, subprocess, sys
path = sys.argv[-1]
text = open(path).read()
array = re.search(r"--array=0-(\\d+)", text)
print("Submitted batch job 4242", flush=True)
for task in range(int(array[1]) + 1 if array else 1):
    one = {"SLURM_ARRAY_JOB_ID": "4242", "SLURM_ARRAY_TASK_ID": str(task)} if array else {}
    environment = {**os.environ, **one, "SLURM_JOB_ID": str(4242 + task), "SLURM_NTASKS": "1",
                   "SLURM_JOB_NUM_NODES": "1", "SLURM_NODEID": "0", "SLURM_PROCID": "0",
                   "SLURM_LOCALID": "0", "SUBMITIT_EXECUTOR": "slurm"}
    subprocess.Popen(["bash", path], env=environment, start_new_session=True,
                     stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                     stderr=subprocess.DEVNULL)
"""
SRUN = """
import os, sys
words = sys.argv[1:]
start = next(n for n, word in enumerate(words) if "python" in os.path.basename(word))
os.execvp(words[start], words[start:])
"""
SACCT = "print('JobID|State|NodeList')"
SCANCEL = "raise SystemExit('nobody ends the jobs')"


def make_cluster(folder):
    """Write the programs; ``folder`` is to be the first of PATH."""
    folder.mkdir()
    programs = {"sbatch": SBATCH, "srun": SRUN, "sacct": SACCT, "scancel": SCANCEL}
    for name, text in programs.items():
        path = folder / name
        path.write_text(f"#!{sys.executable}\n{text}")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return f"{folder}{os.pathsep}{os.environ['PATH']}"
