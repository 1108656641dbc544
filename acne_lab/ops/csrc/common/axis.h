// Index arithmetic of upfirdn2d, one axis at a time.
//
// Zeros are inserted so that sample i moves to up * i, the axis is padded (or cropped, where padding is
// negative) and correlated with the taps, and every down-th result is kept:
//   y[o] = sum over k of taps[k] * X[o * down - pad + k],  X[up * i] = x[i] for 0 <= i < in, else X = 0.
// Only every up-th tap meets a sample; which ones depends on o.
#pragma once

#include <cstdint>

#include "common/inline.h"

namespace acne_lab {

ACNE_INLINE int floor_div(int a, int b) { return a / b - (a % b != 0 && (a ^ b) < 0); }
ACNE_INLINE int ceil_div(int a, int b) { return -floor_div(-a, b); }

// The taps that meet samples: taps[tap + j * up] meets x[input + j] for 0 <= j < count; x is 0 outside.
struct Window {
  int input, tap, count;
};

struct Axis {
  int up, down;
  int pad;  // before the first sample; negative crops
  int taps;
  int in, out;  // lengths

  ACNE_INLINE Window window(int o) const {
    int start = o * down - pad;
    int input = ceil_div(start, up);
    int tap = input * up - start;
    return {input, tap, tap < taps ? (taps - tap - 1) / up + 1 : 0};
  }
};

// Length of the result; below 1 where the taps do not fit into the padded axis.
ACNE_INLINE int64_t output_length(int64_t in, int up, int down, int pad0, int pad1, int taps) {
  int64_t room = in * up + pad0 + pad1 - taps;
  return room < 0 ? 0 : room / down + 1;
}

}  // namespace acne_lab
