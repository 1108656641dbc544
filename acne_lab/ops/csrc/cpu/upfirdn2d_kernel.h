// upfirdn2d: first down the columns, into a line that stays in the first-level cache, then along the line.
//
// A line has the resolution of the input (no zeros are inserted, none multiplied) and zeros where the filter looks
// past the image. It is in the type of arithmetic, so 16-bit pixels are converted before anything is computed.
// What becomes of a result is told by a sink:
//   sink.row(plane, y)(x, v, lanes)          takes results from x on, of a plane of one channel;
//   sink.pixel(plane, y, x)(c, v, lanes)     takes channels from c on, of interleaved ones;
//   sink.same_for_all_channels               says that row() takes interleaved channels too, one after the other.
#pragma once

#include "cpu/four_tap_kernel.h"

namespace acne_lab::ACNE_ISA {

// out[i] (+)= sum over j < count of taps[j] * in[j * step + i], for 0 <= i < n.
// Count > 0 is `count` at compile time. `Slack`: a vector may be read that begins, but does not end, before n.
template <int Count, bool Slack, class T>
ACNE_INLINE void fir_counted(Sum<T>* out, const T* in, int64_t step, const Sum<T>* taps, int count, int64_t n,
                             bool add) {
  using V = Vec<Sum<T>>;
  if (Count > 0) count = Count;
  int64_t i = 0;
  constexpr int kBlock = 4;  // sums under way at once, to hide the latency of one
  for (; i + kBlock * V::size <= n; i += kBlock * V::size) {
    V sums[kBlock];
    for (int v = 0; v < kBlock; v++) sums[v] = add ? load(out + i + v * V::size) : V(0);
    for (int j = 0; j < count; j++) {
      V tap(taps[j]);
      for (int v = 0; v < kBlock; v++) sums[v] = sums[v] + tap * load(in + j * step + i + v * V::size);
    }
    for (int v = 0; v < kBlock; v++) store(out + i + v * V::size, sums[v]);
  }
  for_vectors<Sum<T>>(n - i, [&](int64_t rest, auto lanes) ACNE_INLINED {
    V sum = add ? load(out + i + rest, lanes) : V(0);
    for (int j = 0; j < count; j++) {
      const T* p = in + j * step + i + rest;
      sum = sum + V(taps[j]) * (Slack ? load(p) : load(p, lanes));
    }
    store(out + i + rest, sum, lanes);
  });
}

template <bool Slack, class T>
void fir(Sum<T>* out, const T* in, int64_t step, const Sum<T>* taps, int count, int64_t n, bool add) {
  switch (count) {
    case 1: return fir_counted<1, Slack>(out, in, step, taps, count, n, add);
    case 2: return fir_counted<2, Slack>(out, in, step, taps, count, n, add);
    case 6: return fir_counted<6, Slack>(out, in, step, taps, count, n, add);
    case 12: return fir_counted<12, Slack>(out, in, step, taps, count, n, add);
    default: return fir_counted<0, Slack>(out, in, step, taps, count, n, add);
  }
}

// Computes rows of the result of any filter. `scratch`, of scratch_bytes(), holds the line, one channel of it and of
// what comes of it, the taps of each phase of the x axis, those of one phase of the y axis, and one row of the result.
template <class T>
class RowFilter {
  using S = Sum<T>;
  using V = Vec<S>;

 public:
  static int64_t scratch_bytes(const Filter& f, int64_t interleaved) {
    int64_t lines = line_size(f.x, interleaved) + channel_size(f.x, interleaved) + step(f.x, interleaved);
    int64_t taps = phased_size(f.x) * num_rows(f) + f.y.taps;
    return (lines + taps + f.x.out * interleaved) * sizeof(S);
  }

  RowFilter(const Planes& planes, const Filter& filter, void* scratch) : planes_(planes), f_(filter) {
    line_ = (S*)scratch;
    channel_ = line_ + line_size(f_.x, planes.interleaved);
    channel_out_ = channel_ + channel_size(f_.x, planes.interleaved);
    phased_ = channel_out_ + step(f_.x, planes.interleaved);
    column_ = phased_ + phased_size(f_.x) * num_rows(f_);
    row_ = column_ + f_.y.taps;
    for (S* p = line_; p < channel_out_; p++) *p = 0;  // vectors may read what is never written
    for (int r = 0; r < num_rows(f_); r++) {
      const S* row = (const S*)f_.rows + r * f_.x.taps;
      S* phased = phased_ + r * phased_size(f_.x);
      for (int p = 0; p < f_.x.up; p++) {
        for (int j = 0; p + j * f_.x.up < f_.x.taps; j++) phased[p * phase_stride(f_.x) + j] = row[p + j * f_.x.up];
      }
    }
  }

  // Row o of a plane, [out * interleaved] numbers that the next call overwrites.
  const S* row(const T* plane, int o) {
    Window w = f_.y.window(o);
    int first = w.input < 0 ? -w.input : 0;
    int last = w.input + w.count > f_.y.in ? f_.y.in - w.input : w.count;
    const T* rows = plane + (w.input + first) * planes_.row_stride;
    if (f_.separable) {
      for (int j = first; j < last; j++) column_[j - first] = ((const S*)f_.column)[w.tap + j * f_.y.up];
      filter(rows, last - first, phased_, false);
      return row_;
    }
    column_[0] = 1;
    for (int64_t i = 0; i < f_.x.out * planes_.interleaved; i++) row_[i] = 0;
    for (int j = first; j < last; j++, rows += planes_.row_stride) {
      filter(rows, 1, phased_ + (w.tap + j * f_.y.up) * phased_size(f_.x), true);
    }
    return row_;
  }

 private:
  static int num_rows(const Filter& f) { return f.separable ? 1 : f.y.taps; }
  static int phase_stride(const Axis& x) { return (x.taps - 1) / x.up + 1; }
  static int64_t phased_size(const Axis& x) { return int64_t(x.up) * phase_stride(x); }

  // Results that one filling of the line serves, and the most pixels of the line that they need.
  static int step(const Axis& x, int64_t interleaved) {
    constexpr int64_t kLine = 2048;  // numbers: it shares the cache with the rows that it is made from
    int pixels = int(kLine / interleaved) > 4 ? int(kLine / interleaved) : 4;
    int results = pixels * x.up / x.down;
    return results < 1 ? 1 : results < x.out ? results : x.out;
  }
  static int pixels_for(const Axis& x, int results) { return ((results - 1) * x.down + x.taps - 1) / x.up + 2; }
  static int64_t line_size(const Axis& x, int64_t interleaved) {
    return pixels_for(x, step(x, interleaved)) * interleaved + 3 * V::size;  // vectors are read past the end
  }
  static int64_t channel_size(const Axis& x, int64_t interleaved) {
    return pixels_for(x, step(x, interleaved)) + 3 * V::size;
  }

  // row_ (+)= `count` rows of the plane, weighted with column_, filtered along x.
  void filter(const T* rows, int count, const S* phased, bool add) {
    const Axis& x = f_.x;
    const int64_t c = planes_.interleaved;
    const int results = step(x, c);
    int first = 0, last = 0;  // the line holds pixels first <= i < last
    for (int o = 0; o < x.out; o += results) {
      const int end = o + results < x.out ? o + results : x.out;
      const int begin = ceil_div(o * x.down - x.pad, x.up);
      const int past = floor_div((end - 1) * x.down - x.pad + x.taps - 1, x.up) + 1;
      const int kept = o > 0 && last > begin ? last - begin : 0;
      for (int64_t i = 0; i < kept * c; i++) line_[i] = line_[(begin - first) * c + i];
      down_columns(rows, count, begin, begin + kept, past);
      along_line(phased, begin, o, end, add);
      first = begin;
      last = past;
    }
  }

  // Pixels begin <= i < end of the line, which starts with pixel `first`.
  void down_columns(const T* rows, int count, int first, int begin, int end) {
    const int64_t c = planes_.interleaved;
    int from = begin > 0 ? begin : 0, to = end < f_.x.in ? end : f_.x.in;
    if (from > to) from = to = end;
    for (int64_t i = (begin - first) * c; i < (from - first) * c; i++) line_[i] = 0;
    fir<false>(line_ + (from - first) * c, rows + from * c, planes_.row_stride, column_, count, (to - from) * c, false);
    for (int64_t i = (to - first) * c; i < (end - first) * c; i++) line_[i] = 0;
  }

  // Results o <= i < end from the line, which starts with pixel `first`.
  void along_line(const S* phased, int first, int o, int end, bool add) {
    const Axis& x = f_.x;
    const int64_t c = planes_.interleaved;
    S* out = row_ + o * c;
    if (x.up == 1 && x.down == 1) {
      fir<true>(out, line_, c, phased, x.taps, (end - o) * c, add);
    } else if (c == 1) {
      along_channel(line_, phased, first, o, end, out, add);
    } else if (c < V::size) {  // a pixel does not fill a vector: one channel after the other
      const int pixels = pixels_for(x, end - o);
      for (int64_t channel = 0; channel < c; channel++) {
        for (int i = 0; i < pixels; i++) channel_[i] = line_[i * c + channel];
        along_channel(channel_, phased, first, o, end, channel_out_, false);
        for (int i = 0; i < end - o; i++) out[i * c + channel] = channel_out_[i] + (add ? out[i * c + channel] : 0);
      }
    } else {
      for (; o < end; o++, out += c) {
        Window w = x.window(o);
        fir<true>(out, line_ + (w.input - first) * c, c, phased + w.tap * phase_stride(x), w.count, c, add);
      }
    }
  }

  void along_channel(const S* line, const S* phased, int first, int o, int end, S* out, bool add) {
    const Axis& x = f_.x;
    const int stride = phase_stride(x), n = end - o;
    auto emit = [&](int64_t i, V v, auto lanes) ACNE_INLINED {
      store(out + i, add ? load(out + i, lanes) + v : v, lanes);
    };
    if (x.up == 2 && x.down == 1) {
      Window w[2] = {x.window(o), x.window(o + 1)};
      const S* in[2] = {line + (w[0].input - first), line + (w[1].input - first)};
      const S* taps[2] = {phased + w[0].tap * stride, phased + w[1].tap * stride};
      int count[2] = {w[0].count, w[1].count};
      along_up2(in, taps, count, n, emit);
    } else if (x.up == 1 && x.down == 2) {
      along_down2(line, phased, x.taps, n, emit);
    } else {
      for (int i = 0; i < n; i++) {
        Window w = x.window(o + i);
        S sum = add ? out[i] : 0;
        for (int j = 0; j < w.count; j++) sum += phased[w.tap * stride + j] * line[w.input - first + j];
        out[i] = sum;
      }
    }
  }

  const Planes& planes_;
  const Filter& f_;
  S *line_, *channel_, *channel_out_, *phased_, *column_, *row_;
};

// Hands a row of numbers over to a sink.
template <class S, class T, class Sink>
ACNE_INLINE void pour_row(const T* row, int64_t width, int64_t interleaved, int64_t plane, int y, const Sink& sink) {
  if (interleaved == 1 || Sink::same_for_all_channels) {
    width *= interleaved;
    auto put = sink.row(plane, y);
    for_vectors<S>(width, [&](int64_t x, auto lanes) ACNE_INLINED { put(x, load(row + x, lanes), lanes); });
    return;
  }
  for (int64_t x = 0; x < width; x++, row += interleaved) {
    auto put = sink.pixel(plane, y, x);
    for_vectors<S>(interleaved, [&](int64_t c, auto lanes) ACNE_INLINED { put(c, load(row + c, lanes), lanes); });
  }
}

// Rows begin <= r < end of the result, counted through all planes.
template <class T, class Sink>
void filter_rows(const Planes& planes, const Filter& f, int64_t begin, int64_t end, void* scratch, const Sink& sink) {
  if constexpr (sizeof(T) < sizeof(double)) {  // doubles, which serve to check derivatives, are not worth compiling it
    if (four_tap_rows<T>(planes, f, begin, end, scratch, sink)) return;
  }
  RowFilter<T> filter(planes, f, scratch);
  for_planes(f.y.out, begin, end, [&](int64_t plane, int first, int last) ACNE_INLINED {
    const T* image = (const T*)planes.data + planes.offset(plane);
    for (int y = first; y < last; y++) {
      pour_row<Sum<T>>(filter.row(image, y), f.x.out, planes.interleaved, plane, y, sink);
    }
  });
}

template <class T>
int64_t filter_scratch_bytes(const Filter& f, int64_t interleaved) {
  int64_t general = RowFilter<T>::scratch_bytes(f, interleaved), special = four_tap_scratch_bytes<T>(f, interleaved);
  return general > special ? general : special;
}

// The sink of upfirdn2d: memory.
template <class T>
struct Store {
  static constexpr bool same_for_all_channels = true, same_size_only = false;
  T* out;
  int64_t height, width, interleaved;

  struct Put {
    T* p;
    template <class L>
    ACNE_INLINE void operator()(int64_t i, Vec<Sum<T>> v, L lanes) const {
      prefetch(p + i);
      store(p + i, v, lanes);
    }
  };
  ACNE_INLINE Put row(int64_t plane, int64_t y) const { return {out + (plane * height + y) * width * interleaved}; }
  ACNE_INLINE Put pixel(int64_t plane, int64_t y, int64_t x) const {
    return {out + ((plane * height + y) * width + x) * interleaved};
  }
};

template <class T>
void upfirdn2d(const UpFirDn2d& c, int64_t begin, int64_t end, void* scratch) {
  Store<T> sink{(T*)c.out, c.filter.y.out, c.filter.x.out, c.x.interleaved};
  filter_rows<T>(c.x, c.filter, begin, end, scratch, sink);
}

}  // namespace acne_lab::ACNE_ISA
