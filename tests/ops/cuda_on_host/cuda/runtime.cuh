// Stands in for csrc/cuda/runtime.cuh: 16-bit types of the host, and a launch that runs a grid block by block.
#pragma once

#include <stdexcept>

#include "cuda/kernels.h"
#include "fibers.h"

namespace acne_lab::cuda {

using Half = _Float16;

struct BFloat16 {
  uint16_t bits;
  BFloat16() = default;
  explicit BFloat16(float value) {  // to nearest, ties to even
    uint32_t wide;
    std::memcpy(&wide, &value, 4);
    bits = value == value ? (wide + 0x7fff + (wide >> 16 & 1)) >> 16 : 0x7fc0;
  }
  explicit operator float() const {
    const uint32_t wide = uint32_t(bits) << 16;
    float value;
    std::memcpy(&value, &wide, 4);
    return value;
  }
};

// What a block gets without asking for more, of every GPU; and a guard behind it.
inline constexpr int64_t shared_capacity = 48 * 1024, shared_guard = 4096;
alignas(128) inline unsigned char shared_memory[shared_capacity + shared_guard];

template <typename... Parameters, typename... Arguments>
void launch(StreamPointer, void (*kernel)(Parameters...), int64_t blocks, int threads, int64_t shared_bytes,
            const Arguments&... arguments) {
  if (shared_bytes > shared_capacity) throw std::runtime_error("more shared memory than every GPU has");
  if (blocks < 1 || blocks >= int64_t(1) << 31) throw std::runtime_error("no such grid on a GPU");
  const auto thread = [&] { kernel(arguments...); };
  for (int64_t block = 0; block < blocks; ++block) {
    blockIdx.x = unsigned(block);
    std::memset(shared_memory, 0xff, sizeof shared_memory);
    cuda_on_host::run_block(threads, thread);
    for (int64_t i = shared_bytes; i < shared_capacity + shared_guard; ++i)
      if (shared_memory[i] != 0xff) throw std::runtime_error("a block wrote past its shared memory");
  }
}

}  // namespace acne_lab::cuda
