// Kernels for every machine: SSE2 on x86-64, NEON on ARM.
#include "cpu/kernel_table.h"
