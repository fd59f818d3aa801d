#!/usr/bin/env bash
# Tries and measures mmdpo on a machine with a GPU and without a network, in at most nine minutes:
#
#     perf/device.sh OUTPUT [--wheels FOLDER] [--dry]
#
# First what a CPU cannot show (perf/smoke.py), then the measurements of perf/gpu.py, those first that say most. Both
# write their files after every check and case, so that whatever is cut off leaves what came before it. FOLDER holds
# wheels of packages that the machine lacks, transformers and trl for instance; they are put beside the output, and
# nothing on the machine changes. --dry runs the whole of it in miniature on a CPU. Ends with status 1 if a check failed.
set -uo pipefail
cd "$(dirname "$0")/.."

LIMIT=${LIMIT:-530}  # seconds of all
SMOKE=${SMOKE:-170}  # seconds that the checks may take of them
OUTPUT="" WHEELS="" DRY=""
while [ $# -gt 0 ]; do
    case "$1" in
        --wheels) WHEELS=$2; shift 2 ;;
        --dry) DRY=yes; shift ;;
        -*) echo "device.sh: there is no option $1; there are --wheels FOLDER and --dry" >&2; exit 2 ;;
        *) OUTPUT=$1; shift ;;
    esac
done
if [ -z "$OUTPUT" ]; then
    echo "device.sh: name a folder for what is found: perf/device.sh OUTPUT" >&2
    exit 2
fi
mkdir -p "$OUTPUT"

PYTHON=${PYTHON:-python3}
export PYTHONPATH="src:.${PYTHONPATH:+:$PYTHONPATH}" HF_HUB_OFFLINE=1 HF_HOME="$OUTPUT/hub" TOKENIZERS_PARALLELISM=false
if [ -n "$WHEELS" ]; then
    "$PYTHON" -m pip install --quiet --no-index --no-deps --target "$OUTPUT/packages" "$WHEELS"/*.whl || exit 2
    export PYTHONPATH="$OUTPUT/packages:$PYTHONPATH"
fi

within() {  # SECONDS COMMAND…: the command, ended after so many seconds
    local left=$1
    shift
    if [ "$left" -lt 5 ]; then
        echo "no time is left for: $*"
        return 124
    fi
    timeout --signal=INT --kill-after=10 "$left" "$@"
}

if [ -n "$DRY" ]; then
    CHECKS=(--cpu) MEASURE=(--tiny --models llava --batches 1 --repetitions 1 --no-largest)
else
    CHECKS=() MEASURE=(--models llava qwen bunny --batches 4 1 --repetitions 10 --no-largest)
fi

within "$SMOKE" "$PYTHON" -m perf.smoke --output "$OUTPUT" "${CHECKS[@]}" 2> "$OUTPUT/smoke.log"
CHECKED=$?
echo "checks ended with status $CHECKED after $SECONDS s"
within $((LIMIT - SECONDS)) "$PYTHON" -m perf.gpu --output "$OUTPUT" "${MEASURE[@]}" 2> "$OUTPUT/gpu.log"
echo "measurements ended with status $? after $SECONDS s; their file and smoke.json are in $OUTPUT"
exit $((CHECKED != 0))
