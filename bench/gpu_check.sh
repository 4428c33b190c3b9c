#!/usr/bin/env bash
# All that only a machine with a GPU can check: build, tests, sanitizers, benchmarks, kernels under Nsight Compute, two
# trainings. Nothing is downloaded or installed. Every step leaves NAME.log and NAME.status in the folder OUT, the
# benchmarks their record in bench-NAME, a training its run folder; later steps run though earlier ones failed.
#
#   OUT            where logs and records go (default: gpu-check)
#   ARCHIVE        a .tar.gz of OUT, written anew after every step (default: none); where the machine itself sets OUT to
#                  the folder that it hands back, keep that first: BACK=$OUT; OUT=check-1 ARCHIVE=$BACK/check-1.tgz
#   STEPS          which steps, in order (default: facts build tests memcheck racecheck exact tf32 profile omniglot-5w1s
#                  omniglot-20w1s)
#   WORKLOADS      of the benchmarks, such as W1,W3-order2 (default: all)
#   PEERS          such as loop,vmap (default: all)
#   SELECT         of the benchmarks those that pytest's -k takes, such as bench_op (default: all)
#   SECONDS_TIMED  for how long each measurement goes (default: the benchmarks' own)
#   PROCESSES      that the tests run in, where pytest-xdist is installed (default: 6)
#   SECONDS_EACH   the most that a step may take (default: 1800)
#   SECONDS_TOTAL  the most that all may take together (default: 7200)
#   MAML_FAST_DATA   the folder that holds omniglot/ with the two zips (default: the trainings are left out)
#   RUNS           where the trainings' run folders are; one that was stopped goes on (default: OUT)
#   PYTHON         default: python3
#   MAML_FAST_CACHE  where the compiled library and the data are kept (default: a folder that is removed at the end)
#
# Where a command may take ten minutes at most, three of them do, with SECONDS_TOTAL=550, which leaves half a minute to
# write what there is. MAML_FAST_CACHE must be kept between them, or each compiles everything again, and RUNS, so that a
# training goes on. ARCHIVE is for machines that hand back few files. In each, OUT=check-1 or so, SECONDS_TIMED=1, and:
#
#   1. STEPS="facts build tests exact tf32" SELECT=bench_iteration WORKLOADS=W3-order2 PEERS=loop,vmap
#   2. STEPS="omniglot-5w1s tf32 profile" WORKLOADS=W1,W2,W3-order1,W4,W5,F PEERS=loop,vmap
#   3. STEPS="exact omniglot-20w1s" SELECT="bench_iteration or bench_gpu_scaling", the rest as in 2.
#   4. STEPS="exact tf32" SELECT=bench_iteration WORKLOADS=W3-order2 PEERS=jax-vmap,jax-vmap-conv: JAX compiles two
#      graphs of five second-order steps for each, which takes minutes
#
# In the second, blocks and scaling are measured too. What there was no time for is told; memcheck and racecheck are for
# what is left.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

export out=${OUT:-gpu-check} python=${PYTHON:-python3} data=${MAML_FAST_DATA:-}
export workloads=${WORKLOADS:-} peers=${PEERS:-} select=${SELECT:-} seconds_timed=${SECONDS_TIMED:-}
export runs=${RUNS:-$out}
archive=${ARCHIVE:-}
steps=${STEPS:-facts build tests memcheck racecheck exact tf32 profile omniglot-5w1s omniglot-20w1s}
seconds_each=${SECONDS_EACH:-1800} seconds_total=${SECONDS_TOTAL:-7200}
export skipped=77 # the status of a step that has nothing to run with

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$out"
export MAML_FAST_CACHE=${MAML_FAST_CACHE:-$work/kernels} MAML_FAST_BACKEND=native
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} PATH=$PATH:${CUDA_HOME:-/usr/local/cuda}/bin
export MPLCONFIGDIR=$work/matplotlib HYPOTHESIS_STORAGE_DIRECTORY=$work/hypothesis PYTHONDONTWRITEBYTECODE=1

needs() { # Python modules: say which are missing, and fail
  "$python" -c '
import sys
from importlib.util import find_spec
missing = [name for name in sys.argv[1:] if find_spec(name) is None]
if missing:
    sys.exit("this step needs Python modules that are not installed here: " + ", ".join(missing))
' "$@"
}

facts() {
  local status=0
  nvidia-smi || status=$?
  nvcc --version || status=$?
  "$python" -c '
import sys, torch
print(f"Python {sys.version}\ntorch {torch.__version__}, CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}")
print(torch.cuda.get_device_properties(0))
' || status=$?
  return "$status"
}

build() {
  needs torch numpy PIL click rich filelock platformdirs ninja pybind11
  "$python" -m maml_fast build --verbose
  "$python" -m maml_fast doctor
  "$python" -c 'from maml_fast import native; assert native.has_cuda_kernels(), f"no kernels for GPUs: {native.backend()}"'
}

tests() {
  needs pytest pytest_benchmark hypothesis pybind11 ninja matplotlib click rich filelock platformdirs
  local spread=() # over processes, where pytest-xdist is: most of the time goes to Python between the kernels
  ! "$python" -c 'import xdist' >/dev/null 2>&1 || spread=(-n "${PROCESSES:-6}")
  OMP_NUM_THREADS=2 "$python" -m pytest -m cuda -q -p no:cacheprovider -p no:benchmark "${spread[@]}"
}

sanitize() { # TOOL
  if ! command -v compute-sanitizer; then
    echo "compute-sanitizer is not installed here: $1 is left out"
    return "$skipped"
  fi
  # PyTorch's cache would hide what reaches past the end of a tensor. Only our kernels are watched.
  PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool "$1" --error-exitcode 9 --target-processes all \
    --kernel-name kernel_substring=maml_fast "$python" bench/gpu_sanitize.py
}

memcheck() { sanitize memcheck; }

racecheck() { sanitize racecheck; }

bench() { # PRECISION
  needs pytest pytest_benchmark matplotlib click rich filelock platformdirs
  "$python" -m maml_fast bench --device cuda --precision "$1" --sweeps 1 --out "$out/bench-$1" \
    ${workloads:+--workloads "$workloads"} ${peers:+--peers "$peers"} ${seconds_timed:+--seconds "$seconds_timed"} \
    ${select:+-k "$select"}
}

exact() { bench exact; }

tf32() { bench tf32; }

profile() { # the products of W3's query set
  if ! command -v ncu; then
    echo "ncu, Nsight Compute's program, is not installed here: the profile is left out"
    return "$skipped"
  fi
  local precision
  for precision in exact tf32; do # the clocks stay as they are
    ncu --clock-control none --target-processes all --profile-from-start off --kernel-name regex:MultiplyKernel \
      --set detailed "$python" bench/gpu_products.py --precision "$precision"
  done
}

omniglot() { # WAYS: 1-shot by Finn's recipe; a run that was stopped goes on
  if [[ -z $data ]]; then
    echo "MAML_FAST_DATA is not set to the folder that holds omniglot/: the training is left out"
    return "$skipped"
  fi
  needs torch numpy PIL click rich filelock platformdirs matplotlib
  local run=$runs/omniglot-$1w1s
  trap "keep '$run'" EXIT # also where it is stopped
  if [[ -f $run/metrics.jsonl.gz ]]; then
    echo "$run has been trained already: remove it to train anew"
  elif [[ -f $run/checkpoint.pt ]]; then
    "$python" -m maml_fast train --resume "$run"
  else
    "$python" -m maml_fast reproduce "finn2017-omniglot-$1w1s" --device cuda --root "$data" --out "$run"
  fi
  [[ ! -f $run/metrics.jsonl ]] || gzip "$run/metrics.jsonl" # it has a row for every iteration
}

keep() { # RUN, among what OUT holds
  [[ $runs == "$out" || ! -d $1 ]] || { rm -rf "$out/$(basename "$1")" && cp -R "$1" "$out"; }
}

omniglot-5w1s() { omniglot 5; }

omniglot-20w1s() { omniglot 20; }

export -f needs facts build tests sanitize memcheck racecheck bench exact tf32 profile
export -f omniglot keep omniglot-5w1s omniglot-20w1s

step() { # NAME: run the function of that name, and note what came of it
  local name=$1 before=$SECONDS status=0 limit=$((seconds_total - SECONDS))
  ((limit < seconds_each)) || limit=$seconds_each
  printf '\n== %s (after %d s)\n' "$name" "$SECONDS"
  if ((limit <= 0)); then
    echo "no time is left: SECONDS_TOTAL is $seconds_total" | tee "$out/$name.log"
    status=124
  else # an interrupt first, so that the benchmarks write what they have
    timeout --signal=INT --kill-after=30 "$limit" bash -euo pipefail -c "$name" 2>&1 | tee "$out/$name.log" || status=$?
  fi
  echo "$status" >"$out/$name.status"
  summary+=$(printf '%-14s %-20s %6d s' "$name" "$(meaning "$status")" "$((SECONDS - before))")$'\n'
  ((status == 0 || status == skipped)) || failed=1
  printf '%s' "$summary" >"$out/summary.txt"
  [[ -z $archive ]] || tar -czf "$archive" -C "$(dirname "$out")" "$(basename "$out")"
}

meaning() { # STATUS, in words
  case $1 in
    0) echo ok ;;
    "$skipped") echo "LEFT OUT" ;;
    124 | 137) echo "FAILED: out of time" ;;
    *) echo "FAILED: status $1" ;;
  esac
}

for name in $steps; do # before any work
  [[ $name =~ ^(facts|build|tests|memcheck|racecheck|exact|tf32|profile|omniglot-5w1s|omniglot-20w1s)$ ]] || {
    echo "gpu_check.sh: error: STEPS: there is no '$name'" >&2
    exit 2
  }
done
failed=0 summary=
for name in $steps; do step "$name"; done
printf '\n== summary: logs are in %s\n%s' "$out" "$summary"
exit "$failed"
