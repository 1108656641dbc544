// What the kernels take from CUDA besides the language: 16-bit types and the launch.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "cuda/kernels.h"

namespace acne_lab::cuda {

using Half = __half;
using BFloat16 = __nv_bfloat16;

// The caller asks for the error, cudaGetLastError.
template <typename... Parameters, typename... Arguments>
void launch(StreamPointer stream, void (*kernel)(Parameters...), int64_t blocks, int threads, int64_t shared_bytes,
            const Arguments&... arguments) {
  kernel<<<dim3(static_cast<unsigned>(blocks)), dim3(threads), shared_bytes, stream>>>(arguments...);
}

}  // namespace acne_lab::cuda
