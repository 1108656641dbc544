// The tail of a synthesis layer, and its gradient from the output alone.
#pragma once

#include "cpu/upfirdn2d_kernel.h"

namespace acne_lab::ACNE_ISA {

// The sink that applies everything behind the filter.
template <class T>
struct Tail {
  static constexpr bool same_for_all_channels = false, same_size_only = true;
  using S = Sum<T>;
  using V = Vec<S>;

  const Epilogue& c;
  const ActConstants<S> k;

  struct OfRow {  // one channel
    T* y;
    const S* noise;
    V scale, b;
    ActConstants<S> k;
    template <class L>
    ACNE_INLINE void operator()(int64_t x, V v, L lanes) const {
      prefetch(y + x);
      store(y + x, act_forward<Act::lrelu>(v * scale + load(noise + x, lanes) + b, k), lanes);
    }
  };
  ACNE_INLINE OfRow row(int64_t plane, int64_t y) const {
    const int64_t n = plane / c.channels, channel = plane - n * c.channels;
    return {(T*)c.y + (plane * c.height + y) * c.width, (const S*)c.noise + n * c.noise_stride + y * c.noise_row_stride,
            V(((const S*)c.scale)[n * c.scale_stride + channel]), V(((const S*)c.b)[channel]), k};
  }

  struct OfPixel {
    T* y;
    const S *scale, *b;
    V noise;
    ActConstants<S> k;
    template <class L>
    ACNE_INLINE void operator()(int64_t i, V v, L lanes) const {
      prefetch(y + i);
      store(y + i, act_forward<Act::lrelu>(v * load(scale + i, lanes) + noise + load(b + i, lanes), k), lanes);
    }
  };
  ACNE_INLINE OfPixel pixel(int64_t n, int64_t y, int64_t x) const {
    return {(T*)c.y + ((n * c.height + y) * c.width + x) * c.channels, (const S*)c.scale + n * c.scale_stride,
            (const S*)c.b, V(((const S*)c.noise)[n * c.noise_stride + y * c.noise_row_stride + x]), k};
  }
};

template <class T>
void epilogue(const Epilogue& c, int64_t begin, int64_t end, void* scratch) {
  const Tail<T> tail{c, act_constants<Sum<T>>(c.alpha, c.gain, c.clamp)};
  if (c.filter) return filter_rows<T>(c.x, *c.filter, begin, end, scratch, tail);
  for_planes(int(c.height), begin, end, [&](int64_t plane, int first, int last) ACNE_INLINED {
    const T* image = (const T*)c.x.data + c.x.offset(plane);
    for (int y = first; y < last; y++) {
      pour_row<Sum<T>>(image + y * c.x.row_stride, c.width, c.x.interleaved, plane, y, tail);
    }
  });
}

template <class T>
void epilogue_backward(const EpilogueBackward& c, int64_t begin, int64_t end) {
  using S = Sum<T>;
  using V = Vec<S>;
  const auto k = act_constants<S>(c.alpha, c.gain, c.clamp);
  const S inverse_alpha = c.alpha == 0 ? S(0) : S(1 / c.alpha);
  const int64_t tasks_per_image = (c.height - 1) / c.rows_per_task + 1;
  for (int64_t task = begin; task < end; task++) {
    const int64_t n = task / tasks_per_image, first = task % tasks_per_image * c.rows_per_task;
    const int64_t last = first + c.rows_per_task < c.height ? first + c.rows_per_task : c.height;
    const S* scale = (const S*)c.scale + n * c.scale_stride;
    const S* b = (const S*)c.b;
    S* sum_dz = (S*)c.sums + task * 2 * c.channels;
    S* sum_dzx = sum_dz + c.channels;
    for (int64_t i = 0; i < 2 * c.channels; i++) sum_dz[i] = 0;

    if (c.channels_last) {
      for (int64_t p = first * c.width; p < last * c.width; p++) {
        const int64_t at = (n * c.height * c.width + p) * c.channels;
        const T *grad = (const T*)c.grad + at, *y = (const T*)c.y + at;
        T* grad_x = (T*)c.grad_x + at;
        const int64_t row = p / c.width;
        const V grain(((const S*)c.noise)[n * c.noise_stride + row * c.noise_row_stride + (p - row * c.width)]);
        V over_channels(0);
        for_vectors<S>(c.channels, [&](int64_t i, auto lanes) ACNE_INLINED {
          prefetch(grad_x + i);
          auto inverse = lrelu_inverse(load(grad + i, lanes), load(y + i, lanes), inverse_alpha, k);
          V x = inverse.z - (grain + load(b + i, lanes));  // times scale
          store(grad_x + i, inverse.dz * load(scale + i, lanes), lanes);
          store(sum_dz + i, load(sum_dz + i, lanes) + inverse.dz, lanes);
          store(sum_dzx + i, load(sum_dzx + i, lanes) + inverse.dz * x, lanes);
          over_channels = over_channels + inverse.dz;
        });
        if (c.grad_noise) ((S*)c.grad_noise)[n * c.height * c.width + p] = sum(over_channels);
      }
      continue;
    }

    for (int64_t channel = 0; channel < c.channels; channel++) {
      const V s(scale[channel]), bias(b[channel]);
      V dz(0), dzx(0);
      for (int64_t row = first; row < last; row++) {
        const int64_t at = ((n * c.channels + channel) * c.height + row) * c.width;
        const T *grad = (const T*)c.grad + at, *y = (const T*)c.y + at;
        T* grad_x = (T*)c.grad_x + at;
        const S* noise = (const S*)c.noise + n * c.noise_stride + row * c.noise_row_stride;
        S* grad_noise = c.grad_noise ? (S*)c.grad_noise + (n * c.height + row) * c.width : nullptr;
        for_vectors<S>(c.width, [&](int64_t i, auto lanes) ACNE_INLINED {
          prefetch(grad_x + i);
          auto inverse = lrelu_inverse(load(grad + i, lanes), load(y + i, lanes), inverse_alpha, k);
          V x = inverse.z - (load(noise + i, lanes) + bias);
          store(grad_x + i, inverse.dz * s, lanes);
          dz = dz + inverse.dz;
          dzx = dzx + inverse.dz * x;
          if (grad_noise) store(grad_noise + i, load(grad_noise + i, lanes) + inverse.dz, lanes);
        });
      }
      sum_dz[channel] = sum(dz);
      sum_dzx[channel] = sum(dzx);
    }
  }
}

}  // namespace acne_lab::ACNE_ISA
