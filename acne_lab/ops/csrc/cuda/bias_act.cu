// bias_act and its derivatives: elementwise, as common/activations.h defines them.
#include "cuda/pack.cuh"

namespace acne_lab::cuda {
namespace {

template <typename T>
struct Arguments {
  const T *gradgrad, *grad, *saved;
  const sum_t<T>* b;
  T* out;
  int64_t size, stride, count;
  bool packed;
  ActConstants<sum_t<T>> constants;
};

template <Act act, int order, typename T>
__device__ __forceinline__ sum_t<T> element(T gradgrad, T grad, sum_t<T> saved, const ActConstants<sum_t<T>>& k) {
  using S = sum_t<T>;
  if constexpr (order == 0) return act_forward<act>(saved, k);
  if constexpr (order == 1) return act_backward<act>(static_cast<S>(grad), saved, k);
  if constexpr (order == 2) return act_backward2<act>(static_cast<S>(gradgrad), static_cast<S>(grad), saved, k);
}

// A thread takes a pack, which is read element by element where memory is not aligned or ends.
template <Act act, int order, typename T>
__global__ void __launch_bounds__(num_threads) bias_act_kernel(Arguments<T> a) {
  using S = sum_t<T>;
  constexpr int size = pack_size<T>;
  const int64_t first = (int64_t(blockIdx.x) * num_threads + threadIdx.x) * size;
  if (first >= a.size) return;

  // The bias of the first element; the others step on from there. (nvcc divides in 32 bits where the numbers fit.)
  int64_t channel = 0, left = 0;
  S bias = 0;
  if (a.b) {
    channel = first / a.stride % a.count;
    left = a.stride - first % a.stride;
    bias = a.b[channel];
  }

  const bool whole = a.packed && first + size <= a.size;
  const int num = whole ? size : a.size - first < size ? int(a.size - first) : size;
  Pack<T, size> saved{}, grad{}, gradgrad{}, out;
  if (whole) {
    saved = load<size>(a.saved + first);
    if constexpr (order > 0) grad = load<size>(a.grad + first);
    if constexpr (order > 1) gradgrad = load<size>(a.gradgrad + first);
  } else {
#pragma unroll
    for (int k = 0; k < size; ++k) {
      if (k >= num) break;
      saved.value[k] = a.saved[first + k];
      if constexpr (order > 0) grad.value[k] = a.grad[first + k];
      if constexpr (order > 1) gradgrad.value[k] = a.gradgrad[first + k];
    }
  }
#pragma unroll
  for (int k = 0; k < size; ++k) {
    const S value = element<act, order>(gradgrad.value[k], grad.value[k], static_cast<S>(saved.value[k]) + bias,
                                        a.constants);
    out.value[k] = static_cast<T>(value);
    if (a.b && --left == 0) {
      left = a.stride;
      channel = channel + 1 < a.count ? channel + 1 : 0;
      bias = a.b[channel];
    }
  }
  if (whole) {
    store(a.out + first, out);
  } else {
#pragma unroll
    for (int k = 0; k < size; ++k) {
      if (k >= num) break;
      a.out[first + k] = out.value[k];
    }
  }
}

template <Act act, typename T>
void run(const BiasAct& c, StreamPointer stream) {
  using S = sum_t<T>;
  const bool packed = is_packable(c.gradgrad) && is_packable(c.grad) && is_packable(c.saved) && is_packable(c.out);
  const bool biased = c.order == 0 || Activation<act>::from_input;
  const Arguments<T> a{
      static_cast<const T*>(c.gradgrad),
      static_cast<const T*>(c.grad),
      static_cast<const T*>(c.saved),
      biased ? static_cast<const S*>(c.b) : nullptr,
      static_cast<T*>(c.out),
      c.size,
      c.stride,
      c.count,
      packed,
      constants_of<T>(c.alpha, c.gain, c.clamp),
  };
  const int64_t blocks = num_pieces(c.size, num_threads * pack_size<T>);
  if (c.order == 0) launch(stream, bias_act_kernel<act, 0, T>, blocks, num_threads, 0, a);
  if (c.order == 1) launch(stream, bias_act_kernel<act, 1, T>, blocks, num_threads, 0, a);
  if constexpr (Activation<act>::has_curvature)
    if (c.order == 2) launch(stream, bias_act_kernel<act, 2, T>, blocks, num_threads, 0, a);
}

template <typename T>
void run(const BiasAct& c, StreamPointer stream) {
  switch (c.act) {
    case Act::linear: return run<Act::linear, T>(c, stream);
    case Act::relu: return run<Act::relu, T>(c, stream);
    case Act::lrelu: return run<Act::lrelu, T>(c, stream);
    case Act::tanh: return run<Act::tanh, T>(c, stream);
    case Act::sigmoid: return run<Act::sigmoid, T>(c, stream);
    case Act::elu: return run<Act::elu, T>(c, stream);
    case Act::selu: return run<Act::selu, T>(c, stream);
    case Act::softplus: return run<Act::softplus, T>(c, stream);
    case Act::swish: return run<Act::swish, T>(c, stream);
  }
}

}  // namespace

void bias_act(const BiasAct& c, Type type, StreamPointer stream) {
  with_type(type, [&](auto zero) { run<decltype(zero)>(c, stream); });
}

}  // namespace acne_lab::cuda
