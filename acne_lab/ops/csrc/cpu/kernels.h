// What the operators ask of an instruction set: plain structs and one table of functions.
//
// The functions know nothing of torch. Each works on a range of a call's work, so that the caller can share
// it among threads; no result depends on how the work is cut.
#pragma once

#include <cstdint>

#include "common/activations.h"
#include "common/axis.h"

namespace acne_lab {

struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

// Arithmetic is float for the 16-bit types. `Sum` in the comments below: the type that T computes in.
template <class T>
struct SumOf {
  using type = float;
};
template <>
struct SumOf<double> {
  using type = double;
};
template <class T>
using Sum = typename SumOf<T>::type;

// bias_act or a derivative of it on memory in any order. The memory is a sequence of runs of `run` elements
// (the last may be shorter); run r takes b[r % channels] or, if `b_is_row`, its element i takes b[i].
struct BiasAct {
  void* out;
  const void* x;  // order 0: x; order 1 and 2: what the forward pass has saved
  const void* grad;
  const void* gradgrad;
  const void* b;  // Sum
  int64_t run, channels;
  bool b_is_row;
  Act act;
  double alpha, gain, clamp;
};

// Images to filter. A plane is what the filter sees: one channel (`interleaved` 1), or all channels of an image
// side by side in every pixel (channels_last; `interleaved` is their number). Strides in elements.
struct Planes {
  const void* data;
  int64_t num_planes;
  int64_t planes_per_image, image_stride, plane_stride, row_stride;
  int64_t interleaved;

  ACNE_INLINE int64_t offset(int64_t plane) const {
    return plane / planes_per_image * image_stride + plane % planes_per_image * plane_stride;
  }
};

// The filter in correlation orientation, gain included: column x row if `separable`, else `rows` row by row.
struct Filter {
  Axis x, y;
  bool separable;
  const void* column;  // Sum [fh]
  const void* rows;    // Sum [1 or fh, fw]
};

struct UpFirDn2d {
  void* out;  // dense, in the layout of x
  Planes x;
  Filter filter;
};

// y = clamp(gain * lrelu(filter(x) * scale + noise + b)); absent operands are given as ones and zeros.
struct Epilogue {
  void* y;  // dense, in the layout of x
  Planes x;
  const Filter* filter;  // null: x is taken as it is
  int64_t height, width, channels;  // of y
  const void* scale;  // Sum [n, channels], scale_stride from image to image
  int64_t scale_stride;
  const void* noise;  // Sum [n, height, width], dense rows, strides from image to image and row to row
  int64_t noise_stride, noise_row_stride;
  const void* b;  // Sum [channels]
  double alpha, gain, clamp;
};

// Of the images in `rows_per_task` rows each; the sums of a task go to sums[task][2][channels].
struct EpilogueBackward {
  void* grad_x;
  const void *grad, *y;  // all three dense in one layout
  bool channels_last;
  int64_t height, width, channels, rows_per_task;
  const void *scale, *noise, *b;  // as above
  int64_t scale_stride, noise_stride, noise_row_stride;
  void* grad_noise;  // Sum [n, height, width]
  void* sums;        // Sum: of dz, and of dz * scale * filter(x)
  double alpha, gain, clamp;
};

constexpr int64_t kWinogradTiles = 12, kWinogradChannels = 32;  // the units that tasks are made of

// Convolution of dense images in channels_last with 3 x 3 taps, stride 1, padding 1. A tile is 2 x 2 pixels of y; a
// task is some tiles and a slice of their channels. Sizes and strides are in floats.
struct Winograd {
  float* y;             // [n, height, width, out]
  const float* x;       // [n, height, width, in]
  const float* weight;  // [out, 3, 3, in] or, if `transposed`, [in, 3, 3, out], of which this is the adjoint
  bool transposed;
  int64_t n, height, width, in, out;
  int64_t tiles_per_task, channels_per_task;
  float* taps;  // the weight transformed, of taps_size()

  ACNE_INLINE int64_t tile_rows() const { return (height + 1) / 2; }
  ACNE_INLINE int64_t tile_columns() const { return (width + 1) / 2; }
  ACNE_INLINE int64_t num_tiles() const { return n * tile_rows() * tile_columns(); }
  ACNE_INLINE int64_t slices() const { return (out + channels_per_task - 1) / channels_per_task; }
  ACNE_INLINE int64_t num_tasks() const { return (num_tiles() + tiles_per_task - 1) / tiles_per_task * slices(); }
  ACNE_INLINE int64_t padded_in() const { return padded(in, kLine); }
  ACNE_INLINE int64_t padded_out() const { return padded(out, kWinogradChannels); }
  // From point to point of the transforms. The additional line of the cache keeps the points apart in it.
  ACNE_INLINE int64_t taps_stride() const { return padded_in() * padded_out() + kLine; }
  ACNE_INLINE int64_t input_stride() const { return tiles_per_task * padded_in() + kLine; }
  ACNE_INLINE int64_t sums_stride() const { return tiles_per_task * channels_per_task + kLine; }
  ACNE_INLINE int64_t taps_size() const { return 16 * taps_stride(); }
  ACNE_INLINE int64_t scratch_size() const { return padded_in() + 16 * (input_stride() + sums_stride()); }

 private:
  static constexpr int64_t kLine = 16;
  static ACNE_INLINE int64_t padded(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }
};

struct Kernels {
  // [order of the derivative], elements
  void (*bias_act[3])(const BiasAct&, int64_t begin, int64_t end);
  // output rows, counted through all planes; `scratch` is of filter_scratch_bytes
  void (*upfirdn2d)(const UpFirDn2d&, int64_t begin, int64_t end, void* scratch);
  void (*epilogue)(const Epilogue&, int64_t begin, int64_t end, void* scratch);
  int64_t (*filter_scratch_bytes)(const Filter&, int64_t interleaved);
  // tasks
  void (*epilogue_backward)(const EpilogueBackward&, int64_t begin, int64_t end);
  // float only: units of channels of y, whose taps are made first; tasks
  void (*winograd_taps)(const Winograd&, int64_t begin, int64_t end);
  void (*winograd)(const Winograd&, int64_t begin, int64_t end, float* scratch);
};

enum class Type { f64, f32, bf16, f16 };

// One table for each element type.
namespace baseline {
extern const Kernels kernels[4];
}
#if defined(__x86_64__)
namespace avx2 {
extern const Kernels kernels[4];
}
namespace avx512 {
extern const Kernels kernels[4];
}
#endif

}  // namespace acne_lab
