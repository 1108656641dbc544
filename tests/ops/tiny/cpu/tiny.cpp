// Stands in for acne_lab/ops/csrc/cpu and compiles in a second: torch's stable interface has small headers.
#include <torch/csrc/stable/library.h>

#include <string>

// How many threads a parallel region really gets.
std::string instruction_set() {
  int threads = 0;
#pragma omp parallel reduction(+ : threads)
  threads += 1;
  return "tiny, " + std::to_string(threads) + " threads";
}

STABLE_TORCH_LIBRARY_IMPL(acne_lab, CompositeExplicitAutograd, m) {
  m.impl("cpu_instruction_set", TORCH_BOX(&instruction_set));
}
