// What the kernels share: element types, the type that they sum in, and 16-byte loads and stores.
#pragma once

#include "cuda/runtime.cuh"

namespace acne_lab::cuda {

constexpr int num_threads = 256;  // of a block

// Calls f(T()) for the element type T.
template <typename F>
auto with_type(Type type, F f) {
  switch (type) {
    case Type::f64: return f(double());
    case Type::f32: return f(float());
    case Type::f16: return f(Half());
    default: return f(BFloat16());
  }
}

template <typename T>
struct Sum {
  using type = float;
};
template <>
struct Sum<double> {
  using type = double;
};
template <typename T>
using sum_t = typename Sum<T>::type;

// N elements that move as one instruction.
template <typename T, int N>
struct alignas(N * sizeof(T)) Pack {
  T value[N];
};

template <typename T>
inline constexpr int pack_size = 16 / sizeof(T);  // the widest load there is

inline bool is_packable(const void* address) { return reinterpret_cast<std::uintptr_t>(address) % 16 == 0; }

template <int N, typename T>
__device__ __forceinline__ Pack<T, N> load(const T* p) {
  return *reinterpret_cast<const Pack<T, N>*>(p);
}

template <int N, typename T>
__device__ __forceinline__ void store(T* p, const Pack<T, N>& pack) {
  *reinterpret_cast<Pack<T, N>*>(p) = pack;
}

// Of a size in pieces of `piece`; the last may be smaller.
constexpr int64_t num_pieces(int64_t size, int64_t piece) { return (size + piece - 1) / piece; }

// The constants of an activation; its limit as a tensor of T stores it, so that a clamped y can be told by its value.
template <typename T>
ActConstants<sum_t<T>> constants_of(double alpha, double gain, double clamp) {
  using S = sum_t<T>;
  return act_constants<S>(alpha, gain, static_cast<S>(static_cast<T>(static_cast<S>(clamp))));
}

}  // namespace acne_lab::cuda
