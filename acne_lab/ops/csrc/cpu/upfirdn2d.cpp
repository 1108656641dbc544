#include <torch/library.h>

#include <cmath>

#include "cpu/host.h"

namespace acne_lab {

at::Tensor with_dense_rows(const at::Tensor& x) {
  TORCH_CHECK_VALUE(x.dim() == 4, "images must be [N, C, H, W]");
  const bool last = is_channels_last(x);
  const bool pixels = last ? x.stride(1) == 1 || x.size(1) == 1 : true;
  const int64_t pixel = last ? x.size(1) : 1;
  return pixels && (x.stride(3) == pixel || x.size(3) == 1) ? x : x.contiguous(x.suggest_memory_format());
}

Planes planes_of(const at::Tensor& x) {
  if (is_channels_last(x)) return {x.const_data_ptr(), x.size(0), 1, x.stride(0), 0, x.stride(2), x.size(1)};
  return {x.const_data_ptr(), x.size(0) * x.size(1), x.size(1), x.stride(0), x.stride(1), x.stride(2), 1};
}

// Writes `f` as the product of a column and a row, if it is one to `tolerance` of every entry.
static bool separate(const std::vector<double>& f, int height, int width, double tolerance, double* column,
                     double* row) {
  int pivot = 0;
  while (pivot < height * width && f[pivot] == 0) pivot++;
  if (pivot == height * width) return false;
  const int r = pivot / width, c = pivot % width;
  for (int j = 0; j < width; j++) row[j] = f[r * width + j] / f[pivot];
  for (int i = 0; i < height; i++) column[i] = f[i * width + c];
  for (int i = 0; i < height; i++) {
    for (int j = 0; j < width; j++) {
      const double value = f[i * width + j];
      if (!(std::abs(column[i] * row[j] - value) <= tolerance * std::abs(value))) return false;
    }
  }
  return true;
}

PreparedFilter::PreparedFilter(const at::Tensor& x, const at::Tensor& f, at::IntArrayRef up, at::IntArrayRef down,
                               at::IntArrayRef padding, bool flip_filter, double gain) {
  TORCH_CHECK_VALUE(f.dim() == 2 && f.numel() > 0, "the filter must be [fh, fw]");
  TORCH_CHECK_VALUE(up[0] > 0 && up[1] > 0 && down[0] > 0 && down[1] > 0, "up and down must be at least 1");
  const int height = int(f.size(0)), width = int(f.size(1));
  auto axis = [&](int d, int64_t in, int taps) {
    const int before = int(padding[2 * d]), after = int(padding[2 * d + 1]);
    const int64_t out = output_length(in, int(up[d]), int(down[d]), before, after, taps);
    TORCH_CHECK_VALUE(out > 0, "a filter of ", taps, " taps does not fit into ", in, " pixels, up-sampled by ", up[d],
                      " and padded by ", before, " and ", after);
    TORCH_CHECK_VALUE(std::max(in * up[d], out * down[d]) + taps < (int64_t(1) << 30), "the image is too large");
    return Axis{int(up[d]), int(down[d]), before, taps, int(in), int(out)};
  };
  filter.x = axis(0, x.size(3), width);
  filter.y = axis(1, x.size(2), height);

  at::Tensor taps = f.to(at::kDouble).contiguous();
  std::vector<double> oriented(taps.const_data_ptr<double>(), taps.const_data_ptr<double>() + taps.numel());
  if (!flip_filter) std::reverse(oriented.begin(), oriented.end());  // the kernels correlate
  const at::ScalarType type = sum_type(x.scalar_type());
  // A filter that was made as a product in float32 is one to a few roundings.
  const double tolerance = type == at::kDouble ? 1e-15 : 1e-6;
  column_ = at::empty({height}, at::kDouble);
  rows_ = at::empty({width}, at::kDouble);
  filter.separable =
      separate(oriented, height, width, tolerance, column_.data_ptr<double>(), rows_.data_ptr<double>());
  if (!filter.separable) {
    rows_ = at::empty({height, width}, at::kDouble);
    std::copy(oriented.begin(), oriented.end(), rows_.data_ptr<double>());
  }
  column_ = column_.to(type);
  rows_ = rows_.mul_(gain).to(type);
  filter.column = column_.const_data_ptr();
  filter.rows = rows_.const_data_ptr();
}

static at::Tensor upfirdn2d(const at::Tensor& input, const at::Tensor& f, at::IntArrayRef up, at::IntArrayRef down,
                            at::IntArrayRef padding, bool flip_filter, double gain) {
  const at::Tensor x = with_dense_rows(input);
  const PreparedFilter prepared(x, f, up, down, padding, flip_filter, gain);
  const Axis &horizontal = prepared.filter.x, &vertical = prepared.filter.y;
  at::Tensor y = at::empty({x.size(0), x.size(1), vertical.out, horizontal.out},
                           x.options().memory_format(x.suggest_memory_format()));
  if (y.numel() == 0) return y;
  const UpFirDn2d c{y.data_ptr(), planes_of(x), prepared.filter};
  const Kernels& k = kernels(x.scalar_type());
  const int64_t rows = c.x.num_planes * vertical.out, row = horizontal.out * c.x.interleaved;
  at::parallel_for(0, rows, std::max<int64_t>(1, kGrain / row), [&](int64_t begin, int64_t end) {
    Scratch scratch(k.filter_scratch_bytes(c.filter, c.x.interleaved));
    k.upfirdn2d(c, begin, end, scratch.data());
  });
  return y;
}

TORCH_LIBRARY_IMPL(acne_lab, CPU, m) { m.impl("upfirdn2d", upfirdn2d); }

}  // namespace acne_lab
