"""What the studies share: the machine they ran on, and the Gini coefficient.

    Gini = sum_i (2 i - n - 1) x_i / (n sum_i x_i)        for x_1 <= .. <= x_n

Gives:    0 for equal counts, 3/4 for counts of 0, 0, 0 and 8.
"""

import os
import platform
from pathlib import Path

import numpy as np


def machine():
    """One line: the name of the processor, its cores, its memory as far as the system tells."""
    parts = [platform.processor() or platform.machine(), f"{os.cpu_count()} cores"]
    processors = Path("/proc/cpuinfo")  # Linux
    for line in processors.read_text().splitlines() if processors.is_file() else ():
        if line.startswith("model name"):
            parts[0] = line.split(":", 1)[1].strip()
    if "SC_PHYS_PAGES" in getattr(os, "sysconf_names", {}):  # Linux, macOS
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        parts.append(f"{memory / 2**30:.0f} GB")
    return ", ".join(parts)


def gini(counts):
    """Gini coefficient of counts (n,): 0 if all are equal, (n - 1) / n if one has everything."""
    counts, n = np.sort(counts), len(counts)
    return float((2 * np.arange(1, n + 1) - n - 1) @ counts / (n * counts.sum()))
