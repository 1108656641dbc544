// upfirdn2d with a separable filter of four taps, at its own size, at twice and at half of it.
//
// Several rows of the result are computed at once, because they share rows of the input. Along x a window of
// columns moves over the image: of interleaved channels it is a ring of pixels, of single ones a line. So every
// sample is read from memory once, and the sums live in the first-level cache.
#pragma once

#include "cpu/vec.h"

namespace acne_lab::ACNE_ISA {

// One axis goes in steps: from a window of samples to Up results, and on by Down samples.
template <int Up, int Down>
struct Step {
  static constexpr int window = Up == 2 ? 3 : 4;

  // The first step's first result, from which on the taps of each phase take turns.
  ACNE_INLINE static int aligned(const Axis& axis, int o) { return Up == 2 ? o - ((o - axis.pad) & 1) : o; }
  ACNE_INLINE static int input(const Axis& axis, int aligned) { return (aligned * Down - axis.pad) / Up; }

  template <class V>
  ACNE_INLINE static V result(int q, const V* taps, const V* w) {
    if constexpr (Up == 2) {
      return taps[q] * w[q] + taps[q + 2] * w[q + 1];
    } else {
      return taps[0] * w[0] + taps[1] * w[1] + taps[2] * w[2] + taps[3] * w[3];
    }
  }
};

// R steps down the columns: rows o, ..., o + rows - 1 of the result from `inputs` rows of the image.
template <int Up, int Down, int R, class T>
struct RowBlock {
  using S = Sum<T>;
  using V = Vec<S>;
  using Y = Step<Up, Down>;
  static constexpr int rows = R * Up, inputs = (R - 1) * Down + Y::window;

  V taps[4];
  const T* input[inputs];
  int64_t ahead;

  ACNE_INLINE explicit RowBlock(const Filter& f, int64_t ahead) : ahead(ahead) {
    for (int j = 0; j < 4; j++) taps[j] = V(((const S*)f.column)[j]);
  }

  ACNE_INLINE void move_to(int o, const Axis& y, const T* plane, int64_t row_stride, const T* zeros) {
    const int first = Y::input(y, o);
    for (int k = 0; k < inputs; k++) {
      bool inside = first + k >= 0 && first + k < y.in;
      input[k] = inside ? plane + (first + k) * row_stride : zeros;
    }
  }

  template <class L>
  ACNE_INLINE void column(int64_t at, L lanes, V out[rows]) const {
    V samples[inputs];
    for (int k = 0; k < inputs; k++) {
      if (k >= inputs - R * Down) prefetch(input[k] + at, ahead);  // the block before has read the others
      samples[k] = load(input[k] + at, lanes);
    }
    for (int r = 0; r < rows; r++) out[r] = Y::result(r % Up, taps, samples + r / Up * Down);
  }
};

template <class S>
ACNE_INLINE int64_t whole_vectors(int64_t n) {
  return (n + Vec<S>::size - 1) / Vec<S>::size * Vec<S>::size;
}

// f(plane, first, last) for each piece of rows begin <= r < end, counted through all planes.
template <class F>
ACNE_INLINE void for_planes(int height, int64_t begin, int64_t end, F f) {
  while (begin < end) {
    const int64_t plane = begin / height, first = begin - plane * height;
    const int64_t last = first + end - begin < height ? first + end - begin : height;
    f(plane, int(first), int(last));
    begin += last - first;
  }
}

template <int Up, int Down, int R, class T, class Sink>
void four_tap_interleaved(const Planes& planes, const Filter& f, int64_t begin, int64_t end, void* scratch,
                          const Sink& sink) {
  using S = Sum<T>;
  using V = Vec<S>;
  using X = Step<Up, Down>;
  using Block = RowBlock<Up, Down, R, T>;
  constexpr int kRows = Block::rows, kWindow = X::window, kKept = kWindow - Down;
  const int64_t c = planes.interleaved, slot = whole_vectors<S>(c);
  Block block(f, kAhead / sizeof(T));
  V taps[4];
  for (int j = 0; j < 4; j++) taps[j] = V(((const S*)f.rows)[j]);
  S* ring[kWindow];  // columns of the window, [kRows, slot] each
  for (int k = 0; k < kWindow; k++) ring[k] = (S*)scratch + k * kRows * slot;
  T* zeros = (T*)((S*)scratch + kWindow * kRows * slot);
  for (int64_t i = 0; i < f.x.in * c; i++) zeros[i] = T{};

  auto column = [&](int x, int64_t i, auto lanes, V out[kRows]) ACNE_INLINED {
    if (x >= 0 && x < f.x.in) {
      block.column(x * c + i, lanes, out);
    } else {
      for (int r = 0; r < kRows; r++) out[r] = V(0);
    }
  };
  const int x_begin = X::aligned(f.x, 0);
  for_planes(f.y.out, begin, end, [&](int64_t plane, int first, int last) ACNE_INLINED {
    for (int y = X::aligned(f.y, first); y < last; y += kRows) {
      block.move_to(y, f.y, (const T*)planes.data + planes.offset(plane), planes.row_stride, zeros);
      int in = X::input(f.x, x_begin);
      for_vectors<S>(c, [&](int64_t i, auto lanes) ACNE_INLINED {
        for (int k = 0; k < kKept; k++) {
          V sums[kRows];
          column(in + k, i, lanes, sums);
          for (int r = 0; r < kRows; r++) store(ring[k] + r * slot + i, sums[r]);
        }
      });
      for (int x = x_begin; x < f.x.out; x += Up, in += Down) {
        decltype(sink.pixel(0, 0, 0)) puts[kRows][Up];
        bool wanted[kRows][Up];
        for (int r = 0; r < kRows; r++) {
          for (int q = 0; q < Up; q++) {
            wanted[r][q] = y + r >= first && y + r < last && x + q >= 0 && x + q < f.x.out;
            if (wanted[r][q]) puts[r][q] = sink.pixel(plane, y + r, x + q);
          }
        }
        for_vectors<S>(c, [&](int64_t i, auto lanes) ACNE_INLINED {
          V fresh[Down][kRows];
          for (int k = 0; k < Down; k++) column(in + kKept + k, i, lanes, fresh[k]);
          for (int r = 0; r < kRows; r++) {
            V window[kWindow];
            for (int k = 0; k < kKept; k++) window[k] = load(ring[k] + r * slot + i);
            for (int k = 0; k < Down; k++) {
              window[kKept + k] = fresh[k][r];
              store(ring[kKept + k] + r * slot + i, fresh[k][r]);
            }
            for (int q = 0; q < Up; q++) {
              if (wanted[r][q]) puts[r][q](i, X::result(q, taps, window), lanes);
            }
          }
        });
        S* oldest[Down];
        for (int k = 0; k < Down; k++) oldest[k] = ring[k];
        for (int k = 0; k < kKept; k++) ring[k] = ring[k + Down];
        for (int k = 0; k < Down; k++) ring[kKept + k] = oldest[k];
      }
    }
  });
}

// emit(2 i, ...) gets interleaved sums over j < count[p] of taps[p][j] * in[p][i + j], p = 0 and 1, up to n in all.
template <class S, class Emit>
ACNE_INLINE void along_up2(const S* const in[2], const S* const taps[2], const int count[2], int64_t n, Emit emit) {
  using V = Vec<S>;
  for (int64_t i = 0; i < n; i += 2 * V::size) {
    V sums[2] = {V(0), V(0)};
    for (int p = 0; p < 2; p++) {
      for (int j = 0; j < count[p]; j++) sums[p] = sums[p] + V(taps[p][j]) * load(in[p] + i / 2 + j);
    }
    V parts[2] = {interleave_low(sums[0], sums[1]), interleave_high(sums[0], sums[1])};
    for (int h = 0; h < 2; h++) {
      int64_t left = n - i - h * V::size;
      if (left >= V::size) {
        emit(i + h * V::size, parts[h], Whole{});
      } else if (left > 0) {
        emit(i + h * V::size, parts[h], int(left));
      }
    }
  }
}

// emit(i, ...) gets the sum over j < count of taps[j] * in[2 i + j] for 0 <= i < n.
template <class S, class Emit>
ACNE_INLINE void along_down2(const S* in, const S* taps, int count, int64_t n, Emit emit) {
  using V = Vec<S>;
  for_vectors<S>(n, [&](int64_t i, auto lanes) ACNE_INLINED {
    V sum(0);
    for (int j = 0; j < count; j += 2) {
      V a = load(in + 2 * i + j), b = load(in + 2 * i + j + V::size);
      sum = sum + V(taps[j]) * even(a, b);
      if (j + 1 < count) sum = sum + V(taps[j + 1]) * odd(a, b);
    }
    emit(i, sum, lanes);
  });
}

// Numbers of a line: from the first pixel that a result needs to the last, and what vectors read past the end.
template <class S>
ACNE_INLINE int64_t line_length(const Axis& x) {
  const int first = x.window(0).input;
  const int64_t needed = floor_div((x.out - 1) * x.down - x.pad + x.taps - 1, x.up) + 1 - first;
  return (needed > x.in - first ? needed : x.in - first) + 3 * Vec<S>::size;
}

template <int Up, int Down, int R, class T, class Sink>
void four_tap_planar(const Planes& planes, const Filter& f, int64_t begin, int64_t end, void* scratch,
                     const Sink& sink) {
  using S = Sum<T>;
  using V = Vec<S>;
  using Block = RowBlock<Up, Down, R, T>;
  constexpr int kRows = Block::rows;
  Block block(f, R * Down * planes.row_stride);
  const S* row = (const S*)f.rows;
  const Window windows[2] = {f.x.window(0), f.x.window(1)};
  const int line_begin = windows[0].input, from = line_begin > 0 ? line_begin : 0;  // pixels
  const int64_t length = line_length<S>(f.x);
  S* lines = (S*)scratch;
  T* zeros = (T*)(lines + kRows * length);
  for (int64_t i = 0; i < kRows * length; i++) lines[i] = 0;  // what lies past the image stays so
  for (int64_t i = 0; i < f.x.in; i++) zeros[i] = T{};

  for_planes(f.y.out, begin, end, [&](int64_t plane, int first, int last) ACNE_INLINED {
    for (int y = Step<Up, Down>::aligned(f.y, first); y < last; y += kRows) {
      block.move_to(y, f.y, (const T*)planes.data + planes.offset(plane), planes.row_stride, zeros);
      for_vectors<S>(f.x.in - from, [&](int64_t i, auto lanes) ACNE_INLINED {
        V sums[kRows];
        block.column(from + i, lanes, sums);
        for (int r = 0; r < kRows; r++) store(lines + r * length + (from - line_begin) + i, sums[r]);
      });
      for (int r = 0; r < kRows; r++) {
        if (y + r < first || y + r >= last) continue;
        const S* line = lines + r * length;
        auto put = sink.row(plane, y + r);
        if constexpr (Up == 2) {
          const S* const in[2] = {line, line + (windows[1].input - line_begin)};
          const S phases[2][2] = {{row[0], row[2]}, {row[1], row[3]}};
          const S* const taps[2] = {phases[windows[0].tap], phases[windows[1].tap]};
          constexpr int count[2] = {2, 2};
          along_up2(in, taps, count, f.x.out, put);
        } else if constexpr (Down == 2) {
          along_down2(line, row, 4, f.x.out, put);
        } else {
          for_vectors<S>(f.x.out, [&](int64_t i, auto lanes) ACNE_INLINED {
            V window[4], taps[4];
            for (int j = 0; j < 4; j++) window[j] = load(line + i + j), taps[j] = V(row[j]);
            put(i, Step<1, 1>::result(0, taps, window), lanes);
          });
        }
      }
    }
  });
}

// Goes the way that this file has for a filter; false if it has none. `Sink::same_size_only` leaves two out.
template <class T, class Sink>
bool four_tap_rows(const Planes& planes, const Filter& f, int64_t begin, int64_t end, void* scratch, const Sink& sink) {
  const bool alike = f.x.up == f.y.up && f.x.down == f.y.down && f.x.taps == 4 && f.y.taps == 4;
  const bool planar = planes.interleaved == 1;
  const bool narrow = !planar && 2 * planes.interleaved < Vec<Sum<T>>::size;  // vectors would be mostly empty
  if (!f.separable || !alike || narrow) return false;
  if (f.x.up == 1 && f.x.down == 1) {
    planar ? four_tap_planar<1, 1, 4, T>(planes, f, begin, end, scratch, sink)
           : four_tap_interleaved<1, 1, 2, T>(planes, f, begin, end, scratch, sink);
    return true;
  }
  if constexpr (!Sink::same_size_only) {
    if (f.x.up == 2 && f.x.down == 1) {
      planar ? four_tap_planar<2, 1, 2, T>(planes, f, begin, end, scratch, sink)
             : four_tap_interleaved<2, 1, 1, T>(planes, f, begin, end, scratch, sink);
      return true;
    }
    if (f.x.up == 1 && f.x.down == 2) {
      planar ? four_tap_planar<1, 2, 2, T>(planes, f, begin, end, scratch, sink)
             : four_tap_interleaved<1, 2, 1, T>(planes, f, begin, end, scratch, sink);
      return true;
    }
  }
  return false;
}

template <class T>
int64_t four_tap_scratch_bytes(const Filter& f, int64_t interleaved) {
  using S = Sum<T>;
  int64_t sums = interleaved == 1 ? 4 * line_length<S>(f.x) : 8 * whole_vectors<S>(interleaved);
  return (sums + f.x.in * interleaved) * sizeof(S);
}

}  // namespace acne_lab::ACNE_ISA
