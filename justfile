# What a change is checked with; CI runs the same (.ci/run).

# everything a change must pass, short of installing the machine
default: test lint types

# the tests
test *arguments:
    uv run pytest {{arguments}}

# the longer suites
slow:
    WENMING_HYPOTHESIS=ci uv run pytest -m slow

# every branch of what the record stands on: log, hashes, checkpoints, sealing
cover:
    uv run --group ci pytest --cov --deselect tests/sealing/test_sealing.py::test_sealing_in_bulk_is_fast tests/merkle tests/checkpoint/test_checkpoint.py tests/log tests/sealing tests/test_concurrency.py tests/test_files.py

# kills, failing disks, flipped bits; WENMING_FAULTS_TIMES=10 for a night, WENMING_FAULTS_SEED=… to repeat
faults:
    uv run pytest -m slow -rP tests/faults tests/relay

# style
lint:
    uv run --group ci ruff check .
    uv run --group ci ruff format --check .

# put files into shape
format:
    uv run --group ci ruff check --fix .
    uv run --group ci ruff format .

# strict types
types:
    uv run --group ci mypy

# a county to try things on, served on port 8000
demo *arguments:
    uv run wenming demo {{arguments}}

# serve the ledger that WENMING_DATABASE names
serve *arguments:
    uv run wenming serve {{arguments}}

# check a ledger: facts, hashes, tree and every figure
verify *arguments:
    uv run wenming verify {{arguments}}

# exactly what CI runs
ci:
    bash .ci/run
