// What operators.cpp asks of the kernels. nvcc, which compiles those, never sees a header of torch, and the compiler of
// operators.cpp sees no CUDA C++: each reads what it is good at, and fast.
//
// Pointers are device memory. Sizes are at least 1. `Type` is the element type of images; arithmetic, and whatever is
// marked "sum" below, is float, or double for f64.
#pragma once

#include <cstdint>

#include "common/activations.h"
#include "common/axis.h"

struct CUstream_st;

namespace acne_lab::cuda {

using StreamPointer = CUstream_st*;  // cudaStream_t

enum class Type { f64, f32, f16, bf16 };

// bias_act (order 0) or a derivative of it, over tensors that fill memory in one and the same order.
struct BiasAct {
  const void* gradgrad;  // order 2
  const void* grad;      // order 1 and 2
  const void* saved;     // x; for derivatives y, or x where Activation<act>::from_input
  const void* b;         // sum; null is none; not read with y
  void* out;
  int64_t size;
  int64_t stride, count;  // of b's dimension: element i, in memory, meets b[(i / stride) % count]
  int order;
  Act act;
  double alpha, gain, clamp;
};
void bias_act(const BiasAct&, Type, StreamPointer);

// One call of upfirdn2d, without its pointers. Images are read and written through strides, in elements.
struct Resampling {
  int64_t n;
  int c;
  Axis y, x;
  int64_t in_n, in_c, in_y, in_x;
  int64_t out_n, out_c, out_y, out_x;
  bool flip_filter;  // true correlates
  double gain;
};
void upfirdn2d(const void* x, const float* f, void* y, const Resampling&, Type, StreamPointer);

// Null leaves a term out.
struct EpilogueTerms {
  const void* scale;  // sum [n, c]
  const void* noise;  // sum [1 or n, pixels]
  const void* b;      // sum [c]
  int64_t noise_stride;  // from image to image; 0: one map for all
  double alpha, gain, clamp;
};

// A dense image of either format is a matrix: NCHW has a row per channel, channels_last a row per pixel.
struct Matrix {
  int64_t n;
  int rows, cols;
  bool channels_last;
};

void filtered_epilogue(const void* x, const float* f, void* y, const Resampling&, const EpilogueTerms&, Type,
                       StreamPointer);
void epilogue(const void* x, void* y, const Matrix&, const EpilogueTerms&, Type, StreamPointer);

// The backward pass leaves a partial sum per tile of the matrix. A sum along rows (over pixels in NCHW, over channels
// in channels_last) has the shape [n, rows, col_tiles], one along columns [n, row_tiles, cols].
struct Tiles {
  int row_tiles, col_tiles;
  bool packed;
};
struct EpilogueBackward {
  const void *grad, *y;
  void* grad_x;  // of what came out of the filter
  // Sums over pixels for scale and b, over channels for noise; null where nobody asks.
  void *scale_sums, *noise_sums, *b_sums;
};
Tiles epilogue_tiles(const EpilogueBackward&, const Matrix&, Type);
void epilogue_backward(const EpilogueBackward&, const Matrix&, const EpilogueTerms&, const Tiles&, Type, StreamPointer);

}  // namespace acne_lab::cuda
