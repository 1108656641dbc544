// Kernels for machines with AVX2.
#include "cpu/kernel_table.h"
