// Which instruction set: the one that torch runs with, so that ATEN_CPU_CAPABILITY chooses for both.

#include <ATen/Version.h>
#include <torch/library.h>

#include "cpu/host.h"

namespace acne_lab {
namespace {

struct InstructionSet {
  const char* name;
  const Kernels* kernels;
};

InstructionSet choose() {
#if defined(__x86_64__)
  const std::string capability = at::get_cpu_capability();
  if (capability == "AVX512") return {"AVX-512", avx512::kernels};
  if (capability == "AVX2") return {"AVX2", avx2::kernels};
  return {"SSE2", baseline::kernels};
#elif defined(__aarch64__)
  return {"NEON", baseline::kernels};
#else
  return {"baseline", baseline::kernels};
#endif
}

const InstructionSet& chosen() {
  static const InstructionSet set = choose();
  return set;
}

}  // namespace

const Kernels& kernels(at::ScalarType type) {
  switch (type) {
    case at::kDouble: return chosen().kernels[int(Type::f64)];
    case at::kFloat: return chosen().kernels[int(Type::f32)];
    case at::kBFloat16: return chosen().kernels[int(Type::bf16)];
    case at::kHalf: return chosen().kernels[int(Type::f16)];
    default: TORCH_CHECK_VALUE(false, "float64, float32, bfloat16 or float16 is needed, not ", type);
  }
}

TORCH_LIBRARY_IMPL(acne_lab, CompositeExplicitAutograd, m) {
  m.impl("cpu_instruction_set", [] { return std::string(chosen().name); });
}

}  // namespace acne_lab
