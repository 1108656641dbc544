// Stands in for csrc/cuda/stream.h: there are no streams, and the operators are torch.ops.cuda_on_host on CPU tensors.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/library.h>

#undef TORCH_LIBRARY_IMPL
#define TORCH_LIBRARY_IMPL(library, key, m) _TORCH_LIBRARY_IMPL(cuda_on_host, CPU, m, C10_UID)

namespace acne_lab::cuda {

struct Stream {
  explicit Stream(const at::Tensor&) {}
  StreamPointer pointer() const { return nullptr; }
  void check() const {}
};

}  // namespace acne_lab::cuda
