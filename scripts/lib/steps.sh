# Sourced by scripts/setup, scripts/test and scripts/lint: one line of progress per step, and the log only when a step fails.

cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit 1
logs=build/logs
mkdir -p "$logs"

# quiet_step "what it does" log-name command...: runs the command with its output in build/logs/log-name.log.
# Long steps show that they are alive: a running clock on a terminal, a line a minute elsewhere. Returns the command's status.
quiet_step() {
  local what=$1 log=$logs/$2.log start=$SECONDS pid status=0 waited
  shift 2
  [ -t 1 ] || echo "   $what"
  "$@" >"$log" 2>&1 </dev/null &
  pid=$!
  while kill -0 "$pid" 2>/dev/null; do
    waited=$((SECONDS - start))
    if [ -t 1 ]; then
      printf '\r   %s  %d s ' "$what" "$waited"
    elif [ "$waited" -gt 0 ] && [ $((waited % 60)) -eq 0 ]; then
      echo "   … $what, $waited s"
    fi
    sleep 1
  done
  wait "$pid" || status=$?
  [ -t 1 ] && printf '\r\033[K'
  if [ "$status" -eq 0 ]; then
    echo "ok $what ($((SECONDS - start)) s)"
  else
    echo "FAILED $what ($((SECONDS - start)) s, exit $status). The end of $log:"
    tail -n 60 "$log" | sed 's/^/   | /'
  fi
  return "$status"
}

# step: like quiet_step, and a failure ends the script.
step() { quiet_step "$@" || exit 1; }

# How many compilers may run at once: one a core, and 1.5 GiB of memory for each (LibTorch's headers are hungry).
build_jobs() {
  local by_memory
  by_memory=$(awk '/^MemAvailable:/ {print int($2 / 1572864)}' /proc/meminfo 2>/dev/null || echo 1)
  local cores
  cores=$(nproc)
  [ "${by_memory:-1}" -lt 1 ] && by_memory=1
  echo $((by_memory < cores ? by_memory : cores))
}
