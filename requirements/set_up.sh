#!/usr/bin/env bash
# Sets up .venv with a pinned stack and this package. Safe to run again: keeps what is there.
#
#   STACK           openmmlab (the default) or onedl, its maintained fork
#   MMCV            plain (the default): without compiled operators; swin_backbone's stand in
#                   compiled: with them, from a wheel or built, which needs a C++ compiler
#   VENV            the environment's folder; default: .venv
#   TORCH           which torch, where there is none; default: torch==2.13.0
#   PYTHON          interpreter to use; default: the first of 3.11, 3.12, 3.13, 3.10 on PATH
#   PIP_FIND_LINKS  folders with wheels, as for any pip; a compiled mmcv there is what the tests
#                   compare the operators with, and with MMCV=compiled saves building it
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '\033[1m==> %s\033[0m\n' "$*"; }
version_fits() { "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' 2>/dev/null; }

stack=${STACK:-openmmlab} kind=${MMCV:-plain} venv=${VENV:-.venv}
case $stack in
    openmmlab) mmcv=mmcv==2.1.0 ;;
    onedl) mmcv=onedl-mmcv==2.3.6 ;;
    *) echo "STACK must be openmmlab or onedl, not $stack" >&2; exit 1 ;;
esac
case $kind in
    plain | compiled) ;;
    *) echo "MMCV must be plain or compiled, not $kind" >&2; exit 1 ;;
esac

stamp=$venv/.set-up
wanted="$stack $kind $(cat requirements/*.txt requirements/set_up.sh pyproject.toml setup.py | cksum)"
if [ "$(cat $stamp 2>/dev/null)" = "$wanted" ]; then exit 0; fi

# None yet, or one whose making was interrupted, or whose Python is gone.
if ! "$venv"/bin/python -m pip --version >/dev/null 2>&1; then
    for python in ${PYTHON:-python3.11 python3.12 python3.13 python3.10 python3 python}; do
        version_fits "$python" && break
        python=
    done
    [ -n "$python" ] || { echo 'No Python 3.10 to 3.13 found; set PYTHON=/path/to/python' >&2; exit 1; }
    say "Making $venv with $("$python" --version); a few minutes in all"
    # A torch with CUDA that is there already is kept.
    if "$python" -c 'import torch; assert torch.version.cuda' 2>/dev/null; then
        "$python" -m venv --clear --system-site-packages "$venv"
    else
        "$python" -m venv --clear "$venv"
    fi
fi
export PATH="$(cd "$venv" && pwd)/bin:$PATH" PIP_DISABLE_PIP_VERSION_CHECK=1
pip() { python -m pip "$@"; }

say 'Build tools and torch'
pip install -q -c requirements/constraints.txt -r requirements/build.txt
python -c 'import torch' 2>/dev/null || pip install -q "${TORCH:-torch==2.13.0}"

say "The $stack stack and the tools of the tests"
# OneDL's are source distributions, some of which import torch as they are built.
pip install -q --no-build-isolation -c requirements/constraints.txt \
    -r "requirements/$stack.txt" -r requirements/test.txt

# mmdet's panoptic segmentation. Its pins are older than the stack, and need not be: without them.
pip install -q --no-deps panopticapi-lite==0.2.0
# HTC++'s augmentation. It asks for Cython, which it does not use.
pip install -q --no-deps --no-build-isolation instaboostfast==0.1.2

# A torch with CUDA brings the triton it was built for, which must stay; elsewhere, any will do.
python -c 'import triton' 2>/dev/null || pip install -q --no-deps triton==3.9.0 \
    || echo 'There is no triton for this machine: the tests of its kernels will be skipped'

# Beside the environment's packages, where nothing but the tests that need them finds them.
peers=$(cksum < requirements/peers.txt)
if [ "$(cat "$venv/peers/.installed" 2>/dev/null)" != "$peers" ]; then
    say 'Peers that the tests compare with'
    rm -rf "$venv/peers"
    pip install -q --no-deps --target "$venv/peers" -r requirements/peers.txt
    echo "$peers" > "$venv/peers/.installed"
fi

# A wheel is for one Python and one torch.
distribution=${mmcv%==*}
wheels=.cache/wheels/$(python -c 'import sys, torch; print(sys.implementation.cache_tag, torch.__version__, sep="-torch-")')
compiled() { pip install -q --no-deps --only-binary "$distribution" --find-links "$wheels" "$@" $mmcv 2>/dev/null; }
mkdir -p "$wheels"

# Both kinds lie in one folder: what is there of the other kind goes first.
if [ "$kind" = plain ]; then
    say 'mmcv without compiled operators'
    if python -c 'import glob, importlib.util as u, sys
found = u.find_spec("mmcv"); sys.exit(not (found and glob.glob(found.submodule_search_locations[0] + "/_ext.*")))'; then
        pip uninstall -q -y mmcv mmcv-lite onedl-mmcv 2>/dev/null
    fi
    case $stack in
        openmmlab) pip install -q --no-deps mmcv-lite==${mmcv#*==} ;;
        # Where its build sees no torch, it compiles nothing.
        onedl) pip install -q --no-deps --no-binary "$distribution" $mmcv ;;
    esac
    # Beside the environment, for the tests of the operators; without it they are skipped.
    if [ ! -d "$venv/compiled" ]; then
        compiled --target "$venv/compiled" || echo 'No wheel of a compiled mmcv: its comparison is skipped'
    fi
else
    say 'mmcv with its compiled operators'
    pip uninstall -q -y mmcv-lite 2>/dev/null
    # Whether mmcv is there with operators that load, and with CUDA ones if torch can use a GPU.
    mmcv_fits() {
        python -W ignore - 2>/dev/null <<'PYTHON'
import torch
import mmcv._ext as operators
assert operators.__file__.rpartition('.')[2] != 'py'
assert operators.get_compiling_cuda_version() != 'not available' or not torch.cuda.is_available()
PYTHON
    }
    mmcv_fits || compiled --force-reinstall || true
    if ! mmcv_fits; then
        echo "no wheel fits: building it from source; about 17 minutes on 2 cores, then kept in .cache"
        CFLAGS=-g0 MMCV_WITH_OPS=1 MAX_JOBS=${MAX_JOBS:-$(nproc)} pip wheel -q --no-build-isolation \
            --no-deps --no-binary "$distribution" -w "$wheels" $mmcv
        pip install -q --no-deps --no-index --force-reinstall "$wheels/${distribution//-/_}"-*.whl
    fi
fi

say 'This package'
pip install -q --no-deps --no-build-isolation -e .
python -c 'import mmcv.ops, mmdet, mmseg, swin_backbone' 2>/dev/null || {
    echo 'The environment does not import; here is why:' >&2
    python -W ignore -c 'import mmcv.ops, mmdet, mmseg, swin_backbone'
}
echo "$wanted" > $stamp
say 'Ready'
