// Kernels with one fault each: `broken NAME` runs one as a block of 64 threads and prints what became of it.
#include <iostream>
#include <map>
#include <string>

#include "cuda/runtime.cuh"

using namespace acne_lab::cuda;

namespace {

constexpr int threads = 64;

// Every thread hands its number to the next one through shared memory.
void handing_on(int* out, bool barrier) {
  int* const shared = reinterpret_cast<int*>(shared_memory);
  shared[threadIdx.x] = int(threadIdx.x);
  if (barrier) __syncthreads();
  out[threadIdx.x] = shared[(threadIdx.x + 1) % threads];
}

void correct(int* out) { handing_on(out, true); }
void no_barrier(int* out) { handing_on(out, false); }
void barrier_for_some(int*) {
  if (threadIdx.x < 40) __syncthreads();
  if (threadIdx.x < 8) __shfl_xor_sync(~0u, 1, 1);
}
void write_past_the_end(int*) { shared_memory[threads * sizeof(int)] = 0; }
void ended_thread_in_a_shuffle(int* out) {
  if (threadIdx.x == 5) return;
  out[threadIdx.x] = __shfl_xor_sync(~0u, 1, 1);
}
void sum_of_a_warp(int* out) {
  int value = int(threadIdx.x);
  for (int distance = 16; distance > 0; distance /= 2) value += __shfl_xor_sync(~0u, value, distance);
  out[threadIdx.x] = value;
}

int sum(void (*kernel)(int*)) {
  int out[threads];
  launch(nullptr, kernel, 1, threads, threads * sizeof(int), static_cast<int*>(out));
  int total = 0;
  for (int i = 0; i < threads; ++i) total += (i + 1) * out[i];
  return total;
}

}  // namespace

int main(int, char** arguments) {
  const std::map<std::string, void (*)(int*)> kernels{
      {"correct", correct},
      {"no_barrier", no_barrier},
      {"barrier_for_some", barrier_for_some},
      {"write_past_the_end", write_past_the_end},
      {"ended_thread_in_a_shuffle", ended_thread_in_a_shuffle},
      {"sum_of_a_warp", sum_of_a_warp},
  };
  try {
    const int forwards = sum(kernels.at(arguments[1]));
    cuda_on_host::reversed = true;
    const int backwards = sum(kernels.at(arguments[1]));
    std::cout << (backwards == forwards ? std::to_string(forwards) : "depends on the order of threads");
  } catch (const std::exception& error) {
    std::cout << error.what();
  }
}
