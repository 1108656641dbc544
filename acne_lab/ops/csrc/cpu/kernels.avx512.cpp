// Kernels for machines with AVX-512.
#include "cpu/kernel_table.h"
