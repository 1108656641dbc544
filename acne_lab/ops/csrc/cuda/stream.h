// Where kernels run: on torch's current stream of a tensor's device.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

namespace acne_lab::cuda {

class Stream {
 public:
  explicit Stream(const at::Tensor& x)
      : guard_(x.device()), stream_(c10::cuda::getCurrentCUDAStream(x.device().index())) {}

  cudaStream_t pointer() const { return stream_; }

  // An exception if the last kernel could not be started.
  void check() const { C10_CUDA_KERNEL_LAUNCH_CHECK(); }

 private:
  c10::cuda::CUDAGuard guard_;
  cudaStream_t stream_;
};

}  // namespace acne_lab::cuda
