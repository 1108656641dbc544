// upfirdn2d: insert zeros, pad or crop, filter, keep every down-th sample, in one pass over memory.
//
// Two kernels compute it, and neither multiplies an inserted zero. The tiled one knows rate and number of taps at
// compile time, brings the input of a tile of outputs to shared memory, and gives each thread a patch of outputs whose
// windows overlap, so that what it reads serves several of them. It exists for 4 x 4 taps at 1:1, up 2 and down 2,
// which is all that the networks use. The direct one computes an output per thread through the L1 cache, for any rate
// and filter. Both read x through its strides, so a cropped or transposed view costs no copy.
#pragma once

#include "cuda/pack.cuh"

namespace acne_lab::cuda {

// What happens to a filtered value before it is stored: nothing. (The epilogue of a synthesis layer is the other tail.)
template <typename S>
struct NoTail {
  __device__ S operator()(S value, int64_t, int, int64_t) const { return value; }
};

// The filter as a correlation: tap (ky, kx) meets the sample at (+ky, +kx).
template <typename S>
__device__ __forceinline__ S tap(const float* f, const Resampling& r, int ky, int kx) {
  const int fh = r.y.taps, fw = r.x.taps;
  return r.flip_filter ? f[ky * fw + kx] : f[(fh - 1 - ky) * fw + fw - 1 - kx];
}

// ---------------------------------------------------------------------------------------------------------- direct

template <typename T, typename Tail>
__global__ void __launch_bounds__(num_threads)
    upfirdn2d_direct(const T* __restrict__ x, const float* __restrict__ f, T* __restrict__ y, Resampling r, Tail tail) {
  using S = sum_t<T>;
  int64_t i = int64_t(blockIdx.x) * num_threads + threadIdx.x;
  if (i >= r.n * r.c * r.y.out * r.x.out) return;
  // Neighbouring threads take neighbours in memory. (nvcc divides in 32 bits where both numbers fit.)
  const bool lanes_first = r.out_c == 1;
  int c = 0;
  if (lanes_first) c = i % r.c, i /= r.c;
  const int ox = i % r.x.out;
  i /= r.x.out;
  const int oy = i % r.y.out;
  i /= r.y.out;
  if (!lanes_first) c = i % r.c, i /= r.c;
  const int64_t n = i;

  const Window rows = r.y.window(oy), cols = r.x.window(ox);
  const T* image = x + n * r.in_n + c * r.in_c;
  S sum = 0;
  for (int j = rows.input < 0 ? -rows.input : 0; j < rows.count && rows.input + j < r.y.in; ++j)
    for (int k = cols.input < 0 ? -cols.input : 0; k < cols.count && cols.input + k < r.x.in; ++k)
      sum += tap<S>(f, r, rows.tap + j * r.y.up, cols.tap + k * r.x.up) *
             static_cast<S>(image[(rows.input + j) * r.in_y + (cols.input + k) * r.in_x]);
  sum = tail(sum * S(r.gain), n, c, int64_t(oy) * r.x.out + ox);
  y[n * r.out_n + c * r.out_c + oy * r.out_y + ox * r.out_x] = static_cast<T>(sum);
}

// ----------------------------------------------------------------------------------------------------------- tiled

// The work of one thread of the tiled kernel: a patch of kRows x kCols outputs, for the same rate on both axes.
template <int kUp, int kDown, int kTaps>
struct Patch {
  static constexpr int up = kUp, down = kDown, taps = kTaps;
  static constexpr int rows = 4, cols = kUp;
  static constexpr int in_rows = ((rows - 1) * down + taps - 1) / up + 1;
  static constexpr int in_cols = ((cols - 1) * down + taps - 1) / up + 1;
  static_assert(rows % up == 0 && cols % up == 0, "every patch must begin at the same phase of the up-sampling");
};

// The work of one block: outputs of `rows` x `cols` pixels in `lanes` channels (powers of two) and the input they need,
// which lies in shared memory in x's own order: [row][col][lane] in channels_last, [lane][row][col] else.
struct Tile {
  int rows, cols, lanes;
  int in_rows, in_cols;
  int count_y, count_x, count_c;  // tiles along each axis
  int shift_y, shift_x;           // the first tile begins so far before the output, where the up-sampling has phase 0
  bool channels_last;
  bool packed;  // x can be read in packs
  int64_t shared_bytes;
};

constexpr int pow2_at_least(int64_t n) {
  int p = 1;
  while (p < n) p *= 2;
  return p;
}

constexpr int positive_mod(int a, int b) { return (a % b + b) % b; }

// Large images: 32 x 32 pixels of one plane, or 16 x 16 pixels of 16 channels. Small ones: as many channels as keep the
// block busy. Tiles overlap in their input, so a tile is halved only where shared memory asks for it.
template <typename T, typename P>
Tile choose_tile(const Resampling& r, const T* x) {
  constexpr int64_t shared_limit = 32 * 1024, busy = num_threads * P::rows * P::cols;
  Tile t{};
  t.channels_last = r.in_c == 1 && r.c > 1;
  t.shift_y = positive_mod(r.y.pad, P::up);
  t.shift_x = positive_mod(r.x.pad, P::up);

  const int side = t.channels_last ? 16 : 32, pack = pack_size<T>;
  const int64_t inner = t.channels_last ? r.c : r.x.in;
  const int64_t strides[] = {r.in_n, r.in_y, t.channels_last ? r.in_x : r.in_c};
  t.packed = is_packable(x) && (t.channels_last || r.in_x == 1) && inner % pack == 0;
  for (int64_t stride : strides) t.packed = t.packed && stride % pack == 0;

  auto fit = [](int64_t size, int most) { return pow2_at_least(size < most ? size : most); };
  t.rows = fit(r.y.out + t.shift_y, side);
  t.cols = fit(r.x.out + t.shift_x, side);
  if (t.rows < P::rows) t.rows = P::rows;
  if (t.cols < P::cols) t.cols = P::cols;
  t.lanes = t.channels_last ? fit(r.c, 16) : 1;
  while (int64_t(t.rows) * t.cols * t.lanes < busy && t.lanes < r.c) t.lanes *= 2;

  auto measure = [&] {
    t.in_rows = ((t.rows - 1) * P::down + P::taps - 1) / P::up + 1;
    t.in_cols = ((t.cols - 1) * P::down + P::taps - 1) / P::up + 1;
    // A row of packs begins up to pack - 1 samples early and ends as late.
    if (t.packed && !t.channels_last) t.in_cols = num_pieces(t.in_cols + pack - 1, pack) * pack;
    t.shared_bytes = int64_t(sizeof(sum_t<T>)) * t.in_rows * t.in_cols * t.lanes;
    return t.shared_bytes > shared_limit;
  };
  while (measure()) {
    const bool lanes_go = t.lanes > (t.channels_last ? 16 : 1);
    int& longest = lanes_go ? t.lanes : t.rows >= t.cols ? t.rows : t.cols;
    longest /= 2;
  }
  t.count_y = num_pieces(r.y.out + t.shift_y, t.rows);
  t.count_x = num_pieces(r.x.out + t.shift_x, t.cols);
  t.count_c = num_pieces(r.c, t.lanes);
  return t;
}

// Bring the tile's input to shared memory, kPack elements at a time, zeros where there is no image.
template <int kPack, typename T>
__device__ void load_tile(sum_t<T>* shared, const T* image, const Resampling& r, const Tile& t, int c0, int iy0,
                          int ix0) {
  using S = sum_t<T>;
  const unsigned inner = t.channels_last ? t.lanes : t.in_cols;
  const unsigned middle = t.channels_last ? t.in_cols : t.in_rows;
  const unsigned size = t.in_rows * t.in_cols * t.lanes;
  for (unsigned i = threadIdx.x * kPack; i < size; i += num_threads * kPack) {
    const int i0 = i % inner, i1 = i / inner % middle, i2 = i / inner / middle;
    const int c = c0 + (t.channels_last ? i0 : i2);
    const int iy = iy0 + (t.channels_last ? i2 : i1), ix = ix0 + (t.channels_last ? i1 : i0);
    Pack<S, kPack> values{};
    // A pack lies inside or outside as a whole: its first index and the image's size are both multiples of kPack.
    if (c < r.c && iy >= 0 && iy < r.y.in && ix >= 0 && ix < r.x.in) {
      const auto pack = load<kPack>(image + c * r.in_c + iy * r.in_y + ix * r.in_x);
#pragma unroll
      for (int k = 0; k < kPack; ++k) values.value[k] = static_cast<S>(pack.value[k]);
    }
    store(shared + i, values);
  }
}

template <typename T, typename P, typename Tail>
__global__ void __launch_bounds__(num_threads)
    upfirdn2d_tiled(const T* __restrict__ x, const float* __restrict__ f, T* __restrict__ y, Resampling r, Tile t,
                    Tail tail) {
  using S = sum_t<T>;
  alignas(128) extern __shared__ unsigned char shared_memory[];
  S* shared = reinterpret_cast<S*>(shared_memory);

  int64_t block = blockIdx.x;
  int tile_c = 0;
  if (t.channels_last) tile_c = block % t.count_c, block /= t.count_c;
  const int tile_x = block % t.count_x;
  block /= t.count_x;
  const int tile_y = block % t.count_y;
  block /= t.count_y;
  if (!t.channels_last) tile_c = block % t.count_c, block /= t.count_c;
  const int64_t n = block;

  const int c0 = tile_c * t.lanes;
  const int oy0 = tile_y * t.rows - t.shift_y, ox0 = tile_x * t.cols - t.shift_x;
  const int iy0 = (oy0 * P::down - r.y.pad) / P::up;  // exact, by the choice of the shift
  int ix0 = (ox0 * P::down - r.x.pad) / P::up;
  const T* image = x + n * r.in_n;
  int skew = 0;  // how far left of the first sample the tile begins, so that packs are aligned
  if (t.packed) {
    constexpr int pack = pack_size<T>;
    if (!t.channels_last) {
      skew = ix0 & (pack - 1);
      ix0 -= skew;
    }
    load_tile<pack>(shared, image, r, t, c0, iy0, ix0);
  } else {
    load_tile<1>(shared, image, r, t, c0, iy0, ix0);
  }

  S taps[P::taps][P::taps];
#pragma unroll
  for (int ky = 0; ky < P::taps; ++ky)
#pragma unroll
    for (int kx = 0; kx < P::taps; ++kx) taps[ky][kx] = tap<S>(f, r, ky, kx) * S(r.gain);
  __syncthreads();

  const int col_stride = t.channels_last ? t.lanes : 1, row_stride = col_stride * t.in_cols;
  const int lane_stride = t.channels_last ? 1 : t.in_rows * t.in_cols;
  const int patch_rows = t.rows / P::rows, patch_cols = t.cols / P::cols;
  for (int item = threadIdx.x; item < patch_rows * patch_cols * t.lanes; item += num_threads) {
    // All three are powers of two.
    const int inner = t.channels_last ? t.lanes : patch_cols, middle = t.channels_last ? patch_cols : patch_rows;
    const int i0 = item & (inner - 1), outer = item / inner, i1 = outer & (middle - 1), i2 = outer / middle;
    const int lane = t.channels_last ? i0 : i2;
    const int row = (t.channels_last ? i2 : i1) * P::rows, col = (t.channels_last ? i1 : i0) * P::cols;

    const S* corner = shared + lane * lane_stride + row * P::down / P::up * row_stride +
                      (col * P::down / P::up + skew) * col_stride;
    S sum[P::rows][P::cols] = {};
#pragma unroll
    for (int i = 0; i < P::in_rows; ++i) {
#pragma unroll
      for (int m = 0; m < P::in_cols; ++m) {
        const S value = corner[i * row_stride + m * col_stride];
#pragma unroll
        for (int j = 0; j < P::rows; ++j) {
          const int ky = i * P::up - j * P::down;
          if (ky < 0 || ky >= P::taps) continue;
#pragma unroll
          for (int k = 0; k < P::cols; ++k) {
            const int kx = m * P::up - k * P::down;
            if (kx >= 0 && kx < P::taps) sum[j][k] += taps[ky][kx] * value;
          }
        }
      }
    }

    const int c = c0 + lane;
    if (c >= r.c) continue;
#pragma unroll
    for (int j = 0; j < P::rows; ++j) {
      const int oy = oy0 + row + j;
      if (oy < 0 || oy >= r.y.out) continue;
#pragma unroll
      for (int k = 0; k < P::cols; ++k) {
        const int ox = ox0 + col + k;
        if (ox < 0 || ox >= r.x.out) continue;
        const S value = tail(sum[j][k], n, c, int64_t(oy) * r.x.out + ox);
        y[n * r.out_n + c * r.out_c + oy * r.out_y + ox * r.out_x] = static_cast<T>(value);
      }
    }
  }
}

// -------------------------------------------------------------------------------------------------------- dispatch

template <typename P, typename T, typename Tail>
void launch_tiled(StreamPointer stream, const T* x, const float* f, T* y, const Resampling& r, const Tail& tail) {
  const Tile t = choose_tile<T, P>(r, x);
  const int64_t blocks = r.n * t.count_y * t.count_x * t.count_c;
  launch(stream, upfirdn2d_tiled<T, P, Tail>, blocks, num_threads, t.shared_bytes, x, f, y, r, t, tail);
}

template <typename P>
bool fits(const Resampling& r) {
  const auto fits_axis = [](const Axis& a) { return a.up == P::up && a.down == P::down && a.taps == P::taps; };
  return fits_axis(r.x) && fits_axis(r.y);
}

// Runs the tiled kernel if one of `Patches` fits, else the direct one.
template <typename... Patches, typename T, typename Tail>
void launch_upfirdn2d(StreamPointer stream, const T* x, const float* f, T* y, const Resampling& r, const Tail& tail) {
  if (((fits<Patches>(r) && (launch_tiled<Patches>(stream, x, f, y, r, tail), true)) || ...)) return;
  const int64_t blocks = num_pieces(r.n * r.c * r.y.out * r.x.out, num_threads);
  launch(stream, upfirdn2d_direct<T, Tail>, blocks, num_threads, 0, x, f, y, r, tail);
}

}  // namespace acne_lab::cuda
