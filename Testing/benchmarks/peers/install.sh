#!/bin/sh
# Creates the environment in which the peers run: Testing/benchmarks/peers/install.sh [FOLDER] (default .venv-peers).
# torch goes first and alone, so that a CPU build can be chosen for it (on Linux, set
# PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu to spare several GB of CUDA packages).
set -eu
here=$(cd "$(dirname "$0")" && pwd)
venv=${1:-"$here/../../../.venv-peers"}
python=${PYTHON:-python3}
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
"$venv/bin/pip" install --quiet "$(grep '^torch==' "$here/requirements.txt")"
"$venv/bin/pip" install --quiet -r "$here/requirements.txt"
"$venv/bin/python" -c "import picsl_greedy, ants, itk, convexAdam, SimpleITK; print('peers ready')"
