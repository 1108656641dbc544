// Convolution with 3 x 3 taps by the algorithm F(2 x 2, 3 x 3) of Lavin and Gray (arXiv:1509.09308): 2 x 2 pixels of
// the output, a tile, take 16 multiplications for every pair of channels instead of 36.
//
// What a tile reads, 4 x 4 pixels, and the taps are transformed to 16 numbers each, here called points. The products
// of the two, summed over the channels of x, are transformed back to 2 x 2 pixels. So at every point there is a product
// of matrices: (tiles x channels of x) times (channels of x x channels of y).
#pragma once

#include <type_traits>

#include "cpu/vec.h"

namespace acne_lab::ACNE_ISA {

// The sums of kRows tiles and kPanel channels of y stay in registers.
constexpr int kRows = kVectorBytes == 64 ? 12 : 6;
constexpr int kPanel = 2 * kFloats;
static_assert(kWinogradTiles % kRows == 0 && kWinogradChannels % kPanel == 0);

// Their taps for so many channels of x stay in the first cache, while tiles go by.
constexpr int64_t kDepth = 128;

ACNE_INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

// ---- taps --------------------------------------------------------------------------------------------

// The taps at a point are [block of kDepth channels of x][panel][channel of the block][channel of the panel], which is
// how the products read them. This finds a channel of x and a panel.
ACNE_INLINE int64_t taps_offset(const Winograd& c, int64_t in, int64_t panel) {
  const int64_t block = in / kDepth * kDepth, height = smaller(kDepth, c.padded_in() - block);
  return (block * (c.padded_out() / kPanel) + panel * height + in - block) * kPanel;
}

ACNE_INLINE void transpose(Vec<float> (&rows)[kFloats]) {
  for (int step = 1; step < kFloats; step *= 2) {
    Vec<float> shuffled[kFloats];
    for (int i = 0; i < kFloats / 2; i++) {
      shuffled[2 * i] = interleave_low(rows[i], rows[i + kFloats / 2]);
      shuffled[2 * i + 1] = interleave_high(rows[i], rows[i + kFloats / 2]);
    }
    for (int i = 0; i < kFloats; i++) rows[i] = shuffled[i];
  }
}

// Multiplies by (1 0 0, 1/2 1/2 1/2, 1/2 -1/2 1/2, 0 0 1) what lies `step` apart.
ACNE_INLINE void transform_taps(const Vec<float>* in, Vec<float>* out, int step) {
  const Vec<float> half(0.5f), outer = (in[0] + in[2 * step]) * half, inner = in[step] * half;
  out[0] = in[0];
  out[step] = outer + inner;
  out[2 * step] = outer - inner;
  out[3 * step] = in[2 * step];
}

void winograd_taps(const Winograd& c, int64_t begin, int64_t end) {
  // The weight is [rows][3][3][columns]. Vectors are read along the columns and written along the channels of y.
  const int64_t num_rows = c.transposed ? c.in : c.out, num_columns = c.transposed ? c.out : c.in;
  for (int64_t out = begin * kWinogradChannels; out < end * kWinogradChannels; out += kFloats) {
    for (int64_t in = 0; in < c.padded_in(); in += kFloats) {
      const int64_t row = c.transposed ? in : out, column = c.transposed ? out : in;
      const int lanes = int(smaller(kFloats, num_columns - column));
      Vec<float> taps[kFloats][9];
      for (int tap = 0; tap < 9; tap++) {
        Vec<float> rows[kFloats];
        for (int i = 0; i < kFloats; i++) {
          const float* p = c.weight + ((row + i) * 9 + tap) * num_columns + column;
          prefetch(p, kFloats);
          rows[i] = row + i < num_rows && lanes > 0 ? load(p, lanes) : Vec<float>(0);
        }
        if (!c.transposed) transpose(rows);
        for (int i = 0; i < kFloats; i++) taps[i][c.transposed ? 8 - tap : tap] = rows[i];
      }
      float* p = c.taps + taps_offset(c, in, out / kPanel) + out % kPanel;
      for (int i = 0; i < kFloats; i++, p += kPanel) {
        Vec<float> columns[4 * 3], points[4 * 4];
        for (int x = 0; x < 3; x++) transform_taps(taps[i] + x, columns + x, 3);
        for (int y = 0; y < 4; y++) transform_taps(columns + 3 * y, points + 4 * y, 1);
        for (int point = 0; point < 16; point++) store(p + point * c.taps_stride(), points[point]);
      }
    }
  }
}

// ---- tiles -------------------------------------------------------------------------------------------

struct Tile {
  int64_t image, y, x;  // of its first pixel

  ACNE_INLINE Tile(const Winograd& c, int64_t number) {
    image = number / (c.tile_rows() * c.tile_columns());
    y = number / c.tile_columns() % c.tile_rows() * 2;
    x = number % c.tile_columns() * 2;
  }

  ACNE_INLINE void advance(const Winograd& c) {
    x += 2;
    if (x >= c.width) x = 0, y += 2;
    if (y >= c.height) y = 0, image++;
  }

  ACNE_INLINE int64_t pixel(const Winograd& c) const { return (image * c.height + y) * c.width + x; }
};

// Multiplies by (1 0 -1 0, 0 1 1 0, 0 -1 1 0, 0 1 0 -1) what lies `step` apart.
ACNE_INLINE void transform_input(const Vec<float>* in, Vec<float>* out, int step) {
  out[0] = in[0] - in[2 * step];
  out[step] = in[step] + in[2 * step];
  out[2 * step] = in[2 * step] - in[step];
  out[3 * step] = in[step] - in[3 * step];
}

// Multiplies by (1 1 1 0, 0 1 -1 -1) what lies `step` apart.
ACNE_INLINE void transform_sums(const Vec<float>* in, Vec<float>* out, int step) {
  out[0] = in[0] + in[step] + in[2 * step];
  out[step] = in[step] - in[2 * step] - in[3 * step];
}

// Writes a tile to input[point][vector of channels][kRows of tiles][kFloats].
ACNE_INLINE void read_tile(const Winograd& c, const Tile& tile, const float* zeros, float* input, int64_t stride) {
  const float* pixels[16];
  const float* first = c.x + (tile.pixel(c) - c.width - 1) * c.in;
  for (int i = 0; i < 16; i++) {
    const int64_t y = tile.y + i / 4 - 1, x = tile.x + i % 4 - 1;
    const bool inside = y >= 0 && y < c.height && x >= 0 && x < c.width;
    pixels[i] = inside ? first + (i / 4 * c.width + i % 4) * c.in : zeros;
  }
  for_vectors<float>(c.in, [&](int64_t i, auto lanes) ACNE_INLINED {
    Vec<float> x[16], columns[16];
    for (int j = 0; j < 16; j++) x[j] = load(pixels[j] + i, lanes);
    for (int j = 0; j < 4; j++) transform_input(x + j, columns + j, 4);
    for (int j = 0; j < 4; j++) transform_input(columns + 4 * j, x + 4 * j, 1);
    for (int j = 0; j < 16; j++) store(input + j * stride + i * kRows, x[j]);
  });
}

// Reads a tile from sums[point][panel][`rows` of tiles][kPanel], for channels begin <= i < end of y.
ACNE_INLINE void write_tile(const Winograd& c, const Tile& tile, int64_t begin, int64_t end, const float* sums,
                            int64_t rows, int64_t stride) {
  const bool right = tile.x + 1 < c.width, below = tile.y + 1 < c.height;
  float* out = c.y + tile.pixel(c) * c.out + begin;
  for_vectors<float>(end - begin, [&](int64_t i, auto lanes) ACNE_INLINED {
    Vec<float> s[16], columns[8], y[4];
    for (int j = 0; j < 16; j++) s[j] = load(sums + j * stride + i / kPanel * rows * kPanel + i % kPanel);
    for (int j = 0; j < 4; j++) transform_sums(s + j, columns + j, 4);
    for (int j = 0; j < 2; j++) transform_sums(columns + 4 * j, y + 2 * j, 1);
    store(out + i, y[0], lanes);
    if (right) store(out + c.out + i, y[1], lanes);
    if (below) store(out + c.width * c.out + i, y[2], lanes);
    if (right && below) store(out + (c.width + 1) * c.out + i, y[3], lanes);
  });
}

// ---- products ----------------------------------------------------------------------------------------

// sums[kRows][kPanel], 0 at `first`, plus input[depth / kFloats][kRows][kFloats] times taps[depth][kPanel].
ACNE_INLINE void multiply(const float* input, const float* taps, int64_t depth, float* sums, bool first) {
  Vec<float> s[kRows][2];
#pragma GCC unroll 12
  for (int r = 0; r < kRows; r++) {
    s[r][0] = first ? Vec<float>(0) : load(sums + r * kPanel);
    s[r][1] = first ? Vec<float>(0) : load(sums + r * kPanel + kFloats);
  }
  for (int64_t i = 0; i < depth; i += kFloats, input += kRows * kFloats) {
    for (int j = 0; j < kFloats; j++, taps += kPanel) {
      const Vec<float> low = load(taps), high = load(taps + kFloats);
#pragma GCC unroll 12
      for (int r = 0; r < kRows; r++) {
        const Vec<float> x(input[r * kFloats + j]);
        s[r][0] = s[r][0] + x * low;
        s[r][1] = s[r][1] + x * high;
      }
    }
  }
#pragma GCC unroll 12
  for (int r = 0; r < kRows; r++) {
    store(sums + r * kPanel, s[r][0]);
    store(sums + r * kPanel + kFloats, s[r][1]);
  }
}

// A point's product for the panels begin <= i < end and `rows` tiles.
ACNE_INLINE void multiply_all(const Winograd& c, const float* input, const float* taps, float* sums, int64_t rows,
                              int64_t begin, int64_t end) {
  const int64_t in_end = (c.in + kFloats - 1) / kFloats * kFloats;
  for (int64_t in = 0; in < in_end; in += kDepth) {
    const int64_t depth = smaller(kDepth, in_end - in), size = depth * kPanel;
    for (int64_t panel = begin; panel < end; panel++) {
      const float* block = taps + taps_offset(c, in, panel);
      for (int64_t row = 0; row < rows; row += kRows) {
        // The next block comes from far, and this one takes about as long.
        for (int64_t i = size * row / rows; i < size * (row + kRows) / rows; i += 16) prefetch(block + size + i, 0);
        multiply(input + row * c.padded_in() + in * kRows, block, depth, sums + ((panel - begin) * rows + row) * kPanel,
                 in == 0);
      }
    }
  }
}

void winograd(const Winograd& c, int64_t begin, int64_t end, float* scratch) {
  float *zeros = scratch, *input = zeros + c.padded_in(), *sums = input + 16 * c.input_stride();
  for (int64_t i = 0; i < c.in; i++) zeros[i] = 0;
  for (int64_t task = begin; task < end; task++) {
    const int64_t first = task / c.slices() * c.tiles_per_task, num = smaller(c.tiles_per_task, c.num_tiles() - first);
    const int64_t rows = (num + kRows - 1) / kRows * kRows;
    const int64_t out = task % c.slices() * c.channels_per_task, out_end = smaller(out + c.channels_per_task, c.out);
    Tile tile(c, first);
    for (int64_t t = 0; t < rows; t++) {  // what is missing from the last rows is filled with the last tile
      read_tile(c, tile, zeros, input + (t / kRows * c.padded_in() * kRows + t % kRows * kFloats), c.input_stride());
      if (t + 1 < num) tile.advance(c);
    }
    for (int point = 0; point < 16; point++) {
      multiply_all(c, input + point * c.input_stride(), c.taps + point * c.taps_stride(),
                   sums + point * c.sums_stride(), rows, out / kPanel, (out_end + kPanel - 1) / kPanel);
    }
    tile = Tile(c, first);
    for (int64_t t = 0; t < num; t++, tile.advance(c)) {
      write_tile(c, tile, out, out_end, sums + t * kPanel, rows, c.sums_stride());
    }
  }
}

}  // namespace acne_lab::ACNE_ISA
