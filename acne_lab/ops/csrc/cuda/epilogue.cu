// The tail of a synthesis layer in one pass over memory:
//
//   y = clamp(gain * lrelu(filter(x) * scale[n, c] + noise[n or 0, h, w] + b[c], alpha))
//
// Forward it is a tail of the upfirdn2d kernels, or a pointwise kernel where there is no filter. Backward, one pass
// over grad and y writes the gradient of what came out of the filter, and sums: over pixels for scale and b, over
// channels for noise. A warp sums a tile in a fixed order, the caller the tiles; without atomics a run repeats to the
// bit.
#include "cuda/upfirdn2d.cuh"

namespace acne_lab::cuda {
namespace {

template <typename S>
struct EpilogueTail {
  const S *scale, *noise, *b;
  int64_t noise_stride;
  int c;
  ActConstants<S> constants;

  __device__ S operator()(S value, int64_t n, int channel, int64_t pixel) const {
    if (scale) value *= scale[n * c + channel];
    if (noise) value += noise[n * noise_stride + pixel];
    if (b) value += b[channel];
    return act_forward<Act::lrelu>(value, constants);
  }
};

template <typename T>
EpilogueTail<sum_t<T>> tail_of(const EpilogueTerms& terms, int64_t c) {
  using S = sum_t<T>;
  return {static_cast<const S*>(terms.scale),
          static_cast<const S*>(terms.noise),
          static_cast<const S*>(terms.b),
          terms.noise_stride,
          static_cast<int>(c),
          constants_of<T>(terms.alpha, terms.gain, terms.clamp)};
}

int64_t num_channels(const Matrix& m) { return m.channels_last ? m.cols : m.rows; }

template <int kPack, typename T>
__global__ void __launch_bounds__(num_threads)
    epilogue_pointwise(const T* __restrict__ x, T* __restrict__ y, Matrix m, EpilogueTail<sum_t<T>> tail) {
  const int64_t first = (int64_t(blockIdx.x) * num_threads + threadIdx.x) * kPack;
  if (first >= m.n * m.rows * m.cols) return;
  const int col = first % m.cols, row = first / m.cols % m.rows;
  const int64_t n = first / m.cols / m.rows;
  Pack<T, kPack> values = load<kPack>(x + first);
#pragma unroll
  for (int k = 0; k < kPack; ++k) {  // all in one row
    const int channel = m.channels_last ? col + k : row, pixel = m.channels_last ? row : col + k;
    values.value[k] = static_cast<T>(tail(static_cast<sum_t<T>>(values.value[k]), n, channel, pixel));
  }
  store(y + first, values);
}

// -------------------------------------------------------------------------------------------------------- backward

constexpr int warp_size = 32;
constexpr int warp_rows = 16;  // a warp walks down so many rows of 32 packs

template <typename T>
struct Backward {
  const T *grad, *y;
  T* grad_x;
  sum_t<T>*scale_sums, *noise_sums, *b_sums;
  Matrix m;
  EpilogueTail<sum_t<T>> forward;
  Tiles tiles;
};

template <typename S>
__device__ __forceinline__ S warp_sum(S value) {
#pragma unroll
  for (int distance = warp_size / 2; distance > 0; distance /= 2)
    value += __shfl_xor_sync(0xffffffffu, value, distance);
  return value;
}

// With z = filter(x) scale + noise + b, y tells all that the gradients need: where y is clamped they are 0, elsewhere z
// can be had from y, so filter(x) = (z - noise - b) / scale need not have been kept. A scale of 0 leaves no trace of
// it: the gradient of that scale is not finite.
template <int kPack, bool kChannelsLast, typename T>
__global__ void __launch_bounds__(num_threads) epilogue_backward_kernel(Backward<T> a) {
  using S = sum_t<T>;
  const Matrix& m = a.m;
  const EpilogueTail<S>& forward = a.forward;
  const int lane = threadIdx.x % warp_size;
  int64_t warp = int64_t(blockIdx.x) * (num_threads / warp_size) + threadIdx.x / warp_size;
  const int col_tile = warp % a.tiles.col_tiles;
  warp /= a.tiles.col_tiles;
  const int row_tile = warp % a.tiles.row_tiles;
  const int64_t n = warp / a.tiles.row_tiles;
  if (n >= m.n) return;  // the whole warp leaves

  const int col = (col_tile * warp_size + lane) * kPack;
  const bool inside = col < m.cols;
  const int first_row = row_tile * warp_rows, whole_tile = first_row + warp_rows;
  const int last_row = whole_tile < m.rows ? whole_tile : m.rows;
  const S* const scale = forward.scale ? forward.scale + n * forward.c : nullptr;
  const S* const noise = forward.noise ? forward.noise + n * forward.noise_stride : nullptr;
  const S alpha = forward.constants.alpha, inverse_alpha = alpha != 0 ? 1 / alpha : S(0);

  // What belongs to a column is read once: noise in NCHW, scale and bias in channels_last.
  S col_scale[kPack], col_shift[kPack];
#pragma unroll
  for (int k = 0; k < kPack; ++k) {
    const S* const shift = kChannelsLast ? forward.b : noise;
    col_scale[k] = kChannelsLast && scale && inside ? scale[col + k] : S(1);
    col_shift[k] = shift && inside ? shift[col + k] : S(0);
  }
  S col_sum[kPack] = {}, col_scaled_sum[kPack] = {};

#pragma unroll 2
  for (int row = first_row; row < last_row; ++row) {
    const S* const shift = kChannelsLast ? noise : forward.b;
    const S row_scale = !kChannelsLast && scale ? scale[row] : S(1);
    const S row_shift = shift ? shift[row] : S(0);
    S row_sum = 0, row_scaled_sum = 0;
    if (inside) {
      const int64_t at = (n * m.rows + row) * m.cols + col;
      const auto grads = load<kPack>(a.grad + at), values = load<kPack>(a.y + at);
      Pack<T, kPack> out;
#pragma unroll
      for (int k = 0; k < kPack; ++k) {
        const auto [dz, z] = lrelu_inverse(static_cast<S>(grads.value[k]), static_cast<S>(values.value[k]),
                                           inverse_alpha, forward.constants);
        out.value[k] = static_cast<T>(dz * (kChannelsLast ? col_scale[k] : row_scale));
        const S scaled = dz * (z - col_shift[k] - row_shift);  // dz filter(x) scale: the sum is divided by scale later
        col_sum[k] += dz, row_sum += dz;
        col_scaled_sum[k] += scaled, row_scaled_sum += scaled;
      }
      store(a.grad_x + at, out);
    }
    const int64_t partial = (n * m.rows + row) * a.tiles.col_tiles + col_tile;
    S* const sums = kChannelsLast ? a.noise_sums : a.b_sums;
    if (sums) {
      row_sum = warp_sum(row_sum);
      if (lane == 0) sums[partial] = row_sum;
    }
    if (!kChannelsLast && a.scale_sums) {
      row_scaled_sum = warp_sum(row_scaled_sum);
      if (lane == 0) a.scale_sums[partial] = row_scaled_sum / row_scale;
    }
  }

  if (!inside) return;
  S* const sums = kChannelsLast ? a.b_sums : a.noise_sums;
  const int64_t partial = (n * a.tiles.row_tiles + row_tile) * m.cols + col;
#pragma unroll
  for (int k = 0; k < kPack; ++k) {
    if (sums) sums[partial + k] = col_sum[k];
    if (kChannelsLast && a.scale_sums) a.scale_sums[partial + k] = col_scaled_sum[k] / col_scale[k];
  }
}

template <int kPack, typename T>
void launch_backward(const Backward<T>& a, StreamPointer stream) {
  const int64_t blocks = num_pieces(a.m.n * a.tiles.row_tiles * a.tiles.col_tiles, num_threads / warp_size);
  const auto kernel = a.m.channels_last ? epilogue_backward_kernel<kPack, true, T>
                                        : epilogue_backward_kernel<kPack, false, T>;
  launch(stream, kernel, blocks, num_threads, 0, a);
}

}  // namespace

// --------------------------------------------------------------------------------------------------------- dispatch

void filtered_epilogue(const void* x, const float* f, void* y, const Resampling& r, const EpilogueTerms& terms,
                       Type type, StreamPointer stream) {
  with_type(type, [&](auto zero) {
    using T = decltype(zero);
    launch_upfirdn2d<Patch<1, 1, 4>>(stream, static_cast<const T*>(x), f, static_cast<T*>(y), r,
                                     tail_of<T>(terms, r.c));
  });
}

void epilogue(const void* x, void* y, const Matrix& m, const EpilogueTerms& terms, Type type, StreamPointer stream) {
  with_type(type, [&](auto zero) {
    using T = decltype(zero);
    constexpr int pack = pack_size<T>;
    const bool packed = m.cols % pack == 0 && is_packable(x) && is_packable(y);
    const int64_t blocks = num_pieces(m.n * m.rows * m.cols, num_threads * (packed ? pack : 1));
    launch(stream, packed ? epilogue_pointwise<pack, T> : epilogue_pointwise<1, T>, blocks, num_threads, 0,
           static_cast<const T*>(x), static_cast<T*>(y), m, tail_of<T>(terms, num_channels(m)));
  });
}

Tiles epilogue_tiles(const EpilogueBackward& c, const Matrix& m, Type type) {
  return with_type(type, [&](auto zero) {
    constexpr int most = pack_size<decltype(zero)>;
    const bool packed = m.cols % most == 0 && is_packable(c.grad) && is_packable(c.y) && is_packable(c.grad_x);
    const int tile_cols = warp_size * (packed ? most : 1);
    return Tiles{int(num_pieces(m.rows, warp_rows)), int(num_pieces(m.cols, tile_cols)), packed};
  });
}

void epilogue_backward(const EpilogueBackward& c, const Matrix& m, const EpilogueTerms& terms, const Tiles& tiles,
                       Type type, StreamPointer stream) {
  with_type(type, [&](auto zero) {
    using T = decltype(zero);
    using S = sum_t<T>;
    const Backward<T> a{
        static_cast<const T*>(c.grad),
        static_cast<const T*>(c.y),
        static_cast<T*>(c.grad_x),
        static_cast<S*>(c.scale_sums),
        static_cast<S*>(c.noise_sums),
        static_cast<S*>(c.b_sums),
        m,
        tail_of<T>(terms, num_channels(m)),
        tiles,
    };
    tiles.packed ? launch_backward<pack_size<T>>(a, stream) : launch_backward<1>(a, stream);
  });
}

}  // namespace acne_lab::cuda
