# Everything runs in .venv, which the first target makes. Python 3.11 or newer, and nothing else.
PYTHON ?= python3
DATA ?= texts
BIN := .venv/bin
SETUP := .venv/.ready

.PHONY: demo test lint types unit setup serve screenshots experiments durability cluster benchmarks quality security docs image-check clean

## demo: teach one store thirty tenants' text classifiers and three tables over HTTP (DATA=digits, or mnist)
demo: $(SETUP)
	$(BIN)/python -m demo --data $(DATA)

## test: lint, types, import rules, tests
test: lint types unit

lint: $(SETUP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache
	$(BIN)/python tools/check_words.py

types: $(SETUP)
	$(BIN)/mypy

unit: $(SETUP)
	@tests/browser/install.sh
	$(BIN)/python -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder

setup: $(SETUP)

$(SETUP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "superposed needs Python 3.11 or newer; PYTHON=... names another one")'
	@echo 'Installing into .venv: some minutes, 3 GB.'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

## serve: a store with the defaults in .superposed, on http://127.0.0.1:8000
serve: $(SETUP)
	$(BIN)/superposed serve .superposed

## screenshots: the pictures of the console in docs/images (needs Chromium, and MNIST)
screenshots: $(SETUP)
	$(BIN)/python -m tests.browser.screenshots --data mnist

# A store's defaults but Adam's rate, as the rehearsed runs have it.
REHEARSED := --family phase --store-defaults --optimizer adam --learning-rate 1e-4 --evaluate-every 25 --results docs/results/rehearsal

## experiments: every committed result of docs/experiments (needs SUPERPOSED_DATA_DIR; hours on two cores)
experiments: $(SETUP)
	$(BIN)/python -m experiments permuted-mnist --family binary --standard --ewc --synaptic-intelligence --separate
	for bias in bound shared; do $(BIN)/python -m experiments permuted-mnist --store-defaults --family phase --bias $$bias; done
	for family in phase complex rotation; do $(BIN)/python -m experiments permuted-mnist --family $$family; done
	for seed in 1 2; do $(BIN)/python -m experiments permuted-mnist --family binary --seed $$seed; done
	for seed in 0 1 2; do $(BIN)/python -m experiments permuted-mnist --family binary --decay 0.9 --epsilon 1e-10 --seed $$seed; done
	for units in 128 512 1024 2048; do $(BIN)/python -m experiments permuted-mnist --family binary --units $$units; done
	for seed in 0 1 2; do $(BIN)/python -m experiments permuted-mnist --no-superposed --rehearsed $(REHEARSED) --tasks 100 --consolidation 2000 --seed $$seed; done
	$(BIN)/python -m experiments permuted-mnist --no-superposed --rehearsed $(REHEARSED) --units 1024 --hidden-layers 2 --tasks 250
	for tasks in 25 50 100; do for seed in 0 1 2; do $(BIN)/python -m experiments permuted-mnist --no-superposed --separate --store-defaults --family phase --tasks $$tasks --steps 2000 --evaluate-every 25 --results docs/results/rehearsal --seed $$seed; done; done
	for rate in 1e-3 3e-3 1e-2; do $(BIN)/python -m experiments permuted-mnist --no-superposed --batch-ensemble $(REHEARSED) --steps 2000 --tasks 25 --learning-rate $$rate; done
	$(BIN)/python -m experiments permuted-mnist --no-superposed --separate --store-defaults --family phase --tasks 5 --budget 6110000 --steps 2000 --evaluate-every 25 --results docs/results/rehearsal
	$(BIN)/python -m experiments permuted-mnist --no-superposed --standard-rehearsed $(REHEARSED) --tasks 50
	$(BIN)/python -m experiments rotating-mnist
	$(BIN)/python -m experiments rotating-mnist --gaps
	for drift in permuted turned; do $(BIN)/python -m experiments personalisation --drift $$drift; done
	for dataset in mnist cifar10; do $(BIN)/python -m experiments incremental --dataset $$dataset; done
	$(BIN)/python -m experiments incremental --dataset cifar10 --steps 2000 --seeds 0
	$(BIN)/python -m experiments capacity --units 128,256,512,1024
	$(BIN)/python -m experiments capacity --units 128 --tasks 1000 --steps 100 --evaluate-every 50
	for name in locate intrinsic-dimension variants out-of-scope; do $(BIN)/python -m experiments $$name; done

## durability: the long form of tests/durability: crashes, power cuts, failing disks, flipped bits, kills under random work (two hours)
durability: $(SETUP)
	$(BIN)/python -m tests.durability.crash --rounds 1000 --signal KILL --results docs/results/durability
	$(BIN)/python -m tests.durability.crash --rounds 100 --signal TERM --results docs/results/durability
	for kind in power errors kills flips; do $(BIN)/python -m tests.durability.faults $$kind --results docs/results/durability; done
	$(BIN)/python -m tests.durability.syscalls --results docs/results/durability
	$(BIN)/python -m tests.durability.differential --minutes 60 --results docs/results/durability/differential.json
	$(BIN)/python -m tests.durability.failover --rounds 300 --cut --results docs/results/durability/failover.json
	$(BIN)/python -m tests.durability.failover --rounds 60 --cut --erase --results docs/results/durability/failover-erase.json
	$(BIN)/python -m tests.durability.failover --rounds 8 --cut --sync-followers 0 --results docs/results/durability/failover-sync-0.json
	$(BIN)/python -m tests.durability.failover --rounds 5 --cut --any-read --results docs/results/durability/failover-any-read.json

## cluster: cells on Ray: killed nodes, the suites against the ingress, moved tasks, its cost (an hour; as root)
cluster: $(SETUP)
	$(BIN)/python -m tests.cluster.nodes --rounds 30 --results docs/results/durability/cluster.json
	$(BIN)/python -m tests.cluster.upkeep --results docs/results/durability/upkeep.json
	$(BIN)/python -m tests.cluster.suites --results docs/results/cluster/suites.json
	$(BIN)/python -m tests.cluster.moves --results docs/results/cluster/moves.json
	$(BIN)/python -m benchmarks.ingress --results docs/results/benchmarks/ingress.json
	$(BIN)/python -m benchmarks.cluster_scale --results docs/results/benchmarks/cluster_scale.json
	$(BIN)/python -m benchmarks.scale_page

## benchmarks: the committed measurements and their page (half three hours; needs wrk, py-spy, and the peers' environments)
benchmarks: $(SETUP)
	benchmarks/peers/setup.sh
	for name in forward separate serving texts service profiling durability convolution telemetry overload learning one_row startup process_split followers; do $(BIN)/python -m benchmarks.$$name --results docs/results/benchmarks/$$name.json; done
	$(BIN)/python -m benchmarks.detector --results docs/results/detector
	$(BIN)/python -m benchmarks.report
	$(BIN)/python -m benchmarks.summary

## quality: what it learns beside what people use today, and the page (an hour; needs SUPERPOSED_DATA_DIR)
quality: $(SETUP)
	for job in tenants alphabets; do $(BIN)/python -m benchmarks.quality $$job --tune; done
	for job in tenants newcomer setfit alphabets page; do $(BIN)/python -m benchmarks.quality $$job; done

## security: the long form of the fuzzing (a quarter of an hour, and an hour; the second needs atheris)
security: $(SETUP)
	$(BIN)/python -W ignore -m tests.contract.fuzz --results docs/results/security/fuzz.json
	$(BIN)/python -m tests.contract.fuzz_atheris --results docs/results/security/atheris.json

## docs: the site of docs/, with the reference that is generated from the code, in site/
docs: $(SETUP)
	$(BIN)/python -m mkdocs build

## image-check: follow the Dockerfile line by line in a clean directory and a fresh venv
image-check: $(SETUP)
	$(BIN)/python tests/service/follow_dockerfile.py

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis dist build site
