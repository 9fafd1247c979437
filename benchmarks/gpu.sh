#!/usr/bin/env bash
# Everything that needs a GPU, in one call of under ten minutes: build, tests, compute-sanitizer, benches, a training.
#
#   benchmarks/gpu.sh [OUTPUT_FOLDER]      (default: $OUT, else benchmarks/results/gpu)
#
# A stage that fails or runs out of time is written down and the next one starts; the exit status is the number of stages
# that failed. Nothing is downloaded. Variables: $PYTHON, the interpreter (default: .venv/bin/python where it is, else
# python3); $BUDGET, seconds in all (default 580); $STAGE_LIMIT, seconds of a stage at most; $GENLAB_COMMIT, the commit,
# where the copy came without .git.
set -u
cd "$(dirname "$0")/.." || exit 1

here="$PWD"
out="${1:-${OUT:-benchmarks/results/gpu}}"
mkdir -p "$out/logs" || exit 1
out="$(cd "$out" && pwd)"
budget="${BUDGET:-580}"
if [ -z "${PYTHON:-}" ]; then
  PYTHON=python3
  [ -x .venv/bin/python ] && PYTHON="$here/.venv/bin/python"
fi
export PYTHONPATH="$here${PYTHONPATH:+:$PYTHONPATH}"
export PYTHONUNBUFFERED=1 MAX_JOBS="${MAX_JOBS:-$(nproc)}"
scratch="$(mktemp -d)"
export GENLAB_CACHE="${GENLAB_CACHE:-$scratch/cache}"
trap 'rm -rf "$scratch"' EXIT
started=$SECONDS
failed=0
stages="$out/stages.jsonl"
: > "$stages"

# stage NAME SECONDS COMMAND...: runs the command with what is left of the budget at most; its output is logs/NAME.log.
stage() {
  local name="$1" limit="$2" left status begin
  shift 2
  left=$((budget - (SECONDS - started)))
  [ "$left" -lt "$limit" ] && limit="$left"
  if [ "$limit" -lt 5 ]; then
    record "$name" "no time left" 0 "$*"
    return
  fi
  [ -n "${STAGE_LIMIT:-}" ] && [ "$STAGE_LIMIT" -lt "$limit" ] && limit="$STAGE_LIMIT"
  printf '== %s (at most %s s): %s\n' "$name" "$limit" "$*"
  begin=$SECONDS
  timeout --kill-after=5 "$limit" "$@" > "$out/logs/$name.log" 2>&1
  status=$?
  case "$status" in
    0) record "$name" "passed" $((SECONDS - begin)) "$*" ;;
    124 | 137) record "$name" "timed out after $limit s" $((SECONDS - begin)) "$*" ;;
    *) record "$name" "failed with $status" $((SECONDS - begin)) "$*" ;;
  esac
  tail -n 4 "$out/logs/$name.log"
}

record() {
  [ "$2" = passed ] || [ "$2" = "not there" ] || failed=$((failed + 1))
  printf '   %s: %s, %s s\n' "$1" "$2" "$3"
  "$PYTHON" - "$1" "$2" "$3" "$4" >> "$stages" << 'PY'
import json, sys
name, outcome, seconds, command = sys.argv[1:]
print(json.dumps({"stage": name, "outcome": outcome, "seconds": int(seconds), "command": command}))
PY
}

sanitizer="$(command -v compute-sanitizer || true)"
[ -z "$sanitizer" ] && [ -x "${CUDA_HOME:-/usr/local/cuda}/bin/compute-sanitizer" ] &&
  sanitizer="${CUDA_HOME:-/usr/local/cuda}/bin/compute-sanitizer"

# Only this GPU's architecture: the others would be compiled for nobody here.
architecture="$("$PYTHON" -c 'import torch; print("{}.{}".format(*torch.cuda.get_device_capability()))' 2> /dev/null)"
if [ -z "$architecture" ]; then
  record gpu "torch sees no CUDA device" 0 "torch.cuda.get_device_capability()"
  exit 1
fi
export TORCH_CUDA_ARCH_LIST="${TORCH_CUDA_ARCH_LIST:-$architecture}"

stage build 150 "$PYTHON" -m genlab build --force
stage doctor 30 "$PYTHON" -m genlab doctor --json

# The kernels first, so that a broken one is known even where the time runs out.
tests=("$PYTHON" -m pytest -m cuda -q --tb=short -p no:cacheprovider)
stage tests_ops 110 "${tests[@]}" tests/ops --junitxml "$out/tests_ops.xml"
stage tests_optim 40 "${tests[@]}" tests/optim --junitxml "$out/tests_optim.xml"
stage tests_rest 80 "${tests[@]}" tests --ignore tests/ops --ignore tests/optim --junitxml "$out/tests_rest.xml"

if [ -n "$sanitizer" ]; then
  small=(tests/ops/test_on_gpu.py tests/ops/test_recurrence_on_gpu.py)
  # Of the recurrences the small sizes of each cell, in a type that runs through tensor cores and asynchronous copies.
  small+=(-k "agrees_with_the_cpu and (float32 and not test_recurrence_on_gpu or bfloat16 and (17 or 64))")
  attention=(tests/ops/test_attention_on_gpu.py
    -k "agrees_with_the_cpu and (float32 or bfloat16) and (one_tile_and_one or cross_odd or additive)")
  for tool in memcheck racecheck; do
    # torch's caching allocator would hide a read past a tensor's end behind the next tensor.
    stage "sanitizer_$tool" 60 env PYTORCH_NO_CUDA_MEMORY_CACHING=1 "$sanitizer" --tool "$tool" --error-exitcode 9 \
      --target-processes all "${tests[@]}" "${small[@]}"
    stage "sanitizer_attention_$tool" 40 env PYTORCH_NO_CUDA_MEMORY_CACHING=1 "$sanitizer" --tool "$tool" \
      --error-exitcode 9 --target-processes all "${tests[@]}" "${attention[@]}"
  done
else
  record sanitizer "not there" 0 "compute-sanitizer"
fi

# Attention apart, so that it is measured even where the other ops use up their time.
for dtype in bf16 fp32; do
  stage "bench_attention_$dtype" 25 "$PYTHON" -m genlab bench op scaled_dot_product_attention --device cuda \
    --dtype "$dtype" --shapes full --rounds 4 --seconds 0.005 --limit 18 --json "$out/attention_$dtype.json"
done
for dtype in bf16 fp32; do
  stage "bench_op_$dtype" 90 "$PYTHON" -m genlab bench op --device cuda --dtype "$dtype" --shapes full --rounds 4 \
    --seconds 0.005 --limit 65 --json "$out/op_$dtype.json" --plot "$out/op_$dtype.png"
done
stage bench_optimizer 30 "$PYTHON" -m genlab bench op optimizer_step --device cuda --shapes full --rounds 4 \
  --seconds 0.005 --json "$out/optimizer.json"
for precision in bf16-mixed fp32; do
  stage "bench_step_$precision" 45 "$PYTHON" -m genlab bench step --device cuda --precision "$precision" --batch 128 \
    --no-compile --rounds 6 --steps 10 --json "$out/step_$precision.json"
done
stage bench_losses 40 "$PYTHON" -m genlab bench op gan_loss cross_entropy reparametrize_kl --device cuda --shapes full \
  --rounds 4 --seconds 0.005 --limit 30 --json "$out/op_losses.json"
stage training_graphs 40 "$PYTHON" -m genlab train dcgan_digits train.steps=300 train.cuda_graph=on --device cuda \
  --run-dir "$scratch/run_graphs"
[ -f "$scratch/run_graphs/log.jsonl" ] && cp "$scratch/run_graphs/log.jsonl" "$out/training_graphs_log.jsonl"
stage training 60 "$PYTHON" -m genlab train dcgan_digits train.steps=300 --device cuda --run-dir "$scratch/run"
for file in log.jsonl config.yaml report.html; do
  [ -f "$scratch/run/$file" ] && cp "$scratch/run/$file" "$out/training_$file"
done
last="$(find "$scratch/run/samples" -name '*.png' 2> /dev/null | sort | tail -n 1)"
[ -n "$last" ] && cp "$last" "$out/training_samples.png"

# One file with what happened: machine, commit, stages.
"$PYTHON" - "$stages" "$out/summary.json" "$((SECONDS - started))" << 'PY'
import json, sys, time
from pathlib import Path

from genlab.bench.step import git_commit
from genlab.doctor import describe_machine

stages = [json.loads(line) for line in Path(sys.argv[1]).read_text().splitlines()]
summary = {
    "machine": describe_machine(),
    "commit": git_commit(),
    "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    "seconds": int(sys.argv[3]),
    "stages": stages,
}
Path(sys.argv[2]).write_text(json.dumps(summary, indent=1) + "\n")
PY
echo "== $failed stages failed; results in $out"
exit "$failed"
