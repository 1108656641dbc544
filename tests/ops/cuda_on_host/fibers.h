// Runs CUDA kernels on the processor, so that their bodies can be tested without a GPU.
//
// A block is a set of fibers, one per CUDA thread, that run one at a time until they reach a barrier (__syncthreads or
// a warp shuffle) or their end. What it can find: wrong indices and values, a barrier that some threads never reach
// (an error), reads of shared memory that nobody wrote (NaN), writes past it (an error), and, by running the threads in
// the opposite order, a missing barrier. What it cannot: races between single instructions, and how fast anything is.
#pragma once

#include <ucontext.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __restrict__ __restrict
#define __launch_bounds__(...)
#define __shared__  // `extern __shared__ unsigned char shared_memory[]` then names the array in runtime.cuh

struct Index3 {
  unsigned x = 0, y = 0, z = 0;
};
inline Index3 threadIdx, blockIdx;  // both have x alone here

namespace cuda_on_host {

inline bool reversed = false;  // the order in which a block's threads run

enum class State { ready, at_block_barrier, at_warp_barrier, done };

struct Fiber {
  static constexpr size_t stack_size = 128 * 1024;
  ucontext_t context;
  std::unique_ptr<char[]> stack{new char[stack_size]};
  State state;
  uint64_t exchanged;  // what the thread offers in a shuffle
};

inline std::vector<Fiber> fibers;
inline ucontext_t scheduler;
inline void (*body)(const void* call);
inline const void* call;

inline void fiber_main() {
  body(call);
  fibers[threadIdx.x].state = State::done;  // uc_link leads back to the scheduler
}

inline void wait(State barrier) {
  Fiber& self = fibers[threadIdx.x];
  self.state = barrier;
  swapcontext(&self.context, &scheduler);
}

// Threads [begin, end) go on if all of them wait at `barrier`; a block does not wait for threads that have ended, while
// a shuffle with them is undefined.
inline void release(size_t begin, size_t end, State barrier) {
  for (size_t t = begin; t < end; ++t) {
    const bool ended = fibers[t].state == State::done && barrier == State::at_block_barrier;
    if (fibers[t].state != barrier && !ended) return;
  }
  for (size_t t = begin; t < end; ++t)
    if (fibers[t].state == barrier) fibers[t].state = State::ready;
}

template <typename Thread>
void run_block(size_t threads, const Thread& thread) {
  call = &thread;
  body = [](const void* p) { (*static_cast<const Thread*>(p))(); };
  while (fibers.size() < threads) fibers.emplace_back();
  for (size_t t = 0; t < threads; ++t) {
    Fiber& fiber = fibers[t];
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.get();
    fiber.context.uc_stack.ss_size = Fiber::stack_size;
    fiber.context.uc_link = &scheduler;
    makecontext(&fiber.context, fiber_main, 0);
    fiber.state = State::ready;
  }
  for (size_t left = threads; left > 0;) {
    bool moved = false;
    left = threads;
    for (size_t i = 0; i < threads; ++i) {
      const size_t t = reversed ? threads - 1 - i : i;
      if (fibers[t].state == State::ready) {
        threadIdx.x = t;
        swapcontext(&scheduler, &fibers[t].context);
        moved = true;
      }
      if (fibers[t].state == State::done) --left;
    }
    if (!moved) throw std::runtime_error("threads of a block wait at a barrier that the others never reach");
    for (size_t t = 0; t < threads; t += 32) release(t, t + 32 < threads ? t + 32 : threads, State::at_warp_barrier);
    release(0, threads, State::at_block_barrier);
  }
}

}  // namespace cuda_on_host

inline void __syncthreads() { cuda_on_host::wait(cuda_on_host::State::at_block_barrier); }

template <typename T>
T __shfl_xor_sync(unsigned /*mask: all lanes*/, T value, int lane_mask) {
  using namespace cuda_on_host;
  static_assert(sizeof(T) <= sizeof(uint64_t));
  std::memcpy(&fibers[threadIdx.x].exchanged, &value, sizeof value);
  wait(State::at_warp_barrier);
  std::memcpy(&value, &fibers[threadIdx.x ^ lane_mask].exchanged, sizeof value);
  wait(State::at_warp_barrier);  // nobody offers the next value before all have read this one
  return value;
}
